"""Who runs jobs, what makes them by itself, and what is still to be cleared away."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.columns import Id, UtcDateTime
from app.tables.inputs import Input
from app.tables.rows import Row


class Runner(Row):
    __tablename__ = "runners"
    __table_args__ = ({"comment": "Processes that claim chunks, live and gone."},)

    id: Mapped[str] = mapped_column(Id, primary_key=True, comment="UUIDv7, made anew at each start")
    host: Mapped[str] = mapped_column(Text, comment="the machine's name")
    pid: Mapped[int] = mapped_column(Integer, comment="the process id on that machine")
    threads: Mapped[int] = mapped_column(Integer, comment="chunks it runs at once")
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it registered")
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it last told that it lives")
    stopped_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="when it drained and left")
    trouble: Mapped[str | None] = mapped_column(
        Text, comment="why it claims no more: a model that hangs, say"
    )


class Schedule(Row):
    __tablename__ = "schedules"
    __table_args__ = (
        Index("schedules_next_fire_at", "next_fire_at"),
        {"comment": "Jobs to make at set times, over what a collection has gathered until then."},
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True, comment="UUIDv7, so ids sort by age")
    cron: Mapped[str] = mapped_column(Text, comment="minute, hour, day of month, month, day of week")
    time_zone: Mapped[str] = mapped_column(Text, comment="the IANA zone that cron is read in")
    model: Mapped[str] = mapped_column(Text, comment="the model's name")
    version: Mapped[str | None] = mapped_column(
        Text, comment="the model's version; null: the default when it fires"
    )
    collection: Mapped[str] = mapped_column(Text, comment="the collection of inputs it runs over")
    owner: Mapped[str] = mapped_column(Text, server_default="", comment="whose it is; empty without keys")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it was made")
    next_fire_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when it fires next; null: paused"
    )


class ScheduleFire(Row):
    __tablename__ = "schedule_fires"
    __table_args__ = ({"comment": "When schedules fired, and the jobs they made."},)

    schedule_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Schedule.id, ondelete="CASCADE"), primary_key=True, comment="the schedule"
    )
    fire_at: Mapped[datetime] = mapped_column(
        UtcDateTime, primary_key=True, comment="the instant that was due"
    )
    fired_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it really fired")
    job_id: Mapped[str | None] = mapped_column(
        Id, comment="the job it made; null: the collection had nothing new"
    )


class ScheduleInput(Row):
    __tablename__ = "schedule_inputs"
    __table_args__ = ({"comment": "Which inputs a schedule has already taken into one of its jobs."},)

    schedule_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Schedule.id, ondelete="CASCADE"), primary_key=True, comment="the schedule"
    )
    input_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Input.id, ondelete="CASCADE"), primary_key=True, comment="the input it took"
    )
    job_id: Mapped[str] = mapped_column(Id, comment="the job that ran over it")


class Leftover(Row):
    __tablename__ = "leftovers"
    __table_args__ = (
        {"comment": "Pruned jobs and inputs whose payloads are still being deleted, a few rows at a time."},
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True, comment="a job's or an input's id")

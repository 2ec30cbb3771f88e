"""Manifests: when a job that writes to an object store has ended, a last object there lists what it wrote.

Every runner looks for ended jobs without one, so it does not matter which of them died between a job's end and its
manifest. The same end makes the same bytes, so two may write it at once.
"""

import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import orjson
import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.columns import utc_now, written
from app.data.addresses import Address
from app.data.objects import Storage, StoreAway, Written
from app.db import UNSYNCHRONIZED, Database
from app.errors import ServingError
from app.jobs.history import error_lines
from app.jobs.ledger import tell
from app.tables import Job, Output

log = structlog.get_logger(__name__)

MANIFEST, ERRORS = "manifest.json", "errors.ndjson"
JOBS_AT_ONCE = 100
STOP_SECONDS = 2.0
RETRY_SECONDS = 30.0
"""How long one that could not be written is left alone."""


class ManifestWriter:
    """A thread that writes what is due, about once in `poll_seconds`; none where no store is allowed."""

    def __init__(self, database: Database, storage: Storage, poll_seconds: float) -> None:
        self._database = database
        self._storage = storage
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manifests", daemon=True)
        self._retry_at: dict[str, float] = {}

    def start(self) -> None:
        if self._storage.folders:
            self._thread.start()

    def stop(self) -> None:
        """Begins no other, and waits a little for the one that is being written; else it is left to another runner."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.write_due()
            except DBAPIError as error:
                log.warning("manifests_wait", error=" ".join(str(error.orig).split()))

    def write_due(self) -> int:
        """Writes what is due but for those that failed a little while ago; how many.

        A store that is away holds a call for up to two minutes: it is asked once, and its other manifests stay due. The
        next one is tried first in the next round, so that one that alone cannot be written keeps no other from it.
        """
        self._retry_at = {job_id: at for job_id, at in self._retry_at.items() if at > time.monotonic()}
        with self._database.reading() as session:
            waiting = due(session, but=self._retry_at)
        n_written = 0
        away: set[str] = set()
        for job_id, output_url in waiting.items():
            if self._stopping.is_set():
                break
            if _store(output_url) in away:
                continue
            try:
                n_written += write(self._database, self._storage, job_id)
            except (ServingError, OSError) as error:  # OSError: no room for a long list of errors
                log.error("manifest_not_written", job_id=job_id, error=str(error))
                self._retry_at[job_id] = time.monotonic() + RETRY_SECONDS
                if isinstance(error, StoreAway):
                    away.add(_store(output_url))
        return n_written


def manifest_url(job: Job) -> str | None:
    """Where the manifest of a job is; None until it is there."""
    return None if job.output_url is None or job.manifest_at is None else f"{job.output_url}/{MANIFEST}"


def due(session: Session, *, but: Collection[str] = ()) -> Mapping[str, str]:
    """The folders of jobs that have ended and whose manifests are to be written, by id, the oldest first, without some.

    Reads only.
    """
    rows = session.execute(
        select(Job.id, Job.output_url)
        .where(
            Job.output_url.is_not(None),
            Job.manifest_at.is_(None),
            Job.finished_at.is_not(None),
            Job.pruned_at.is_(None),
            Job.id.not_in(list(but)),
        )
        .order_by(Job.finished_at)
        .limit(JOBS_AT_ONCE)
    )
    return {row.id: row.output_url for row in rows}


def write(database: Database, storage: Storage, job_id: str) -> bool:
    """Writes the manifest of a job, after its errors; whether there was one to write. Errors are those of `Storage`.

    A job that was reopened meanwhile gets another when it ends again.
    """
    with database.reading() as session:
        job = session.get(Job, job_id)
        if job is None or job.output_url is None or job.finished_at is None or job.pruned_at is not None:
            return False
        parts = session.execute(
            select(
                Output.object.label("object"),
                Output.first_item,
                Output.n_items,
                Output.n_errored,
                Output.n_bytes,
                Output.sha256,
            )
            .where(Output.job_id == job_id, Output.object.is_not(None))
            .order_by(Output.first_item)
        ).all()
    folder = storage.folder(job.output_url, "/output_url")
    errors = _write_errors(database, storage, folder.child(ERRORS), job_id) if job.n_errored else None
    document = {
        "job_id": job.id,
        "status": job.status,
        "model": job.model,
        "version": job.version,
        "input_id": job.input_id,
        "counts": {
            "total": job.n_items,
            "succeeded": job.n_succeeded,
            "errored": job.n_errored,
            "canceled": job.n_canceled,
            "cached": job.n_cached,
        },
        "error": job.error,
        "finished_at": written(job.finished_at),
        "errors": errors and {"object": errors.name, "n_bytes": errors.n_bytes, "sha256": errors.sha256},
        "parts": [dict(part._mapping) for part in parts],
    }
    storage.write(folder.child(MANIFEST), orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    with database.writing() as session:
        _note(session, job)
    return True


def _store(output_url: str) -> str:
    """The protocol and the bucket of a folder, which are there or away as one."""
    return "/".join(output_url.split("/", 3)[:3])


def _write_errors(database: Database, storage: Storage, address: Address, job_id: str) -> Written:
    """By way of a temporary file: there may be as many as items."""
    with tempfile.NamedTemporaryFile(prefix="twofold-") as spool:
        spool.writelines(error_lines(database, job_id))
        spool.flush()
        return storage.write(address, Path(spool.name))


def _note(session: Session, job: Job) -> None:
    """Notes that the manifest of this end was written; if it took the place of a later one, that is due again."""
    noted = session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.finished_at == job.finished_at, Job.manifest_at.is_(None))
        .values(manifest_at=utc_now())
        .returning(Job.id),
        execution_options=UNSYNCHRONIZED,
    )
    if noted is not None:
        tell(session, [job.id], "manifest_written", detail=f"{job.output_url}/{MANIFEST}")
    session.execute(
        update(Job)
        .where(Job.output_url == job.output_url, or_(Job.id != job.id, Job.finished_at != job.finished_at))
        .values(manifest_at=None),
        execution_options=UNSYNCHRONIZED,
    )

"""The tables, as typed rows. What each column means stands in its comment, which Postgres keeps too.

Payloads (`input_chunks.items`, `outputs.items`) stay out of the rows that the queue updates all day.
"""

from app.tables.inputs import Input, InputChunk
from app.tables.jobs import Chunk, ItemError, Job, JobEvent, Output
from app.tables.models import ArtifactPart, CachedPrediction, ModelEvent, ModelVersion
from app.tables.rows import Row
from app.tables.states import TERMINAL_CHUNK_STATES, TERMINAL_JOB_STATES, ChunkState, JobKind, JobState
from app.tables.tending import Leftover, Runner, Schedule, ScheduleFire, ScheduleInput

__all__ = [
    "TERMINAL_CHUNK_STATES",
    "TERMINAL_JOB_STATES",
    "ArtifactPart",
    "CachedPrediction",
    "Chunk",
    "ChunkState",
    "Input",
    "InputChunk",
    "ItemError",
    "Job",
    "JobEvent",
    "JobKind",
    "JobState",
    "Leftover",
    "ModelEvent",
    "ModelVersion",
    "Output",
    "Row",
    "Runner",
    "Schedule",
    "ScheduleFire",
    "ScheduleInput",
]

"""Trained versions among the declarations: what they have of their entry, and when they are left out."""

from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.columns import utc_now
from app.db import Database
from app.jobs.ids import new_id
from app.tables import ModelVersion
from app.versions import events, trained
from app.versions.serving import served_declarations, with_trained
from tests.models.pupils import Pupil
from tests.models.specimens import declare

SHA256 = "ab" * 32


def version_row(database: Database, **changes: Any) -> None:
    """Writes a promoted version `t1` of the model `pupil`."""
    values = {
        "model": "pupil",
        "version": "t1",
        "parent": "0",
        "entry": "0",
        "job_id": new_id(),
        "input_id": new_id(),
        "n_items": 1,
        "options": {},
        "metrics": {},
        "sha256": SHA256,
        "form": "file",
        "n_bytes": 1,
    }
    with database.writing() as session:
        now = session.scalars(select(utc_now())).one()
        session.add(ModelVersion(**(values | {"created_at": now, "promoted_at": now} | changes)))


def test_a_trained_version_is_declared_like_its_entry_but_for_its_artifact(
    database: Database, tmp_path: Path
) -> None:
    version_row(database)
    version_row(database, version="t2", promoted_at=None)
    version_row(database, version="t3", entry="gone")
    entry = declare(Pupil, name="pupil", version="0", options={"depth": 2}, concurrency=3)

    with database.reading() as session:
        first, second = with_trained([entry], trained.served_versions(session), tmp_path)

    assert first == entry
    assert (second.name, second.version, second.default) == ("pupil", "t1", False)
    assert (second.class_path, second.options, second.concurrency) == (entry.class_path, {"depth": 2}, 3)
    assert (second.artifact, second.sha256) == (str(tmp_path / "trained" / SHA256 / "artifact"), SHA256)


def test_a_promotion_makes_a_trained_version_the_default(database: Database, tmp_path: Path) -> None:
    models_file = tmp_path / "models.toml"
    models_file.write_text('[[model]]\nname = "pupil"\nversion = "0"\nclass = "tests.models.pupils:Pupil"\n')
    version_row(database)
    with database.writing() as session:
        events.promote(session, "pupil", "t1")

    with database.reading() as session:
        declared = served_declarations(session, models_file, tmp_path)

    assert [(each.version, each.default) for each in declared] == [("0", False), ("t1", True)]

"""An input is sealed once, and what is not sealed is nobody's input."""

import pytest

from app.errors import Conflict, NotFound
from app.jobs import inputs
from app.jobs.ids import new_id
from tests.jobs.conftest import Workshop


def seal(workshop: Workshop, input_id: str) -> None:
    with workshop.database.writing() as session:
        inputs.seal(session, input_id, n_bytes=1, sha256="f" * 64)


def test_a_sealed_input_is_not_sealed_again(workshop: Workshop) -> None:
    input_id = workshop.upload(3)
    (before,) = workshop.select_all("SELECT * FROM inputs")

    with pytest.raises(Conflict):
        seal(workshop, input_id)

    assert workshop.select_all("SELECT * FROM inputs") == [before]


def test_an_input_that_was_discarded_meanwhile_is_not_sealed(workshop: Workshop) -> None:
    input_id = new_id()
    with workshop.database.writing() as session:
        inputs.begin(session, input_id, "json")
        inputs.discard(session, input_id)

    with pytest.raises(Conflict, match="was deleted while it was being uploaded"):
        seal(workshop, input_id)


def test_discard_takes_no_sealed_input(workshop: Workshop) -> None:
    input_id = workshop.upload(1)
    with workshop.database.writing() as session:
        inputs.discard(session, input_id)
    with workshop.database.writing() as session:
        inputs.remove(session, input_id)
        with pytest.raises(NotFound):
            inputs.remove(session, input_id)

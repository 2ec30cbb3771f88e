"""A chunk whose next crash would be held against it runs alone in its process, and gets its turn however busy it is."""

from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench


def put_on_trial(workshop: Workshop, job_id: str) -> None:
    """As if its first chunk had crashed twice, of three times."""
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(
            f"UPDATE chunks SET crashes = 2, attempts = 2 WHERE job_id = '{job_id}' AND first_item = 0"
        )


def running(workshop: Workshop) -> list[tuple[str, int]]:
    rows = workshop.select_all("SELECT job_id, first_item FROM chunks WHERE status = 'running' ORDER BY id")
    return [(str(row["job_id"]), row["first_item"]) for row in rows]


def epochs(workshop: Workshop, job_id: str) -> list[int]:
    rows = workshop.select_all("SELECT epoch FROM chunks WHERE job_id = :id ORDER BY id", id=job_id)
    return [row["epoch"] for row in rows]


def test_a_chunk_on_trial_runs_alone(workshop: Workshop, bench: Bench) -> None:
    suspect, other = workshop.enqueue(n_items=2), workshop.enqueue(n_items=4)
    put_on_trial(workshop, suspect)
    runner = bench.make(bench.declare(concurrency=4))

    runner.tick()
    runner.tick()

    assert running(workshop) == [(suspect, 0)]
    bench.executor.run()
    runner.tick()
    assert len(running(workshop)) > 1
    bench.executor.run()
    runner.tick()
    assert workshop.job(suspect)["status"] == workshop.job(other)["status"] == "succeeded"
    workshop.check_books()


def test_a_chunk_on_trial_waits_until_nothing_else_runs_and_no_longer(
    workshop: Workshop, bench: Bench
) -> None:
    first, suspect, later = (workshop.enqueue(n_items=n_items) for n_items in (2, 1, 8))
    put_on_trial(workshop, suspect)
    runner = bench.make(bench.declare(concurrency=2))

    runner.tick()
    assert running(workshop) == [(first, 0), (first, 1)]
    untouched = epochs(workshop, suspect)
    bench.executor.run(1)
    runner.tick()
    assert running(workshop) == [(first, 1)], "the queue is long, but its head is on trial"
    assert epochs(workshop, suspect) == untouched, "it was claimed only to be given back"
    bench.executor.run(1)
    runner.tick()
    assert running(workshop) == [(suspect, 0)]

    attempts = workshop.select_all("SELECT attempts FROM chunks WHERE job_id = :id", id=later)
    assert {row["attempts"] for row in attempts} == {0}
    workshop.check_books()


def test_nothing_of_another_queue_is_claimed_past_a_chunk_on_trial(workshop: Workshop, bench: Bench) -> None:
    first, suspect = workshop.enqueue(), workshop.enqueue()
    younger = workshop.enqueue(n_items=4, model="other")
    put_on_trial(workshop, suspect)
    runner = bench.make(bench.declare(concurrency=2), bench.declare("other", concurrency=2))

    runner.tick()
    assert running(workshop) == [(first, 0)]
    bench.executor.run()
    runner.tick()
    assert running(workshop) == [(suspect, 0)]
    bench.executor.run()
    runner.tick()

    assert {job_id for job_id, _ in running(workshop)} == {younger}
    workshop.check_books()


def test_where_each_chunk_has_a_child_none_is_on_trial_for_what_it_did_to_that(
    workshop: Workshop, bench: Bench
) -> None:
    bench.executor.dies_alone = True
    job_id = workshop.enqueue(n_items=3)
    put_on_trial(workshop, job_id)

    bench.make(bench.declare(concurrency=3)).tick()

    assert len(running(workshop)) == 3


def test_nor_is_any_given_up_there_because_runners_died_while_it_waited(
    workshop: Workshop, bench: Bench
) -> None:
    bench.executor.dies_alone = True
    job_id = workshop.enqueue(n_items=3)
    n_at_once = []
    for _ in range(3):
        bench.make(bench.declare(concurrency=3)).tick()
        n_at_once.append(len(running(workshop)))
        workshop.let_leases_run_out()
        workshop.rescue()
        workshop.end_backoff()

    assert n_at_once == [3, 1, 1]
    assert len(workshop.errors(job_id)) <= 1, "who ran alone may be to blame"
    assert len(workshop.chunks(job_id)) == 3
    workshop.check_books()


def test_failures_in_passing_put_no_chunk_on_trial(workshop: Workshop, bench: Bench) -> None:
    job_id = workshop.enqueue(n_items=4)
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(f"UPDATE chunks SET attempts = 2 WHERE job_id = '{job_id}'")
    runner = bench.make(bench.declare(concurrency=4))

    runner.tick()

    assert len(running(workshop)) == 4

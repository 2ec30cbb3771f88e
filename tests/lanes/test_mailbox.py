"""The mailbox: what one turn of a loop reads goes to the model together, and comes back by one wake."""

from collections.abc import Callable

from app.api.online import Question
from app.lanes.mailbox import WATCH_SECONDS, Mailbox
from app.models.batcher import Batcher, Call
from tests.models.specimens import served
from tests.waiting import wait_until


class Counting:
    """A model that writes down how many items each call has."""

    calls: list[int]

    def load(self, artifact: object, *, calls: list[int]) -> None:
        self.calls = calls

    def predict(self, items: list[dict[str, int]]) -> list[dict[str, int]]:
        self.calls.append(len(items))
        return [{"double": 2 * item["n"]} for item in items]


class Turns:
    """A loop whose turns a test takes."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.mailbox = Mailbox(self.soon.append, lambda seconds, call: self.later.append((seconds, call)))

    def take(self) -> None:
        self.soon.pop(0)()


def test_what_one_turn_submits_is_one_batch_and_its_answers_are_one_wake() -> None:
    calls: list[int] = []
    model = served(Counting, options={"calls": calls})
    batcher, turns = Batcher(model), Turns()
    answers: list[int] = []

    def settled(call: Call) -> None:
        answers.append(call.result()[0]["double"])

    for number in range(10):
        question = Question(model, [{"n": number}], [{"n": number}], is_article=False)
        turns.mailbox.submit(batcher, question, 30, settled)
    assert (calls, len(turns.soon)) == ([], 1)
    turns.take()
    wait_until(lambda: len(turns.mailbox._answered) == 10, "the answers", 10)
    turns.take()

    assert turns.soon == []
    assert calls == [10]
    assert answers == [2 * number for number in range(10)]
    assert [seconds for seconds, _ in turns.later] == [WATCH_SECONDS]

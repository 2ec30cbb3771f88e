"""The express: plain requests, answered from the bytes of their connection.

gunicorn's ASGI worker makes a parser's callbacks, a task, a scope and two coroutines of each request, which takes
twice as long as to parse, check, predict and encode an item for a model that takes microseconds. A request that has
arrived whole, alone and in one piece, with no header but the common ones below, each once, needs none of that. It is
answered by the same stages as all others: at once if its model is quick and idle, else when the batcher has the
answer, and nothing but its call waits until then. Any other bytes are left to gunicorn, untouched.
"""

import re
from collections.abc import Callable
from functools import partial

from app.api.online import Question
from app.lanes import HEADERS, NO_HEADERS, Answer, Asked, Lane
from app.lanes.mailbox import Mailbox
from app.models.batcher import Call, never

END = b"\r\n\r\n"
MOST_HEAD_BYTES, MOST_HEADS = 2048, 1024
_HEAD = re.compile(
    rb"POST (/v1/models/[a-z0-9._-]+(?:/versions/[a-z0-9._-]+)?/predict|/prediction/online) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z-]+: [\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\r\n)+)\r\n"
)
TAKEN = frozenset({b"content-length", b"content-type", b"x-request-id"})
IGNORED = frozenset(
    b"accept accept-encoding accept-language connection host user-agent "
    b"x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip".split()
)


class Express:
    """Takes plain requests; for one loop. Heads are remembered, since those of a client are all alike."""

    def __init__(self, lane: Lane, mailbox: Mailbox) -> None:
        self._lane = lane
        self._mailbox = mailbox
        self._heads: dict[bytes, dict[str, str] | None] = {}

    def take(
        self, data: bytes, reply: Callable[[Answer], None], is_gone: Callable[[], bool] = never
    ) -> Answer | Call | None:
        """The answer to a request of exactly these bytes, or the call it waits for; None if they are anything else.

        The answer to a call goes to `reply`, on the loop, unless the call is withdrawn.
        """
        start = data.find(END, 0, MOST_HEAD_BYTES) + len(END)
        if start < len(END):
            return None
        plain = self._plain(data[:start])
        if plain is None or plain["content_length"] != str(len(data) - start):
            return None
        asked = self._lane.asked(**plain)
        if asked is None:
            return None
        try:
            question = self._lane.question(asked, data[start:])
            batcher = self._lane.batcher(asked)
            predictions = batcher.predict_quickly(question.items, question.loaded)
            if predictions is not None:
                return self._lane.answer(asked, question.answered(predictions))
            settled = partial(self._settled, asked, question, reply)
            return self._mailbox.submit(batcher, question, asked.seconds, settled, is_gone)
        except Exception as error:  # noqa: BLE001 — logged by `problem` if nobody expected it
            return self._lane.problem(asked, error)

    def withdraw(self, call: Call) -> None:
        """For a client that hung up while its call waits."""
        self._mailbox.withdraw(call)

    def _settled(self, asked: Asked, question: Question, reply: Callable[[Answer], None], call: Call) -> None:
        try:
            answer = self._lane.answer(asked, question.answered(call.result()))
        except Exception as error:  # noqa: BLE001 — logged by `problem` if nobody expected it
            answer = self._lane.problem(asked, error)
        reply(answer)

    def _plain(self, head: bytes) -> dict[str, str] | None:
        """What a lane asks of a plain request with this head; None if it is no plain one."""
        try:
            return self._heads[head]
        except KeyError:
            if len(self._heads) == MOST_HEADS:
                self._heads.clear()
            return self._heads.setdefault(head, _read(head))


def _read(head: bytes) -> dict[str, str] | None:
    if (parts := _HEAD.fullmatch(head)) is None:
        return None
    lines = [line.split(b": ", 1) for line in parts[2].split(b"\r\n")[:-1]]
    headers = {name.lower(): value for name, value in lines}
    is_plain = (
        len(headers) == len(lines)
        and b"host" in headers
        and headers.keys() <= TAKEN | IGNORED
        and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
    )
    if not is_plain:
        return None
    looked_at = {HEADERS[name]: value.decode() for name, value in headers.items() if name in TAKEN}
    return {**NO_HEADERS, "method": "POST", "path": parts[1].decode(), **looked_at}

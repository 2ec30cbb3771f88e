"""Kill points: the moments before, between and after the statements of a writing transaction and its commit."""

import os
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, event

KILLED = 137
"""The exit status of a process that a shell saw die by SIGKILL; `os._exit` runs no handler and flushes nothing."""


class Killer:
    """Counts the points that its process passes, and ends it at point number `fatal`, the first being 1.

    A point is before each statement, before each commit and after it. After a statement is before the next one
    or before the commit: nothing that could be lost happens in between. A reading transaction changes nothing, so
    to die in it is to die between two writing ones.
    """

    def __init__(self, fatal: int | None = None) -> None:
        self.fatal = fatal
        self.n_passed = 0
        self.is_armed: Callable[[], bool] = lambda: True
        """Whether points count yet."""

    def watch(self, engine: Engine) -> None:
        """From now on, what this engine writes passes points."""
        event.listen(engine, "before_cursor_execute", self._execute)
        commit: Callable[[Any], None] = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:  # SQLAlchemy has an event before a commit, and none after
            self._pass()
            commit(connection)
            self._pass()

        setattr(engine.dialect, "do_commit", do_commit)  # noqa: B010 — mypy: of this dialect alone, and not its class

    def _execute(self, connection: Connection, *_: Any) -> None:
        if connection.get_execution_options().get("writes"):
            self._pass()

    def _pass(self) -> None:
        if not self.is_armed():
            return
        self.n_passed += 1
        if self.n_passed == self.fatal:
            os._exit(KILLED)

"""Leases: a runner's claims, kept alive by a thread of its own."""

import threading
import time
from collections.abc import Collection, Iterable

import structlog
from sqlalchemy.exc import DBAPIError

from app.db import Database
from app.jobs import presence, queue
from app.jobs.claims import Claim

log = structlog.get_logger(__name__)

Key = tuple[int, int]


class Leases:
    """What a runner holds, prolonged three times a lease, however busy its loop and its models are.

    Every method may be called from any thread. The thread uses a connection of its own.
    """

    def __init__(self, database: Database, runner_id: str, lease_seconds: float) -> None:
        self._database = database
        self.runner_id = runner_id
        self._lease_seconds = lease_seconds
        self._guard = threading.Lock()
        self._held: set[Key] = set()
        self._lost: set[Key] = set()
        self._hung: set[int] = set()
        self._trusted_until = time.monotonic() + lease_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what is held then lasts until its lease ends."""
        self._stopping.set()

    def hold(self, claims: Iterable[Claim]) -> None:
        """Takes new claims into care."""
        with self._guard:
            self._held |= {claim.key for claim in claims}

    def drop(self, claims: Collection[Claim]) -> None:
        """Forgets claims whose chunks have ended or were given back."""
        keys = {claim.key for claim in claims}
        with self._guard:
            self._held -= keys
            self._lost -= keys
            self._hung -= {claim.chunk_id for claim in claims}

    def abandon(self, claim: Claim) -> None:
        """Stops prolonging a claim, so that another runner gets its chunk when the lease ends."""
        with self._guard:
            self._hung.add(claim.chunk_id)

    def is_abandoned(self, claim: Claim) -> bool:
        """Whether `abandon` was called for this claim."""
        with self._guard:
            return claim.chunk_id in self._hung

    def is_lost(self, claim: Claim) -> bool:
        """Whether another runner has, or may have, this chunk: what was made of it is to be thrown away."""
        with self._guard:
            return claim.key in self._lost

    @property
    def is_trusted(self) -> bool:
        """Whether leases are being renewed. A runner that cannot renew must not claim: it would only lose."""
        return time.monotonic() < self._trusted_until

    def renew(self) -> None:
        """Prolongs all that is held, and finds out what is not held any more."""
        with self._guard:
            held, hung = set(self._held), set(self._hung)
        asked_at = time.monotonic()
        with self._database.writing() as session:
            presence.see(session, self.runner_id)
            renewed = queue.renew(
                session, runner_id=self.runner_id, lease_seconds=self._lease_seconds, hung=hung
            )
        with self._guard:
            self._lost |= (held & self._held) - renewed
            self._trusted_until = asked_at + self._lease_seconds

    def _run(self) -> None:
        while not self._stopping.wait(self._lease_seconds / 3):
            try:
                self.renew()
            except DBAPIError as error:
                log.warning("leases_not_renewed", error=" ".join(str(error.orig).split()))

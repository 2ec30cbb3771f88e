"""The adapter `remote`: a model on another server, by one of four protocols, behind a pool and a circuit breaker."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from marshmallow import Schema

from app.models import JsonObject
from app.models.adapters.fields import make_schema, scalar_field
from app.models.adapters.protocols import PROTOCOLS, Call, V2Protocol
from app.models.contract import ContractError
from app.models.extras import needs

with needs("remote"):
    import urllib3
    from circuitbreaker import CircuitBreaker

CONNECT_SECONDS = 5.0
BACKOFF_SECONDS = 0.2
AWAY = {429, 502, 503, 504}
"""Statuses of a server that may answer the same request later."""
MAX_MESSAGE = 300


class RemoteAway(Exception):
    """The other server cannot be reached or is overloaded. A job tries the chunk again later."""

    transient = True


class RemoteRefused(Exception):
    """The other server answered, and what it answered is an error, or no answer of the protocol."""


class Remote:
    """Thread-safe: declare as much `concurrency` as `connections`."""

    Item: type[Schema] | None = None
    Prediction: type[Schema] | None = None

    def load(
        self,
        artifact: Path | None,
        *,
        url: str,
        protocol: str,
        model: str | None = None,
        model_version: str | None = None,
        columns: Mapping[str, str] | None = None,
        rows: bool = False,
        request_key: str = "data",
        response_key: str = "prediction",
        token_env: str | None = None,
        timeout_seconds: float = 30.0,
        retries: int = 2,
        connections: int = 8,
        failures: int = 5,
        pause_seconds: float = 10.0,
    ) -> None:
        """`url` without the path, of protocol "v2", "v1" or "mlflow"; the whole address, of "json".

        `columns = { name = "kind" }` says what an item has; of "v2" the server says it. With `rows`, an item is sent
        as the list of its columns. After `failures` failed calls in a row none is made for `pause_seconds`.
        `token_env` names the environment variable with the bearer token.
        """
        if artifact is not None:
            raise ContractError("the adapter remote has no artifact: name the server as url in options")
        if protocol not in PROTOCOLS:
            raise ContractError(f"protocol is {protocol!r}: write one of {', '.join(map(repr, PROTOCOLS))}")
        if not url.startswith(("http://", "https://")):
            raise ContractError(f"url {url!r} is no http:// or https:// address")
        if rows and not columns:
            raise ContractError(
                'rows needs columns, whose order the lists have: add columns = { name = "kind" }'
            )
        self._token = _token(token_env)
        self._breaker = CircuitBreaker(failures, pause_seconds, expected_exception=RemoteAway)
        self._pool = urllib3.PoolManager(
            maxsize=connections,
            block=True,
            timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, timeout_seconds), read=timeout_seconds),
            retries=urllib3.Retry(
                retries,
                redirect=False,
                allowed_methods=None,
                status_forcelist=AWAY,
                backoff_factor=BACKOFF_SECONDS,
                backoff_jitter=BACKOFF_SECONDS,
                retry_after_max=int(timeout_seconds),
                raise_on_status=False,
            ),
        )
        call = Call(
            url.rstrip("/"), model, model_version, list(columns or ()), rows, request_key, response_key
        )
        if columns:
            declared = {name: scalar_field(kind, is_nullable=kind == "any") for name, kind in columns.items()}
            self.Item = make_schema("Item", declared)
        self._protocol = PROTOCOLS[protocol](call, columns or {})
        if isinstance(self._protocol, V2Protocol) and not columns:
            metadata = self._ask("GET", self._protocol.model_url, None)
            self.Item, self.Prediction = self._protocol.learn(metadata)

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        """What the other server predicts: its objects as they are, anything else as `prediction`."""
        return self._protocol.predict(items, lambda body: self._ask("POST", self._protocol.url, body))

    def _ask(self, method: str, url: str, body: object) -> Any:
        if self._breaker.opened:
            n, seconds = self._breaker.failure_count, max(0.0, self._breaker.open_remaining)
            raise RemoteAway(f"{url} failed {n} times in a row: not asked again for {seconds:.0f} s")
        with self._breaker:
            return self._request(method, url, body)

    def _request(self, method: str, url: str, body: object) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._token}
        data = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        try:
            answer = self._pool.request(method, url, body=data, headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise RemoteAway(f"{url} cannot be reached: {error}") from error
        if answer.status in AWAY:
            raise RemoteAway(f"{url} answered {answer.status}: {_shortened(answer.data)}")
        if answer.status != 200:
            raise RemoteRefused(f"{url} answered {answer.status}: {_shortened(answer.data)}")
        try:
            return orjson.loads(answer.data)
        except orjson.JSONDecodeError as error:
            raise RemoteRefused(f"{url} answered what is not JSON: {_shortened(answer.data)}") from error


def _token(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    if not os.environ.get(variable):
        raise ContractError(
            f"token_env names {variable}, which is not in the environment: set it to the token"
        )
    return {"Authorization": f"Bearer {os.environ[variable]}"}


def _shortened(data: bytes) -> str:
    text = " ".join(data[: 2 * MAX_MESSAGE].decode(errors="replace").split())
    return text[:MAX_MESSAGE]

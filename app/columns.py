"""Column types and the clock, written once for SQLite and Postgres."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, BindParameter, DateTime, String, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeDecorator, TypeEngine

BigSerial = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
"""A 64-bit id that the database counts up; SQLite counts only what is declared INTEGER."""


Digest = String(32).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
"""128 bits in hex; Postgres keeps them in half the room, as a `uuid`."""


def written(time: datetime) -> str:
    """A time in UTC with a Z and milliseconds (RFC 3339): of fixed width, so that it sorts as it reads."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` on Postgres; on SQLite text of fixed width, so that it sorts as it reads."""

    impl = String(24)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        timestamptz = dialect.name == "postgresql"
        return dialect.type_descriptor(DateTime(timezone=True) if timestamptz else String(24))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return written(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return datetime.fromisoformat(value) if isinstance(value, str) else value


class Id(TypeDecorator[str]):
    """A UUIDv7 as dashed text in Python, in SQLite and in the API alike; `uuid` on Postgres."""

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(postgresql.UUID(as_uuid=False) if native else String(36))


class Payload(TypeDecorator[bytes]):
    """A JSON array with one item per line: bytes in Python, text in the database, for its JSON functions."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else value.decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.encode()


class utc_now(GenericFunction[datetime]):  # noqa: N801 — a SQL function, and called like one
    """The database's clock, moved by so many seconds: `utc_now(60.0)` is a minute from now.

    One statement reads it once (Postgres: once a transaction), so rows written together carry the same time.
    """

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, plus_seconds: float | BindParameter[float] = 0.0) -> None:
        super().__init__(plus_seconds)


@compiles(utc_now, "postgresql")
def _postgres_now(element: utc_now, compiler: SQLCompiler, **options: Any) -> str:
    return f"(now() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(utc_now, "sqlite")
def _sqlite_now(element: utc_now, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', {seconds} || ' seconds')"


class each_of(GenericFunction[Any]):  # noqa: N801 — a SQL function, and called like one
    """The members of a JSON list, a row each in a column `value`: text on Postgres, numbers or text on SQLite.

    A list as one parameter leaves a statement's text the same however long the list is, for both databases to prepare.
    """

    inherit_cache = True


@compiles(each_of, "postgresql")
def _postgres_each(element: each_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_array_elements_text({compiler.process(element.clauses, **options)})"


@compiles(each_of, "sqlite")
def _sqlite_each(element: each_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"

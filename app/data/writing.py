"""Downloads, written as a stream: payloads of answers in, blocks of a body out, one per payload.

Payloads come as pairs `(payload, n_missing)`: an array in the chunk format, and how many of its lines are
`null`, which is the place of an item that failed. Those are left out of what a client gets.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import orjson

from app.data.chunks import MISSING, SEPARATOR, unpack
from app.data.exact import has_long_number
from app.data.formats import Format


def write_answers(
    format: Format, payloads: Callable[[], Iterable[tuple[bytes, int]]], columns: Sequence[str]
) -> Iterator[bytes]:
    """The body of a download; `columns` are those of a CSV or Parquet. Nothing is read before the first block is taken.

    `payloads` gives them from the start each time it is called: Parquet takes them twice.
    """
    match format:
        case Format.JSON:
            yield from write_json(payloads())
        case Format.NDJSON:
            yield from write_ndjson(payloads())
        case Format.CSV:
            yield from write_csv(payloads(), columns)
        case Format.PARQUET:
            from app.data.parquet_answers import write_parquet  # pyarrow is an extra, and 40 MB in memory

            yield from write_parquet(payloads, columns)


def write_ndjson(payloads: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """One answer per line, each with its newline; nothing is parsed."""
    for payload, n_missing in payloads:
        answers = _present(payload, n_missing)
        if answers:
            yield answers.replace(SEPARATOR, b"\n") + b"\n"


def write_json(payloads: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """The document `{"prediction":[answer, …]}`, one answer per line; nothing is parsed."""
    before = b'{"prediction":['
    for payload, n_missing in payloads:
        answers = _present(payload, n_missing)
        if answers:
            yield before + answers
            before = SEPARATOR
    yield b"]}\n" if before == SEPARATOR else before + b"]}\n"


def write_csv(payloads: Iterable[tuple[bytes, int]], columns: Sequence[str]) -> Iterator[bytes]:
    """A header row of `columns`, then a row per answer (RFC 4180, lines end with CR LF).

    Strings are themselves; numbers, true and false their JSON text; arrays and objects compact JSON. Null and
    absent fields are empty cells; fields that are not in `columns` are left out.
    """
    text = io.StringIO(newline="")
    write_rows = csv.writer(text, lineterminator="\r\n").writerows
    write_rows([columns])
    for payload, _ in payloads:
        yield _drained(text)
        write_rows(
            [_cell(answer.get(column)) for column in columns]
            for answer in _parsed(payload)
            if answer is not None
        )
    yield _drained(text)


def _present(payload: bytes, n_missing: int) -> bytes:
    """A payload's lines without its brackets and without the answers that are missing."""
    if not n_missing:
        return payload[1:-1]
    return SEPARATOR.join(answer for answer in unpack(payload) if answer != MISSING)


def _parsed(payload: bytes) -> list[dict[str, object] | None]:
    """The answers; numbers that 64 bits do not hold are kept as text that `orjson.dumps` writes as it is."""
    answers: list[dict[str, object] | None] = (
        json.loads(payload, parse_int=orjson.Fragment, parse_float=orjson.Fragment)
        if has_long_number(payload)  # then exactness is worth the slower parser
        else orjson.loads(payload)
    )
    return answers


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def _drained(text: io.StringIO) -> bytes:
    block = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return block

"""Which format a request is read in, and which one it is answered in."""

import pytest

from app.data import Format, format_of_accept, format_of_content_type, formats
from app.errors import NotAcceptable, UnsupportedMediaType


@pytest.mark.parametrize(
    ("header", "format"),
    [
        ("application/json", Format.JSON),
        ("Application/JSON ; Charset=UTF-8", Format.JSON),
        ('application/json;charset="utf-8"', Format.JSON),
        ("application/x-ndjson", Format.NDJSON),
        ("application/ndjson", Format.NDJSON),
        ("application/jsonl", Format.NDJSON),
        ("text/csv; charset=utf8", Format.CSV),
        ("text/csv;", Format.CSV),
        ("application/vnd.apache.parquet", Format.PARQUET),
        ("application/x-parquet", Format.PARQUET),
    ],
)
def test_a_content_type_names_its_format(header: str, format: Format) -> None:
    assert format_of_content_type(header) is format


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "is missing"),
        ("", "is missing"),
        ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
        ("multipart/form-data; boundary=x", "multipart/form-data"),
        ("application/json, text/csv", "application/json, text/csv"),
        ("text/csv; charset=latin-1", "charset=latin-1"),
        ("text/csv; header=absent", "header=absent"),
    ],
)
def test_another_content_type_is_refused_by_name(header: str | None, words: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refusal:
        format_of_content_type(header)
    assert words in refusal.value.detail
    assert refusal.value.errors[0].pointer == "Content-Type:"
    assert refusal.value.headers["Accept"] == ", ".join(format.media_type for format in Format)


@pytest.mark.parametrize(
    ("header", "format"),
    [
        (None, Format.JSON),
        (" ", Format.JSON),
        ("*/*", Format.JSON),
        ("application/*", Format.JSON),
        ("text/*", Format.CSV),
        ("text/csv", Format.CSV),
        ("TEXT/CSV", Format.CSV),
        ("application/jsonl", Format.NDJSON),
        ("application/json; charset=utf-8", Format.JSON),
        ("text/csv, application/json", Format.JSON),
        ("text/csv, application/json;q=0.9", Format.CSV),
        ("text/csv, */*", Format.CSV),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format.JSON),
        ("application/json;q=0, */*", Format.NDJSON),
        ("application/json;q=0, application/x-ndjson;q=0.0, */*;q=0.1", Format.CSV),
        ("*/*;q=0.5, application/json;q=0.1, text/csv;q=0.2", Format.NDJSON),
        ('text/html;title="a, text/csv", application/x-ndjson', Format.NDJSON),
        ("application/json;q=2, text/csv;q=0.1", Format.CSV),
        ("application/parquet, text/csv;q=0.9", Format.PARQUET),
    ],
)
def test_accept_chooses_by_weight_then_by_name_then_by_our_order(header: str | None, format: Format) -> None:
    assert format_of_accept(header) is format


@pytest.mark.parametrize(
    "header", ["text/html", "application/json;q=0", "*/*;q=0", "json", "application/json;q=high"]
)
def test_accept_without_any_of_ours_is_refused_and_names_them(header: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json, application/x-ndjson, text/csv") as refusal:
        format_of_accept(header)
    assert refusal.value.errors[0].pointer == "Accept:"


def test_each_format_is_a_string_with_a_media_type() -> None:
    assert {f"{format}": format.media_type for format in Format} == {
        "json": "application/json",
        "ndjson": "application/x-ndjson",
        "csv": "text/csv",
        "parquet": "application/vnd.apache.parquet",
    }


def test_parquet_needs_its_extra_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)

    with pytest.raises(UnsupportedMediaType, match=r"pip install 'twofold\[parquet\]'"):
        format_of_content_type("application/vnd.apache.parquet")
    with pytest.raises(NotAcceptable, match=r"pip install 'twofold\[parquet\]'"):
        format_of_accept("application/vnd.apache.parquet")
    assert format_of_accept("application/vnd.apache.parquet, text/csv;q=0.1") is Format.CSV

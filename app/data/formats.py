"""The three formats of uploads and downloads, and how `Content-Type` and `Accept` choose one (RFC 9110)."""

import re
from collections.abc import Iterator
from enum import StrEnum

from app.errors import FieldError, NotAcceptable, UnsupportedMediaType


class Format(StrEnum):
    """How items are written in a body. The order is the service's preference when a client has none."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"

    @property
    def media_type(self) -> str:
        """What a download in this format is labelled with."""
        return _MEDIA_TYPES[self][0]


# The first is the one we write; there is no registered name for NDJSON, and clients use all three.
_MEDIA_TYPES = {
    Format.JSON: ("application/json",),
    Format.NDJSON: ("application/x-ndjson", "application/ndjson", "application/jsonl"),
    Format.CSV: ("text/csv",),
}
_FORMATS = {media_type: format for format, names in _MEDIA_TYPES.items() for media_type in names}
_OURS = ", ".join(format.media_type for format in Format)

_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++')
_PARAMETER = re.compile(r';\s*+([^\s;="]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^\s;"]*+)\s*+')
_QVALUE = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def format_of_content_type(header: str | None) -> Format:
    """The format of a request body; raises UnsupportedMediaType for others, and for charsets but UTF-8."""
    media_type, parameters = _media_type(header or "")
    format = _FORMATS.get(media_type)
    if format is None:
        found = f"is `{media_type}`" if media_type else "is missing"
        raise _unsupported(f"{found}; this path reads {_OURS}")
    for name, value in parameters.items():
        if name != "charset" or value.lower() not in ("utf-8", "utf8"):
            raise _unsupported(f"has the parameter `{name}={value}`; the only one read is `charset=utf-8`")
    return format


def format_of_accept(header: str | None) -> Format:
    """The format a client likes best; JSON when it does not say. Raises NotAcceptable when it takes none.

    The most specific range decides about a format (RFC 9110, 12.5.1). Among equal weights a format that is
    named wins over one that a wildcard lets in, then our own order.
    """
    if header is None or not header.strip():
        return Format.JSON
    ranges = list(_ranges(header))
    best, best_rank = Format.JSON, (0.0, 0)
    for format, names in _MEDIA_TYPES.items():
        specificity, weight = max(_weight(name, ranges) for name in names)
        if weight and (weight, specificity) > best_rank:
            best, best_rank = format, (weight, specificity)
    if not best_rank[0]:
        detail = f"accepts none of the media types that can be sent: {_OURS}"
        raise NotAcceptable(f"`Accept` {detail}", errors=[FieldError("Accept:", detail)])
    return best


def _weight(media_type: str, ranges: list[tuple[str, float]]) -> tuple[int, float]:
    """How specific the range that decides is (3 named, 2 `type/*`, 1 `*/*`, 0 none), and its weight."""
    wanted = {media_type: 3, media_type.partition("/")[0] + "/*": 2, "*/*": 1}
    return max(((wanted[name], weight) for name, weight in ranges if name in wanted), default=(0, 0.0))


def _ranges(header: str) -> Iterator[tuple[str, float]]:
    """The media ranges and weights of an `Accept`; one whose weight cannot be read is skipped."""
    for member in _MEMBER.findall(header):
        media_range, parameters = _media_type(member)
        weight = parameters.get("q", "1")
        if _QVALUE.fullmatch(weight):
            yield media_range, float(weight)


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    """A media type in lower case, and its parameters with lower-case names and unquoted values."""
    media_type, semicolon, rest = text.partition(";")
    parameters = {
        name.lower(): re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        for name, value in _PARAMETER.findall(semicolon + rest)
    }
    return media_type.strip().lower(), parameters


def _unsupported(detail: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"`Content-Type` {detail}", errors=[FieldError("Content-Type:", detail)], headers={"Accept": _OURS}
    )

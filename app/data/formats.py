"""The formats of uploads and downloads, and how `Content-Type` and `Accept` choose one (RFC 9110)."""

from enum import StrEnum
from importlib.util import find_spec

from app.data.negotiation import weighted, with_parameters
from app.errors import FieldError, NotAcceptable, UnsupportedMediaType


class Format(StrEnum):
    """How items are written in a body. The order is the service's preference when a client has none."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"

    @property
    def media_type(self) -> str:
        """What a download in this format is labelled with."""
        return _MEDIA_TYPES[self][0]


# The first is the one we write; there is no registered name for NDJSON, and clients use all three.
_MEDIA_TYPES = {
    Format.JSON: ("application/json",),
    Format.NDJSON: ("application/x-ndjson", "application/ndjson", "application/jsonl"),
    Format.CSV: ("text/csv",),
    Format.PARQUET: (
        "application/vnd.apache.parquet",
        "application/parquet",
        "application/x-parquet",
    ),
}
_FORMATS = {media_type: format for format, names in _MEDIA_TYPES.items() for media_type in names}
_OURS = ", ".join(format.media_type for format in Format)
NEEDS_EXTRA = "Parquet needs pyarrow, an extra: pip install 'twofold[parquet]' on the server"


def format_of_content_type(header: str | None) -> Format:
    """The format of a request body; raises UnsupportedMediaType for others, and for charsets but UTF-8."""
    media_type, parameters = with_parameters(header or "")
    format = _FORMATS.get(media_type)
    if format is None:
        found = f"is `{media_type}`" if media_type else "is missing"
        raise _unsupported(f"{found}; this path reads {_OURS}")
    if not _is_installed(format):
        raise _unsupported(f"is `{media_type}`; {NEEDS_EXTRA}")
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
    ranges = list(weighted(header))
    best, best_rank = Format.JSON, (0.0, 0)
    for format, names in _MEDIA_TYPES.items():
        specificity, weight = max(_weight(name, ranges) for name in names)
        if weight and (weight, specificity) > best_rank and _is_installed(format):
            best, best_rank = format, (weight, specificity)
    if not best_rank[0]:
        hint = "" if _is_installed(Format.PARQUET) else f" ({NEEDS_EXTRA})"
        detail = f"accepts none of the media types that can be sent: {_OURS}{hint}"
        raise NotAcceptable(f"`Accept` {detail}", errors=[FieldError("Accept:", detail)])
    return best


def _is_installed(format: Format) -> bool:
    return format is not Format.PARQUET or find_spec("pyarrow") is not None


def _weight(media_type: str, ranges: list[tuple[str, float]]) -> tuple[int, float]:
    """How specific the range that decides is (3 named, 2 `type/*`, 1 `*/*`, 0 none), and its weight."""
    wanted = {media_type: 3, media_type.partition("/")[0] + "/*": 2, "*/*": 1}
    return max(((wanted[name], weight) for name, weight in ranges if name in wanted), default=(0, 0.0))


def _unsupported(detail: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"`Content-Type` {detail}", errors=[FieldError("Content-Type:", detail)], headers={"Accept": _OURS}
    )

"""The lists with weights in which clients say what they like: `Accept`, `Accept-Encoding` (RFC 9110, 12.4)."""

import re
from collections.abc import Iterator

_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++')
_PARAMETER = re.compile(r';\s*+([^\s;="]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^\s;"]*+)\s*+')
_QVALUE = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def weighted(header: str) -> Iterator[tuple[str, float]]:
    """Each member of a list, in lower case, and its weight; one whose weight cannot be read is skipped."""
    for member in _MEMBER.findall(header):
        name, parameters = with_parameters(member)
        weight = parameters.get("q", "1")
        if name and _QVALUE.fullmatch(weight):
            yield name, float(weight)


def with_parameters(text: str) -> tuple[str, dict[str, str]]:
    """A value such as a media type, in lower case, and its parameters with lower-case names and unquoted values."""
    name, semicolon, rest = text.partition(";")
    parameters = {
        name.lower(): re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        for name, value in _PARAMETER.findall(semicolon + rest)
    }
    return name.strip().lower(), parameters

"""Lists: newest first, a page at a time, with a `Link` to the next (RFC 8288)."""

from collections.abc import Sequence
from typing import Any, TypeVar

from flask import request, url_for

from app.tables import Input, Job, Schedule

Listed = TypeVar("Listed", Input, Job, Schedule)


def page_of(rows: Sequence[Listed], limit: int) -> tuple[Sequence[Listed], dict[str, str]]:
    """The first `limit` of the rows, of which the caller read one more to see whether a page follows; headers."""
    if len(rows) <= limit:
        return rows, {}
    arguments: dict[str, Any] = {**request.args.to_dict(), "cursor": rows[limit - 1].id}
    following = url_for(request.endpoint or "", **arguments)
    return rows[:limit], {"Link": f'<{following}>; rel="next"'}

"""Ids: UUIDv7 (RFC 9562 section 5.7), so that they sort by the time they were made."""

import uuid_utils


def new_id() -> str:
    """A new id as dashed text, greater than all that this process made before."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """Whether `text` is an id in the only form that the service writes."""
    try:
        return str(uuid_utils.UUID(text)) == text
    except ValueError:
        return False

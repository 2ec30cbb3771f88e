"""Extras: optional libraries, and the one line that says how to install those that are missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.models.contract import ContractError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around the imports of what an extra brings: if it is not installed, a `ContractError` says how to."""
    try:
        yield
    except ImportError as error:
        raise ContractError(
            f"it needs the extra {extra!r}, which is not installed ({' '.join(str(error).split())}): "
            f"in Twofold's folder, run .venv/bin/pip install -e '.[{extra}]'"
        ) from error

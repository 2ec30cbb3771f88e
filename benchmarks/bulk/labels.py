"""The labels of a whole file, as one digest that tells whether two ways agree."""

import hashlib
from collections.abc import Iterable


def digest(labels: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()

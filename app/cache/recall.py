"""Recall: items by their keys, and what the cache knows of them. It knows no SQL and goes wherever items go."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.data import exact
from app.models import JsonObject
from app.models.served import ServedModel

DIGEST_BYTES = 16


def keys_of(served: ServedModel, items: Sequence[JsonObject]) -> list[str]:
    """A key for each item; items have one and the same if the model cannot tell them apart.

    It holds the declaration's fingerprint, so a version that is declared differently has other keys. A thousand small
    items take a millisecond.
    """
    decisive = served.decisive_fields
    if decisive is not None:
        items = [{name: item[name] for name in decisive if name in item} for item in items]
    version = hashlib.blake2b(served.declaration.fingerprint, digest_size=DIGEST_BYTES)

    def key(text: bytes) -> str:
        digest = version.copy()
        digest.update(text)
        return digest.hexdigest()

    return list(map(key, exact.canonical_objects(items)))


@dataclass(frozen=True, slots=True)
class Recall:
    """The keys of some items, one for each, and the JSON texts of the predictions that are known under them."""

    keys: Sequence[str]
    known: Mapping[str, bytes]

    def unknown_places(self) -> list[int]:
        """The items to predict: of those that are equal, the first."""
        places: dict[str, int] = {}
        for place, key in enumerate(self.keys):
            if key not in self.known:
                places.setdefault(key, place)
        return list(places.values())

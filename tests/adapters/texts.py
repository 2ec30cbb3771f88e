"""Random texts."""

import random

from app.models import JsonObject
from tests.adapters.contract import N_ITEMS

WORDS = ["good", "bad", "slow", "train", "hotel", "lovely", "cold"]


def texts(seed: int) -> list[JsonObject]:
    draw = random.Random(seed)
    return [{"text": " ".join(draw.choices(WORDS, k=draw.randrange(1, 9)))} for _ in range(N_ITEMS)]

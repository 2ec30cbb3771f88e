"""Models with a cache: both remember what they were asked, and answer by all that they see."""

from typing import Any, ClassVar

import orjson
from marshmallow import EXCLUDE, Schema, fields

from app.models import JsonObject

BAD = "bad"


class Whole:
    """Sees every field of an item."""

    asked: ClassVar[list[JsonObject]] = []

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        type(self).asked += items
        return list(map(self.answer, items))

    def answer(self, item: JsonObject) -> JsonObject:
        if BAD in item.values():
            raise ValueError("a bad item")
        seen = orjson.dumps(item, default=str, option=orjson.OPT_SORT_KEYS).decode()
        return {"seen": seen, "label": [len(item), 0.1, None]}


class Narrow(Whole):
    """Sees nothing but the text, and for some texts adds a field that it has not declared."""

    asked: ClassVar[list[JsonObject]] = []

    class Item(Schema):
        class Meta:
            unknown = EXCLUDE

        text = fields.String(required=True)

    class Prediction(Schema):
        seen = fields.String()
        label = fields.Raw()

    def answer(self, item: JsonObject) -> JsonObject:
        extra: dict[str, Any] = {"id": 1} if item["text"] == "undeclared" else {}
        return super().answer(item) | extra

"""The adapter `transformers`: a pipeline of Hugging Face, from a folder that `save_pretrained` wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from app.models import JsonObject
from app.models.adapters.fields import artifact_of, make_schema
from app.models.contract import ContractError
from app.models.extras import needs

with needs("transformers"):
    import transformers


class Transformers:
    """A pipeline over texts: `{"text": "…"}` in. A prediction is the pipeline's own object; a list is `prediction`.

    Weights are read from safetensors alone and code that comes with a model is not run, so the folder needs no trust.
    """

    Item: type[Schema]
    Prediction: type[Schema] | None = None

    def load(
        self,
        artifact: Path | None,
        *,
        task: str,
        batch_size: int = 16,
        device: str = "cpu",
        call: Mapping[str, Any] | None = None,
    ) -> None:
        """`task` as transformers names it, "text-classification" say; `call` are the pipeline's own arguments."""
        folder = artifact_of("transformers", artifact)
        if not (folder / "config.json").is_file():
            raise ContractError(
                f"artifact {folder} is no folder with a config.json, as save_pretrained writes it"
            )
        self._pipeline = transformers.pipeline(
            task,
            model=str(folder),
            tokenizer=str(folder),
            device=device,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        self._call = {"batch_size": batch_size, **(call or {})}
        self.Item = make_schema("Item", {"text": fields.String(required=True)})
        if task in {"text-classification", "sentiment-analysis"} and "top_k" not in self._call:
            self.Prediction = make_schema("Prediction", {"label": fields.String(), "score": fields.Float()})

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        predicted = self._pipeline([item["text"] for item in items], **self._call)
        return [row if isinstance(row, dict) else {"prediction": row} for row in predicted]

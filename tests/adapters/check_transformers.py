"""The adapter `transformers` behind the contract suite: `make test-transformers`, which installs torch first.

Its name keeps it out of `make test`: torch from PyPI is a CUDA build of several GB, too much to lock for everybody.
"""

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from app.models.adapters import ADAPTERS
from app.models.served import ServedModel
from tests.adapters.contract import N_ITEMS, AdapterContract, Case
from tests.adapters.texts import WORDS, texts
from tests.models.specimens import declare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and random weights, which does not know what it says, but says it always alike."""
    folder = tmp_path_factory.mktemp("bert")
    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=3,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    items = texts(2)
    direct = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    expected = direct([item["text"] for item in items], batch_size=16)
    assert len({each["label"] for each in expected}) > 1
    return Case(
        adapter="transformers",
        artifact=folder,
        options={"task": "text-classification"},
        items=items,
        expected=expected,
        required="text",
        wrong=3,
        close=1e-5,
    )


class TestTransformers(AdapterContract):
    pass


def test_lists_of_a_pipeline_are_the_prediction(folder: Path) -> None:
    model = ServedModel(
        declare(
            ADAPTERS["transformers"],
            artifact=str(folder),
            options={"task": "text-classification", "call": {"top_k": 2}},
        )
    )
    model.load()

    predictions = model.predict(texts(2))

    assert len(predictions) == N_ITEMS
    assert {len(each["prediction"]) for each in predictions} == {2}


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    weights = transformers.AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    torch.save(weights, tmp_path / "pytorch_model.bin")

    model = ServedModel(
        declare(ADAPTERS["transformers"], artifact=str(tmp_path), options={"task": "text-classification"})
    )
    model.load()

    assert model.state == "failed"
    assert "safetensors" in str(model.reason)

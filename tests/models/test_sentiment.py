"""The default model: VADER's own examples, its thresholds, and the same scores in linear time."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from app.models.sentiment import Sentiment, _Analyzer, label
from app.models.served import ServedModel
from tests.models.specimens import served


@pytest.fixture(scope="module")
def model() -> ServedModel:
    loaded = served(Sentiment)
    assert loaded.state == "ready", loaded.reason
    return loaded


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        # From the README of vaderSentiment, with its compound scores.
        ("VADER is smart, handsome, and funny!", "positive"),  # 0.8439
        ("VADER is not smart, handsome, nor funny.", "negative"),  # -0.7424
        ("At least it isn't a horrible book.", "positive"),  # 0.4310
        ("The plot was good, but the characters are uncompelling and the dialog is not great.", "negative"),
        ("Today SUX!", "negative"),  # -0.5461
        ("Not bad at all", "positive"),  # 0.4310
        ("The book is on the table.", "neutral"),
        ("", "neutral"),
        ("日本語", "neutral"),
    ],
)
def test_known_examples(model: ServedModel, text: str, sentiment: str) -> None:
    items, refused = model.validate([{"text": text}])

    assert refused == []
    assert model.predict(items) == [{"sentiment": sentiment}]


@pytest.mark.parametrize(
    ("compound", "expected"),
    [(0.05, "positive"), (0.0499, "neutral"), (0.0, "neutral"), (-0.0499, "neutral"), (-0.05, "negative")],
)
def test_the_thresholds_belong_to_the_outer_labels(compound: float, expected: str) -> None:
    assert label(compound) == expected


def test_an_item_needs_a_text(model: ServedModel) -> None:
    _, refused = model.validate([{}, {"text": None}, {"text": 3}])

    assert [(position, errors[0].pointer) for position, errors in refused] == [
        (0, "/text"),
        (1, "/text"),
        (2, "/text"),
    ]


OURS = _Analyzer()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # codecs.open, from Python 3.14
    THEIRS = SentimentIntensityAnalyzer()
WORDS = (
    "good bad GREAT horrible love hate not never so this without doubt isn't but kind of sort least at very"
    " the shit bomb bad ass yeah right cut mustard kiss death no or nor uber ! ??? 😊 💔 table :) ok"
)


def test_the_lexicons_are_those_of_the_original() -> None:
    assert OURS.lexicon == THEIRS.lexicon
    assert OURS.emojis == THEIRS.emojis


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.lists(st.sampled_from(WORDS.split()), max_size=40).map(" ".join))
def test_scores_are_those_of_the_original(text: str) -> None:
    assert OURS.polarity_scores(text) == THEIRS.polarity_scores(text)


def test_a_long_text_looks_at_few_words_for_each_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original hands over the whole text each time, so its time is the square of the length."""
    widths: list[int] = []
    for method in ("_negation_check", "_special_idioms_check"):
        original = getattr(SentimentIntensityAnalyzer, method)

        def spy(valence: float, words: list[str], *places: int, original: object = original) -> object:
            widths.append(len(words))
            return original(valence, words, *places)  # type: ignore[operator]  # a function

        monkeypatch.setattr(SentimentIntensityAnalyzer, method, staticmethod(spy))

    OURS.polarity_scores("this is not so good but " * 500)

    assert widths
    assert max(widths) <= 6

"""The default model: sentiment of English text by VADER, which needs no weights beyond its own lexicon."""

from collections import defaultdict
from heapq import heappop, heappush
from importlib import resources
from pathlib import Path
from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

THRESHOLD = 0.05


class Sentiment:
    """`{"text": "…"}` → `{"sentiment": "positive" | "neutral" | "negative"}`.

    Positive is a compound score ≥ 0.05, negative one ≤ -0.05, neutral what lies between: what VADER's
    README calls typical in its literature (cjhutto/vaderSentiment, "About the Scoring"). The method: Hutto &
    Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.
    Thread-safe after `load`; it holds the GIL, so a second slot would gain nothing.
    """

    class Item(Schema):
        class Meta:
            unknown = EXCLUDE  # equal texts are equal items to a result cache, whatever stands beside them

        text = fields.String(required=True)

    class Prediction(Schema):
        sentiment = fields.String(required=True, validate=validate.OneOf(["positive", "neutral", "negative"]))

    def load(self, artifact: Path | None) -> None:
        """Reads the lexicons of the package, 0.6 MB; there is no other artifact."""
        if artifact is not None:
            raise ValueError("VADER has its own lexicon: remove artifact from models.toml")
        self._analyzer = _Analyzer()

    def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One label for each text; some 60 µs for a sentence, and in proportion to its words for more."""
        return [
            {"sentiment": label(self._analyzer.polarity_scores(item["text"])["compound"])} for item in items
        ]


def label(compound: float) -> str:
    """The label of a compound score, which VADER gives in [-1, 1]."""
    if compound >= THRESHOLD:
        return "positive"
    return "negative" if compound <= -THRESHOLD else "neutral"


class _Analyzer(SentimentIntensityAnalyzer):  # type: ignore[misc]  # the package ships no types
    """VADER with the same scores in linear time, and without `codecs.open`, deprecated in Python 3.14.

    vaderSentiment 3.3.2 copies the whole text, in lower case, for each word that it scores, and looks each
    score up from the front: 36 kB of "good but good but …" take it 7 seconds, so one request could stop a
    worker. The three methods below look at the same words and give the same numbers; a test compares them.
    """

    def __init__(self) -> None:
        package = resources.files("vaderSentiment")
        # The attributes hold the files' text, not their paths: the parsers inherited below read them there.
        self.lexicon_full_filepath = package.joinpath("vader_lexicon.txt").read_text("utf-8")
        self.lexicon = self.make_lex_dict()
        self.emoji_full_filepath = package.joinpath("emoji_utf8_lexicon.txt").read_text("utf-8")
        self.emojis = self.make_emoji_dict()

    @staticmethod
    def _negation_check(valence: float, words: list[str], start_i: int, i: int) -> float:
        first = max(0, i - 3)  # it reads the three words before word i
        score: float = SentimentIntensityAnalyzer._negation_check(
            valence, words[first : i + 1], start_i, i - first
        )
        return score

    @staticmethod
    def _special_idioms_check(valence: float, words: list[str], i: int) -> float:
        first = max(0, i - 3)  # it reads from three words before word i to two behind it
        score: float = SentimentIntensityAnalyzer._special_idioms_check(
            valence, words[first : i + 3], i - first
        )
        return score

    @staticmethod
    def _but_check(words: list[str], scores: list[float]) -> list[float]:
        """Halves scores before the first "but", and adds half to those behind it.

        The original walks the scores, and for each changes the first score of the same value, which may be
        another one; that is kept. `places` holds, for every value, a heap of where it stands now.
        """
        but = next((i for i, word in enumerate(words) if word.lower() == "but"), None)
        if but is None:
            return scores
        places: defaultdict[float, list[int]] = defaultdict(list)
        for i, score in enumerate(scores):
            places[score].append(i)
        for i in range(len(scores)):
            score = scores[i]
            first = places[score][0]
            if first == but:
                continue
            heappop(places[score])
            scores[first] = score * (0.5 if first < but else 1.5)
            heappush(places[scores[first]], first)
        return scores

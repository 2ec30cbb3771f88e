"""The article's mock, with the sleeps set to nothing."""

import inspect

from app.models.article import FEELINGS, Article
from tests.models.specimens import served


def test_each_item_gets_one_of_three_feelings() -> None:
    model = served(Article, options={"load_seconds": 0, "predict_seconds": 0})
    items, refused = model.validate([{"text": str(n)} for n in range(200)])

    predictions = model.predict(items)

    assert refused == []
    assert len(predictions) == 200
    assert {prediction["sentiment"] for prediction in predictions} == set(FEELINGS)


def test_it_sleeps_as_long_as_the_articles_unless_told_otherwise() -> None:
    parameters = inspect.signature(Article.load).parameters

    assert parameters["load_seconds"].default == 20
    assert parameters["predict_seconds"].default == 10

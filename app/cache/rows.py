"""The rows of the result cache. Each verb takes a session first and leaves the transaction to its caller.

Both go by one statement that takes one parameter and gives one row at most, JSON each. By a thousand rows, SQLite's
driver would ask for the GIL a thousand times, of a model in pure Python that has it.
"""

from collections.abc import Mapping, Sequence

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

_LOOK_UP = {
    "postgresql": text(
        "SELECT CAST(json_object_agg(asked.key, cached.prediction) AS text)"
        " FROM json_array_elements_text(CAST(:keys AS json)) AS asked (key)"
        " JOIN cached_predictions AS cached ON cached.key = CAST(asked.key AS uuid)"
    ),
    # SQLite takes CROSS for an order: the keys outside, and for each a look into the index.
    "sqlite": text(
        "SELECT json_group_object(asked.value, cached.prediction) FROM json_each(:keys) AS asked"
        " CROSS JOIN cached_predictions AS cached ON cached.key = asked.value"
    ),
}
_STORE = {
    "postgresql": text(
        "INSERT INTO cached_predictions (key, model, version, prediction, created_at)"
        " SELECT CAST(new.key AS uuid), :model, :version, new.value, now()"
        " FROM json_each_text(CAST(:predictions AS json)) AS new ON CONFLICT (key) DO NOTHING"
    ),
    "sqlite": text(
        "INSERT INTO cached_predictions (key, model, version, prediction, created_at)"
        " SELECT new.key, :model, :version, new.value, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
        " FROM json_each(:predictions) AS new WHERE true ON CONFLICT (key) DO NOTHING"
    ),
}


def look_up(session: Session, keys: Sequence[str]) -> dict[str, bytes]:
    """The JSON texts of the predictions that are there, by their keys."""
    connection = session.connection()
    asked = orjson.dumps(list(dict.fromkeys(keys))).decode()
    found = connection.scalar(_LOOK_UP[connection.dialect.name], {"keys": asked})
    return {key: prediction.encode() for key, prediction in orjson.loads(found or b"{}").items()}


def store(session: Session, model: str, version: str, predictions: Mapping[str, bytes]) -> None:
    """Keeps predictions of one model version, JSON texts by their keys, but for those that are there already.

    To be called last in a transaction, and for several versions in their order. Of two transactions that insert the
    same key, Postgres has the second wait for the first: both must come to their keys in one order, and must not hold
    by then what the other still wants.
    """
    if predictions:
        connection = session.connection()
        given = orjson.dumps(
            {key: prediction.decode() for key, prediction in predictions.items()}, option=orjson.OPT_SORT_KEYS
        )
        connection.execute(
            _STORE[connection.dialect.name],
            {"model": model, "version": version, "predictions": given.decode()},
        )

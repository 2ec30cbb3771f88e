"""Outputs hold what the model gave; what it was given stays in input_chunks alone, and the two are joined when read.

What is there already stays as it is, whole. Going back makes all outputs whole.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

# The comments of `items` of outputs and of `pruned_at` of inputs, before and after.
ITEMS = (
    "a JSON array of item + prediction, one per line; null where the item failed, or all in an object",
    "a JSON array of predictions, one per line; null where the item failed, or all in an object",
)
PRUNED_AT = ("when its items went", "when its items went, but for those that outputs are read beside")

# An item's prediction stands in its output at the same place as the item in its chunk.
PREDICTIONS = {
    "postgresql": """
CREATE VIEW predictions AS
SELECT chunks.job_id,
       (input_chunks.first_item + pair.place - 1)::integer AS item_index,
       pair.item,
       pair.prediction
FROM chunks
JOIN jobs ON jobs.id = chunks.job_id
JOIN input_chunks ON input_chunks.input_id = jobs.input_id AND input_chunks.seq = chunks.seq
LEFT JOIN outputs ON outputs.chunk_id = chunks.id
CROSS JOIN LATERAL (
    -- Both arrays are unpacked once a chunk and joined by a hash: 40 times faster than one after the other.
    SELECT item.place,
           item.value AS item,
           CASE WHEN json_typeof(answer.value) <> 'null' THEN {prediction} END AS prediction
    FROM json_array_elements(input_chunks.items::json) WITH ORDINALITY AS item (value, place)
    LEFT JOIN json_array_elements(outputs.items::json) WITH ORDINALITY AS answer (value, place)
           ON answer.place = item.place + (input_chunks.first_item - outputs.first_item)
) AS pair
WHERE input_chunks.first_item + pair.place - 1 >= chunks.first_item
  AND input_chunks.first_item + pair.place - 1 < chunks.first_item + chunks.n_items
""",
    "sqlite": """
CREATE VIEW predictions AS
SELECT job_id, item_index, item, {prediction} AS prediction
FROM (
    SELECT chunks.job_id,
           input_chunks.first_item + item.key AS item_index,
           item.value AS item,
           json_extract(outputs.items, '$[' || (input_chunks.first_item + item.key - outputs.first_item) || ']')
               AS answer{is_whole}
    FROM chunks
    JOIN jobs ON jobs.id = chunks.job_id
    JOIN input_chunks ON input_chunks.input_id = jobs.input_id AND input_chunks.seq = chunks.seq
    LEFT JOIN outputs ON outputs.chunk_id = chunks.id
    JOIN json_each(input_chunks.items) AS item
    WHERE input_chunks.first_item + item.key >= chunks.first_item
      AND input_chunks.first_item + item.key < chunks.first_item + chunks.n_items
) AS pair
""",
}
WHOLE = {
    "postgresql": {"prediction": "answer.value"},
    "sqlite": {"prediction": "answer", "is_whole": ""},
}
# The item's own text without its last brace, then the prediction's without its first: both are objects with fields.
BESIDE_ITEMS = {
    "postgresql": {
        "prediction": "CASE WHEN outputs.is_whole THEN answer.value"
        " ELSE (left(item.value::text, -1) || ',' || substr(answer.value::text, 2))::json END"
    },
    "sqlite": {
        "prediction": "CASE WHEN is_whole THEN answer"
        " ELSE substr(item, 1, length(item) - 1) || ',' || substr(answer, 2) END",
        "is_whole": ", outputs.is_whole",
    },
}
APART = sa.text(
    "SELECT outputs.chunk_id, outputs.items AS predictions, input_chunks.items,"
    " outputs.first_item - input_chunks.first_item AS place"
    " FROM outputs JOIN chunks ON chunks.id = outputs.chunk_id JOIN jobs ON jobs.id = outputs.job_id"
    " JOIN input_chunks ON input_chunks.input_id = jobs.input_id AND input_chunks.seq = chunks.seq"
    " WHERE outputs.chunk_id > :chunk_id AND NOT outputs.is_whole"
    " ORDER BY outputs.chunk_id LIMIT 1"
)


def upgrade() -> None:
    op.add_column(
        "outputs",
        sa.Column(
            "is_whole",
            sa.Boolean(),
            nullable=False,
            server_default=sa.true(),
            comment="whether `items` holds item + prediction, else the items are in input_chunks alone",
        ),
    )
    _comment(ITEMS, PRUNED_AT)
    _view(BESIDE_ITEMS)


def downgrade() -> None:
    database = op.get_bind()
    chunk_id = 0
    while row := database.execute(APART, {"chunk_id": chunk_id}).one_or_none():
        chunk_id = row.chunk_id
        database.execute(
            sa.text("UPDATE outputs SET items = :items WHERE chunk_id = :chunk_id"),
            {"items": _answers(row.items, row.predictions, row.place), "chunk_id": chunk_id},
        )
    _view(WHOLE)
    op.drop_column("outputs", "is_whole")
    _comment(ITEMS[::-1], PRUNED_AT[::-1])


def _view(words: dict[str, dict[str, str]]) -> None:
    """In place on Postgres, where others may have views on it, and rights. SQLite has no such way."""
    database = op.get_bind().dialect.name
    view = PREDICTIONS[database].format(**words[database])
    if database == "sqlite":
        op.execute("DROP VIEW predictions")
    else:
        view = view.replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
    op.execute(view)


def _answers(items: str, predictions: str, place: int) -> str:
    """Each item with its prediction; both are JSON arrays of objects, one per line."""
    pairs = zip(_lines(items)[place:], _lines(predictions), strict=False)
    lines = [new if new == "null" else f"{item[:-1]},{new[1:]}" for item, new in pairs]
    return "[" + ",\n".join(lines) + "]"


def _lines(payload: str) -> list[str]:
    return payload[1:-1].split(",\n")


def _comment(outputs: tuple[str, str], inputs: tuple[str, str]) -> None:
    if not op.get_bind().dialect.supports_comments:
        return
    for table, column, of_type, (before, after) in (
        ("outputs", "items", sa.Text(), outputs),
        ("inputs", "pruned_at", sa.DateTime(timezone=True), inputs),
    ):
        op.alter_column(
            table,
            column,
            existing_type=of_type,
            existing_nullable=True,
            existing_comment=before,
            comment=after,
        )

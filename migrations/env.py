"""Alembic's entry: which database to migrate, and how to compare it with `app.tables`."""

from alembic import context
from sqlalchemy.engine import Connection

from app.config import load_settings
from app.db import Database
from app.tables import Row


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Row.metadata,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if context.is_offline_mode():
    raise SystemExit("Twofold migrates a live database only: 'alembic upgrade head' without --sql")
if given is not None:
    migrate(given)
else:
    with Database(load_settings().database_url).engine.connect() as connection:
        migrate(connection)
        connection.commit()

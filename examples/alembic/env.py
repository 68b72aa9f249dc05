"""Alembic's environment: connects with psycopg 3, or prints the SQL (`--sql`)."""

import os

import psycopg
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool


def include_name(name: str | None, type_: str, parent_names: object) -> bool:  # noqa: ARG001
    """Keep autogenerate from proposing to drop the library's tables."""
    return not (type_ == "schema" and name == "mvrefresh")


settings = {"include_schemas": True, "include_name": include_name}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **settings)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(os.environ["MVREFRESH_DSN"]),
        poolclass=NullPool,
    )
    with engine.connect() as connection:
        context.configure(connection=connection, **settings)
        with context.begin_transaction():
            context.run_migrations()

"""The FastAPI example over a database that this fills, for `uvicorn --factory`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from mvrefresh import HierarchySource, Schema, UsageSource

if TYPE_CHECKING:
    from fastapi import FastAPI

EXAMPLES = Path(__file__).parents[2] / "examples"
TABLE = """
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);
CREATE INDEX ON entities USING gist (path); CREATE INDEX ON entities (path);
INSERT INTO entities VALUES (1, 'a', 'A', 'x'), (2, 'a.b', 'B', 'x'), (3, 'a.b.c', 'C', 'x');
"""


def fill(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        Schema().apply(connection)
        HierarchySource().create(connection)
        usage = UsageSource()
        usage.create_events(connection)
        usage.create(connection)


def app() -> FastAPI:
    sys.path.insert(0, str(EXAMPLES))
    from fastapi_app import create_app

    return create_app(os.environ["MVREFRESH_DSN"])

"""A database with the library's schema, and views that read one another."""

from __future__ import annotations

import pytest

from mvrefresh import Schema

WORLD = """
CREATE TABLE base (id int PRIMARY KEY, name text);
INSERT INTO base SELECT g, 'n' || g FROM generate_series(1, 3) g;
CREATE MATERIALIZED VIEW mv AS SELECT id, name FROM base;
CREATE UNIQUE INDEX mv_id ON mv (id);
CREATE VIEW between_them AS SELECT * FROM mv;
CREATE MATERIALIZED VIEW top AS SELECT count(*) AS n FROM between_them;
CREATE MATERIALIZED VIEW "Empty 100%" AS SELECT 1 AS one WITH NO DATA;
"""


@pytest.fixture
def world(conn):
    Schema().apply(conn)
    conn.execute(WORLD)
    return conn

"""A database with the library's schema, and views to refresh in it."""

from __future__ import annotations

import pytest

from mvrefresh import Database, RefreshPolicy, Schema

QUICK = RefreshPolicy(
    attempts=2, lock_timeout=0.2, backoff_initial=0.01, backoff_max=0.02, retry_timeout=30
)
"""Gives up soon, so that tests of failures are short."""


@pytest.fixture
def database(dsn, conn):
    """With the schema installed, table `base` and the view `mv` that CONCURRENTLY can refresh."""
    Schema().apply(conn)
    conn.execute(
        "CREATE TABLE base (id int PRIMARY KEY, name text);"
        "INSERT INTO base SELECT g, 'n' || g FROM generate_series(1, 3) g;"
        "CREATE MATERIALIZED VIEW mv AS SELECT id, name FROM base;"
        "CREATE UNIQUE INDEX mv_id ON mv (id)"
    )
    with Database(dsn) as database:
        yield database


@pytest.fixture
def history(conn):
    """Read the history, newest last, as (view, status, strategy, message)."""

    def read():
        return conn.execute(
            "SELECT view_name, status, strategy, error_message FROM mvrefresh.refresh_metrics"
            " ORDER BY id"
        ).fetchall()

    return read


@pytest.fixture
def state(conn):
    """Read a view's state row as (refresh_no, content_token), None without one."""

    def read(view="mv"):
        return conn.execute(
            "SELECT refresh_no, content_token FROM mvrefresh.state WHERE view = %s::regclass",
            (view,),
        ).fetchone()

    return read

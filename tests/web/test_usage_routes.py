"""The roll-ups of usage, by the library and by the database's function."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from tests.web import shapes
from tests.web.conftest import USAGE, app_of, ask, until, visit

import mvrefresh
from mvrefresh import Database, Schema, UsageRefresh, UsageSource, errors
from mvrefresh.web import usage_router

PATH = f"{USAGE}/refresh-views"
HOURLY, DAILY = "archon_mcp_usage_hourly", "archon_mcp_usage_daily"


@pytest.fixture
def usage(dsn, conn):
    Schema().apply(conn)
    source = UsageSource()
    source.create_events(conn)
    source.create(conn)
    with Database(dsn) as database:
        yield database, source


def function(conn, second="success"):
    conn.execute(
        "CREATE FUNCTION refresh_mcp_usage_views() RETURNS TABLE(view_name text,"
        f" refresh_status text) LANGUAGE sql AS $$ VALUES ('{HOURLY}', 'success'),"
        f" ('{DAILY}', '{second}') $$"
    )


def asked(*arguments, **settings):
    return ask(app_of(usage_router(*arguments, **settings), prefix=USAGE), "POST", PATH)


def test_by_the_library(usage, conn):
    status, document = asked(*usage)
    assert status == 200
    shapes.check(shapes.USAGE_REFRESHED, document)
    (count,) = conn.execute("SELECT count(*) FROM mvrefresh.refresh_metrics").fetchone()
    assert count == 2


def test_by_a_function_of_the_hosts(usage):
    database, source = usage
    done = []

    def refresh():
        done.append(mvrefresh.refresh(database, source.views))
        return done[-1]

    status, document = asked(refresh=refresh)
    assert status == 200
    shapes.check(shapes.USAGE_REFRESHED, document)
    assert len(done) == 1


@pytest.mark.parametrize("by", ["library", "function"])
def test_by_one_of_the_packages_own(usage, conn, by):
    database, source = usage
    source.create_function(conn)
    status, document = asked(refresh=UsageRefresh(database, source, by))
    assert status == 200
    shapes.check(shapes.USAGE_REFRESHED, document)


def test_what_raises_is_the_answer_of_all_who_wait_for_it(usage):
    def away():
        raise errors.DatabaseUnavailable("gone")

    status, document = asked(refresh=away)
    assert status == 503
    shapes.check({"detail": str}, document)


@pytest.mark.parametrize("by", ["library", "function"])
def test_the_end_of_the_app_ends_it_in_the_server(usage, conn, by):
    database, source = usage
    source.create_function(conn)
    conn.execute("SELECT pg_advisory_lock(7)")
    conn.execute(
        f"DROP MATERIALIZED VIEW {DAILY};"
        "CREATE FUNCTION held() RETURNS int LANGUAGE sql AS"
        " $$ SELECT 1 FROM pg_advisory_xact_lock_shared(7) $$;"
        f"CREATE MATERIALIZED VIEW {DAILY} AS SELECT held() AS x WITH NO DATA"
    )
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    app = app_of(usage_router(database, source, by=by), prefix=USAGE)

    async def talk(client):
        asyncio.ensure_future(client.post(PATH)).add_done_callback(lambda done: done.exception())
        await until(lambda: conn.execute(waits).fetchone())

    visit(app, talk)
    assert conn.execute(waits).fetchone() is None


def test_by_the_function_of_the_database(usage, conn):
    function(conn)
    status, document = asked(usage[0], by="function")
    assert status == 200
    shapes.check(shapes.USAGE_REFRESHED, document)


def test_a_view_that_fails_is_named_and_is_500(usage, conn):
    function(conn, "division by zero")
    status, document = asked(usage[0], by="function")
    assert status == 500
    shapes.check(shapes.USAGE_FAILED, document)
    assert document["results"] == {HOURLY: True, DAILY: False}
    assert DAILY in document["message"]
    assert HOURLY not in document["message"]
    assert document["detail"] == document["message"]


def test_a_view_that_fails_by_the_library(usage, conn, broken_daily):
    status, document = asked(*usage)
    assert status == 500
    shapes.check(shapes.USAGE_FAILED, document)
    assert document["results"] == {HOURLY: True, DAILY: False}
    assert DAILY in document["message"]


@pytest.fixture
def broken_daily(usage, conn):
    """A daily view of the same name that divides by zero."""
    conn.execute(
        f"DROP MATERIALIZED VIEW {DAILY};"
        "CREATE VIEW ill AS SELECT 1 / (SELECT count(*) FROM pg_class WHERE oid = 0) AS x;"
        f"CREATE MATERIALIZED VIEW {DAILY} AS SELECT x FROM ill WITH NO DATA"
    )


def test_a_function_that_is_not_there_is_the_servers_fault(usage):
    status, document = asked(usage[0], by="function")
    assert status == 503
    shapes.check({"detail": str}, document)


def test_views_that_are_not_there(dsn, conn):
    Schema().apply(conn)
    with Database(dsn) as database:
        status, document = asked(database)
    assert status == 500
    shapes.check(shapes.USAGE_FAILED, document)
    assert document["results"] == {HOURLY: False, DAILY: False}


@pytest.mark.parametrize("by", ["library", "function"])
def test_a_view_that_is_not_there_does_not_end_the_other(usage, conn, by):
    database, source = usage
    source.create_function(conn)
    conn.execute(f"ALTER MATERIALIZED VIEW {DAILY} RENAME TO elsewhere")
    status, document = asked(database, source, by=by)
    assert status == 500
    shapes.check(shapes.USAGE_FAILED, document)
    assert document["results"] == {HOURLY: True, DAILY: False}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"by": "function"},
        {"by": "hand"},
        {"database": UsageSource()},
        {"database": "dbname=x"},
        {"source": "events", "database": Database("host=nowhere")},
        {"by": "function", "refresh": print},
        {"refresh": print, "origins": ["admin.example.org"]},
        {"refresh": print, "origins": "https://admin.example.org"},
        {"refresh": print, "origins": ["https://[::1"]},
        {"refresh": print, "origins": ["https://*.example.org"]},
        {"refresh": print, "origins": ["https://admin.example.org/"]},
    ],
)
def test_what_cannot_be_meant(settings):
    with pytest.raises(errors.ConfigurationError):
        usage_router(**settings)


def test_read_only_has_no_route(usage):
    app = FastAPI()
    app.include_router(usage_router(usage[0], read_only=True), prefix=USAGE)
    assert app.openapi()["paths"] == {}

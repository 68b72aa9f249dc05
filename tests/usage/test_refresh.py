"""UsageRefresh: one answer, by the library or by the function."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.refreshing.test_transaction import wait_until

from mvrefresh import Database, RefreshPolicy, UsageRefresh, UsageSource
from mvrefresh.errors import ConfigurationError, DatabaseUnavailable, SchemaMissing
from mvrefresh.refreshing.threads import in_thread

DAILY, HOURLY = "archon_mcp_usage_daily", "archon_mcp_usage_hourly"
BOTH = pytest.mark.parametrize("by", ["library", "function"])
LOCK = f"SELECT pg_advisory_xact_lock(1836479078, '{HOURLY}'::regclass::oid::bigint::int)"
ONE_ATTEMPT = RefreshPolicy(attempts=1, trigger="usage")


@pytest.fixture
def database(dsn, conn):
    with Database(dsn) as database:
        database.schema.apply(conn)
        yield database


@pytest.fixture
def source(conn, database):
    source = UsageSource()
    source.create_events(conn)
    source.create(conn)
    source.create_function(conn)
    return source


@BOTH
def test_success(conn, database, source, by):
    conn.execute("INSERT INTO archon_mcp_usage_events DEFAULT VALUES")
    outcome = UsageRefresh(database, source, by=by).refresh()
    assert outcome
    assert outcome.success is True
    assert outcome.message == "Materialized views refreshed successfully"
    assert outcome.results == {HOURLY: True, DAILY: True}
    assert outcome.refreshed_at.tzinfo is UTC
    assert datetime.now(UTC) - outcome.refreshed_at < timedelta(minutes=1)
    assert conn.execute(f"SELECT sum(call_count) FROM {HOURLY}").fetchone() == (1,)
    (trigger,) = conn.execute("SELECT DISTINCT trigger FROM mvrefresh.refresh_metrics").fetchone()
    assert trigger == {"library": "usage", "function": "refresh_mcp_usage_views"}[by]


@BOTH
def test_a_cancel_reaches_it_wherever_it_is(conn, database, source, by):
    """Here before it has begun: in its look at the catalog, or at its function."""
    usage = UsageRefresh(database, source, by)
    refreshed = "SELECT count(*) FROM mvrefresh.refresh_metrics"
    with conn.transaction():
        conn.execute("LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE")
        work = in_thread("refresh", usage.refresh)
        wait_until(lambda: conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        assert usage.cancel()
        outcome = work.result(20)
    assert outcome.results == {HOURLY: False, DAILY: False}
    assert "cancel" in outcome.errors[HOURLY]
    assert conn.execute(refreshed).fetchone() == (0,)
    assert usage.refresh()  # it was that one call alone


@BOTH
def test_a_failed_view_is_named(conn, database, source, by):
    conn.execute(f"DROP MATERIALIZED VIEW {DAILY}")
    conn.execute(
        f"CREATE MATERIALIZED VIEW {DAILY} AS"
        " SELECT 1 / (count(*) - 1) AS x FROM archon_mcp_usage_events"
    )
    conn.execute("INSERT INTO archon_mcp_usage_events DEFAULT VALUES")
    outcome = UsageRefresh(database, source, by, policy=ONE_ATTEMPT).refresh()
    assert not outcome
    assert outcome.success is False
    assert outcome.message == f"Materialized views not refreshed: {DAILY}"
    assert outcome.results == {HOURLY: True, DAILY: False}
    assert outcome.errors[DAILY].startswith(f"{DAILY}: division by zero [22012]. Run the view's")


@BOTH
def test_a_view_that_is_not_there_is_named(conn, database, source, by):
    conn.execute(f"DROP MATERIALIZED VIEW {HOURLY}")
    outcome = UsageRefresh(database, source, by).refresh()
    assert outcome.results == {HOURLY: False, DAILY: True}
    conn.execute(f"DROP MATERIALIZED VIEW {DAILY}")
    outcome = UsageRefresh(database, source, by).refresh()
    assert outcome.results == {HOURLY: False, DAILY: False}
    assert outcome.message == f"Materialized views not refreshed: {HOURLY}, {DAILY}"
    assert all(outcome.errors.values())


@BOTH
def test_views_of_another_schema(conn, database, by):
    conn.execute('CREATE SCHEMA "U s"')
    source = UsageSource("events", schema="U s", daily_view="Daily")
    source.create_events(conn)
    source.create(conn)
    source.create_function(conn)
    outcome = UsageRefresh(database, source, by).refresh()
    assert outcome.results == {'"U s".archon_mcp_usage_hourly': True, '"U s"."Daily"': True}


@BOTH
def test_a_role_of_other_defaults(conn, dsn, database, source, by):
    conn.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation TO"
        " ''repeatable read''', current_database()); EXECUTE format('ALTER DATABASE %I SET"
        " default_transaction_read_only TO on', current_database()); END $$"
    )
    with Database(dsn) as strict:
        assert UsageRefresh(strict, source, by).refresh()


def test_a_time_limit_fails_both_views(conn, database, source):
    with conn.transaction():
        conn.execute(LOCK)
        limited = RefreshPolicy(refresh_timeout=0.2)
        outcome = UsageRefresh(database, source, "function", policy=limited).refresh()
    assert outcome.results == {HOURLY: False, DAILY: False}
    assert "statement timeout" in outcome.errors[DAILY]


@BOTH
def test_without_the_librarys_schema(conn, database, source, by):
    conn.execute("DROP SCHEMA mvrefresh CASCADE")
    with pytest.raises(SchemaMissing):
        UsageRefresh(database, source, by).refresh()


def test_without_the_function(conn, database, source):
    source.drop_function(conn)
    with pytest.raises(SchemaMissing, match=r"no function refresh_mcp_usage_views\(\)"):
        UsageRefresh(database, source, "function").refresh()


@BOTH
def test_without_a_database(by):
    nowhere = Database("host=127.0.0.1 port=1 connect_timeout=2")
    with nowhere, pytest.raises(DatabaseUnavailable):
        UsageRefresh(nowhere, by=by).refresh()


def test_a_lost_connection_is_no_answer(conn, database, source):
    conn.execute(f"DROP MATERIALIZED VIEW {DAILY}")
    conn.execute(
        "CREATE FUNCTION die() RETURNS boolean LANGUAGE sql AS"
        " 'SELECT pg_terminate_backend(pg_backend_pid())'"
    )
    conn.execute(f"CREATE MATERIALIZED VIEW {DAILY} AS SELECT die() WITH NO DATA")
    with pytest.raises(DatabaseUnavailable):
        UsageRefresh(database, source, "function").refresh()


def test_who_else_than_those_two(database):
    with pytest.raises(ConfigurationError, match="library, function"):
        UsageRefresh(database, by="magic")


def test_by_default_the_usual_names(database):
    assert UsageRefresh(database).source == UsageSource()
    assert UsageRefresh(database).by == "library"

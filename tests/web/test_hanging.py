"""A server that hangs: requests get an answer in the end, and the application can stop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.proxy import GoesSilent
from tests.refreshing.test_transaction import wait_until
from tests.web.conftest import ENTITIES, USAGE, app_of, until, visit

from mvrefresh import Database, UsageSource, aio
from mvrefresh.web import refresh_router, usage_router, waiting

METRICS = f"{ENTITIES}/refresh/automated/metrics"
STATUS = f"{ENTITIES}/refresh/status"


@pytest.fixture
def impatient(monkeypatch):
    """Patience for a test."""
    monkeypatch.setattr(aio, "CLOSING", 0.3)
    monkeypatch.setattr(aio, "PATIENCE", 0.2)
    monkeypatch.setattr(waiting, "_PATIENCE", 0.2)


@pytest.fixture
def silent(postgres, conn, database):
    """A way to the server that can go silent, and a database at its end."""
    del database  # it has made the library's tables
    with (
        GoesSilent(postgres.dsn(conn.info.dbname, tcp=True)) as proxy,
        Database(f"{proxy.dsn} connect_timeout=2") as far,
    ):
        yield proxy, far


def ours():
    return {t.name for t in threading.enumerate() if t.name.startswith("mvrefresh-web")}


def test_the_application_ends_though_requests_for_the_history_wait(silent, impatient):
    proxy, far = silent

    async def talk(client):
        assert (await client.get(METRICS)).status_code == 200  # the pool has a connection now
        proxy.go_silent()
        for _ in range(3):
            asyncio.ensure_future(client.get(METRICS)).add_done_callback(lambda d: d.exception())
        await until(ours)

    visit(app_of(refresh_router(database=far)), talk)
    wait_until(lambda: not ours())  # though the server is still silent


def test_a_history_that_hangs_keeps_no_other_route_waiting(silent, impatient, monkeypatch):
    proxy, far = silent
    monkeypatch.setattr(waiting, "PATIENCE", 0.5)

    async def talk(client):
        for path in (METRICS, STATUS):
            assert (await client.get(path)).status_code == 200
        proxy.go_silent()
        stuck = [asyncio.ensure_future(client.get(METRICS)) for _ in range(8)]
        answer = await client.get(STATUS)
        assert answer.status_code == 503
        assert answer.json() == {"detail": "the database is not available"}
        for each in stuck:
            each.add_done_callback(lambda done: done.exception())

    visit(app_of(refresh_router(database=far)), talk)


@pytest.mark.parametrize("hangs", [True, False])
def test_the_application_ends_though_a_refresh_waits_for_the_catalog(
    silent, impatient, conn, hangs
):
    proxy, far = silent
    path = f"{USAGE}/refresh-views"

    async def talk(client):
        asyncio.ensure_future(client.post(path)).add_done_callback(lambda done: done.exception())
        await until(lambda: conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        if hangs:
            proxy.go_silent()

    with conn.transaction():
        conn.execute("LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE")
        visit(app_of(usage_router(far), prefix=USAGE), talk)
    wait_until(lambda: "mvrefresh-usage" not in {t.name for t in threading.enumerate()})


@pytest.mark.parametrize("by", ["library", "function"])
def test_the_application_ends_though_a_refresh_waits(silent, impatient, conn, by):
    proxy, far = silent
    source = UsageSource()
    source.create_events(conn)
    source.create(conn)
    source.create_function(conn)
    conn.execute(
        f"DROP MATERIALIZED VIEW {source.daily_view};"
        "CREATE FUNCTION held() RETURNS int LANGUAGE sql AS"
        " $$ SELECT 1 FROM pg_advisory_xact_lock_shared(7) $$;"
        f"CREATE MATERIALIZED VIEW {source.daily_view} AS SELECT held() AS x WITH NO DATA"
    )
    conn.execute("SELECT pg_advisory_lock(7)")
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
    path = f"{USAGE}/refresh-views"

    async def talk(client):
        asyncio.ensure_future(client.post(path)).add_done_callback(lambda done: done.exception())
        await until(lambda: conn.execute(waits).fetchone())
        proxy.go_silent()

    visit(app_of(usage_router(far, source, by=by), prefix=USAGE), talk)
    assert "mvrefresh-usage" not in {thread.name for thread in threading.enumerate()}
    conn.execute("SELECT pg_advisory_unlock(7)")

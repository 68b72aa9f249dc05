"""Promise P1 behind a transaction pooler, with no prepared statements: Debian's PgBouncer."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from tests.conftest import required
from tests.pooler import PgBouncer
from tests.refreshing.test_runner import ASLEEP
from tests.refreshing.test_transaction import wait_until

import mvrefresh
from mvrefresh import Database, RefreshPolicy, Runner, Status


@pytest.fixture
def pooled(database, dsn):
    """The same database, through PgBouncer in transaction mode."""
    with ExitStack() as stack:
        with required():
            bouncer = stack.enter_context(PgBouncer(dsn))
        yield stack.enter_context(Database(bouncer.pooled(), prepare_threshold=None))


def test_refreshes_records_and_announces(pooled, conn, state, history):
    conn.execute("LISTEN mvrefresh; INSERT INTO base VALUES (4, 'x')")
    for _ in range(3):
        report = mvrefresh.refresh(pooled)
        assert report
    assert state() == (1, report.outcomes[0].content_token)
    assert history() == [("mv", "succeeded", "concurrent", None)] * 3
    assert len(list(conn.notifies(timeout=5, stop_after=3))) == 3
    assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)
    assert mvrefresh.PostgresMetricsStore(pooled).summary().success_count == 3


def test_leaves_nothing_behind_on_the_servers_connections(pooled, conn):
    """What is set is set for the transaction: the next client gets the session as it was."""
    mvrefresh.refresh(pooled)
    with pooled.dedicated() as connection:
        for setting in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("0",)
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
    here = " (SELECT oid FROM pg_database WHERE datname = current_database())"
    assert conn.execute(query + here).fetchone() == (0,)


def test_many_at_once(pooled, conn):
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(mvrefresh.refresh(pooled)))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 16
    assert all(reports)


def test_cancel_goes_through_the_pooler(pooled, conn):
    conn.execute("CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(60)::text AS x WITH NO DATA")
    runner, plan, reports = Runner(pooled), mvrefresh.plan(pooled, ["slow"]), []
    thread = threading.Thread(target=lambda: reports.append(runner.run(plan)))
    thread.start()
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
    assert runner.cancel(timeout=10)
    thread.join()
    assert reports[0].outcomes[0].status is Status.CANCELLED


def test_health_sees_the_pooler(pooled):
    assert pooled.health().behind_pooler is True


def test_a_failure_leaves_the_connection_usable(pooled, conn):
    conn.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / 0 AS x WITH NO DATA")
    report = mvrefresh.refresh(pooled, policy=RefreshPolicy(jobs=1))
    assert report.results == {"bad": False, "mv": True}

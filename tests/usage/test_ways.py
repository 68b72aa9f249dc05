"""The ways of pg_cron and APScheduler to refresh the roll-ups: the files of `examples/usage`."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest
from tests.documents import ROOT

from mvrefresh import Database, UsageSource

WAYS = ROOT / "examples/usage"
DAILY, HOURLY = "archon_mcp_usage_daily", "archon_mcp_usage_hourly"


@pytest.fixture
def database(dsn, conn):
    with Database(dsn) as database:
        database.schema.apply(conn)
        UsageSource().create_events(conn)
        UsageSource().create(conn)
        UsageSource().create_function(conn)
        yield database


# -- pg_cron: the file against tables of its names, since the extension needs a server of its own --

CRON = """
CREATE SCHEMA cron;
CREATE TABLE cron.job (jobid bigint GENERATED ALWAYS AS IDENTITY, jobname text UNIQUE,
                       schedule text, command text);
CREATE TABLE cron.job_run_details (jobid bigint, status text, return_message text,
                                   start_time timestamptz, end_time timestamptz);
CREATE FUNCTION cron.schedule(job_name text, schedule text, command text) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO cron.job (jobname, schedule, command) VALUES ($1, $2, $3)
    ON CONFLICT (jobname) DO UPDATE SET schedule = $2, command = $3 RETURNING jobid
$$;
"""


def test_pg_cron(conn, database):
    text = (WAYS / "pg_cron.sql").read_text()
    assert (
        "SELECT cron.schedule('refresh-mcp-usage-views', '*/15 * * * *',"
        " $$SELECT refresh_mcp_usage_views()$$)"
    ) in text
    assert "SELECT * FROM pg_extension WHERE extname = 'pg_cron'" in text
    conn.execute(CRON)
    conn.execute(text.encode())
    jobs = conn.execute("SELECT jobname, schedule, command FROM cron.job").fetchall()
    assert jobs == [("refresh-mcp-usage-views", "*/15 * * * *", "SELECT refresh_mcp_usage_views()")]
    conn.execute(jobs[0][2].encode())
    rows = conn.execute("SELECT view_name FROM archon_mcp_view_refresh_log ORDER BY 1").fetchall()
    assert rows == [(DAILY,), (HOURLY,)]


# -- APScheduler -----------------------------------------------------------------------------------


@pytest.fixture
def scheduler():
    pytest.importorskip("apscheduler")
    spec = importlib.util.spec_from_file_location("usage_scheduler", WAYS / "scheduler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_scheduler_refreshes(conn, database, scheduler):
    from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED

    async def run():
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        started = scheduler.start_scheduler(database)
        assert scheduler.start_scheduler(database) is started
        (job,) = started.get_jobs()
        assert job.id == "refresh_mcp_views"
        assert str(job.trigger) == "cron[minute='*/15']"
        results = []

        def note(event):
            results.append(event.exception)
            loop.call_soon_threadsafe(done.set)

        started.add_listener(note, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
        job.modify(next_run_time=job.next_run_time.now(job.next_run_time.tzinfo))
        await asyncio.wait_for(done.wait(), 30)
        scheduler.stop_scheduler()
        scheduler.stop_scheduler()
        assert results == [None]

    asyncio.run(run())
    history = conn.execute("SELECT view_name, success FROM mvrefresh.refresh_metrics ORDER BY 1")
    assert history.fetchall() == [(DAILY, True), (HOURLY, True)]


def test_the_scheduler_tells_of_a_failure_and_goes_on(conn, database, scheduler, caplog):
    from mvrefresh import UsageRefresh

    conn.execute(f"DROP MATERIALIZED VIEW {DAILY}")
    scheduler.refresh_mcp_views(UsageRefresh(database))
    assert f"usage views: Materialized views not refreshed: {DAILY}" in caplog.messages
    conn.execute("DROP SCHEMA mvrefresh CASCADE")
    scheduler.refresh_mcp_views(UsageRefresh(database))
    assert any(m.startswith("usage views: mvrefresh's tables are not in") for m in caplog.messages)

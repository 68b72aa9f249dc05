"""The other ways to call a refresh of the roll-ups: the files of `examples/usage`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

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


# -- the Edge Function, by Node, with as much of Deno as it uses ---------------------------------

EDGE = WAYS / "supabase/functions/refresh-mcp-views/index.ts"
DENO = """
globalThis.Deno = {
  env: { get: (name) => process.env[name] },
  serve: async (serves) => {
    console.error = () => {};
    const response = await serves(new Request("http://localhost/", { method: "POST" }));
    process.stdout.write(JSON.stringify({
      status: response.status, type: response.headers.get("content-type"),
      body: await response.json(),
    }));
  },
};
"""


@pytest.fixture
def edge(tmp_path):
    """Calls the function in front of an endpoint that answers as it is told."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    script = tmp_path / "index.mjs"  # it has no type annotations: it is JavaScript, too
    script.write_text(DENO + EDGE.read_text())

    def call(url=None, secret=None):
        given = {"REFRESH_ENDPOINT_URL": url, "REFRESH_ENDPOINT_SECRET": secret}
        env = {key: value for key, value in given.items() if value is not None}
        done = subprocess.run(
            [node, script], env=env, capture_output=True, text=True, timeout=60, check=True
        )
        answer = json.loads(done.stdout)
        assert answer["type"] == "application/json"
        return answer["status"], answer["body"]

    return call


@pytest.fixture
def endpoint():
    heard = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append((self.path, self.headers.get("Authorization")))
            status, body = server.answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    server.heard = heard
    server.url = f"http://127.0.0.1:{server.server_port}/api/mcp/analytics/refresh-views"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


GOOD = {
    "success": True,
    "message": "Materialized views refreshed successfully",
    "refreshed_at": "2025-01-13T10:30:00Z",
}


def test_the_edge_function_posts_and_passes_on(edge, endpoint):
    endpoint.answer = 200, json.dumps(GOOD)
    assert edge(endpoint.url, "s3cret") == (
        200,
        {"success": True, "message": GOOD["message"], "data": GOOD},
    )
    assert edge(endpoint.url)[0] == 200
    path = "/api/mcp/analytics/refresh-views"
    assert endpoint.heard == [(path, "Bearer s3cret"), (path, None)]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, '{"success": false, "message": "not refreshed: a"}'), "500: not refreshed: a"),
        ((200, '{"success": false, "message": "not refreshed: a"}'), "200: not refreshed: a"),
        ((200, "null"), "200: it does not say why"),
        ((401, '{"detail": "who are you?"}'), "401: who are you?"),
        ((502, "<html>"), "the endpoint answered 502 and no JSON"),
    ],
)
def test_the_edge_function_swallows_no_failure(edge, endpoint, answer, says):
    endpoint.answer = answer
    status, body = edge(endpoint.url, "s3cret")
    assert status == 500
    assert body["success"] is False
    assert says in body["error"]
    assert "s3cret" not in str(body)


def test_the_edge_function_without_an_endpoint(edge):
    error = "REFRESH_ENDPOINT_URL is not set"
    assert edge() == (500, {"success": False, "error": error})
    status, body = edge("http://127.0.0.1:1/")
    assert (status, body["success"]) == (500, False)


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

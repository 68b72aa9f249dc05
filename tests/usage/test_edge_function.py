"""The Supabase Edge Function, by a real Deno, before a real endpoint over a real database.

Deno may read two variables and the network, and load nothing from elsewhere.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from tests.conftest import required
from tests.documents import ROOT
from tests.servers import Server, ServerStartError
from tests.web.live.conftest import served

from mvrefresh import Database, RefreshPolicy, UsageSource
from mvrefresh.web import usage_router

FUNCTION = ROOT / "examples/usage/supabase/functions/refresh-mcp-views/index.ts"
DAILY, HOURLY = "archon_mcp_usage_daily", "archon_mcp_usage_hourly"
PATH = "/api/mcp/analytics/refresh-views"
SECRET = "s3cret-of-the-endpoint"  # noqa: S105 - the test's own
DONE = "Materialized views refreshed successfully"
PATIENT = RefreshPolicy(attempts=1, lock_timeout=60)


def program() -> str:
    """The Deno of the wheel."""
    try:
        from deno import find_deno_bin

        return os.fsdecode(find_deno_bin())
    except (ImportError, FileNotFoundError) as error:
        raise ServerStartError(f"the Edge Function needs the package deno: {error}") from error


class EdgeFunction(Server):
    """One `deno run` of it. Its log is whole once it is closed."""

    def __init__(self, deno, directory, script, url, secret):
        given = {"REFRESH_ENDPOINT_URL": url, "REFRESH_ENDPOINT_SECRET": secret}
        self._environment = {
            "DENO_DIR": str(directory), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1",
            "DENO_SERVE_ADDRESS": "tcp:127.0.0.1:0",
            **{name: value for name, value in given.items() if value is not None},
        }  # fmt: skip
        self._command = [
            deno, "run", "--no-config", "--no-lock", "--no-remote", "--no-npm", "--no-prompt",
            "--allow-net=127.0.0.1", f"--allow-env={','.join(given)}", script,
        ]  # fmt: skip
        self._process = None
        self.log = ""

    def start(self):
        try:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise ServerStartError(f"Deno does not start: {error}") from error
        first = self._process.stderr.readline()
        if not first.startswith("Listening on "):
            self.close()
            raise ServerStartError(f"Deno does not serve: {first}{self.log}")
        self.address = first.split()[-1]

    def close(self):
        if self._process is None:
            return
        self._process.terminate()
        self.log += self._process.communicate(timeout=30)[1]

    def call(self, method="POST", **more):
        answer = httpx.request(method, self.address, timeout=60, **more)
        assert answer.headers["content-type"] == "application/json"
        return answer.status_code, answer.json()


@pytest.fixture(scope="session")
def deno():
    with required():
        return program()


@pytest.fixture(scope="session")
def deno_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("deno")


@pytest.fixture
def edge(deno, deno_directory):
    """Runs the function with these variables."""
    with ExitStack() as stack:

        def run(url=None, secret=None, script=FUNCTION):
            return stack.enter_context(EdgeFunction(deno, deno_directory, script, url, secret))

        yield run


# -- before the application ------------------------------------------------------------------------


@pytest.fixture
def database(dsn, conn):
    with Database(dsn) as database:
        database.schema.apply(conn)
        UsageSource().create_events(conn)
        UsageSource().create(conn)
        conn.execute(
            "INSERT INTO archon_mcp_usage_events (ts, tool_category, tool_name, success,"
            " duration_ms) VALUES (now(), 'search', 'find', true, 12)"
        )
        yield database


def only_bearers_of_the_secret(
    shown: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
):
    if shown is None or shown.credentials != SECRET:
        raise HTTPException(401, "Who are you?")


@pytest.fixture
def application():
    """The address of an endpoint with these settings, by a real server."""
    with ExitStack() as stack:

        def serve(database, **settings):
            app = FastAPI()
            router = usage_router(
                database, dependencies=[Depends(only_bearers_of_the_secret)], **settings
            )
            app.include_router(router, prefix="/api/mcp/analytics")
            return f"http://{stack.enter_context(served(app))}{PATH}"

        yield serve


def counted(conn, view):
    return conn.execute(f"SELECT count(*) FROM {view}").fetchone()[0]


def history(conn):
    return conn.execute(
        "SELECT view_name, success FROM mvrefresh.refresh_metrics ORDER BY 1"
    ).fetchall()


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_it_refreshes(conn, database, application, edge, method):
    assert counted(conn, HOURLY) == 0
    status, body = edge(application(database), SECRET).call(method)
    assert status == 200
    moment = body["data"].pop("refreshed_at")
    assert moment
    data = {"success": True, "message": DONE}
    assert body == {"success": True, "message": DONE, "data": data}
    assert (counted(conn, HOURLY), counted(conn, DAILY)) == (1, 1)
    assert history(conn) == [(DAILY, True), (HOURLY, True)]


def test_what_a_cron_sends_besides_is_not_looked_at(conn, database, application, edge):
    function = edge(application(database), SECRET)
    headers = {"Authorization": "Bearer of-supabase"}
    assert function.call(json={"time": "now"}, headers=headers)[0] == 200
    assert function.call(content=b"\xff no JSON")[0] == 200


def test_a_view_that_fails(conn, database, application, edge):
    conn.execute(
        f"DROP MATERIALIZED VIEW {DAILY};"
        "CREATE VIEW ill AS SELECT 1 / count(*) FILTER (WHERE success IS NULL) AS x"
        " FROM archon_mcp_usage_events;"
        f"CREATE MATERIALIZED VIEW {DAILY} AS SELECT x FROM ill WITH NO DATA"
    )
    function = edge(application(database), SECRET)
    error = f"the endpoint answered 500: Materialized views not refreshed: {DAILY}"
    assert function.call() == (500, {"success": False, "error": error})
    assert counted(conn, HOURLY) == 1
    function.close()
    assert f"refresh-mcp-views: {error}" in function.log


@pytest.mark.parametrize("secret", [None, "another"])
def test_a_secret_that_is_not_the_endpoints(conn, database, application, edge, secret):
    answer = edge(application(database), secret).call()
    error = "the endpoint answered 401: Who are you?"
    assert answer == (500, {"success": False, "error": error})
    assert history(conn) == []


def test_a_database_that_is_away(application, edge):
    with Database("host=/nowhere dbname=app") as away:
        answer = edge(application(away), SECRET).call()
    error = "the endpoint answered 503: the database is not available"
    assert answer == (500, {"success": False, "error": error})


def test_an_endpoint_that_waits_no_longer(conn, database, application, edge):
    function = edge(application(database, timeout=0.2, policy=PATIENT), SECRET)
    with conn.transaction():
        conn.execute("LOCK TABLE archon_mcp_usage_events IN ACCESS EXCLUSIVE MODE")
        status, body = function.call()
    assert (status, body["success"]) == (500, False)
    assert body["error"].startswith("the endpoint answered 504: ")


def test_an_endpoint_that_does_not_answer_in_time(conn, database, application, edge, tmp_path):
    hasty = tmp_path / "index.ts"
    patience, text = "PATIENCE = 140;", FUNCTION.read_text()
    assert patience in text
    hasty.write_text(text.replace(patience, "PATIENCE = 0.2;"))
    function = edge(application(database, policy=PATIENT), SECRET, hasty)
    with conn.transaction():
        conn.execute("LOCK TABLE archon_mcp_usage_events IN ACCESS EXCLUSIVE MODE")
        answer = function.call()
    error = "the endpoint did not answer in 0.2 s; its refresh may go on"
    assert answer == (500, {"success": False, "error": error})


# -- before endpoints that cannot be had from the application --------------------------------------


@pytest.fixture
def endpoint():
    """Answers as it is told, and notes what was asked."""
    heard = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append((self.command, self.path, self.headers.get("Authorization")))
            status, body, *headers = server.answers.pop(0)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST  # noqa: N815 - its caller's spelling

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.heard, server.answers = heard, []
    server.url = f"http://127.0.0.1:{server.server_port}{PATH}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


GOOD = {"success": True, "message": DONE, "refreshed_at": "2025-01-13T10:30:00Z"}


def test_the_answer_is_passed_on_as_it_is(edge, endpoint):
    endpoint.answers = [(200, json.dumps(GOOD))] * 2
    passed_on = (200, {"success": True, "message": DONE, "data": GOOD})
    assert edge(endpoint.url, SECRET).call() == passed_on
    assert edge(endpoint.url).call() == passed_on
    assert endpoint.heard == [("POST", PATH, f"Bearer {SECRET}"), ("POST", PATH, None)]


def test_no_answer_is_a_success_by_its_status_alone(edge, endpoint):
    function = edge(endpoint.url, SECRET)
    for answer, says in [
        ((200, '{"success": false, "message": "not refreshed: a"}'), "200: not refreshed: a"),
        ((200, '{"success": "yes"}'), "200: it does not say why"),
        ((200, "null"), "200: it does not say why"),
        ((200, ""), "200 and no JSON"),
        ((502, "<html>"), "502 and no JSON"),
        ((422, '{"detail": [{"msg": "too long"}]}'), '422: [{"msg":"too long"}]'),
        ((500, json.dumps(GOOD)), f"500: {DONE}"),
    ]:
        endpoint.answers = [answer]
        error = f"the endpoint answered {says}"
        assert function.call() == (500, {"success": False, "error": error})


def test_a_redirect_that_loses_the_post(edge, endpoint):
    endpoint.answers = [
        (301, "", ("Location", "/elsewhere")),
        (405, '{"detail": "Method Not Allowed"}'),
    ]
    error = "the endpoint answered 405: Method Not Allowed (after a redirect)"
    assert edge(endpoint.url).call() == (500, {"success": False, "error": error})
    assert [method for method, *_ in endpoint.heard] == ["POST", "GET"]


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT", "PATCH", "DELETE"])
def test_other_methods_refresh_nothing(edge, endpoint, method):
    """A preflight comes without a token, and Supabase lets it through."""
    answer = httpx.request(method, edge(endpoint.url, SECRET).address)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, GET")
    if method != "HEAD":
        error = f"{method} refreshes nothing: use POST"
        assert answer.json() == {"success": False, "error": error}
    assert not endpoint.heard


def test_an_endpoint_that_is_away(edge):
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        port = nobody.getsockname()[1]
    function = edge(f"http://127.0.0.1:{port}/", SECRET)
    error = "the endpoint cannot be reached"
    assert function.call() == (500, {"success": False, "error": error})
    function.close()
    assert "Connection refused" in function.log
    assert SECRET not in function.log


@pytest.mark.parametrize(
    ("url", "secret", "error"),
    [
        (None, SECRET, "REFRESH_ENDPOINT_URL is not set"),
        ("", SECRET, "REFRESH_ENDPOINT_URL is not set"),
        ("app.example.org", SECRET, "REFRESH_ENDPOINT_URL does not begin with https://"),
        ("http://127.0.0.1", "tw\no", "REFRESH_ENDPOINT_SECRET cannot stand in a header"),
        ("http://127.0.0.1", "tw€o", "REFRESH_ENDPOINT_SECRET cannot stand in a header"),
    ],
)
def test_settings_that_cannot_be_meant(edge, url, secret, error):
    function = edge(url, secret)
    assert function.call() == (500, {"success": False, "error": error})
    function.close()
    assert error in function.log
    assert secret not in function.log


def test_denos_own_linter_finds_nothing(deno, deno_directory):
    for command in (["lint"], ["fmt", "--check"]):
        done = subprocess.run(
            [deno, *command, "--no-config", FUNCTION], env={"DENO_DIR": str(deno_directory)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

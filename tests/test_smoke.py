"""The smoke script against a host made of the shapes of the HTTP surface; each is broken once."""

from __future__ import annotations

import importlib.util
import itertools
import json
import queue
import select
import sys
import threading
import time
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.documents import ROOT

spec = importlib.util.spec_from_file_location("smoke", ROOT / "examples/smoke.py")
smoke = importlib.util.module_from_spec(spec)
sys.modules["smoke"] = smoke  # its dataclasses look for their module
spec.loader.exec_module(smoke)

TIER = {"hits": 1, "misses": 0, "hit_rate": 100.0, "size": 1, "errors": 0, "degraded_since": None}
RESULTS = {"entity_ancestors_mv": True, "hierarchy_stats": True}
E, R = "/api/entities", "/api/entities/refresh"
A, U = f"{R}/automated", "/api/mcp/analytics/refresh-views"
NOT_RUNNING = (409, {"detail": "Automated refresh service is not running"})


def row(number):
    return {
        "id": number,
        "view_name": "hierarchy_stats",
        "refresh_duration_ms": 1.5,
        "success": True,
        "created_at": f"2025-01-13T10:30:0{number}Z",
        "error_message": None,
    }


def summary(count):
    durations = ("average", "p95", "p99", "min", "max")
    return {
        "total_count": count,
        "success_count": count,
        "failure_count": 0,
        "success_rate": 100.0 if count else None,
        **{f"{which}_duration_ms": 1.5 if count else None for which in durations},
    }


class Site:
    """Answers as HTTP.md says, apart from what `broken` says: (method, path) -> its mending."""

    def __init__(self):
        self.running = False
        self.last = None
        self.next_run = time.time() + 300
        self.broken = {}
        self.listeners = []
        self.asked = []
        self.token = None
        self.processes = [self]  # that share the address
        self.fleet = False  # whether it tells of them
        self.by = "connection"  # what they take in turn
        self.hangs_up = False  # after each answer, without a word

    def answer(self, method, target, body):
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        status, found = self.known(method, url.path, query, body)
        broken = self.broken.get((method, url.path))
        return broken(status, deepcopy(found)) if broken else (status, found)

    def known(self, method, path, query, body):  # noqa: C901, PLR0911, PLR0912 - a table
        match (method, path):
            case "GET", "/health":
                checks = ("database", "redis", "pool", "listener", "service")
                return 200, {
                    "status": "healthy",
                    "checks": {name: {"status": "healthy"} for name in checks},
                    "checked_at": time.time(),
                }
            case "GET", "/health/live" | "/health/ready":
                return 200, {"status": "healthy"}
            case "GET", "/metrics":
                return 200, "# TYPE mvrefresh_refreshes_total counter\n"
            case "GET", _ if path == f"{R}/status":
                tiers = ("l1_cache", "l2_cache", "l3_cache", "l4_cache")
                return 200, {
                    "status": "available",
                    "last_refresh": self.last,
                    "cache_metrics": {**dict.fromkeys(tiers, TIER), "overall": {"hit_rate": 1.0}},
                    "automated_refresh_status": {
                        "enabled": self.running,
                        "last_run": self.last,
                        "next_run": self.next_run if self.running else None,
                        "interval_seconds": 300,
                        "success_count": 0,
                        "failure_count": 0,
                        **({"fleet": self.members()} if self.fleet else {}),
                    },
                    "message": "LTREE materialized view refresh service is operational",
                }
            case "GET", _ if path == f"{A}/metrics":
                limit, since = query.get("limit", "100"), query.get("since", "0")
                if not (limit.isdigit() and since.isdigit() and 1 <= int(limit) <= 10_000):
                    return 422, {"detail": "a parameter cannot be meant"}
                rows = [] if int(since) > time.time() else [row(3), row(2), row(1)]
                return 200, {
                    "status": "success",
                    "metrics": rows[: int(limit)],
                    "summary": summary(len(rows)),
                }
            case "GET", _ if path == f"{R}/dashboard":
                return 200, "<!doctype html>"
            case "POST", _ if path == R:
                views = (body or {}).get("views", list(RESULTS))
                if not isinstance(views, list):
                    return 422, {"detail": [{"loc": ["views"]}]}
                if set(views) - set(RESULTS):
                    return 404, {"detail": "no such view"}
                self.refreshed()
                return 200, {
                    "status": "success",
                    "message": "All materialized views refreshed successfully",
                    "results": {view: RESULTS[view] for view in views},
                    "duration_ms": 2.5,
                }
            case "POST", _ if path == f"{A}/start":
                if self.running:
                    return 200, {
                        "status": "success",
                        "message": "Automated refresh service is already running",
                    }
                self.running = True
                return 200, {
                    "status": "success",
                    "message": "Automated refresh service started successfully",
                    "config": {
                        "interval_seconds": 300,
                        "concurrent_refresh": True,
                        "views": list(RESULTS),
                    },
                }
            case "POST", _ if path == f"{A}/force":
                if not self.running:
                    return NOT_RUNNING
                self.refreshed()
                return 200, {
                    "status": "success",
                    "result": {
                        "duration_ms": 2.5,
                        "views_refreshed": 2,
                        "success": True,
                        "results": RESULTS,
                    },
                    "message": "Forced refresh completed successfully",
                }
            case "POST", _ if path == f"{A}/stop":
                if not self.running:
                    return NOT_RUNNING
                self.running = False
                return 200, {
                    "status": "success",
                    "message": "Automated refresh service stopped successfully",
                    "final_metrics": {
                        "total_refreshes": 2,
                        "successful_refreshes": 2,
                        "failed_refreshes": 0,
                        "average_duration_ms": 1.5,
                        "uptime_seconds": 0.1,
                    },
                }
            case "POST", _ if path == U:
                return 200, {
                    "success": True,
                    "message": "Materialized views refreshed successfully",
                    "refreshed_at": "2025-01-13T10:30:00Z",
                }
            case "POST", _ if path == f"{E}/ancestors:batch":
                if not isinstance((body or {}).get("ids"), list):
                    return 422, {"detail": "ids is missing"}
                return 200, {"ancestors": {}}
            case "GET", _ if path.startswith(f"{E}/3/"):
                if query.get("limit", "1").startswith("-"):
                    return 422, {"detail": "limit"}
                return 200, {"id": 3}
        return 404, {"detail": "not found"}

    def members(self):
        return [
            {"host": "host", "pid": number, "since": 1.5, "here": site is self}
            for number, site in enumerate(self.processes)
            if site.running
        ]

    def refreshed(self):
        self.last = time.time()
        for listener in self.listeners:
            listener.put(b'data: {"event": "RefreshFinished"}\n\n')


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the body need not wait for the headers to be acknowledged

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.number = next(self.server.connections)

    def turn(self):
        site = self.server.site
        number = next(self.server.requests) if site.by == "request" else self.number
        return site.processes[number % len(site.processes)]

    def do_GET(self):
        if self.path == f"{R}/events":
            return self.events()
        return self.reply()

    def do_POST(self):
        self.reply()

    def reply(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        site = self.server.site
        site.asked.append((self.command, self.path))
        if site.token and self.headers.get("Authorization") != f"Bearer {site.token}":
            status, found = 401, {"detail": "who are you?"}
        else:
            status, found = self.turn().answer(self.command, self.path, body)
        if isinstance(found, str):
            text, kind = found, "text/html" if found.startswith("<") else "text/plain"
        else:
            text, kind = json.dumps(found), "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        if kind == "text/html":
            self.send_header(
                "Content-Security-Policy", site.broken.get("csp", "default-src 'self'")
            )
        if "/ancestors" in self.path and "headers" not in site.broken:
            self.send_header("X-Tier", "l1")
            self.send_header("X-Age-Seconds", "0.5")
        self.end_headers()
        self.wfile.write(text.encode())
        self.close_connection |= site.hangs_up

    def events(self):
        site = self.server.site
        self.close_connection = True
        if self.headers.get("Upgrade") == "websocket":
            self.send_response(site.broken.get("ws", 101))
            self.end_headers()
            return
        listener = queue.Queue()
        site.listeners.append(listener)
        self.send_response(200)
        self.send_header("Content-Type", site.broken.get("sse", "text/event-stream"))
        self.end_headers()
        self.wfile.write(b": heartbeat\n\n")
        self.wfile.flush()
        while (message := listener.get()) is not None:
            try:
                self.wfile.write(site.broken.get("event", message))
                self.wfile.flush()
            except OSError:
                return


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = site = Site()
    server.connections, server.requests = itertools.count(), itertools.count()
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    for listener in site.listeners:
        listener.put(None)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def walk(site, capsys):
    def run(*arguments):
        code = smoke.main([site.url, *arguments])
        return code, capsys.readouterr().out.splitlines()

    return run


def off(lines):
    return [line for line in lines if line.startswith("off")]


def test_all_is_well(site, walk):
    code, lines = walk("--entity", "3")
    assert off(lines) == []
    assert code == 0
    assert lines[-1] == f"{len(lines) - 1} checked, 0 off"
    paths = {urlsplit(path).path for _, path in site.asked}
    endpoints = {"/health", "/health/live", "/health/ready", "/metrics", R, U, f"{R}/dashboard"}
    endpoints |= {f"{R}/status", *(f"{A}/{what}" for what in ("start", "stop", "force", "metrics"))}
    endpoints |= {f"{E}/3/{what}" for what in ("ancestors", "descendants", "counts")}
    assert paths >= endpoints | {f"{E}/ancestors:batch"}
    assert any(line.startswith(f"ok    WS {R}/events -> 101") for line in lines)
    assert f"ok    GET {R}/events: hears of that refresh" in lines
    assert not site.running


def test_it_leaves_a_running_service_running(site, walk):
    site.running = True
    code, _ = walk()
    assert code == 0
    assert site.running


@pytest.fixture
def workers(site):
    """Two processes at the address, with what they have in common."""
    other = Site()
    other.listeners, other.processes, other.last = site.listeners, site.processes, time.time()
    site.processes.append(other)
    site.fleet = other.fleet = True
    return site, other


STATES = [(True, True), (False, False), (True, False), (False, True)]


@pytest.mark.parametrize("states", STATES)
def test_a_walk_stays_with_one_worker(workers, walk, states):
    for worker, state in zip(workers, states, strict=True):
        worker.running = state
    code, lines = walk()
    assert (code, off(lines)) == (0, [])
    assert not [line for line in lines if "another process" in line]
    assert tuple(worker.running for worker in workers) == states


@pytest.mark.parametrize("states", STATES)
def test_a_proxy_that_asks_others_too_is_no_fault(site, workers, walk, states):
    site.by = "request"
    for worker, state in zip(workers, states, strict=True):
        worker.running = state
    code, lines = walk()
    assert (code, off(lines)) == (0, [])
    assert any("another process answers, too" in line for line in lines), lines
    assert tuple(worker.running for worker in workers) == states


def test_a_server_that_hung_up_is_asked_anew(site):
    site.hangs_up = True
    walk = smoke.Walk(site.url)
    assert walk.ask("GET", "/health").status == 200
    select.select([walk._kept.sock], [], [], 5)  # that it is closed can be seen
    assert walk.ask("GET", "/health").status == 200
    walk.close()


def test_a_service_that_is_not_as_it_was_found_is_told(site, walk, monkeypatch):
    monkeypatch.setattr(smoke, "EVENT_SECONDS", 0.5)

    def promising(status, body):
        site.running = False
        return status, body

    site.running = True
    site.broken["POST", f"{A}/start"] = promising
    code, lines = walk()
    assert code == 1
    assert any("it runs no more in" in line for line in off(lines)), lines


def test_read_only_changes_nothing(site, walk):
    code, lines = walk("--read-only", "--entity", "3")
    assert (code, off(lines)) == (0, [])
    assert {path for method, path in site.asked if method == "POST"} == {f"{E}/ancestors:batch"}


def test_token_and_prefixes(site, walk):
    site.token = "secret"  # noqa: S105 - of a test
    assert walk()[0] == 1
    assert walk("--token", "secret")[0] == 0
    code, lines = walk("--token", "secret", "--entities", "/elsewhere")
    assert code == 1
    assert all("/elsewhere" in line for line in off(lines))


def test_metrics_may_be_left_out(site, walk):
    site.broken["GET", "/metrics"] = lambda *_: (404, {"detail": "not found"})
    code, lines = walk()
    assert code == 0
    assert any(line.startswith("skip  GET /metrics") for line in lines)


def test_nobody_answers(capsys):
    assert smoke.main(["http://127.0.0.1:1"]) == 1
    assert "no answer" in capsys.readouterr().out


SHAPES = {
    ("GET", "/health"): smoke.HEALTH,
    ("GET", f"{R}/status"): smoke.STATUS,
    ("GET", f"{A}/metrics"): smoke.METRICS,
    ("POST", R): smoke.REFRESHED,
    ("POST", f"{A}/start"): smoke.STARTED,
    ("POST", f"{A}/force"): smoke.FORCED,
    ("POST", f"{A}/stop"): smoke.STOPPED,
    ("POST", U): smoke.USAGE,
}


def keys_of(shape, before=()):
    for key, inner in shape.items():
        yield (*before, key)
        if isinstance(inner, dict):
            yield from keys_of(inner, (*before, key))


KEYS = [(*call, keys) for call, shape in SHAPES.items() for keys in keys_of(shape)]
KEYS += [("GET", f"{A}/metrics", ("metrics", 0, key)) for key in smoke.RECORD]


def lost(keys):
    def without(status, body):
        place = body
        for key in keys[:-1]:
            if not (key in place if isinstance(place, dict) else place):
                return status, body
            place = place[key]
        if status == 200 and isinstance(place, dict):
            place.pop(keys[-1], None)
        return status, body

    return without


@pytest.mark.parametrize(
    ("method", "path", "keys"), KEYS, ids=lambda part: part if isinstance(part, str) else str(part)
)
def test_no_key_may_be_missing(site, walk, method, path, keys):
    site.broken[method, path] = lost(keys)
    code, lines = walk()
    assert code == 1
    assert any(path in line and f"no {keys[-1]}" in line for line in off(lines)), lines


def change(**changes):
    return lambda status, body: (status, {**body, **changes})


FAULTS = {
    "another word": (("GET", f"{R}/status"), change(status="ok"), "not 'available'"),
    "text for a number": (("POST", R), change(duration_ms="2.5"), "duration_ms"),
    "a flag for a number": (("POST", R), change(duration_ms=True), "duration_ms"),
    "a failed view": (("POST", R), change(results={"v": False}), "v is false"),
    "failed_views of a success": (("POST", R), change(failed_views=[]), "failed_views"),
    "a local time": (("POST", U), change(refreshed_at="2025-01-13T10:30:00+00:00"), "with Z"),
    "a failed usage refresh": (("POST", U), change(success=False), "not true"),
    "an unhealthy host": (("GET", "/health"), change(status="unhealthy"), "unhealthy"),
    "a rate above 100": (
        ("GET", f"{A}/metrics"),
        lambda status, body: (
            status,
            {**body, "summary": {**summary(1), "success_rate": 101}} if "summary" in body else body,
        ),
        "not 0 to 100",
    ),
    "the oldest first": (
        ("GET", f"{A}/metrics"),
        lambda status, body: (status, {**body, "metrics": body.get("metrics", [])[::-1]}),
        "not the newest first",
    ),
    "a summary of the page": (
        ("GET", f"{A}/metrics"),
        lambda status, body: (status, {**body, "summary": {**summary(0), "total_count": 2}}),
        "not the sum",
    ),
    "a limit that is not minded": (
        ("GET", f"{A}/metrics"),
        lambda *_: (200, {"status": "success", "metrics": [], "summary": summary(0)}),
        "status 200, not (422,)",
    ),
    "zeros of no rows": (
        ("GET", f"{A}/metrics"),
        lambda status, body: (
            status,
            {**body, "summary": {**body.get("summary", {}), "success_rate": 0}},
        ),
        "success_rate",
    ),
    "a conflict that is none": (("POST", f"{A}/stop"), lambda _, body: (200, body), "not (409,)"),
    "a wrong detail": (
        ("POST", f"{A}/force"),
        lambda status, body: (status, {"detail": "no"} if status == 409 else body),
        f"not '{smoke.NOT_RUNNING}'",
    ),
    "a count that is none": (
        ("POST", f"{A}/force"),
        lambda status, body: (
            status,
            {**body, "result": {**body.get("result", {}), "views_refreshed": 1}},
        ),
        "views_refreshed is 1 of 2",
    ),
    "an unknown view that is known": (("POST", R), lambda _, body: (200, body), "not (404,)"),
    "no JSON": (("POST", U), lambda status, _: (status, "# fine"), "content type text/plain"),
    "a list": (("POST", U), lambda status, body: (status, [body]), "not an object"),
    "a failing server": (("GET", f"{R}/dashboard"), lambda *_: (500, {"detail": ""}), "status 500"),
    "no metrics": (("GET", "/metrics"), lambda *_: (200, "fine"), "no metric in it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told(site, walk, fault):
    where, does, says = FAULTS[fault]
    site.broken[where] = does
    code, lines = walk()
    assert code == 1
    assert any(says in line for line in off(lines)), lines


@pytest.mark.parametrize(
    ("fault", "value", "says"),
    [
        ("csp", "default-src 'self'; style-src 'unsafe-inline'", "its policy is"),
        ("ws", 400, "no handshake"),
        ("ws", 200, "install websockets in the server"),
        ("sse", "text/plain", "content type text/plain"),
        ("event", b"data: nothing\n\n", "no message"),
        ("headers", True, "none tells the tier; none tells the age"),
    ],
)
def test_a_fault_beside_the_bodies_is_told(site, walk, fault, value, says):
    site.broken[fault] = value
    code, lines = walk("--entity", "3")
    assert code == 1
    assert any(says in line for line in off(lines)), lines


def test_a_forced_refresh_that_moves_the_schedule_is_told(site, walk):
    def moving(status, body):
        site.next_run += 60
        return status, body

    site.broken["POST", f"{A}/force"] = moving
    code, lines = walk()
    assert code == 1
    assert any("next_run" in line for line in off(lines))

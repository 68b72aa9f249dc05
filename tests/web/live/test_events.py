"""Live events over real sockets: the whole fleet's, once each, and nobody waits for the slow."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from concurrent.futures import wait
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import httpx
import psycopg
import pytest
from fastapi import Depends, FastAPI, HTTPException
from httpx_sse import connect_sse
from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI reads the annotation
from tests import documents
from tests.refreshing.test_transaction import wait_until
from tests.web.live.conftest import SECONDS, Socket, elsewhere, is_outcome, served
from websockets.exceptions import ConnectionClosed, InvalidStatus

import mvrefresh
from mvrefresh import RefreshService, events
from mvrefresh.errors import ConfigurationError
from mvrefresh.fleet.cursor import MOST, Cursor, cursor_text, hash_of
from mvrefresh.fleet.feed import FleetFeed
from mvrefresh.refreshing.threads import in_thread
from mvrefresh.web.events import events_router

RUN = UUID(int=1)
OUTCOME_KEYS = {
    "run_id", "view", "status", "success", "strategy", "reason", "duration_ms", "attempts",
    "refresh_no", "content_token", "content_as_of", "content_changed", "rows_inserted",
    "rows_deleted", "shared", "record_id", "error", "trigger", "host",
}  # fmt: skip


@contextmanager
def stream(address, query="", **headers):
    """The JSON messages of the server-sent events, as they come."""
    with (
        httpx.Client(timeout=SECONDS) as client,
        connect_sse(
            client, "GET", f"http://{address}/api/refresh/events{query}", headers=headers
        ) as source,
    ):
        assert source.response.status_code == 200, source.response.read()
        yield (json.loads(event.data) | {"sse_id": event.id} for event in source.iter_sse())


def test_a_refresh_of_another_process_is_heard(dsn, listener):
    run = elsewhere(dsn, "mv")
    message = listener.until("RefreshFinished")
    data = message["data"]
    assert message.keys() == {"id", "event", "at", "data"}
    assert data.keys() == OUTCOME_KEYS
    assert (data["run_id"], data["view"], data["status"]) == (run, "mv", "succeeded")
    assert data["content_as_of"] <= message["at"].replace("Z", "+00:00")
    assert (data["trigger"], data["error"]) == ("manual", None)


def test_a_failure_of_another_process_is_heard(dsn, conn, listener):
    conn.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / (n - n) FROM base WITH NO DATA")
    run = elsewhere(dsn, "bad")
    data = listener.until("RefreshFinished")["data"]
    assert (data["run_id"], data["status"], data["success"]) == (run, "failed", False)
    assert "division by zero" in data["error"]["message"]
    assert data.keys() == OUTCOME_KEYS


def test_what_this_process_does_is_told_once(database, bus, listener, dsn):
    run = str(mvrefresh.refresh(database, events=bus).run_id)
    listener.until("RunFinished", run_id=run)
    after = elsewhere(dsn, "reader")  # whatever was told twice would have come before
    listener.until("RefreshFinished", run_id=after)
    kinds = [message["event"] for message in listener.heard if message["event"] != "Joined"]
    assert kinds == [
        "RunStarted", "RefreshStarted", "RefreshFinished", "RefreshStarted", "RefreshFinished",
        "RunFinished", "RefreshFinished",
    ]  # fmt: skip
    assert listener.outcomes() == [(run, "mv"), (run, "reader"), (after, "reader")]
    local = next(message for message in listener.heard if is_outcome(message))["data"]
    assert local.keys() == OUTCOME_KEYS


@pytest.mark.parametrize("heard", [True, False])
def test_what_goes_on_in_another_process_is_told_and_what_goes_on_here_is_not(
    database, bus, conn, dsn, listener, heard
):
    conn.execute(
        "CREATE FUNCTION held() RETURNS int LANGUAGE sql AS"
        " $$ SELECT 1 FROM pg_advisory_xact_lock_shared(7) $$;"
        "CREATE MATERIALIZED VIEW ours AS SELECT public.held() AS x WITH NO DATA;"
        "CREATE MATERIALIZED VIEW theirs AS SELECT public.held() AS x WITH NO DATA"
    )
    conn.execute("SELECT pg_advisory_lock(7)")
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
    )
    events = bus if heard else None
    thread = in_thread("ours", lambda: mvrefresh.refresh(database, ["ours"], events=events))
    wait_until(lambda: conn.execute(waiting).fetchone() == (1,))
    other = in_thread("theirs", lambda: elsewhere(dsn, "theirs"))
    message = listener.until("RefreshGoingOn")
    data = message["data"]
    assert data.keys() == {"view", "pid", "since", "application"}
    assert data["view"] == "theirs"
    assert data["application"].startswith("mvrefresh")
    holder = "SELECT xact_start FROM pg_stat_activity WHERE pid = %s"
    assert data["since"].endswith("Z")
    assert conn.execute(holder, [data["pid"]]).fetchone() == (
        datetime.fromisoformat(data["since"]),
    )
    conn.execute("SELECT pg_advisory_unlock(7)")
    listener.until("RefreshFinished", view="theirs")
    wait([thread, other], timeout=SECONDS)
    going = [m["data"]["view"] for m in listener.heard if m["event"] == "RefreshGoingOn"]
    assert going == ["theirs"]  # once, though it was there at more than one look


def test_many_refreshes_of_this_process_are_told_once_each(database, bus, listener):
    """By the bus or by the history, whichever is first: here both are, by turns."""
    runs = [str(mvrefresh.refresh(database, ["mv"], events=bus).run_id) for _ in range(30)]
    listener.until("RunFinished", run_id=runs[-1])
    bus.publish(events.TierRecovered("last"))
    listener.until("TierRecovered")
    assert listener.outcomes() == [(run, "mv") for run in runs]


def test_other_events_of_this_process_are_told(bus, listener):
    bus.publish(events.ViewSuspended("mv", "mv", 5, "no"))
    bus.publish(events.TierDegraded("l2_cache", "away"))
    suspended, degraded = listener.next(), listener.next()
    assert suspended["data"] == {"view": "mv", "because": "mv", "failures": 5, "last_error": "no"}
    assert (degraded["event"], degraded["data"]) == (
        "TierDegraded", {"tier": "l2_cache", "why": "away"},
    )  # fmt: skip


def test_a_service_is_heard(database, feed, bus, listener):
    with RefreshService(database, ["mv"], events=bus) as service:
        report = service.force()
        listener.until("RefreshFinished", run_id=str(report.run_id))
    stopped = listener.until("ServiceStopped")
    assert stopped["data"]["metrics"]["successful_refreshes"] >= 1


def test_who_records_elsewhere_is_heard_by_the_state(database, conn, listener):
    from mvrefresh.metrics.memory import InMemoryMetricsStore

    run = mvrefresh.refresh(database, ["mv"], metrics=InMemoryMetricsStore()).run_id
    data = listener.until("RefreshFinished")["data"]
    assert (data["run_id"], data["view"], data["record_id"]) == (str(run), "mv", None)
    assert data["refresh_no"] == 1


def test_a_refresh_in_a_long_transaction_is_heard_at_its_commit(dsn, conn, listener, monkeypatch):
    """Its times are before what is read by then; the state says that it is new."""
    conn.execute("CREATE MATERIALIZED VIEW other AS SELECT 1 AS one")
    monkeypatch.setattr("mvrefresh.fleet.feed.OVERLAP", timedelta(0))
    with closing(psycopg.connect(dsn)) as other:
        (run,) = other.execute("SELECT run_id FROM mvrefresh.refresh_view('mv')").fetchone()
        for _ in range(2):  # two looks later
            listener.until("RefreshFinished", run_id=elsewhere(dsn, "other"))
        other.commit()
    assert listener.until("RefreshFinished", view="mv")["data"]["run_id"] == str(run)


def test_sse_has_the_same_messages(dsn, address, listener):
    with stream(address) as messages:
        assert next(messages)["event"] == "Joined"
        run = elsewhere(dsn, "mv")
        message = next(messages)
        cursor = message.pop("sse_id")
        assert cursor == message["id"] is not None
        assert message == listener.until("RefreshFinished", run_id=run)


def test_a_client_goes_on_where_it_was(dsn, address, socket_of):
    """Whatever came while it was away comes once, and what it had heard does not come again."""
    first = socket_of(address)
    first.until("Joined")
    heard = [elsewhere(dsn, "mv") for _ in range(2)]
    for run in heard:
        cursor = first.until("RefreshFinished", run_id=run)["id"]
    first.close()
    missed = [elsewhere(dsn, "mv", "reader") for _ in range(2)]
    second = socket_of(address, f"?since={cursor}")
    second.until("Joined")
    assert second.outcomes() == [(run, view) for run in missed for view in ("mv", "reader")]
    after = elsewhere(dsn, "mv")
    second.until("RefreshFinished", run_id=after)
    assert second.outcomes()[4:] == [(after, "mv")]


def test_it_goes_on_at_another_process_and_by_the_header(dsn, address, listener, new_dsn):
    """The cursor itself says what was told: another feed knows nothing of it."""
    heard = elsewhere(dsn, "mv")
    cursor = listener.until("RefreshFinished", run_id=heard)["id"]
    missed = elsewhere(dsn, "mv")
    with mvrefresh.Database(dsn) as database:
        app = FastAPI()
        app.include_router(events_router(FleetFeed(database)), prefix="/api")
        with served(app) as other, stream(other, **{"Last-Event-ID": cursor}) as messages:
            assert next(messages)["data"]["run_id"] == missed
            assert next(messages)["event"] == "Joined"


def test_whoever_is_cut_off_while_it_resumes_goes_on_from_there(dsn, address, socket_of):
    first = socket_of(address)
    cursor = first.until("Joined")["id"]
    first.close()
    missed = [elsewhere(dsn, "mv", "reader") for _ in range(2)]
    expected = [(run, view) for run in missed for view in ("mv", "reader")]
    got = []
    while len(got) < 4:
        client = socket_of(address, f"?since={cursor}")
        cursor = client.until("RefreshFinished")["id"]
        got += client.outcomes()
        client.close()
    assert got == expected


def test_a_record_that_shows_late_is_not_missed(dsn, conn, address, socket_of):
    """Identity and time are given before the commit: others that came later were told already."""
    first = socket_of(address)
    first.until("Joined")
    with closing(psycopg.connect(dsn)) as late:
        late.execute(
            "INSERT INTO mvrefresh.refresh_metrics"
            " (view_name, refresh_duration_ms, success, run_id, created_at)"
            " VALUES ('late', 1, true, gen_random_uuid(), clock_timestamp())"
        )
        run = elsewhere(dsn, "mv")
        cursor = first.until("RefreshFinished", run_id=run)["id"]
        first.close()
        late.commit()
    second = socket_of(address, f"?since={cursor}")
    second.until("Joined")
    assert [view for _, view in second.outcomes()] == ["late"]


def test_since_may_be_a_moment(dsn, conn, address, socket_of):
    conn.execute(
        "INSERT INTO mvrefresh.refresh_metrics (view_name, refresh_duration_ms, success,"
        " created_at) VALUES ('old', 1, true, now() - interval '2 h'),"
        " ('new', 1, false, now() - interval '50 min')"
    )
    moment = datetime.now(UTC) - timedelta(hours=1)
    for since in (f"{moment.timestamp()}", f"{moment:%Y-%m-%dT%H:%M:%SZ}"):
        client = socket_of(address, f"?since={since}")
        client.until("Joined")
        assert [m["data"]["view"] for m in client.heard[:-1]] == ["new"]
        assert client.heard[0]["data"]["run_id"] is None
        assert client.heard[0]["data"]["status"] == "failed"


def test_more_than_is_kept_is_a_gap(conn, address, socket_of):
    conn.execute(
        "INSERT INTO mvrefresh.refresh_metrics (view_name, refresh_duration_ms, success, run_id,"
        " created_at) SELECT 'mv', 1, true, gen_random_uuid(), now() - i * interval '1 s'"
        " FROM generate_series(100, 10200) i"
    )
    client = socket_of(address, "?since=0")
    assert client.next()["event"] == "Gap"
    client.until("Joined")
    assert len(client.outcomes()) == 10_000


@pytest.mark.parametrize("since", ["yesterday", "2025-01-13T10:30:00", "-1", "9" * 12, "1-x"])
def test_a_wrong_place_is_refused(address, socket_of, since):
    with httpx.Client(base_url=f"http://{address}") as client:
        answer = client.get("/api/refresh/events", params={"since": since})
    assert answer.status_code == 422
    assert "is not where to go on" in answer.json()["detail"]
    client = socket_of(address, f"?since={since}")
    with pytest.raises(ConnectionClosed) as closed:
        client.next()
    assert closed.value.rcvd.code == 1008


def test_a_lost_connection_is_told_and_nothing_is_missed(dsn, conn, feed, listener, caplog):
    assert feed.state == "listening"
    caplog.set_level("CRITICAL", "mvrefresh")
    backend = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE '%statement_timestamp%' AND pid <> pg_backend_pid()"
    )
    conn.execute(f"SELECT pg_terminate_backend(pid) FROM ({backend}) b")
    # Where the database is, and what it says, is for the log.
    assert listener.until("FeedLost")["data"] == {"why": "the database is not available"}
    run = elsewhere(dsn, "mv")
    listener.until("RefreshFinished", run_id=run)
    assert [m["event"] for m in listener.heard].count("FeedRestored") == 1
    assert listener.outcomes() == [(run, "mv")]


def test_one_who_leaves_in_the_middle_of_what_he_missed_is_not_written_to(
    conn, feed, address, caplog
):
    conn.execute(
        "INSERT INTO mvrefresh.refresh_metrics"
        " (view_name, refresh_duration_ms, success, created_at, run_id)"
        " SELECT 'mv', 1, true, now() - i * interval '20 s', gen_random_uuid()"
        "   FROM generate_series(1, 1500) i"
    )
    with closing(socket.create_connection(address.split(":"))) as client:
        client.settimeout(SECONDS)
        client.sendall(b"GET /api/refresh/events?since=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        while b"data: " not in client.recv(4096):
            pass
    wait_until(lambda: feed.state == "off")
    assert "socket.send() raised" not in caplog.text


def test_a_feed_that_could_not_begin_begins_for_the_next(address, feed, socket_of, monkeypatch):
    def exhausted():
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("mvrefresh.fleet.feed.socket", SimpleNamespace(socketpair=exhausted))
        client = socket_of(address)
        with pytest.raises(ConnectionClosed):
            client.next()
        assert feed.state == "off"
    for _ in range(2):
        socket_of(address).until("Joined")


def test_a_slow_client_is_dropped_and_the_others_hear_all(feed, bus, caplog):
    """It reads nothing; what it does not read fills its sockets, then its queue."""
    count, words = 1000, secrets.token_hex(25_000)
    caplog.set_level("INFO", "mvrefresh")
    app = FastAPI()
    app.include_router(events_router(feed, queue=20), prefix="/api")
    with served(app) as address, ExitStack() as stack:
        slow = stack.enter_context(closing(socket.create_connection(address.split(":"))))
        slow.settimeout(SECONDS)
        slow.sendall(b"GET /api/refresh/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        slow_socket = stack.enter_context(closing(Socket(address, max_queue=1)))
        quick = [stack.enter_context(closing(Socket(address))) for _ in range(3)]
        for client in quick:
            client.until("Joined")
        for number in range(count):
            if caplog.text.count("was dropped") == 2:
                break
            bus.publish(events.RefreshStarted(RUN, str(number), "regular", words))
            for client in quick:
                assert client.next()["data"]["view"] == str(number)
        with slow.makefile("rb") as answer:
            lines = answer.read().splitlines()
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(count):
                slow_socket.next()
    told = [line for line in lines if line.startswith(b"data: ")]
    assert lines[0].startswith(b"HTTP/1.1 200")
    assert 0 < len(told) < number
    assert 0 < len(slow_socket.heard) < number
    reason = "too slow: 20 messages waited"
    last = json.loads(told[-1].removeprefix(b"data: "))
    assert (last["event"], last["data"]) == ("Dropped", {"reason": reason})
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, reason)


def test_whoever_does_not_read_at_all_is_left(feed, bus, monkeypatch):
    """There is no saying why to somebody who takes nothing; his connection ends all the same."""
    monkeypatch.setattr("mvrefresh.web.events._FAREWELL", 0.05)
    app = FastAPI()
    app.include_router(events_router(feed, queue=5), prefix="/api")
    with served(app) as address, closing(socket.create_connection(address.split(":"))) as deaf:
        deaf.settimeout(SECONDS)
        deaf.sendall(b"GET /api/refresh/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        heard = b""
        while b"Joined" not in heard:
            heard += deaf.recv(1000)
        (thread,) = (t for t in threading.enumerate() if t.name == "mvrefresh-feed")
        while thread.is_alive():  # until its only client is gone
            bus.publish(events.RefreshStarted(RUN, "mv", "regular", "x" * 100_000))
        while deaf.recv(1_000_000):  # what was under way, then the end
            pass


def test_silence_is_broken_by_a_heartbeat(feed):
    app = FastAPI()
    app.include_router(events_router(feed, heartbeat=0.05), prefix="/api")
    with served(app) as address, stream(address) as messages:
        kinds = [next(messages)["event"] for _ in range(3)]
    assert "Heartbeat" in kinds


def test_connection_and_thread_are_there_while_somebody_listens(conn, feed, address, socket_of):
    assert feed.state == "off"
    clients = [socket_of(address) for _ in range(3)]
    for client in clients:
        client.until("Joined")
    threads = [t for t in threading.enumerate() if t.name == "mvrefresh-feed"]
    backends = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%statement_timestamp%'"
        " AND datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    assert (len(threads), *backends) == (1, 1)
    for client in clients:
        client.close()
    threads[0].join(SECONDS)
    assert not threads[0].is_alive()
    assert feed.state == "off"
    again = socket_of(address)
    again.until("Joined")


def test_the_hosts_dependencies_hold_for_both(feed):
    def only_friends(connection: HTTPConnection):
        if connection.headers.get("x-friend") != "yes":
            raise HTTPException(403, "no friend")

    app = FastAPI()
    app.include_router(events_router(feed, dependencies=[Depends(only_friends)]), prefix="/api")
    with served(app) as address:
        assert httpx.get(f"http://{address}/api/refresh/events").status_code == 403
        with pytest.raises(InvalidStatus):
            Socket(address)
        with closing(Socket(address, additional_headers={"x-friend": "yes"})) as friend:
            friend.until("Joined")


def test_a_page_of_another_site_may_not_listen(address, socket_of):
    with pytest.raises(InvalidStatus) as refused:
        Socket(address, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    socket_of(address, origin=f"http://{address}").until("Joined")


def test_numbers_that_cannot_be_meant(feed):
    with pytest.raises(ConfigurationError):
        events_router(feed, queue=0)
    with pytest.raises(ConfigurationError):
        events_router(feed, heartbeat=0)


def test_a_cursor_says_what_was_told():
    keys = [(f"run {number}", "mv") for number in range(MOST)]
    text = cursor_text(datetime(2025, 1, 13, tzinfo=UTC), map(hash_of, keys))
    cursor = Cursor.parse(text)
    assert len(text) < 2000
    assert cursor.moment == datetime(2025, 1, 13, tzinfo=UTC)
    assert all(map(cursor.has_heard, keys))
    assert not cursor.has_heard(("another", "mv"))


FORKED = """
import os, sys
from mvrefresh import Database, EventBus
from mvrefresh.events import TierRecovered
from mvrefresh.fleet.feed import FleetFeed
from mvrefresh.refreshing.threads import in_thread

bus, heard = EventBus(), []
feed = FleetFeed(Database(sys.argv[1]), bus)
feed.listen(print)
feed.since(None).result(15)
if os.fork():
    _, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status))
bus.publish(TierRecovered("nobody listens"))
feed.listen(heard.append)
feed.since(None).result(15)
bus.publish(TierRecovered("l2_cache"))
feed.leave(heard.append)
os._exit([news.data["tier"] for news in heard] != ["l2_cache"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_begins_anew(database, dsn):
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, dsn]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_reference_has_every_key():
    page = documents.DOCS / "reference/events.md"
    rows = documents.table(page, "Data of RefreshFinished")
    assert {key for row in rows for key in row[0].split(", ")} == OUTCOME_KEYS
    going = documents.table(page, "Data of RefreshGoingOn")
    assert [row[0] for row in going] == ["view", "pid", "since", "application"]
    envelope = documents.table(page, "As messages")
    assert [row[0] for row in envelope] == ["id", "event", "at", "data"]

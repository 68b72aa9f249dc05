"""`mvrefresh watch`: one picture, documents, lines, the board; whoever refreshes or fails."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import orjson
import psycopg
import pytest
from psycopg import sql
from rich.console import Console
from tests import documents

import mvrefresh as library
from mvrefresh.cli import board as boards, watch
from mvrefresh.cli.changes import Changes
from mvrefresh.errors import DatabaseUnavailable
from mvrefresh.fleet.onlooker import Onlooker
from mvrefresh.fleet.picture import Picture, Process, RefreshGoingOn, ViewSeen
from mvrefresh.metrics.store import RefreshRecord
from mvrefresh.postgres import locks

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
SLOT = (
    "INSERT INTO mvrefresh.schedule"
    " (view, last_started_at, slot, schedule, failures, suspended_at, last_error)"
)


def refreshing(dsn, view):
    """Somebody at work on a view: what is seen of it is its advisory lock."""
    other = psycopg.connect(dsn, application_name="worker-7")
    (oid,) = other.execute("SELECT %s::regclass::oid::bigint", [view]).fetchone()
    other.execute("SELECT pg_advisory_xact_lock(%s, %s)", locks.key(oid))
    return closing(other)


@pytest.fixture
def slots(conn, views, installed):
    """`good` is due in an hour, `plain` is suspended, `reader` is not scheduled."""
    conn.execute(
        f"{SLOT} VALUES ('good'::regclass, now(), now() + '1 h', 'every 3600 s', 0, NULL, NULL)"
    )
    conn.execute(
        f"{SLOT} VALUES ('plain'::regclass, now(), now(), 'every 60 s', 5, now(),"
        " 'plain: division by zero')"
    )


@pytest.fixture
def database(dsn):
    with library.Database(dsn) as database:
        yield database


class Ended(Exception):  # noqa: N818 - of a test's pauses
    pass


def say_lines(database, *deeds, wanted=()):
    """The lines of a watch: between two looks one of the deeds is done."""
    out = io.StringIO()
    lines = watch.Lines(Console(file=out, markup=False, emoji=False, highlight=False, width=200))
    left = iter(deeds)

    def pause(_: float) -> None:
        deed = next(left, None)
        if deed is None:
            raise Ended
        deed()

    onlooker = Onlooker(database, wanted)
    lines.show(onlooker.look())
    with pytest.raises(Ended):
        watch.keep_watching(onlooker, lines, interval=1, pause=pause)
    return [
        re.sub(r"^\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in out.getvalue().splitlines()
    ]


def nothing() -> None:
    pass


class TestOnce:
    def test_for_people(self, mvrefresh, dsn, slots):
        mvrefresh("refresh", "good")
        mvrefresh("refresh", "reader")
        with refreshing(dsn, "reader"):
            result = mvrefresh("watch", "--once")
        assert result.exit_code == 0, result.output
        assert re.search(r"3 views, 1 refreshing$", result.stdout.splitlines()[0])
        assert re.search(r"^good +just now +every 3600 s +in 1 h +succeeded +\S+ m?s$",
                         result.stdout, re.MULTILINE)  # fmt: skip
        assert re.search(r"^plain +unknown +every 60 s +suspended +never +-$", result.stdout,
                         re.MULTILINE)  # fmt: skip
        assert re.search(r"^reader +just now +- +refreshing \S+ m?s of \S+ m?s +succeeded",
                         result.stdout, re.MULTILINE)  # fmt: skip
        assert "\nplain: suspended after 5 failures: division by zero\n" in result.stdout
        assert re.search(r"  good: refreshed in .* \(concurrent, .* rows\)$", result.stdout,
                         re.MULTILINE)  # fmt: skip
        assert result.stdout.endswith("No service is running.\n")

    def test_as_json(self, json_of, dsn, slots):
        json_of("refresh", "reader")
        with refreshing(dsn, "reader") as other:
            document = json_of("watch", "--once")
            pid = other.info.backend_pid
        good, plain, reader = document["views"]
        assert good["schedule"] == "every 3600 s"
        assert good["next_due_at"] > document["looked_at"]
        assert (plain["suspended_because"], plain["failures"]) == ("plain", 5)
        assert plain["next_due_at"] is None
        assert plain["scheduled_error"] == "plain: division by zero"
        assert reader["running_pid"] == pid
        assert reader["running_application"] == "worker-7"
        assert reader["running_ms"] >= 0
        assert reader["usual_duration_ms"] == reader["last_duration_ms"] > 0
        assert [record["view_name"] for record in document["records"]] == ["reader"]
        assert document["fleet"] == []
        assert document["standby"] is False

    def test_keys_are_as_documented(self, mvrefresh, slots, conn):
        mvrefresh("refresh", "good")
        with closing(psycopg.connect(conn.info.dsn, application_name="mvrefresh service h:4")):
            document = orjson.loads(mvrefresh("watch", "--once", "--json").stdout)
        page = documents.tables(documents.DOCS / "reference/cli.md", "mvrefresh watch")
        shown = {row[0] for rows in page if rows[0][0] == "key" for row in rows[1:]}
        given = {key for key, value in document.items() if not isinstance(value, list)}
        for key in ("views", "records", "fleet"):
            given |= {f"{key}[].{inner}" for inner in document[key][0]}
        assert {key for key in given if not key.startswith("records")} | {"records[]"} == shown

    def test_only_some(self, json_of, mvrefresh, slots):
        json_of("refresh", "good", "plain")
        document = json_of("watch", "--once", "good")
        assert [view["view"] for view in document["views"]] == ["good"]
        assert [record["view_name"] for record in document["records"]] == ["good"]
        assert mvrefresh("watch", "nope").exit_code == 2
        assert mvrefresh("watch", "t").stderr.startswith("mvrefresh: t is a table")

    def test_who_waits_for_the_lock_does_not_refresh(self, json_of, dsn, conn, slots):
        waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with refreshing(dsn, "good") as other, closing(psycopg.connect(dsn)) as waiting:
            (oid,) = conn.execute("SELECT 'good'::regclass::oid::bigint").fetchone()
            space, key = locks.key(oid)
            waiting.pgconn.send_query(b"SELECT pg_advisory_lock(%d, %d)" % (space, key))
            while not conn.execute(waits).fetchall():
                pass
            good = json_of("watch", "--once")["views"][0]
            assert good["running_pid"] == other.info.backend_pid

    def test_who_refreshed_last(self, json_of, mvrefresh, conn, slots):
        json_of("refresh", "good")
        conn.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY good")
        good = json_of("watch", "--once", "good")["views"][0]
        assert good["changed_by_others"]
        assert good["content_as_of"] is good["age_seconds"] is good["refresh_no"] is None
        assert re.search(r"^good +by others", mvrefresh("watch", "--once").stdout, re.MULTILINE)

    def test_the_fleet(self, json_of, mvrefresh, dsn, slots):
        name = "mvrefresh service web-1:4711"
        with closing(psycopg.connect(dsn, application_name=name)):
            (process,) = json_of("watch", "--once")["fleet"]
            assert "\n1 service: web-1:4711 for " in mvrefresh("watch", "--once").stdout
        assert (process["host"], process["pid"]) == ("web-1", 4711)

    def test_a_role_that_may_only_read(self, json_of, call, conn, dsn, slots):
        role = f"reader_{conn.info.dbname}"
        conn.execute(f"CREATE ROLE {role} LOGIN")
        try:
            conn.execute(f"GRANT USAGE ON SCHEMA mvrefresh TO {role}")
            conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA mvrefresh TO {role}")
            with refreshing(dsn, "good"):
                result = call("watch", "--once", "--json", "--dsn", f"{dsn} user={role}")
            assert result.exit_code == 0, result.output
            good = orjson.loads(result.stdout)["views"][0]
            assert good["running_ms"] == 0  # it may not know since when
        finally:
            conn.execute(f"DROP OWNED BY {role}")
            conn.execute(f"DROP ROLE {role}")

    def test_no_view(self, mvrefresh, installed):
        assert "no materialized view" in mvrefresh("watch", "--once").stdout

    @pytest.mark.usefixtures("views")
    def test_without_the_tables(self, mvrefresh, json_of):
        assert mvrefresh("watch").exit_code == 4
        assert json_of("watch", "--once", exit_code=4)["error"]["type"] == "SchemaMissing"

    def test_a_schedule_of_a_later_version(self, json_of, conn, slots):
        conn.execute("UPDATE mvrefresh.schedule SET schedule = 'on change'")
        good = json_of("watch", "--once")["views"][0]
        assert (good["schedule"], good["next_due_at"]) == ("on change", None)


class TestLines:
    def test_a_refresh(self, database, dsn, conn, slots):
        def ends():
            someone.close()
            library.refresh(database, ["good"])

        with refreshing(dsn, "good") as someone:
            said = say_lines(database, nothing, ends, nothing, nothing)
        assert said[0].startswith(f"Watching 3 views of {conn.info.dbname} at ")
        assert said[1:3] == [
            "plain: suspended after 5 failures: division by zero",
            "good: refreshing",
        ]
        assert re.fullmatch(r"good: refreshed in .* \(concurrent, \+0 -0 rows\)", said[3])
        assert len(said) == 4

    def test_suspended_resumed_failed(self, database, conn, slots):
        conn.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / (id - id) FROM t WITH NO DATA")
        suspend = "UPDATE mvrefresh.schedule SET suspended_at = now(), failures = 1"
        said = say_lines(
            database,
            lambda: library.refresh(database, ["plain"]),
            lambda: conn.execute(suspend + " WHERE view = 'good'::regclass"),
            lambda: library.refresh(database, ["bad"]),
        )
        assert said[1] == "plain: suspended after 5 failures: division by zero"
        assert re.fullmatch(r"plain: refreshed in .* \(regular, 100 rows\)", said[2])
        assert said[3:5] == [
            "plain: resumed",
            "good: suspended after 1 failure",
        ]
        assert said[5].startswith("bad: failed: division by zero")
        assert len(said) == 6

    def test_every_record_once(self, database, views, installed):
        def twelve():
            for _ in range(12):
                library.refresh(database, ["good"])

        twelve()  # more than a first look reads
        said = say_lines(database, nothing, twelve, nothing, nothing)
        assert len([line for line in said if line.startswith("good: refreshed")]) == 12

    def test_views_come_and_go(self, database, conn, views, installed):
        def again():
            conn.execute("CREATE MATERIALIZED VIEW plain AS SELECT 1 AS one")
            library.refresh(database, ["plain"])

        said = say_lines(
            database,
            lambda: conn.execute("DROP MATERIALIZED VIEW plain"),
            again,
            wanted=["plain"],
        )
        assert re.fullmatch(r"plain: refreshed in .* \(regular, 1 rows\)", said[1])

    def test_a_database_that_goes_away_and_comes_back(self, restartable):
        dsn = restartable.dsn()
        with closing(psycopg.connect(dsn, autocommit=True)) as conn:
            conn.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS one")
            with library.Database(dsn) as database:
                database.schema.apply(conn)
        with library.Database(dsn) as database:
            said = say_lines(database, restartable.stop, nothing, restartable.start, nothing)
        assert said[1].startswith("No answer, trying again: ")
        assert said[2:] == ["The database answers again."]

    def test_a_lost_connection_is_made_anew(self, database, conn, views, installed):
        kill = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'mvrefresh' AND datname = current_database()"
        )
        said = say_lines(database, lambda: conn.execute(kill), nothing)
        assert len(said) == 1 or said[2:] == ["The database answers again."]

    def test_tables_that_are_dropped_end_it(self, database, conn, views, installed):
        with pytest.raises(psycopg.errors.UndefinedTable):
            say_lines(database, lambda: conn.execute("DROP SCHEMA mvrefresh CASCADE"), nothing)


def seen(label="mv", oid=1, **more):
    return ViewSeen(oid, label, **{"populated": True, **more})


def picture(*views, now=NOW, records=(), fleet=()):
    return Picture(now, "db at host:1", standby=False, views=views, records=records, fleet=fleet)


class TestChanges:
    """What a race can bring: the record before the lock is gone, or a look after it."""

    def words(self, *pictures):
        changes = Changes()
        return [[change.words for change in changes.of(each)] for each in pictures]

    def refresh(self, pid=7):
        return RefreshGoingOn(pid, NOW)

    def record(self, seconds=1):
        return RefreshRecord(
            "mv", 5.0, success=True, created_at=NOW + timedelta(seconds=seconds), id=seconds
        )

    def test_the_record_is_there_before_the_lock_is_gone(self):
        at_work = picture(seen(running=self.refresh()))
        both = picture(seen(running=self.refresh()), records=(self.record(),))
        said = self.words(at_work, both, picture(seen()), picture(seen()))
        assert said == [["refreshing"], ["refreshed in 5.0 ms"], [], []]

    def test_the_record_comes_a_look_later(self):
        at_work = picture(seen(running=self.refresh()))
        said = self.words(
            at_work, picture(seen()), picture(seen(), records=(self.record(),)), picture(seen())
        )
        assert said == [["refreshing"], [], ["refreshed in 5.0 ms"], []]

    def test_no_record_comes(self):
        later = [picture(seen(), now=NOW + timedelta(seconds=after)) for after in (5, 7, 8, 9)]
        said = self.words(picture(seen(running=self.refresh(), usual_duration_ms=1500.0)), *later)
        ended = "no longer refreshing, nothing on record"
        assert said == [["refreshing (usually 1.50 s)"], [], [], [ended], []]

    def test_one_after_the_other(self):
        first, second = self.refresh(7), RefreshGoingOn(8, NOW + timedelta(seconds=2))
        said = self.words(
            picture(seen(running=first)),
            picture(seen(running=second), records=(self.record(),)),
            picture(seen(), records=(self.record(3),)),
            picture(seen()),
        )
        assert said == [
            ["refreshing"], ["refreshed in 5.0 ms", "refreshing"], ["refreshed in 5.0 ms"], [],
        ]  # fmt: skip

    def test_long_at_work_already(self):
        later = picture(seen(running=self.refresh()), now=NOW + timedelta(seconds=75))
        assert self.words(later) == [["refreshing (for 1 min 15 s already)"]]


def drawn(shown, width=100, **more):
    out = io.StringIO()
    made = boards.board(shown, more.pop("changes", []), width=width, **more)
    Console(file=out, width=width, markup=False, emoji=False, highlight=False).print(made)
    return out.getvalue()


class TestBoard:
    def test_time_goes_on_between_two_looks(self):
        views = (
            seen("a", 1, content_as_of=NOW - timedelta(seconds=5), due_at=NOW + timedelta(hours=1)),
            seen("b", 2, running=RefreshGoingOn(1, NOW), usual_duration_ms=2000.0),
            seen("c", 3, due_at=NOW - timedelta(seconds=90)),
        )
        shown = drawn(picture(*views), later=10.0)
        assert re.search(r"^a +15 s ago +- +in 1 h ", shown, re.MULTILINE)
        assert re.search(r"refreshing 10.0 s of 2.00 s", shown)
        assert re.search(r"due for 2 min", shown)

    def test_the_database_is_away(self):
        shown = drawn(picture(seen()), later=65.0, away="it is gone")
        assert shown.startswith("No answer for 1 min, trying again: it is gone\n")

    def test_as_high_as_there_is_room_for(self):
        views = [seen(f"v{n}", n, due_at=NOW + timedelta(seconds=n)) for n in range(100, 0, -1)]
        views[10] = seen("busy", 200, running=RefreshGoingOn(1, NOW))
        views[50] = seen("ill", 201, failures=2, last_error="it broke")
        shown = drawn(picture(*views), height=24)
        assert len(shown.splitlines()) <= 24
        assert "busy" in shown
        assert "ill: 2 failures since the last success: it broke" in shown
        assert "\nv1 " in shown
        assert "\nv99 " not in shown
        assert re.search(r"and \d+ views more", shown)

    def test_at_80_columns(self):
        label = "mv_entity_hierarchy_stats"
        shown = drawn(picture(seen(label, schedule="cron */15 * * * * Europe/Berlin")), width=80)
        assert label in shown
        assert "cron" not in shown
        assert max(map(len, shown.splitlines())) <= 80

    def test_the_fleet(self):
        assert "through a transaction pooler" in drawn(picture(seen(), fleet=None))
        process = Process("web", 3, NOW - timedelta(minutes=3))
        unknown = Process("web", 4, None)
        assert "2 services: web:3 for 3 min, web:4\n" in drawn(
            picture(seen(), fleet=(process, unknown))
        )


class TestScreen:
    def test_it_is_drawn_and_stays(self, mvrefresh, slots, monkeypatch):
        def end(_: float) -> None:
            raise KeyboardInterrupt

        mvrefresh("refresh", "good")
        monkeypatch.setattr(watch.keep_watching, "__kwdefaults__", {"pause": end})
        result = mvrefresh("watch", FORCE_COLOR="1", COLUMNS="100", LINES="30", TERM="xterm")
        assert result.exit_code == 130
        assert result.stderr == ""
        left = result.stdout.rpartition("\x1b[?1049l")[2]  # behind on the ordinary screen
        screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", left)
        assert re.search(r"^good +just now +every 3600 s", screen, re.MULTILINE)
        assert "good: refreshed in" in screen

    def test_away_and_back(self):
        screen = watch.Screen(Console(file=io.StringIO(), width=100, height=30))
        assert screen.render() == ""
        screen.show(picture(seen()))
        for away in (True, False):
            if away:
                screen.away(DatabaseUnavailable("it is gone"))
            else:
                screen.show(picture(seen()))
            with screen._console.capture() as captured:
                screen._console.print(screen.render())
            assert ("trying again: it is gone" in captured.get()) is away


@pytest.fixture
def process(dsn):
    """Starts `mvrefresh watch` as a process of its own."""
    started = []

    def start(*args):
        started.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "mvrefresh", "watch", *args],
                env={**os.environ, "MVREFRESH_DSN": dsn, "PYTHONUTF8": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate(timeout=30)


class TestProcess:
    """A view that sleeps, a refresh that is cancelled, Ctrl-C."""

    @pytest.fixture(autouse=True)
    def endless(self, conn, installed):
        conn.execute("CREATE TABLE t AS SELECT 1 AS n")
        conn.execute(
            "CREATE MATERIALIZED VIEW endless AS"
            " SELECT n FROM t WHERE pg_sleep(300) IS NOT NULL WITH NO DATA"
        )

    def test_lines(self, process, database, conn):
        watching = process("--interval", "20ms")
        assert watching.stdout.readline().endswith(".\n")
        thread = threading.Thread(target=lambda: library.refresh(database))
        thread.start()
        assert watching.stdout.readline().endswith("  endless: refreshing\n")
        cancel = sql.SQL(
            "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND classid = {}::oid"
        )
        conn.execute(cancel.format(locks.SPACE))
        thread.join(30)
        assert "endless: cancelled" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=30)
        assert (watching.returncode, out, err) == (130, "", "")

    def test_documents(self, process, conn):
        watching = process("--interval", "20ms", "--json")
        first, second = (orjson.loads(watching.stdout.readline()) for _ in range(2))
        assert first["views"][0]["view"] == second["views"][0]["view"] == "endless"
        assert first["looked_at"] < second["looked_at"]
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=30)
        assert (watching.returncode, err) == (130, "")
        for line in out.splitlines():
            assert orjson.loads(line)["records"] == []


def test_documents_say_that_the_database_is_away(capsysbinary):
    watch.Documents().away(DatabaseUnavailable("it is gone"))
    (line,) = capsysbinary.readouterr().out.splitlines()
    error = orjson.loads(line)["error"]
    assert error["type"] == "DatabaseUnavailable"
    assert error["message"].startswith("it is gone")

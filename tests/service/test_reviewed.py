"""What a hostile reader of the service found: each of these was wrong once."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.refreshing.test_transaction import wait_until
from tests.service.conftest import NEVER, POLICY

import mvrefresh
from mvrefresh import Database, Every, InMemoryMetricsStore, RefreshPolicy, RefreshService, errors
from mvrefresh.events import RefreshFinished, RefreshStarted, ServiceStarted, ViewSuspended
from mvrefresh.refreshing import threads

CIRCLE = """
    CREATE VIEW between AS SELECT 1 AS n;
    CREATE MATERIALIZED VIEW round_a AS SELECT n FROM between;
    CREATE OR REPLACE VIEW between AS SELECT n FROM round_a
"""


@pytest.fixture
def running(service_of, heard):
    service = service_of(["mv"])
    service.start()
    heard.wait(RefreshFinished)
    return service


class TestNamesThatMove:
    def test_a_view_made_anew_is_the_one_that_is_forced(self, running, conn):
        conn.execute("DROP MATERIALIZED VIEW mv; CREATE MATERIALIZED VIEW mv AS TABLE base")
        conn.execute("INSERT INTO base VALUES (4, 'new')")
        assert running.force(["mv"]).results == {"mv": True}
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)

    def test_a_swap_of_names(self, running, conn):
        conn.execute("CREATE MATERIALIZED VIEW mv_new AS TABLE base")
        running.force(["mv", "mv_new"])
        conn.execute("ALTER MATERIALIZED VIEW mv RENAME TO mv_old")
        conn.execute("ALTER MATERIALIZED VIEW mv_new RENAME TO mv")
        conn.execute("INSERT INTO base VALUES (4, 'new')")
        assert running.force(["mv"]).results == {"mv": True}
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)

    def test_a_dropped_view_is_unknown_and_said_to_be(self, running, conn):
        conn.execute("DROP MATERIALIZED VIEW mv")
        with pytest.raises(errors.UnknownView):
            running.force(["mv"])
        running.force()  # what is left of its views: none
        wait_until(lambda: "mv" in running.health().checks["unknown"].detail)

    def test_a_function_that_reads_another_view_now(self, running, conn):
        conn.execute(
            "CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT 1::bigint; END;"
            "CREATE MATERIALIZED VIEW top AS SELECT f() AS n"
        )
        assert list(running.force(["top"]).results) == ["top"]
        conn.execute(
            "CREATE OR REPLACE FUNCTION f() RETURNS bigint"
            " BEGIN ATOMIC SELECT count(*) FROM mv; END; INSERT INTO base VALUES (4, 'new')"
        )
        assert list(running.force(["top"]).results) == ["mv", "top"]
        assert conn.execute("SELECT n FROM top").fetchone() == (4,)


class TestCirclesOfViews:
    def test_one_elsewhere_costs_nobody_anything(self, service_of, heard, conn):
        conn.execute(CIRCLE)
        service = service_of(["mv"], schedule=Every(seconds=0.2))
        service.start()
        heard.wait(RefreshFinished, 2)
        assert service.force(["mv"], timeout=10)

    def test_one_among_all_costs_its_members_alone(self, service_of, heard, conn):
        service = service_of(schedule=Every(seconds=0.2))
        service.start()
        conn.execute(CIRCLE)
        time_of = len(heard.of(RefreshFinished))
        heard.wait(RefreshFinished, time_of + 2)
        assert service.running
        assert service.status()["state"] == "running"


class TestCallbacksThatRaiseAnything:
    @pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("kind", [ServiceStarted, RefreshStarted, RefreshFinished])
    def test_the_service_goes_on(self, service_of, heard, kind, error):
        service = service_of(["mv"], schedule=Every(seconds=0.2))

        def fail(event):
            if isinstance(event, kind):
                raise error

        with service.subscribe(fail):
            service.start()
            heard.wait(RefreshFinished, 2)
            assert service.force(timeout=10)
            assert service.running

    def test_one_callers_callback_keeps_nobody_else_waiting(self, running):
        gate = threading.Event()

        def fail(_future):
            raise SystemExit

        with running.subscribe(lambda event: gate.wait(5) if isinstance(event, RefreshStarted)
                               else None):  # fmt: skip
            first = running.force(wait=False)
            lot = [running.force(wait=False) for _ in range(3)]
            lot[0].add_done_callback(fail)
            gate.set()
            assert first.result(10)
            assert [bool(future.result(10)) for future in lot] == [True] * 3
        assert running.force(timeout=10)


class TestNoThreadsLeft:
    @pytest.fixture
    def exhausted(self):
        def refuse(_thread):
            raise RuntimeError("can't start new thread")

        return lambda patch: patch.setattr(threads.OurThread, "start", refuse)

    def test_start_says_so_and_can_be_tried_again(self, service_of, exhausted):
        service = service_of(["mv"])
        with pytest.MonkeyPatch.context() as patch:
            exhausted(patch)
            with pytest.raises(RuntimeError):
                service.start()
        assert not service.running
        service.stop()
        assert service.start()
        assert service.force(timeout=10)

    def test_force_says_so_and_can_be_tried_again(self, running, exhausted):
        with pytest.MonkeyPatch.context() as patch:
            exhausted(patch)
            with pytest.raises(RuntimeError):
                running.force()
        assert running.force(timeout=10)


class TestNoLoopWithoutPause:
    def test_a_slot_that_cannot_be_moved_is_tried_after_pauses(
        self, dsn, database, conn, heard, history
    ):
        conn.execute(
            "CREATE MATERIALIZED VIEW bad AS SELECT 1 / (id - id) AS x FROM base WITH NO DATA"
        )
        mvrefresh.refresh_due(database, ["bad"], schedule=NEVER, policy=POLICY)
        conn.execute(
            "UPDATE mvrefresh.schedule SET slot = now();"
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'the disk is full'; END$$;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON mvrefresh.schedule"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        service = RefreshService(database, ["bad"], NEVER, policy=POLICY)
        with service.subscribe(heard), service:
            heard.wait(RefreshFinished)
            threading.Event().wait(1.5)
        assert len(history()) == 2  # once before, once here: then a pause of 2 s began

    def test_a_row_that_another_holds_is_no_reason_to_spin(self, service_of, heard, conn, dsn):
        """Another process is refreshing `top`; meanwhile the view that it reads fails."""
        conn.execute(
            "CREATE MATERIALIZED VIEW low AS SELECT 1 / (id - id) AS x FROM base WITH NO DATA;"
            "CREATE MATERIALIZED VIEW top AS SELECT count(*) AS n FROM low WITH NO DATA"
        )
        service = service_of(["low", "top"])
        service.start()
        heard.wait(RefreshFinished, 2)
        service.stop()
        conn.execute("UPDATE mvrefresh.schedule SET slot = now() WHERE view = 'top'::regclass")
        looks = []
        original = mvrefresh.service.dispatcher.read_tick
        with closing(psycopg.connect(dsn)) as other, pytest.MonkeyPatch.context() as patch:
            other.execute(
                "SELECT 1 FROM mvrefresh.schedule WHERE view = 'top'::regclass FOR NO KEY UPDATE"
            )

            def counted(*arguments):
                looks.append(1)
                return original(*arguments)

            patch.setattr(mvrefresh.service.dispatcher, "read_tick", counted)
            service.start()
            threading.Event().wait(1.5)
            service.stop()
        assert 1 <= len(looks) <= 8


class TestRoles:
    def test_one_that_is_read_only_by_default(self, database, dsn, conn, heard):
        conn.execute(
            "CREATE MATERIALIZED VIEW bad AS SELECT 1 / (id - id) AS x FROM base WITH NO DATA"
        )
        odd = make_conninfo(
            dsn, options="-c default_transaction_read_only=on"
            " -c default_transaction_isolation=serializable"
        )  # fmt: skip
        with Database(odd) as read_only:
            report = mvrefresh.refresh_due(read_only, schedule=NEVER, policy=POLICY)
            assert report.results == {"mv": True, "bad": False}
            assert mvrefresh.refresh_due(read_only, schedule=NEVER, policy=POLICY).results == {}

    def test_one_whose_idle_sessions_are_ended(self, dsn, database, heard):
        with Database(make_conninfo(dsn, options="-c idle_session_timeout=300ms")) as impatient:
            service = RefreshService(impatient, ["mv"], Every(seconds=1), policy=POLICY)
            with service.subscribe(heard), service:
                heard.wait(RefreshFinished, 3)
        assert heard.of(mvrefresh.events.HealthChanged) == []

    @pytest.mark.parametrize("result", [ConnectionRefusedError("vault: s3cret"), None])
    def test_a_factory_that_fails_in_its_own_way(self, result):
        def connect():
            if result is None:
                return
            raise result

        with Database(connect=connect) as database:
            service = RefreshService(database, ["mv"])
            status = service.status()
            assert status["error"]
            assert "s3cret" not in str(status)
            assert service.health().status == "unhealthy"
            if result is not None:
                service.start()
                with pytest.raises(errors.DatabaseUnavailable):
                    service.force(timeout=20)
                service.stop(timeout=0)


class TestUpstream:
    def test_one_that_left_the_schedules_stops_nobody(self, database, conn):
        conn.execute(
            "CREATE MATERIALIZED VIEW low AS SELECT 1 / (id - id) AS x FROM base WITH NO DATA;"
            "CREATE MATERIALIZED VIEW top AS SELECT count(*) AS n FROM low WITH NO DATA"
        )
        due = {"schedule": NEVER, "policy": POLICY}
        mvrefresh.refresh_due(database, ["low"], **due)
        conn.execute(
            "ALTER MATERIALIZED VIEW low RENAME TO gone;"
            "CREATE OR REPLACE FUNCTION noop() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
        report = mvrefresh.refresh_due(database, ["top"], **due)
        assert report["top"].status != "skipped_upstream"

    def test_a_view_that_reads_tables_too_is_refreshed_all_the_same(self, database, conn):
        conn.execute(
            "CREATE MATERIALIZED VIEW low AS SELECT 1 / nullif(id, 1) AS x FROM base;"
            "CREATE MATERIALIZED VIEW top AS SELECT count(low.x) AS n, count(base.id) AS m"
            " FROM low, base;"
            "INSERT INTO base VALUES (0, 'breaks low')"
        )
        due = {"schedule": NEVER, "policy": POLICY}
        report = mvrefresh.refresh_due(database, ["low", "top"], **due)
        assert report.results == {"low": False, "top": True}


def test_content_whose_refresh_began_before_the_call_is_not_shared(running, database, conn):
    """Nothing was committed here; what it read of a foreign table may be old all the same."""
    conn.execute(
        "CREATE FUNCTION hold() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
        " PERFORM pg_advisory_xact_lock(7); RETURN 1; END$$;"
        "DROP MATERIALIZED VIEW mv; CREATE MATERIALIZED VIEW mv AS SELECT id FROM base, hold()"
    )
    conn.execute("SELECT pg_advisory_lock(7)")
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(mvrefresh.refresh, database, ["mv"])
        wait_until(lambda: conn.execute(held).fetchone() == (1,))
        forced = pool.submit(running.force)
        wait_until(lambda: conn.execute(held).fetchone() == (2,))
        conn.execute("SELECT pg_advisory_unlock_all()")
        assert not forced.result()["mv"].shared
    assert other.result()


def test_an_administrators_cancel_is_no_failure_of_the_view(service_of, heard, slow, conn):
    service = service_of(["slow"], suspend_after=1)
    service.start()
    heard.wait(RefreshStarted)
    wait_until(
        lambda: conn.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        ).fetchone()
    )
    heard.wait(RefreshFinished)
    assert conn.execute("SELECT failures, suspended_at FROM mvrefresh.schedule").fetchone() == (
        0,
        None,
    )
    assert heard.of(ViewSuspended) == []


def test_a_slot_of_infinity_stops_nobody(service_of, heard, conn):
    conn.execute("CREATE MATERIALIZED VIEW other AS SELECT 1 AS x")
    service = service_of(schedule=Every(seconds=0.2))
    service.start()
    heard.wait(RefreshFinished, 2)
    conn.execute("UPDATE mvrefresh.schedule SET slot = 'infinity' WHERE view = 'mv'::regclass")
    seen = len(heard.of(RefreshFinished))
    heard.wait(RefreshFinished, seen + 3)
    assert service.status()["state"] == "running"


def test_the_last_stop_waits_for_the_first(service_of, heard):
    service, gate, returned = service_of(["mv"]), threading.Event(), []

    def dawdle(event):
        if isinstance(event, mvrefresh.events.ServiceStopped):
            gate.wait(5)

    with service.subscribe(dawdle):
        service.start()
        heard.wait(RefreshFinished)
        stoppers = [
            threading.Thread(target=lambda: returned.append(service.stop())) for _ in range(2)
        ]
        for stopper in stoppers:
            stopper.start()
        heard.wait(mvrefresh.events.ServiceStopped)
        late = threading.Thread(target=lambda: returned.append(service.stop()))
        late.start()
        assert returned == []
        gate.set()
        for stopper in (*stoppers, late):
            stopper.join(10)
    assert len(returned) == 3


def test_refresh_due_leaves_nothing_running_when_it_is_interrupted(database, slow, conn):
    bus, begun = mvrefresh.EventBus(), threading.Event()

    def interrupt(*_arguments, **_settings):
        begun.wait(10)
        raise KeyboardInterrupt

    with bus.subscribe(lambda _event: begun.set()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(mvrefresh.api, "_see_to_the_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            mvrefresh.refresh_due(database, ["slow"], schedule=NEVER, events=bus)
    assert conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    ).fetchone() == (0,)


def test_a_stop_cuts_off_whatever_of_its_threads_waits_for_a_silent_server(
    service_of, running, conn, dsn
):
    """Here a lock that nobody lets go stands for it: the look-up of a forced refresh hangs."""
    with closing(psycopg.connect(dsn)) as other:
        other.execute("LOCK pg_catalog.pg_rewrite IN ACCESS EXCLUSIVE MODE")
        future = running.force(wait=False)
        began = time.monotonic()
        wait_until(
            lambda: other.execute(
                "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'pg_rewrite'::regclass"
            ).fetchone()
        )
        running.stop(timeout=0)
        assert time.monotonic() - began < 15
    with pytest.raises(errors.MvrefreshError):
        future.result(1)


def test_a_store_in_memory_can_be_used_by_a_forked_child():
    store = InMemoryMetricsStore()
    store._lock.acquire()
    store.forget_parent()
    assert store.summary().total_count == 0


def test_the_oldest_content_is_told_by_snapshots_not_by_a_clock_that_was_set(database, conn):
    """`b` was refreshed later than `a`, and its clock says earlier."""
    conn.execute(
        "CREATE MATERIALIZED VIEW a AS TABLE base; CREATE MATERIALIZED VIEW b AS TABLE base;"
        "CREATE MATERIALIZED VIEW top AS SELECT a.id FROM a JOIN b USING (id)"
    )
    policy = RefreshPolicy(jobs=1)
    mvrefresh.refresh(database, ["a"], policy=policy)
    conn.execute(
        "CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " NEW.content_as_of := NEW.content_as_of - interval '5 min'; RETURN NEW; END$$;"
        "CREATE TRIGGER back BEFORE INSERT ON mvrefresh.state FOR EACH ROW"
        " WHEN (NEW.view = 'b'::regclass::oid) EXECUTE FUNCTION back()"
    )
    mvrefresh.refresh(database, ["b"], policy=policy)
    mvrefresh.refresh(database, ["top"], policy=policy)
    states = dict(
        conn.execute("SELECT view::regclass::text, content_snapshot::text FROM mvrefresh.state")
    )
    assert states["top"] == states["a"] != states["b"]

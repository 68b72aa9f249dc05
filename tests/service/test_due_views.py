"""What is due is refreshed: once, in order, by whoever comes first, on the database's clock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise

import pytest
from tests.refreshing.test_transaction import wait_until
from tests.service.conftest import NEVER, POLICY

import mvrefresh
from mvrefresh import Cron, Database, Every, RefreshService, Status, errors
from mvrefresh.events import RefreshFinished, RefreshStarted, ViewResumed, ViewSuspended
from mvrefresh.postgres.locks import SPACE


def rows(conn) -> dict:
    return {
        name: tuple(rest)
        for name, *rest in conn.execute(
            "SELECT view::regclass::text, slot, schedule, last_started_at, failures,"
            " suspended_at IS NOT NULL, last_error FROM mvrefresh.schedule"
        )
    }


def make_due(conn) -> None:
    conn.execute("UPDATE mvrefresh.schedule SET slot = clock_timestamp() - interval '1 ms'")


class TestRefreshDue:
    def test_a_view_is_due_at_first_and_then_not(self, database, conn, history):
        assert mvrefresh.refresh_due(database, ["mv"], schedule=NEVER).results == {"mv": True}
        assert mvrefresh.refresh_due(database, ["mv"], schedule=NEVER).results == {}
        assert [h[:2] for h in history()] == [("mv", "succeeded")]
        assert rows(conn)["mv"][1] == "every 86400 s"

    def test_without_a_schedule_it_is_the_one_that_the_database_knows(self, database, conn):
        mvrefresh.refresh_due(database, ["mv"], schedule=Every(seconds=7))
        make_due(conn)
        assert mvrefresh.refresh_due(database)
        slot, text, started, *_ = rows(conn)["mv"]
        assert text == "every 7 s"
        assert slot == pytest.approx(started + timedelta(seconds=7), abs=timedelta(seconds=0.1))

    def test_and_for_a_view_that_it_does_not_know_the_default(self, database, conn):
        mvrefresh.refresh_due(database)
        assert rows(conn)["mv"][1] == "every 300 s"

    def test_a_cron_slot_before_the_first_call_was_not_missed(self, database, conn):
        assert mvrefresh.refresh_due(database, schedule=Cron("0 0 1 1 *")).results == {}
        make_due(conn)
        assert mvrefresh.refresh_due(database, schedule=Cron("0 0 1 1 *")).results == {"mv": True}
        slot = rows(conn)["mv"][0]
        assert (slot.month, slot.day, slot.hour, slot.minute) == (1, 1, 0, 0)

    def test_missed_slots_coalesce_into_one(self, database, conn):
        mvrefresh.refresh_due(database, schedule=Every(seconds=60))
        conn.execute("UPDATE mvrefresh.schedule SET slot = now() - interval '30 days'")
        assert mvrefresh.refresh_due(database, schedule=Every(seconds=60)).results == {"mv": True}
        assert mvrefresh.refresh_due(database, schedule=Every(seconds=60)).results == {}

    def test_many_at_once_refresh_once(self, database, dsn, conn, history):
        mvrefresh.refresh_due(database, schedule=NEVER)
        make_due(conn)
        with ThreadPoolExecutor(12) as pool:
            reports = list(
                pool.map(lambda _: mvrefresh.refresh_due(database, schedule=NEVER), range(12))
            )
        assert [report.results for report in reports if report.outcomes] == [{"mv": True}]
        assert len(history()) == 2

    def test_a_view_at_work_elsewhere_is_left_alone_and_so_is_who_reads_it(
        self, database, conn, history
    ):
        conn.execute("CREATE MATERIALIZED VIEW top AS SELECT count(*) AS n FROM mv")
        mvrefresh.refresh_due(database, schedule=NEVER)
        make_due(conn)
        before = rows(conn)
        oid = conn.execute("SELECT 'mv'::regclass::oid::int").fetchone()[0]
        conn.execute("SELECT pg_advisory_lock(%s, %s)", (SPACE, oid))
        assert mvrefresh.refresh_due(database, schedule=NEVER).results == {}
        assert rows(conn) == before
        assert len(history()) == 2
        conn.execute("SELECT pg_advisory_unlock_all()")
        assert list(mvrefresh.refresh_due(database, schedule=NEVER).results) == ["mv", "top"]

    def test_in_order_of_what_reads_what(self, database, conn):
        conn.execute("CREATE MATERIALIZED VIEW a_top AS SELECT count(*) AS n FROM mv")
        conn.execute("CREATE MATERIALIZED VIEW a_a AS SELECT n FROM a_top")
        conn.execute("INSERT INTO base VALUES (4, 'new')")
        report = mvrefresh.refresh_due(database, schedule=NEVER)
        assert list(report.results) == ["mv", "a_top", "a_a"]
        assert conn.execute("SELECT n FROM a_a").fetchone() == (4,)

    def test_each_view_at_most_once_a_call(self, database):
        report = mvrefresh.refresh_due(database, schedule=Every(seconds=0.1))
        assert len(report.outcomes) == 1

    def test_a_clock_that_was_ahead_for_a_while_is_forgotten(self, database, conn):
        mvrefresh.refresh_due(database, schedule=Every(seconds=60))
        conn.execute(
            "UPDATE mvrefresh.schedule SET slot = slot + interval '4 years',"
            " last_started_at = last_started_at + interval '4 years'"
        )
        assert mvrefresh.refresh_due(database, schedule=Every(seconds=60)).results == {"mv": True}
        slot, _, started, *_ = rows(conn)["mv"]
        assert slot - started <= timedelta(seconds=60)

    def test_a_shorter_interval_counts_at_once(self, database, conn):
        mvrefresh.refresh_due(database, schedule=Every(seconds=86400))
        conn.execute(
            "UPDATE mvrefresh.schedule SET last_started_at = now() - interval '1 hour',"
            " slot = now() + interval '23 hours'"
        )
        assert mvrefresh.refresh_due(database, schedule=Every(seconds=7200)).results == {}
        assert mvrefresh.refresh_due(database, schedule=Every(seconds=600)).results == {"mv": True}

    def test_a_dropped_view_is_forgotten(self, database, conn):
        mvrefresh.refresh_due(database, schedule=NEVER)
        conn.execute("DROP MATERIALIZED VIEW mv; CREATE MATERIALIZED VIEW mv2 AS SELECT 1 AS x")
        mvrefresh.refresh_due(database, schedule=NEVER)
        assert list(rows(conn)) == ["mv2"]

    def test_errors(self, database, new_dsn):
        with pytest.raises(errors.UnknownView):
            mvrefresh.refresh_due(database, ["nobody"])
        with pytest.raises(errors.ConfigurationError):
            mvrefresh.refresh_due(database, "mv")
        with Database(new_dsn()) as empty, pytest.raises(errors.SchemaMissing):
            mvrefresh.refresh_due(empty)

    def test_a_lost_race_leaves_no_trace(self, database, conn, history, heard):
        """The row says due when it is looked at, and is served when the lock is ours."""
        mvrefresh.refresh_due(database, schedule=NEVER)
        make_due(conn)
        bus = mvrefresh.EventBus()
        original = mvrefresh.service.dispatcher.read_tick

        def served_meanwhile(connection, schema):
            tick = original(connection, schema)
            conn.execute("UPDATE mvrefresh.schedule SET slot = now() + interval '1 day'")
            return tick

        with pytest.MonkeyPatch.context() as patch, bus.subscribe(heard):
            patch.setattr(mvrefresh.service.dispatcher, "read_tick", served_meanwhile)
            report = mvrefresh.refresh_due(database, schedule=NEVER, events=bus)
        assert report.results == {}
        assert heard.events == []
        assert len(history()) == 1


class TestService:
    def test_it_refreshes_whenever_a_view_is_due(self, service_of, heard, conn):
        service_of(["mv"], schedule=Every(seconds=0.2)).start()
        finished = heard.wait(RefreshFinished, 4)
        assert all(event.outcome for event in finished)
        started = [s for (s,) in conn.execute(
            "SELECT created_at FROM mvrefresh.refresh_metrics ORDER BY id"
        )]  # fmt: skip
        gaps = [(b - a).total_seconds() for a, b in pairwise(started)]
        assert min(gaps) > 0.1

    def test_a_restart_neither_forgets_nor_repeats(self, service_of, heard, conn):
        service = service_of(["mv"])
        service.start()
        heard.wait(RefreshFinished)
        service.stop()
        before = rows(conn)
        with service_of(["mv"]) as again:
            again.force()  # by then it has looked
            assert rows(conn) == before
        assert len(heard.of(RefreshFinished)) == 2

    def test_new_views_join_and_dropped_ones_leave(self, service_of, heard, conn):
        service = service_of(schedule=Every(seconds=0.3))
        service.start()
        heard.wait(RefreshFinished)
        conn.execute("CREATE MATERIALIZED VIEW late AS SELECT 1 AS x")
        heard.wait(RefreshStarted, view="late")
        conn.execute("DROP MATERIALIZED VIEW late")
        wait_until(lambda: [view["view"] for view in service.status()["views"]] == ["mv"])
        seen = len(heard.of(RefreshFinished))
        heard.wait(RefreshFinished, seen + 1)

    def test_a_view_made_anew_under_its_name_is_cared_for(self, service_of, heard, conn):
        service_of(["mv"], schedule=Every(seconds=0.2)).start()
        heard.wait(RefreshFinished)
        conn.execute("DROP MATERIALIZED VIEW mv; CREATE MATERIALIZED VIEW mv AS SELECT 7 AS id")
        (oid,) = conn.execute("SELECT 'mv'::regclass::oid").fetchone()
        seen = len(heard.of(RefreshFinished))
        heard.wait(RefreshFinished, seen + 2)
        assert conn.execute("SELECT view FROM mvrefresh.schedule").fetchall() == [(oid,)]

    def test_a_long_refresh_does_not_hold_up_the_others(self, service_of, heard, slow):
        service = service_of(schedule={"slow": NEVER, "mv": Every(seconds=0.2)})
        service.start()
        heard.wait(RefreshStarted, view="slow")
        heard.wait(RefreshStarted, 3, view="mv")
        assert "slow" in {v["view"] for v in service.status()["views"] if v["running"]}

    def test_an_unexpected_fault_of_a_host_ends_nothing(self, database, heard, conn):
        class Broken(mvrefresh.InMemoryMetricsStore):
            def record(self, record, *, connection=None):
                raise RuntimeError("the host's store is broken")

        service = RefreshService(database, ["mv"], Every(seconds=0.2), Broken(), policy=POLICY)
        with service.subscribe(heard), service:
            heard.wait(RefreshFinished, 3)

    def test_the_schema_going_away_is_survived(self, service_of, heard, conn):
        service = service_of(["mv"], schedule=Every(seconds=0.2))
        service.start()
        heard.wait(RefreshFinished)
        conn.execute("DROP SCHEMA mvrefresh CASCADE")
        heard.wait(mvrefresh.events.HealthChanged, after="unhealthy")
        assert service.status()["state"] == "degraded"
        mvrefresh.Schema().apply(conn)
        seen = len(heard.of(RefreshFinished))
        heard.wait(RefreshFinished, seen + 1)


class TestBreaker:
    @pytest.fixture
    def failing(self, conn):
        conn.execute(
            "CREATE TABLE fault (n int); INSERT INTO fault VALUES (0);"
            "CREATE MATERIALIZED VIEW bad AS SELECT 1 / n AS x FROM fault WITH NO DATA;"
            "CREATE MATERIALIZED VIEW reader AS SELECT count(*) AS n FROM bad WITH NO DATA;"
            "CREATE MATERIALIZED VIEW reader2 AS SELECT n FROM reader WITH NO DATA"
        )

        def mend() -> None:
            conn.execute("UPDATE fault SET n = 1")

        return mend

    def test_a_view_that_fails_again_and_again_is_suspended_with_its_readers(
        self, service_of, heard, failing, conn, history
    ):
        service = service_of(schedule=Every(seconds=0.1), suspend_after=3)
        service.start()
        heard.wait(ViewSuspended, 3)
        assert {(e.view, e.because) for e in heard.of(ViewSuspended)} == {
            ("bad", "bad"), ("reader", "bad"), ("reader2", "bad"),
        }  # fmt: skip
        assert all(e.failures == 3 for e in heard.of(ViewSuspended))
        assert "division by zero" in heard.of(ViewSuspended)[0].last_error
        seen = len(heard.of(RefreshFinished))
        heard.wait(RefreshFinished, seen + 3)  # mv goes on
        tried = [h for h in history() if h[0] == "bad"]
        assert [h[1] for h in tried] == ["failed"] * 3
        reasons = conn.execute(
            "SELECT reason FROM mvrefresh.refresh_metrics WHERE view_name = 'bad' ORDER BY id"
        ).fetchall()
        assert reasons[-1][0].endswith("suspended after 3 failures in a row")
        assert {h[1] for h in history() if h[0].startswith("reader")} == {"skipped_upstream"}
        views = {view["view"]: view for view in service.status()["views"]}
        assert views["reader2"]["suspended_because"] == "bad"
        assert views["bad"]["next_run"] is None
        assert service.health().status == "degraded"
        assert "bad" in service.health().detail

    def test_a_forced_success_resumes(self, service_of, heard, failing, conn):
        service = service_of(["bad", "reader"], schedule=Every(seconds=0.1), suspend_after=2)
        service.start()
        heard.wait(ViewSuspended, 2)
        report = service.force(["bad"])  # never refused
        assert report["bad"].status is Status.FAILED
        assert rows(conn)["bad"][3:5] == (2, True)
        failing()
        assert service.force(["bad"])
        heard.wait(ViewResumed, 2)
        heard.wait(RefreshStarted, 2, view="reader")
        assert rows(conn)["bad"][3:5] == (0, False)

    def test_a_success_by_another_way_resumes(self, database, service_of, heard, failing):
        service = service_of(["bad"], schedule=Every(seconds=0.1), suspend_after=1,
                             health_interval=0.2)  # fmt: skip
        service.start()
        heard.wait(ViewSuspended)
        failing()
        assert mvrefresh.refresh(database, ["bad"])
        heard.wait(ViewResumed)

    def test_a_success_between_starts_the_count_anew(self, database, failing, conn):
        due = {"schedule": Every(seconds=0.1), "suspend_after": 2, "policy": POLICY}
        assert mvrefresh.refresh_due(database, ["bad"], **due).results == {"bad": False}
        failing()
        make_due(conn)
        assert mvrefresh.refresh_due(database, ["bad"], **due).results == {"bad": True}
        conn.execute("UPDATE fault SET n = 0")
        make_due(conn)
        assert mvrefresh.refresh_due(database, ["bad"], **due).results == {"bad": False}
        assert rows(conn)["bad"][3:5] == (1, False)

    def test_never_if_so_wished(self, database, failing, conn):
        for _ in range(7):
            mvrefresh.refresh_due(database, ["bad"], schedule=NEVER, suspend_after=None,
                                  policy=POLICY)  # fmt: skip
            make_due(conn)
        assert rows(conn)["bad"][3:5] == (7, False)

    def test_a_slot_that_fails_in_many_processes_counts_once(self, database, failing, conn):
        mvrefresh.refresh_due(database, ["bad"], schedule=NEVER, policy=POLICY)
        make_due(conn)
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda _: mvrefresh.refresh_due(
                        database, ["bad"], schedule=NEVER, policy=POLICY
                    ),
                    range(8),
                )
            )
        assert rows(conn)["bad"][3] == 2

    def test_a_skip_that_somebody_else_has_made_leaves_no_trace(
        self, database, failing, conn, history
    ):
        mvrefresh.refresh_due(database, ["bad"], schedule=NEVER, policy=POLICY)
        original = mvrefresh.service.dispatcher.read_tick

        def skipped_meanwhile(connection, schema):
            tick = original(connection, schema)
            if len(tick.rows) > 1:
                conn.execute("UPDATE mvrefresh.schedule SET slot = now() + interval '1 day'")
            return tick

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mvrefresh.service.dispatcher, "read_tick", skipped_meanwhile)
            report = mvrefresh.refresh_due(
                database, ["bad", "reader"], schedule=NEVER, policy=POLICY
            )
        assert report.results == {}
        assert [h[0] for h in history()] == ["bad"]

    def test_a_skip_is_recorded_once_and_is_no_failure(self, database, failing, conn, history):
        mvrefresh.refresh_due(database, ["bad"], schedule=NEVER, policy=POLICY)
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda _: mvrefresh.refresh_due(
                        database, ["bad", "reader"], schedule=NEVER, policy=POLICY
                    ),
                    range(8),
                )
            )
        assert [h[:2] for h in history() if h[0] == "reader"] == [("reader", "skipped_upstream")]
        assert rows(conn)["reader"][3] == 0


def test_a_crowd_of_overdue_views_is_spread(service_of, heard, conn, database):
    for number in range(12):
        conn.execute(f"CREATE MATERIALIZED VIEW v{number} AS SELECT 1 AS x")
    views = [f"v{number}" for number in range(12)]
    service = service_of(views, schedule=Every(seconds=10))
    service.start()
    heard.wait(RefreshFinished, 12)
    started = conn.execute(
        "SELECT max(last_started_at) - min(last_started_at) FROM mvrefresh.schedule"
    ).fetchone()[0]
    assert timedelta(seconds=0.15) < started < timedelta(seconds=1.5)

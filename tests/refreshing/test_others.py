"""Others at work on the same views, and hosts with habits: what a hostile review found."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from tests.refreshing.conftest import QUICK
from tests.refreshing.test_faults import fail
from tests.refreshing.test_runner import ASLEEP
from tests.refreshing.test_transaction import wait_until

import mvrefresh
from mvrefresh import Database, EventBus, RefreshPolicy, Runner, Schema, Status, errors
from mvrefresh.events import RecordLost, RefreshStarted, RunStarted


def refreshed(database, view="mv", **kwargs):
    return mvrefresh.refresh(database, [view], **kwargs).outcomes[0]


class TestRefreshedBySomebodyElse:
    @pytest.mark.parametrize("how", ["", "CONCURRENTLY"])
    def test_the_token_does_not_survive(self, database, conn, how):
        """Ours changes nothing, but what it leaves is not what the old token stood for."""
        first = refreshed(database)
        conn.execute("INSERT INTO base VALUES (4, 'x')")
        conn.execute(f"REFRESH MATERIALIZED VIEW {how} mv")
        second = refreshed(database)
        assert (second.rows_inserted, second.rows_deleted) == (0, 0)
        assert second.content_changed is True
        assert second.content_token != first.content_token
        assert refreshed(database).content_token == second.content_token

    @pytest.mark.parametrize("what", ["VACUUM FREEZE mv", "ANALYZE mv", "VACUUM FREEZE pg_class"])
    def test_but_it_survives_housekeeping(self, database, conn, what):
        first = refreshed(database)
        conn.execute(what)
        conn.execute("VACUUM FREEZE mvrefresh.state")
        assert refreshed(database).content_token == first.content_token

    @pytest.mark.parametrize(
        "what",
        [
            "ALTER TYPE mood RENAME VALUE 'glad' TO 'merry'",
            """ALTER MATERIALIZED VIEW felt RENAME COLUMN a TO c;
               ALTER MATERIALIZED VIEW felt RENAME COLUMN b TO a;
               ALTER MATERIALIZED VIEW felt RENAME COLUMN c TO b""",
        ],
    )
    def test_what_no_xmin_shows(self, database, conn, what):
        """Said in docs/explanation/what-changed.md: a regular refresh is what helps."""
        conn.execute(
            "CREATE TYPE mood AS ENUM ('glad', 'sad');"
            "CREATE MATERIALIZED VIEW felt AS SELECT 'glad'::mood AS a, 'sad'::mood AS b"
        )
        first = refreshed(database, "felt")
        read = "SELECT a::text, b::text FROM felt"
        before = conn.execute(read).fetchone()
        conn.execute(what)
        assert conn.execute(read).fetchone() != before
        valid = conn.execute(
            "SELECT content_token FROM mvrefresh.state s JOIN pg_class c ON c.oid = s.view"
            " WHERE c.relname = 'felt' AND c.xmin = s.xmin"
        ).fetchone()
        assert valid == (first.content_token,)
        assert refreshed(database, "felt", method="regular").content_token != valid[0]

    def test_a_view_that_took_the_name_is_not_taken_for_the_planned_one(self, database, conn, dsn):
        """Blue and green are swapped while our refresh waits for the lock."""
        conn.execute(
            "CREATE MATERIALIZED VIEW green AS SELECT * FROM base; INSERT INTO base VALUES (4, 'x')"
        )
        plan, reports = mvrefresh.plan(database, ["mv"]), []
        with closing(psycopg.connect(dsn)) as swap:
            swap.execute("ALTER MATERIALIZED VIEW mv RENAME TO blue")
            swap.execute("ALTER MATERIALIZED VIEW green RENAME TO mv")
            runner = Runner(database, policy=RefreshPolicy(lock_timeout=30))
            thread = threading.Thread(target=lambda: reports.append(runner.run(plan)))
            thread.start()
            wait_until(
                lambda: conn.execute(
                    "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
                ).fetchone()
            )
            swap.commit()
        thread.join()
        (outcome,) = reports[0]
        assert outcome
        rows = conn.execute("SELECT view::regclass::text FROM mvrefresh.state").fetchall()
        assert rows == [("blue",)]
        assert conn.execute("SELECT count(*) FROM blue").fetchone() == (4,)


class TestViewsOverViews:
    def test_stand_for_the_oldest_moment_they_hold(self, database, conn):
        conn.execute("CREATE MATERIALIZED VIEW top AS SELECT count(*) AS n FROM mv")
        below = refreshed(database)
        conn.execute("INSERT INTO base VALUES (4, 'x')")
        above = refreshed(database, "top")
        assert conn.execute("SELECT n FROM top").fetchone() == (3,)
        assert above.content_as_of == below.content_as_of

    def test_stand_for_no_known_moment_over_a_view_that_was_never_refreshed(self, database, conn):
        conn.execute("CREATE MATERIALIZED VIEW top AS SELECT count(*) AS n FROM mv")
        assert refreshed(database, "top").content_as_of is None
        refreshed(database)
        conn.execute("REFRESH MATERIALIZED VIEW mv")  # by somebody else
        assert refreshed(database, "top").content_as_of is None


class TestPlanning:
    def test_waits_for_nobodys_refresh(self, database, conn, dsn):
        with closing(psycopg.connect(dsn)) as other:
            other.execute("REFRESH MATERIALIZED VIEW mv")  # and holds ACCESS EXCLUSIVE
            with closing(psycopg.connect(dsn, options="-c lock_timeout=1")) as quick:
                from mvrefresh.postgres.catalog import read_catalog

                quick.autocommit = True
                assert len(read_catalog(quick)) == 1

    def test_a_timeout_of_the_role_is_a_typed_error(self, dsn, database, conn):
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET statement_timeout = '1ms'")
        conn.execute("CREATE MATERIALIZED VIEW m2 AS SELECT 1 AS x")
        with Database(dsn) as theirs, pytest.raises(errors.DatabaseUnavailable, match="answer"):
            for _ in range(200):
                mvrefresh.plan(theirs)


class TestWords:
    def test_a_missing_table_in_a_function_is_not_a_vanished_view(self, database, conn):
        conn.execute(
            "CREATE FUNCTION f() RETURNS bigint LANGUAGE plpgsql AS"
            " $$BEGIN RETURN (SELECT count(*) FROM no_such_table); END$$;"
            "CREATE MATERIALIZED VIEW k AS SELECT f() AS x WITH NO DATA"
        )
        assert isinstance(fail(database, "k").error, errors.DefinitionFailed)

    def test_two_rows_from_a_subquery_are_no_duplicate_rows(self, database, conn):
        conn.execute(
            "CREATE MATERIALIZED VIEW k AS SELECT (SELECT b.id FROM base b) AS x WITH NO DATA"
        )
        assert isinstance(fail(database, "k").error, errors.DefinitionFailed)

    def test_54000_of_a_definition_is_not_the_notification_queue(self, database, conn):
        conn.execute(
            "CREATE SEQUENCE ran; CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
            " PERFORM nextval('public.ran'); RAISE EXCEPTION 'mine' USING ERRCODE = '54000';"
            " END$$; CREATE MATERIALIZED VIEW k AS SELECT f() AS x WITH NO DATA"
        )
        assert isinstance(fail(database, "k").error, errors.DefinitionFailed)
        assert conn.execute("SELECT last_value FROM ran").fetchone() == (1,)

    def test_an_administrators_cancel_is_a_cancel(self, database, conn):
        conn.execute(
            "CREATE MATERIALIZED VIEW k AS SELECT pg_sleep(60)::text AS x WITH NO DATA;"
            "CREATE MATERIALIZED VIEW reader AS SELECT x FROM k WITH NO DATA"
        )
        reports = []
        thread = threading.Thread(
            target=lambda: reports.append(mvrefresh.refresh(database, ["k", "reader"]))
        )
        thread.start()
        wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
        conn.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        )
        thread.join()
        (report,) = reports
        assert report["k"].status is Status.CANCELLED
        assert report["reader"].status is Status.SKIPPED_UPSTREAM

    def test_a_role_that_may_not_use_our_tables_is_told_before_anything(self, database, conn, dsn):
        role = f"u_{conn.info.dbname}"
        conn.execute(f"CREATE ROLE {role} LOGIN; ALTER MATERIALIZED VIEW mv OWNER TO {role}")
        try:
            with Database(psycopg.conninfo.make_conninfo(dsn, user=role)) as theirs:
                with pytest.raises(errors.SchemaNotPermitted, match="GRANT"):
                    refreshed(theirs)
                conn.execute(
                    f"GRANT USAGE ON SCHEMA mvrefresh TO {role};"
                    f"GRANT SELECT ON mvrefresh.version TO {role}"
                )
                with pytest.raises(errors.SchemaNotPermitted, match="GRANT"):
                    refreshed(theirs)
        finally:
            conn.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}")
            conn.execute(f"DROP ROLE {role}")

    def test_a_missing_table_is_named(self, database, conn):
        conn.execute("DROP TABLE mvrefresh.refresh_metrics")
        with pytest.raises(errors.SchemaOutdated, match="refresh_metrics"):
            refreshed(database)

    def test_an_administrators_cancel_is_no_timeout(self, database, conn):
        conn.execute("CREATE MATERIALIZED VIEW k AS SELECT pg_sleep(60)::text AS x WITH NO DATA")
        reports = []
        policy = RefreshPolicy(refresh_timeout=50)
        thread = threading.Thread(
            target=lambda: reports.append(refreshed(database, "k", policy=policy))
        )
        thread.start()
        wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
        conn.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        )
        thread.join()
        assert isinstance(reports[0].error, errors.RefreshCancelled)

    def test_a_missing_function_is_named(self, database, conn):
        conn.execute("DROP FUNCTION mvrefresh.finish_refresh")
        with pytest.raises(errors.SchemaOutdated, match="finish_refresh is missing"):
            refreshed(database)

    def test_a_lost_record_does_not_claim_that_the_refresh_is_lost(self, database, conn):
        conn.execute("ALTER TABLE mvrefresh.refresh_metrics ADD CHECK (view_name <> 'mv')")
        events, heard = EventBus(), []
        with events.subscribe(heard.append):
            assert refreshed(database, events=events)
        (lost,) = [event for event in heard if isinstance(event, RecordLost)]
        assert isinstance(lost.error, errors.RecordNotStored)


class TestRecordsUnderPressure:
    def test_a_locked_history_costs_readers_little_and_the_refresh_nothing(
        self, database, conn, dsn
    ):
        with closing(psycopg.connect(dsn)) as other:
            other.execute("LOCK TABLE mvrefresh.refresh_metrics")
            outcome = refreshed(database, method="regular")
        assert outcome
        assert outcome.record_id is None
        assert outcome.duration_ms < 5000

    def test_a_failure_is_not_waited_for_for_ever(self, database, conn, dsn):
        conn.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / 0 AS x WITH NO DATA")
        with closing(psycopg.connect(dsn)) as other:
            other.execute("LOCK TABLE mvrefresh.refresh_metrics")
            outcome = fail(database, "bad")
        assert outcome.record_id is None

    def test_failures_are_recorded_under_read_only_defaults(self, database, conn, history):
        conn.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / 0 AS x WITH NO DATA")
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET default_transaction_read_only = on")
        fail(database, "bad")
        assert history() == [("bad", "failed", "regular", history()[0][3])]

    def test_a_store_that_breaks_the_transaction_it_was_given(self, database, conn, state):
        class Swallows(mvrefresh.InMemoryMetricsStore):
            def record(self, record, *, connection=None):
                if connection is not None:
                    with pytest.raises(psycopg.errors.UndefinedTable):
                        connection.execute("INSERT INTO no_such_audit VALUES (1)")
                return super().record(record)

        policy = replace(QUICK, metrics_policy="required")
        outcome = fail(database, policy=policy, metrics=Swallows())
        assert isinstance(outcome.error, errors.RecordingFailed)
        assert state() is None

    def test_a_required_store_without_ids_is_called_once(self, database):
        class Nameless(mvrefresh.InMemoryMetricsStore):
            def record(self, record, *, connection=None):
                super().record(record)
                return record

        store = Nameless()
        policy = RefreshPolicy(metrics_policy="required")
        assert refreshed(database, policy=policy, metrics=store)
        assert store.summary().total_count == 1

    def test_a_required_record_goes_to_the_store_that_was_named(self, database, new_dsn):
        with Database(new_dsn()) as audit:
            with audit.dedicated() as connection:
                audit.schema.apply(connection)
            store = mvrefresh.PostgresMetricsStore(audit)
            policy = RefreshPolicy(metrics_policy="required")
            assert refreshed(database, policy=policy, metrics=store)
            assert store.summary().success_count == 1
        assert mvrefresh.PostgresMetricsStore(database).summary().total_count == 0


class TestEndings:
    def test_cancel_from_the_first_callback(self, database, history):
        events = EventBus()
        runner = Runner(database, events=events)

        def stop(event):
            if isinstance(event, RunStarted):
                assert runner.cancel(timeout=5)

        with events.subscribe(stop):
            report = runner.run(mvrefresh.plan(database))
        assert report["mv"].status is Status.CANCELLED
        assert report["mv"].attempts == 0
        assert history() == [("mv", "cancelled", None, history()[0][3])]

    def test_cancel_from_a_callback_of_the_working_thread_does_not_wait_for_itself(self, database):
        events, answers = EventBus(), []
        runner = Runner(database, policy=RefreshPolicy(jobs=1), events=events)

        def stop(event):
            if isinstance(event, RefreshStarted):
                answers.append(runner.cancel(timeout=60))

        with events.subscribe(stop):
            report = runner.run(mvrefresh.plan(database))
        assert answers == [False]
        assert report["mv"].status is Status.CANCELLED

    @pytest.mark.parametrize("jobs", [1, 3])
    def test_an_interrupt_leaves_nothing_running_and_says_what_was_not_done(
        self, database, conn, history, jobs
    ):
        conn.execute("CREATE MATERIALIZED VIEW zzz AS SELECT 1 AS x FROM mv")
        events = EventBus()

        def interrupt(event):
            if isinstance(event, mvrefresh.events.RefreshFinished):
                raise KeyboardInterrupt

        policy = RefreshPolicy(jobs=jobs)
        with events.subscribe(interrupt), pytest.raises(KeyboardInterrupt):
            mvrefresh.refresh(database, policy=policy, events=events)
        assert {row[:2] for row in history()} >= {("mv", "succeeded"), ("zzz", "cancelled")}

    def test_a_callback_that_exits_its_thread_ends_nothing(self, database, conn):
        conn.execute("CREATE MATERIALIZED VIEW other AS SELECT 1 AS x")
        events = EventBus()

        def leave(_event):
            raise SystemExit

        with events.subscribe(leave):
            assert mvrefresh.refresh(database, events=events, policy=RefreshPolicy(jobs=2))

    def test_cancelled_before_they_began_is_no_failure_in_the_figures(self, database, conn):
        conn.execute("CREATE MATERIALIZED VIEW zzz AS SELECT 1 AS x FROM mv")
        events = EventBus()
        runner = Runner(database, events=events)

        def stop(event):
            if isinstance(event, mvrefresh.events.RefreshFinished):
                runner.cancel(timeout=5)

        with events.subscribe(stop):
            runner.run(mvrefresh.plan(database))
        assert mvrefresh.PostgresMetricsStore(database).summary().success_rate == 100.0


class TestHosts:
    @pytest.mark.parametrize(
        "options",
        [
            "-c DateStyle=German",
            "-c DateStyle=SQL,DMY",
            "-c quote_all_identifiers=on",
            "-c search_path=",
            "-c client_encoding=LATIN1",
            "-c IntervalStyle=sql_standard",
        ],
    )
    def test_settings_that_change_how_answers_read(self, database, conn, dsn, options):
        conn.execute('CREATE MATERIALIZED VIEW "☃" AS SELECT 1 AS x')
        with Database(psycopg.conninfo.make_conninfo(dsn, options=options)) as theirs:
            report = mvrefresh.refresh(theirs)
            assert report.results == {"mv": True, '"☃"': True}
            assert report["mv"].content_as_of is not None

    def test_rows_as_dicts(self, database, dsn):
        with Database(connect=lambda: psycopg.connect(dsn, row_factory=dict_row)) as theirs:
            assert refreshed(theirs)
            assert theirs.health().behind_pooler is False
        with (
            ConnectionPool(dsn, kwargs={"row_factory": dict_row}, min_size=1, open=True) as pool,
            Database(pool=pool) as theirs,
        ):
            assert refreshed(theirs)
            store = mvrefresh.PostgresMetricsStore(theirs)
            assert store.record(store.recent()[0]).id == 3
            with theirs.connection() as connection:
                Schema().check(connection)

    def test_a_factory_that_leaves_its_settings_uncommitted(self, database, dsn):
        def connect():
            connection = psycopg.connect(dsn, application_name="mvrefresh-left")
            connection.execute("SET work_mem = '17MB'")
            return connection

        with Database(connect=connect) as theirs:
            assert refreshed(theirs)
            with theirs.dedicated() as connection:
                assert connection.execute("SHOW work_mem").fetchone() == ("17MB",)

    def test_an_asynchronous_pool_is_refused(self):
        with pytest.raises(errors.ConfigurationError, match="AsyncConnectionPool"):
            Database(pool=AsyncConnectionPool("", open=False))

    def test_a_password_with_an_at_sign_is_not_shown_as_a_host(self):
        with pytest.raises(errors.ConfigurationError, match="%40") as caught:
            Database("postgresql://u:hun@ter2@host/db")
        assert "ter2" not in str(caught.value)

    def test_a_closed_database_refuses(self, dsn):
        database = Database(dsn)
        database.close()
        with pytest.raises(errors.DatabaseUnavailable, match="closed"):
            mvrefresh.plan(database)

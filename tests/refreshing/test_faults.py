"""Bad input and faults, each on a real server: a typed error, or a record that says it."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from tests.refreshing.conftest import QUICK
from tests.refreshing.test_transaction import wait_until

import mvrefresh
from mvrefresh import Database, EventBus, RefreshPolicy, Schema, Status, errors
from mvrefresh.events import RecordLost, RefreshFellBack, RefreshRetried


def fail(database, view="mv", **kwargs):
    """Refresh a view that is expected to fail, and return its outcome."""
    kwargs.setdefault("policy", QUICK)
    (outcome,) = mvrefresh.refresh(database, [view], **kwargs)
    assert not outcome
    assert outcome.view in str(outcome.error)
    assert type(outcome.error).fix in str(outcome.error)
    return outcome


class TestRefusedBeforeAnythingIsTouched:
    def test_an_unknown_view(self, database, history):
        with pytest.raises(errors.UnknownView, match="nope"):
            mvrefresh.refresh(database, ["mv", "nope"])
        assert history() == []

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("base", "a table"),
            ("public.v", "a plain view"),
            ("seq", "a sequence"),
            ("mv_id", "index"),
        ],
    )
    def test_another_kind_of_relation(self, database, conn, history, name, kind):
        conn.execute("CREATE VIEW v AS SELECT 1; CREATE SEQUENCE seq")
        with pytest.raises(errors.NotAMaterializedView, match=kind):
            mvrefresh.refresh(database, [name])
        assert history() == []

    def test_no_schema(self, database, conn):
        conn.execute("DROP SCHEMA mvrefresh CASCADE; INSERT INTO base VALUES (4, 'x')")
        with pytest.raises(errors.SchemaMissing, match="mvrefresh schema --apply"):
            mvrefresh.refresh(database)
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (3,)

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ("DELETE FROM mvrefresh.version WHERE version > 1", errors.SchemaOutdated),
            ("INSERT INTO mvrefresh.version VALUES (99)", errors.SchemaTooNew),
        ],
    )
    def test_a_schema_of_another_version(self, database, conn, change, error):
        conn.execute(change)
        with pytest.raises(error):
            mvrefresh.refresh(database)

    def test_no_server(self):
        with (
            Database("host=/nonexistent dbname=x password=hunter2") as database,
            pytest.raises(errors.DatabaseUnavailable) as caught,
        ):
            mvrefresh.refresh(database)
        assert "hunter2" not in repr(caught.value)


class TestWithoutTheSchema:
    def test_local_coordination_refreshes_all_the_same(self, dsn, conn):
        conn.execute("CREATE TABLE t AS SELECT 1 AS id; CREATE MATERIALIZED VIEW m AS TABLE t")
        conn.execute("CREATE UNIQUE INDEX ON m (id)")
        with Database(dsn) as database:
            runner = mvrefresh.Runner(database, policy=RefreshPolicy(coordination="local"))
            same = runner.run(mvrefresh.plan(database)).outcomes[0]
            conn.execute("UPDATE t SET id = 2")
            changed = runner.run(mvrefresh.plan(database)).outcomes[0]
        assert (same.content_changed, changed.content_changed) == (False, True)
        assert changed.refresh_no is changed.content_token is None
        assert (changed.rows_inserted, changed.rows_deleted) == (1, 1)
        assert [r.id for r in runner.metrics.recent()] == [2, 1]
        assert conn.execute("SELECT to_regnamespace('mvrefresh')").fetchone() == (None,)


class TestPrivileges:
    @pytest.fixture
    def as_role(self, database, conn, dsn):
        """A Database of a role that may use the schema but owns nothing."""
        role = f"r_{conn.info.dbname}"
        conn.execute(
            f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA mvrefresh TO {role};"
            f"GRANT ALL ON ALL TABLES IN SCHEMA mvrefresh TO {role};"
            f"GRANT SELECT ON base TO {role}"
        )
        with Database(psycopg.conninfo.make_conninfo(dsn, user=role)) as theirs:
            yield theirs, role
        conn.execute(
            f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}"
        )

    def test_a_role_without_privilege(self, as_role, history):
        theirs, _ = as_role
        assert not mvrefresh.plan(theirs).steps[0].view.permitted
        outcome = fail(theirs)
        assert isinstance(outcome.error, errors.PermissionDenied)
        assert history()[-1][1] == "failed"

    def test_maintain_is_enough_from_17(self, as_role, conn):
        theirs, role = as_role
        if conn.info.server_version < 170000:
            conn.execute(f"ALTER MATERIALIZED VIEW mv OWNER TO {role}")
        else:
            conn.execute(f"GRANT MAINTAIN ON mv TO {role}")
        assert mvrefresh.plan(theirs).steps[0].view.permitted
        assert mvrefresh.refresh(theirs, ["mv"])


class TestChangesUnderTheRun:
    def test_dropped_after_the_plan(self, database, conn, history):
        plan = mvrefresh.plan(database, ["mv"])
        conn.execute("DROP MATERIALIZED VIEW mv")
        (outcome,) = mvrefresh.Runner(database, policy=QUICK).run(plan)
        assert isinstance(outcome.error, errors.ViewVanished)
        assert history()[-1][:2] == ("mv", "failed")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("DROP INDEX mv_id", "no unique index"),
            ("REFRESH MATERIALIZED VIEW mv WITH NO DATA", "not populated"),
        ],
    )
    def test_concurrently_became_impossible_after_the_plan(self, database, conn, change, words):
        plan = mvrefresh.plan(database, ["mv"])
        assert plan.steps[0].strategy == "concurrent"
        conn.execute(change)
        events, heard = EventBus(), []
        with events.subscribe(heard.append):
            (outcome,) = mvrefresh.Runner(database, policy=QUICK, events=events).run(plan)
        assert (outcome.status, outcome.strategy) == (Status.SUCCEEDED, "regular")
        assert words in outcome.reason
        assert words in next(e for e in heard if isinstance(e, RefreshFellBack)).reason

    def test_and_blocking_was_ruled_out(self, database, conn):
        plan = mvrefresh.plan(database, ["mv"], fallback="never")
        conn.execute("DROP INDEX mv_id")
        (outcome,) = mvrefresh.Runner(database, policy=QUICK).run(plan)
        assert isinstance(outcome.error, errors.ConcurrentlyImpossible)

    def test_populated_by_somebody_else_meanwhile_is_not_blocked(self, database, conn):
        conn.execute("REFRESH MATERIALIZED VIEW mv WITH NO DATA")
        plan = mvrefresh.plan(database, ["mv"])
        assert plan.steps[0].strategy == "regular"
        conn.execute("REFRESH MATERIALIZED VIEW mv")
        (outcome,) = mvrefresh.Runner(database).run(plan)
        assert outcome.strategy == "concurrent"


class TestIndexes:
    @pytest.mark.parametrize(
        ("index", "words"),
        [
            ("CREATE UNIQUE INDEX near ON mv (id) WHERE id > 0", "partial"),
            ("CREATE UNIQUE INDEX near ON mv (lower(name))", "expression"),
            ("CREATE UNIQUE INDEX near ON mv (id, lower(name))", "expression"),
            ("CREATE INDEX near ON mv (id)", "no unique index"),
        ],
    )
    def test_near_misses_block_with_their_reason_or_are_refused(self, database, conn, index, words):
        conn.execute(f"DROP INDEX mv_id; {index}")
        (outcome,) = mvrefresh.refresh(database, ["mv"])
        assert outcome.strategy == "regular"
        assert words in outcome.reason
        refused = fail(database, fallback="never")
        assert isinstance(refused.error, errors.ConcurrentlyImpossible)
        assert words in str(refused.error)
        # PostgreSQL agrees that it is one:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            conn.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY mv")

    def test_an_invalid_index(self, database, conn):
        conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mv_id'::regclass")
        (outcome,) = mvrefresh.refresh(database, ["mv"])
        assert outcome.strategy == "regular"
        assert "invalid" in outcome.reason

    def test_included_columns_are_no_obstacle(self, database, conn):
        conn.execute("DROP INDEX mv_id; CREATE UNIQUE INDEX inc ON mv (id) INCLUDE (name)")
        assert mvrefresh.refresh(database, ["mv"]).outcomes[0].strategy == "concurrent"


class TestDefinitions:
    def test_duplicates_under_concurrently_are_not_hidden_by_a_fallback(self, database, conn):
        conn.execute(
            "CREATE TABLE d (id int, name text); CREATE MATERIALIZED VIEW dup AS TABLE d;"
            "CREATE UNIQUE INDEX ON dup (id); INSERT INTO d VALUES (1, 'a'), (1, 'b')"
        )
        outcome = fail(database, "dup")
        assert isinstance(outcome.error, errors.DuplicateRows)
        assert outcome.strategy == "concurrent"

    def test_whole_duplicate_rows(self, database, conn):
        conn.execute(
            "CREATE TABLE d (id int); CREATE MATERIALIZED VIEW dup AS TABLE d;"
            "CREATE UNIQUE INDEX ON dup (id); INSERT INTO d VALUES (1), (1)"
        )
        assert isinstance(fail(database, "dup").error, errors.DuplicateRows)

    @pytest.mark.parametrize("code", ["0A000", "55000"])
    def test_a_definition_that_raises_what_impossibility_would(self, database, conn, code):
        conn.execute(
            "CREATE FUNCTION f(x int) RETURNS int LANGUAGE plpgsql AS $$BEGIN IF x > 3 THEN"
            f" RAISE EXCEPTION 'mine' USING ERRCODE = '{code}'; END IF; RETURN x; END$$;"
            "CREATE MATERIALIZED VIEW r AS SELECT f(id) AS id FROM base;"
            "CREATE UNIQUE INDEX ON r (id); INSERT INTO base VALUES (4, 'x')"
        )
        outcome = fail(database, "r")
        assert isinstance(outcome.error, errors.DefinitionFailed)
        assert (outcome.strategy, outcome.attempts) == ("concurrent", 1)
        assert "mine" in str(outcome.error)

    def test_a_broken_view_costs_the_others_nothing(self, database, conn, history):
        conn.execute(
            "CREATE MATERIALIZED VIEW bad AS SELECT 1 / (id - 3) AS x FROM base WITH NO DATA;"
            "CREATE MATERIALIZED VIEW reader AS SELECT * FROM bad WITH NO DATA;"
            "CREATE MATERIALIZED VIEW reader2 AS SELECT * FROM reader WITH NO DATA"
        )
        report = mvrefresh.refresh(database, policy=QUICK)
        statuses = {o.view: o.status.value for o in report}
        assert statuses == {
            "bad": "failed",
            "reader": "skipped_upstream",
            "reader2": "skipped_upstream",
            "mv": "succeeded",
        }
        assert "bad was not refreshed" in str(report["reader"].error)
        durations = [report.duration_ms, *(outcome.duration_ms for outcome in report)]
        assert durations == [round(duration, 3) for duration in durations]
        assert sorted((view, status) for view, status, *_ in history()) == sorted(statuses.items())

    def test_hostile_names(self, database, conn):
        names = ['a"; DROP TABLE base; --', "naïve ☃ %s {}", "x" * 63, "UPPER", "sel ect.from"]
        for name in names:
            quoted = '"' + name.replace('"', '""') + '"'
            conn.execute(
                f"CREATE SCHEMA {quoted}; CREATE MATERIALIZED VIEW {quoted}.{quoted} AS"
                f" SELECT id AS {quoted} FROM base;"
                f"CREATE UNIQUE INDEX ON {quoted}.{quoted} ({quoted})"
            )
        report = mvrefresh.refresh(database, policy=replace(QUICK, analyze=True))
        assert report
        assert {o.strategy for o in report} == {"concurrent"}
        assert len(report.outcomes) == len(names) + 1
        assert conn.execute("SELECT count(*) FROM base").fetchone() == (3,)


class TestLocks:
    def test_a_strangers_lock_is_waited_for_a_little_and_then_reported(self, database, conn, dsn):
        events, heard = EventBus(), []
        with closing(psycopg.connect(dsn)) as stranger, events.subscribe(heard.append):
            stranger.execute("SELECT * FROM mv")  # and never commits
            outcome = fail(database, method="regular", events=events)
        assert isinstance(outcome.error, errors.LockNotAvailable)
        assert outcome.attempts == 2
        assert [e.attempt for e in heard if isinstance(e, RefreshRetried)] == [1]

    def test_a_lock_that_is_given_up_in_time_costs_a_retry(self, database, dsn):
        stranger = psycopg.connect(dsn)
        stranger.execute("SELECT * FROM mv")
        events = EventBus()

        def give_up(event):
            if isinstance(event, RefreshRetried):
                stranger.close()

        with events.subscribe(give_up):
            report = mvrefresh.refresh(
                database, ["mv"], method="regular", policy=QUICK, events=events
            )
        assert report.outcomes[0].attempts == 2
        assert report

    def test_another_refresh_that_never_ends_is_waited_for_so_long(self, database, dsn, conn):
        from mvrefresh.postgres import locks

        (oid,) = conn.execute("SELECT 'mv'::regclass::oid").fetchone()
        with closing(psycopg.connect(dsn)) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s, %s)", locks.key(oid))
            policy = replace(QUICK, wait_timeout=0.1, attempts=1)
            assert isinstance(fail(database, policy=policy).error, errors.LockNotAvailable)


class TestConnections:
    def test_a_killed_backend_is_retried(self, database, conn):
        conn.execute(
            "CREATE FUNCTION once() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
            " IF nextval('public.tries') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid());"
            " END IF; RETURN 1; END$$; CREATE SEQUENCE tries;"
            "CREATE MATERIALIZED VIEW k AS SELECT once() AS x WITH NO DATA"
        )
        (outcome,) = mvrefresh.refresh(database, ["k"], policy=QUICK)
        assert (outcome.status, outcome.attempts) == (Status.SUCCEEDED, 2)

    def test_one_that_is_always_killed_is_reported(self, database, conn, history):
        conn.execute(
            "CREATE MATERIALIZED VIEW k AS SELECT pg_terminate_backend(pg_backend_pid())"
            " WITH NO DATA"
        )
        outcome = fail(database, "k")
        assert isinstance(outcome.error, errors.ConnectionLost)
        assert history()[-1][:2] == ("k", "failed")

    def test_a_deadlock_is_retried(self, database, conn):
        conn.execute(
            "CREATE SEQUENCE tries; CREATE FUNCTION dead() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
            " IF nextval('public.tries') = 1 THEN"
            " RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END IF; RETURN 1; END$$;"
            "CREATE MATERIALIZED VIEW k AS SELECT dead() AS x WITH NO DATA"
        )
        (outcome,) = mvrefresh.refresh(database, ["k"], policy=QUICK)
        assert (outcome.status, outcome.attempts) == (Status.SUCCEEDED, 2)

    def test_a_host_whose_pool_is_exhausted_still_refreshes(self, database, dsn):
        from psycopg_pool import ConnectionPool

        with (
            ConnectionPool(dsn, min_size=1, max_size=1, timeout=0.1, open=True) as pool,
            pool.connection(),
            Database(pool=pool, timeout=0.1) as theirs,
        ):
            assert mvrefresh.refresh(theirs, ["mv"])
            with pytest.raises(errors.PoolExhausted, match="1 of 1 in use"):
                mvrefresh.PostgresMetricsStore(theirs).recent()

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_a_server_restarted_under_the_refresh(self, restartable, mode):
        with closing(psycopg.connect(restartable.dsn(), autocommit=True)) as conn:
            Schema().apply(conn)
            conn.execute(
                "CREATE TABLE boot AS SELECT pg_postmaster_start_time() AS first;"
                "CREATE FUNCTION slow() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
                " IF pg_postmaster_start_time() = (SELECT first FROM public.boot)"
                " THEN PERFORM pg_sleep(30); END IF; RETURN 1; END$$;"
                "CREATE MATERIALIZED VIEW k AS SELECT slow() AS x WITH NO DATA"
            )
        policy = RefreshPolicy(attempts=20, backoff_initial=0.05, backoff_max=0.5)
        reports = []
        with Database(restartable.dsn()) as database:
            thread = threading.Thread(
                target=lambda: reports.append(mvrefresh.refresh(database, policy=policy))
            )
            thread.start()
            with closing(psycopg.connect(restartable.dsn(), autocommit=True)) as conn:
                wait_until(
                    lambda: conn.execute(
                        "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                    ).fetchone()
                )
            restartable.restart(mode)
            thread.join()
        assert reports[0]
        with closing(psycopg.connect(restartable.dsn(), autocommit=True)) as conn:
            rows = conn.execute("SELECT status FROM mvrefresh.refresh_metrics").fetchall()
            assert rows == [("succeeded",)]
            assert conn.execute("SELECT x FROM k").fetchone() == (1,)


class TestSettingsOfTheRole:
    @pytest.fixture
    def set_for_role(self, conn):
        def set_(**settings):
            for name, value in settings.items():
                conn.execute(f"ALTER DATABASE {conn.info.dbname} SET {name} = '{value}'")

        return set_

    def test_timeouts_meant_for_short_queries_do_not_reach_a_refresh(
        self, database, conn, set_for_role
    ):
        limits = {"statement_timeout": "300ms", "idle_in_transaction_session_timeout": "300ms"}
        if conn.info.server_version >= 170000:
            limits["transaction_timeout"] = "300ms"
        set_for_role(**limits)
        conn.execute("CREATE MATERIALIZED VIEW z AS SELECT pg_sleep(0.8)::text AS x WITH NO DATA")
        assert mvrefresh.refresh(database, ["z"])

    def test_but_our_own_limit_does(self, database, conn):
        conn.execute("CREATE MATERIALIZED VIEW z AS SELECT pg_sleep(30)::text AS x WITH NO DATA")
        outcome = fail(database, "z", policy=replace(QUICK, refresh_timeout=0.2))
        assert isinstance(outcome.error, errors.RefreshTimedOut)
        assert outcome.attempts == 1

    def test_repeatable_read_and_read_only_by_default(self, database, conn, set_for_role, state):
        set_for_role(
            default_transaction_isolation="repeatable read", default_transaction_read_only="on"
        )
        conn.execute("SET default_transaction_read_only = off; INSERT INTO base VALUES (4, 'x')")
        assert mvrefresh.refresh(database, ["mv"])
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)


class TestRecords:
    def break_history(self, conn):
        conn.execute("ALTER TABLE mvrefresh.refresh_metrics ADD CHECK (view_name <> 'mv')")

    def test_a_failing_store_costs_no_refresh(self, database, conn, state):
        self.break_history(conn)
        events, heard = EventBus(), []
        with events.subscribe(heard.append):
            report = mvrefresh.refresh(database, ["mv"], events=events)
        assert report
        assert state()[0] == 1
        assert report.outcomes[0].record_id is None
        assert any(isinstance(event, RecordLost) for event in heard)

    def test_unless_a_record_is_required(self, database, conn, state):
        self.break_history(conn)
        conn.execute("INSERT INTO base VALUES (4, 'x')")
        policy = replace(QUICK, metrics_policy="required")
        (outcome,) = mvrefresh.refresh(database, ["mv"], policy=policy)
        assert isinstance(outcome.error, errors.RecordingFailed)
        assert state() is None
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (3,)

    @pytest.mark.parametrize(("policy", "refreshed"), [("best_effort", True), ("required", False)])
    def test_the_same_holds_for_a_store_of_the_hosts_own(
        self, database, conn, state, policy, refreshed
    ):
        class Broken(mvrefresh.InMemoryMetricsStore):
            def record(self, record, *, connection=None):
                raise OSError("disk of the audit server is full")

        policy = replace(QUICK, metrics_policy=policy)
        (outcome,) = mvrefresh.refresh(database, ["mv"], policy=policy, metrics=Broken())
        assert bool(outcome) is refreshed
        assert (state() is not None) is refreshed

    def test_a_required_record_in_a_store_of_the_hosts_own(self, database):
        store = mvrefresh.InMemoryMetricsStore()
        policy = RefreshPolicy(metrics_policy="required")
        (outcome,) = mvrefresh.refresh(database, ["mv"], policy=policy, metrics=store)
        (record,) = store.recent()
        assert (record.id, record.refresh_no) == (outcome.record_id, outcome.refresh_no)

    def test_callbacks_that_raise(self, database):
        events = EventBus()

        def broken(_event):
            raise RuntimeError("dashboard down")

        with events.subscribe(broken):
            assert mvrefresh.refresh(database, events=events)

    def test_a_full_notification_queue(self, restartable):
        """Every COMMIT with a NOTIFY fails then, in all databases; the refresh goes without."""
        if restartable.version < 17:
            pytest.skip("max_notify_queue_pages, which makes the queue small, is of 17")
        fill = "SELECT pg_notify('other', repeat('x', 7900) || g) FROM generate_series(1, 200) g"
        with (
            closing(psycopg.connect(restartable.dsn(), autocommit=True)) as conn,
            closing(psycopg.connect(restartable.dsn(), autocommit=True)) as sleeper,
            Database(restartable.dsn()) as database,
        ):
            Schema().apply(conn)
            conn.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS id")
            sleeper.execute("LISTEN other")
            sleeper.execute("BEGIN")  # idle in transaction: it reads no notifications
            with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                conn.execute(fill)
            (outcome,) = mvrefresh.refresh(database, ["mv"])
            assert (outcome.status, outcome.attempts) == (Status.SUCCEEDED, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk(database, conn):
    """ENOSPC from the kernel, out of the server's own write."""
    conn.execute(
        "CREATE FUNCTION spill() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
        " COPY (SELECT repeat('x', 100000)) TO '/dev/full'; RETURN 1; END$$;"
        "CREATE MATERIALIZED VIEW f AS SELECT spill() AS x WITH NO DATA"
    )
    outcome = fail(database, "f")
    assert isinstance(outcome.error, errors.OutOfSpace)
    assert "No space left on device" in str(outcome.error)


def test_a_standby(restartable):
    """A server in recovery takes no writes, not even of the failure."""
    with closing(psycopg.connect(restartable.dsn(), autocommit=True)) as conn:
        Schema().apply(conn)
        conn.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")
    restartable.stop()
    (restartable._directory / "data/standby.signal").touch()
    restartable.start()
    with Database(restartable.dsn()) as database:
        assert database.health().in_recovery is True
        outcome = fail(database)
    assert isinstance(outcome.error, errors.ServerReadOnly)
    assert (outcome.attempts, outcome.record_id) == (1, None)

"""Promise P1, watched from outside on a real server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime

import psycopg
import pytest

import mvrefresh
from mvrefresh import RefreshPolicy
from mvrefresh.postgres import locks

SLOW = "CREATE MATERIALIZED VIEW slow AS SELECT 1 AS id, pg_sleep(0) FROM base WITH NO DATA"


def wait_until(condition, seconds=10.0):
    """Poll a real server for something that it does in its own time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s")
        threading.Event().wait(0.01)
    return found


def notifications(connection, seconds=0.2):
    return [json.loads(n.payload) for n in connection.notifies(timeout=seconds, stop_after=1)]


def test_content_state_history_and_notification_come_together(database, conn, dsn, state, history):
    """The commit is held up by a deferred trigger, so that the moment before can be seen."""
    conn.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " PERFORM pg_advisory_xact_lock(1); RETURN NULL; END$$;"
        "CREATE CONSTRAINT TRIGGER hold AFTER INSERT OR UPDATE ON mvrefresh.state"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold()"
    )
    conn.execute("INSERT INTO base VALUES (4, 'new')")
    conn.execute("SELECT pg_advisory_lock(1)")
    with closing(psycopg.connect(dsn, autocommit=True)) as listener:
        listener.execute("LISTEN mvrefresh")
        reports = []
        policy = RefreshPolicy(lock_timeout=60)
        thread = threading.Thread(
            target=lambda: reports.append(mvrefresh.refresh(database, ["mv"], policy=policy))
        )
        thread.start()
        wait_until(
            lambda: conn.execute(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchone()
        )
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (3,)
        assert state() is None
        assert history() == []
        assert notifications(listener) == []

        conn.execute("SELECT pg_advisory_unlock(1)")
        thread.join()
        (outcome,) = reports[0]
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)
        assert state() == (1, outcome.content_token)
        assert history() == [("mv", "succeeded", "concurrent", None)]
        assert notifications(listener, 5) == [
            {"view": "mv", "n": 1, "t": str(outcome.content_token), "p": None, "k": None}
        ]


def test_a_refresh_that_changed_nothing_keeps_its_token(database, conn, state):
    first, second = (mvrefresh.refresh(database, ["mv"]).outcomes[0] for _ in range(2))
    assert (first.content_changed, second.content_changed) == (True, False)
    assert second.rows_inserted == second.rows_deleted == 0
    assert state() == (1, first.content_token) == (second.refresh_no, second.content_token)
    assert second.content_as_of > first.content_as_of

    conn.execute("UPDATE base SET name = 'other' WHERE id = 1")
    third = mvrefresh.refresh(database, ["mv"]).outcomes[0]
    assert (third.content_changed, third.rows_inserted, third.rows_deleted) == (True, 1, 1)
    assert third.refresh_no == 2
    assert third.content_token != first.content_token


def test_a_regular_refresh_always_counts_as_a_change(database):
    first, second = (
        mvrefresh.refresh(database, ["mv"], method="regular").outcomes[0] for _ in range(2)
    )
    assert first.content_token != second.content_token
    assert (second.refresh_no, second.rows_inserted, second.rows_deleted) == (2, 3, None)


def test_without_counters_nothing_is_proved(database, conn, dsn):
    conn.execute(
        'ALTER ROLE postgres IN DATABASE "' + conn.info.dbname + '" SET track_counts = off'
    )
    outcomes = [mvrefresh.refresh(database, ["mv"]).outcomes[0] for _ in range(2)]
    assert outcomes[1].content_changed is True
    assert outcomes[1].rows_inserted is None


def test_content_as_of_is_not_later_than_the_content(database, conn):
    before = datetime.now(UTC)
    conn.execute("CREATE MATERIALIZED VIEW clock AS SELECT clock_timestamp() AS at")
    outcome = mvrefresh.refresh(database, ["clock"]).outcomes[0]
    (at,) = conn.execute("SELECT at FROM clock").fetchone()
    assert before <= outcome.content_as_of <= at


def test_a_new_view_of_the_old_name_gets_a_new_token(database, conn, state):
    first = mvrefresh.refresh(database, ["mv"]).outcomes[0]
    conn.execute("DROP MATERIALIZED VIEW mv; CREATE MATERIALIZED VIEW mv AS SELECT 1 AS id")
    second = mvrefresh.refresh(database, ["mv"]).outcomes[0]
    assert (first.refresh_no, second.refresh_no) == (1, 1)
    assert first.content_token != second.content_token


def test_a_view_renamed_after_the_plan_is_refreshed_all_the_same(database, conn):
    plan = mvrefresh.plan(database, ["mv"])
    conn.execute('ALTER MATERIALIZED VIEW mv RENAME TO "Other"')
    conn.execute("INSERT INTO base VALUES (4, 'new')")
    assert mvrefresh.Runner(database).run(plan)
    assert conn.execute('SELECT count(*) FROM "Other"').fetchone() == (4,)


def test_a_second_refresh_waits_for_the_first_and_sees_what_it_left(database, conn, state):
    mvrefresh.refresh(database, ["mv"])
    oid = conn.execute("SELECT 'mv'::regclass::oid").fetchone()[0]
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s, %s)", locks.key(oid))
        reports = []
        thread = threading.Thread(
            target=lambda: reports.append(mvrefresh.refresh(database, ["mv"], method="regular"))
        )
        thread.start()
        wait_until(
            lambda: conn.execute(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchone()
        )
        conn.execute("UPDATE mvrefresh.state SET refresh_no = 41")
    thread.join()
    assert reports[0].outcomes[0].refresh_no == 42


def test_a_commit_whose_answer_was_lost_is_found_and_not_done_twice(database, conn, history):
    """The state row names the run that made it."""
    runner, plan = mvrefresh.Runner(database), mvrefresh.plan(database, ["mv"])
    report = runner.run(plan)
    from mvrefresh.refreshing import strategies, transaction

    order = transaction.Commission(
        view=plan.steps[0].view,
        strategy=strategies.STRATEGIES["concurrent"],
        reason="again",
        run_id=report.run_id,
        trigger="manual",
        host="here",
        again=True,
        schema=database.schema,
        history="best_effort",
    )
    with database.dedicated() as connection:
        again = transaction.refresh_in_transaction(connection, order, RefreshPolicy())
    assert again.content_token == report.outcomes[0].content_token
    assert len(history()) == 1


@pytest.mark.parametrize("method", ["concurrent", "regular"])
def test_kill_9_in_mid_refresh_leaves_no_lock_and_no_half_state(
    database, conn, dsn, state, history, method
):
    mvrefresh.refresh(database, ["mv"])
    before = state()
    conn.execute(
        "CREATE FUNCTION slowly(x text) RETURNS text LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_sleep(20); RETURN x; END$$;"
        "DROP MATERIALIZED VIEW mv; CREATE MATERIALIZED VIEW mv AS"
        " SELECT id, CASE WHEN id > 3 THEN slowly(name) ELSE name END AS name FROM base;"
        "CREATE UNIQUE INDEX ON mv (id); INSERT INTO base VALUES (4, 'slow')"
    )
    script = (
        "import sys, mvrefresh; mvrefresh.refresh(mvrefresh.Database(sys.argv[1]), ['mv'],"
        " method=sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, dsn, method])
    locks_held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    running = (
        "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'"
        " AND datname = current_database()"
    )
    wait_until(lambda: conn.execute(running).fetchone())
    assert conn.execute(locks_held).fetchone() == (1,)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: conn.execute(locks_held).fetchone() == (0,), seconds=2.0)
    assert conn.execute("SELECT count(*) FROM mv").fetchone() == (3,)
    assert len(history()) == 1
    assert before is not None
    assert state() is None  # of the new view nothing was written

    conn.execute("DELETE FROM base WHERE id = 4")
    assert mvrefresh.refresh(database, ["mv"], method=method)
    assert len(history()) == 2

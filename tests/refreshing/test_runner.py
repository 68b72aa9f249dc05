"""Many steps: their order, at the same time, and their end before time."""

from __future__ import annotations

import threading

import pytest
from tests.refreshing.test_transaction import wait_until

import mvrefresh
from mvrefresh import EventBus, RefreshPolicy, Runner, Status, errors
from mvrefresh.events import RefreshFinished, RefreshStarted, RunFinished, RunStarted

ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


@pytest.fixture
def meeting(conn):
    """Two views, each of which can only be refreshed while the other is, too.

    They count themselves in a sequence, which everybody sees at once.
    """
    conn.execute(
        "CREATE SEQUENCE came; CREATE FUNCTION meet() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
        " PERFORM nextval('public.came');"
        " FOR i IN 1..1000 LOOP"
        "   IF (SELECT last_value FROM public.came) >= 2 THEN RETURN 1; END IF;"
        "   PERFORM pg_sleep(0.01);"
        " END LOOP; RAISE EXCEPTION 'nobody came'; END$$;"
        "CREATE MATERIALIZED VIEW left_ AS SELECT meet() AS x WITH NO DATA;"
        "CREATE MATERIALIZED VIEW right_ AS SELECT meet() AS x WITH NO DATA"
    )


def test_independent_views_are_refreshed_at_the_same_time(database, meeting):
    assert mvrefresh.refresh(database, ["left_", "right_"], policy=RefreshPolicy(jobs=2))


def test_dependent_views_wait_for_what_they_read(database, conn):
    """Through plain views, over several levels, on several connections."""
    conn.execute(
        "CREATE MATERIALIZED VIEW z1 AS SELECT count(*) AS n, pg_sleep(0.05)::text FROM base;"
        "CREATE VIEW between AS SELECT n FROM z1; CREATE VIEW between2 AS SELECT n FROM between;"
        "CREATE MATERIALIZED VIEW y2 AS SELECT n + 1 AS n FROM between2;"
        "CREATE MATERIALIZED VIEW x3 AS SELECT y2.n + mv.id AS n FROM y2, mv WHERE mv.id = 1;"
        "INSERT INTO base VALUES (4, 'x')"
    )
    report = mvrefresh.refresh(database, policy=RefreshPolicy(jobs=4))
    assert [o.view for o in report] == ["mv", "z1", "y2", "x3"]
    assert conn.execute("SELECT n FROM x3").fetchone() == (6,)


def test_cascade_takes_the_readers_along(database, conn):
    conn.execute(
        "CREATE MATERIALIZED VIEW reader AS SELECT count(*) AS n FROM mv;"
        "CREATE MATERIALIZED VIEW stranger AS SELECT 1 AS n; INSERT INTO base VALUES (4, 'x')"
    )
    assert list(mvrefresh.refresh(database, ["mv"]).results) == ["mv"]
    assert conn.execute("SELECT n FROM reader").fetchone() == (3,)
    assert list(mvrefresh.refresh(database, ["mv"], cascade=True).results) == ["mv", "reader"]
    assert conn.execute("SELECT n FROM reader").fetchone() == (4,)


def test_events_tell_the_whole_story_in_order(database, conn):
    conn.execute("CREATE MATERIALIZED VIEW reader AS SELECT count(*) AS n FROM mv")
    events, heard = EventBus(), []
    with events.subscribe(heard.append):
        report = mvrefresh.refresh(database, events=events)
    mvrefresh.refresh(database, events=events)
    started, *middle, finished = heard
    assert isinstance(started, RunStarted)
    assert isinstance(finished, RunFinished)
    assert finished.report == report
    assert [(type(e), getattr(e, "view", None) or e.outcome.view) for e in middle] == [
        (RefreshStarted, "mv"),
        (RefreshFinished, "mv"),
        (RefreshStarted, "reader"),
        (RefreshFinished, "reader"),
    ]
    assert {e.run_id for e in heard} == {report.run_id}


@pytest.mark.parametrize("jobs", [1, 3])
def test_cancel_reaches_the_server_and_spares_what_is_done(database, conn, history, jobs):
    conn.execute(
        "CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(60)::text AS x FROM mv WITH NO DATA;"
        "CREATE MATERIALIZED VIEW slow2 AS SELECT pg_sleep(60)::text AS x FROM mv WITH NO DATA;"
        "CREATE MATERIALIZED VIEW zlast AS SELECT 1 AS x FROM slow WITH NO DATA"
    )
    runner = Runner(database, policy=RefreshPolicy(jobs=jobs))
    plan = mvrefresh.plan(database)
    reports = []
    thread = threading.Thread(target=lambda: reports.append(runner.run(plan)))
    thread.start()
    busy = min(jobs, 2)
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (busy,))
    assert runner.cancel(timeout=10)
    thread.join()
    (report,) = reports
    statuses = {o.view: o.status for o in report}
    assert statuses == {
        "mv": Status.SUCCEEDED,
        "slow": Status.CANCELLED,
        "slow2": Status.CANCELLED,
        "zlast": Status.CANCELLED,
    }
    assert isinstance(report["slow"].error, errors.RefreshCancelled)
    assert conn.execute(ASLEEP).fetchone() == (0,)
    assert {row[:2] for row in history()} == {(v, s.value) for v, s in statuses.items()}


def test_cancel_with_nothing_to_cancel(database):
    assert Runner(database).cancel(timeout=1)


def test_one_connection_does_not_mix_two_runs(database):
    """Several runs at a time on one Database, from several threads."""
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(mvrefresh.refresh(database, ["mv"])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 8
    assert all(reports)
    assert {r.outcomes[0].refresh_no for r in reports} == {1}


def test_the_classic_names(database, conn):
    outcome = mvrefresh.refresh_materialized_view(database, "mv")
    assert outcome
    assert outcome.view == "mv"
    assert mvrefresh.refresh_all_materialized_views(database).results == {"mv": True}


def test_an_empty_database_is_an_empty_report(database, conn):
    conn.execute("DROP MATERIALIZED VIEW mv")
    report = mvrefresh.refresh(database)
    assert (report.outcomes, report.results, bool(report)) == ((), {}, True)


def test_analyze_and_prewarm_follow_the_commit(database, conn):
    conn.execute("CREATE EXTENSION pg_prewarm")
    policy = RefreshPolicy(analyze=True, prewarm=True)
    assert mvrefresh.refresh(database, ["mv"], policy=policy)
    (rows,) = conn.execute("SELECT reltuples FROM pg_class WHERE relname = 'mv'").fetchone()
    assert rows == 3


def test_what_follows_the_commit_and_fails_costs_a_warning_only(database, caplog):
    policy = RefreshPolicy(prewarm=True)  # without the extension
    assert mvrefresh.refresh(database, ["mv"], policy=policy)
    assert "prewarm failed" in caplog.text

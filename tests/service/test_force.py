"""force(): on return the views hold every commit from before the call, and a crowd shares."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from tests.refreshing.test_runner import ASLEEP
from tests.refreshing.test_transaction import wait_until

import mvrefresh
from mvrefresh import Every, Status, errors
from mvrefresh.events import RefreshFinished, RefreshStarted


@pytest.fixture
def running(service_of, heard):
    """A service for `mv`, whose first slot is served, and which has none for a day."""
    service = service_of(["mv"])
    service.start()
    heard.wait(RefreshFinished)
    return service


def triggers(conn) -> list:
    return conn.execute(
        "SELECT view_name, trigger, status FROM mvrefresh.refresh_metrics ORDER BY id"
    ).fetchall()


def test_it_refreshes_and_records_who_asked(running, conn):
    conn.execute("INSERT INTO base VALUES (4, 'new')")
    report = running.force()
    assert report.results == {"mv": True}
    assert not report["mv"].shared
    assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)
    assert triggers(conn) == [("mv", "schedule", "succeeded"), ("mv", "force", "succeeded")]


def test_it_leaves_the_schedule_alone(running, conn):
    slot = conn.execute("SELECT slot, last_started_at FROM mvrefresh.schedule").fetchone()
    before = running.status()
    running.force()
    after = running.status()
    assert conn.execute("SELECT slot, last_started_at FROM mvrefresh.schedule").fetchone() == slot
    assert (before["next_run"], before["last_run"]) == (after["next_run"], after["last_run"])


def test_a_future_instead(running, conn):
    conn.execute("INSERT INTO base VALUES (4, 'new')")
    future = running.force(wait=False)
    assert future.result(10).results == {"mv": True}
    assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)


def test_a_failed_view_is_in_the_report(running, conn):
    conn.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / (id - id) AS x FROM base WITH NO DATA")
    report = running.force(["mv", "bad"])
    assert report.results == {"mv": True, "bad": False}
    assert isinstance(report["bad"].error, errors.DefinitionFailed)
    assert running.stop().failed_refreshes == 1


def test_views_that_it_reads_are_brought_up_first(running, conn):
    """A view over a view can hold no more than that one does."""
    conn.execute("CREATE MATERIALIZED VIEW top AS SELECT count(*) AS n FROM mv")
    conn.execute("INSERT INTO base VALUES (4, 'new')")
    report = running.force(["top"])
    assert list(report.results) == ["mv", "top"]
    assert conn.execute("SELECT n FROM top").fetchone() == (4,)


def test_cascade_takes_the_readers_along(running, conn):
    conn.execute("CREATE MATERIALIZED VIEW top AS SELECT count(*) AS n FROM mv")
    conn.execute("INSERT INTO base VALUES (4, 'new')")
    assert list(running.force(["mv"]).results) == ["mv"]
    assert list(running.force(["mv"], cascade=True).results) == ["mv", "top"]
    assert conn.execute("SELECT n FROM top").fetchone() == (4,)


def test_all_are_the_services_views_also_new_ones(service_of, conn):
    service = service_of()
    service.start()
    assert service.force().results == {"mv": True}
    conn.execute("CREATE MATERIALIZED VIEW another AS SELECT 1 AS x")
    assert set(service.force().results) == {"mv", "another"}


def test_a_view_of_the_service_that_is_gone_has_failed(service_of, conn):
    conn.execute("CREATE MATERIALIZED VIEW gone AS SELECT 1 AS x")
    with service_of(["mv", "gone"]) as service:
        conn.execute("DROP MATERIALIZED VIEW gone")
        report = service.force()
        assert report.results == {"mv": True, "gone": False}
        assert report.failed_views == ["gone"]
        with pytest.raises(errors.UnknownView, match="gone"):
            report.raise_for_failures()
        assert service.force(["mv"]).results == {"mv": True}


def test_errors_are_typed(running, service_of):
    with pytest.raises(errors.UnknownView, match="nobody"):
        running.force(["nobody"])
    with pytest.raises(errors.NotAMaterializedView):
        running.force(["base"], wait=False).result(10)
    with pytest.raises(errors.ConfigurationError, match="one name"):
        running.force("mv")
    running.stop()
    with pytest.raises(errors.NotRunning, match="start"):
        running.force()
    with pytest.raises(errors.NotRunning):
        service_of().force(wait=False)


def test_a_timeout_leaves_the_refresh_alone(service_of, slow, conn):
    service = service_of(["slow"])
    service.start()
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
    with pytest.raises(errors.RefreshTimeout, match=r"0\.05 s"):
        service.force(timeout=0.05)
    assert conn.execute(ASLEEP).fetchone() == (1,)


def test_in_a_callback_it_does_not_wait_for_itself(running, heard):
    caught, futures = [], []

    def force(event):
        if isinstance(event, RefreshStarted) and not futures:
            futures.append(running.force(wait=False))
            try:
                running.force()
            except errors.ConfigurationError as error:
                caught.append(error)

    with running.subscribe(force):
        running.force()
    assert len(caught) == 1
    assert futures[0].result(10)


class TestSharing:
    def test_callers_that_come_while_one_runs_share_the_next(self, running, conn, slow):
        """The first is held up by a lock on the base table; twenty gather meanwhile."""
        with ThreadPoolExecutor(21) as pool:
            with conn.transaction():
                conn.execute("LOCK base IN ACCESS EXCLUSIVE MODE")
                first = pool.submit(running.force)
                wait_until(
                    lambda: conn.execute(
                        "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'base'::regclass"
                    ).fetchone()
                )
                others = [running.force(wait=False) for _ in range(20)]
                assert not any(future.done() for future in others)
            reports = [future.result(10) for future in others]
        assert first.result()
        assert len({id(report) for report in reports}) == 1
        assert [t for _, t, _ in triggers(conn)] == ["schedule", "force", "force"]

    def test_a_refresh_of_another_process_is_shared_if_it_holds_the_commit(
        self, running, database, conn, heard
    ):
        """Both wait for the lock of a third; who gets it second finds the work done."""
        conn.execute("CREATE MATERIALIZED VIEW gate AS SELECT 1 AS x")
        oid = conn.execute("SELECT 'mv'::regclass::oid::int").fetchone()[0]
        conn.execute("INSERT INTO base VALUES (4, 'new')")
        conn.execute("SELECT pg_advisory_lock(%s, %s)", (mvrefresh.postgres.locks.SPACE, oid))
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with ThreadPoolExecutor(2) as pool:
            other = pool.submit(mvrefresh.refresh, database, ["mv"])
            wait_until(lambda: conn.execute(waiting).fetchone() == (1,))
            forced = pool.submit(running.force)
            wait_until(lambda: conn.execute(waiting).fetchone() == (2,))
            conn.execute("SELECT pg_advisory_unlock_all()")
            outcome = forced.result()["mv"]
        assert other.result()
        assert outcome.shared
        assert outcome.status is Status.SUCCEEDED
        assert outcome.content_token == other.result()["mv"].content_token
        assert triggers(conn) == [("mv", "schedule", "succeeded"), ("mv", "manual", "succeeded")]
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)
        # It was no refresh of ours, and nobody was told that one began.
        assert running.status()["success_count"] == 1
        assert len(heard.of(RefreshStarted)) == 1

    def test_a_refresh_that_began_before_the_commit_is_not_shared(self, running, database, conn):
        conn.execute("CREATE TABLE gate (x int)")
        conn.execute(
            "CREATE FUNCTION hold() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
            " PERFORM pg_advisory_xact_lock(7); RETURN 1; END$$;"
            "DROP MATERIALIZED VIEW mv;"
            "CREATE MATERIALIZED VIEW mv AS SELECT id, name FROM base, hold()"
        )
        conn.execute("SELECT pg_advisory_lock(7)")
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with ThreadPoolExecutor(2) as pool:
            other = pool.submit(mvrefresh.refresh, database, ["mv"])
            wait_until(lambda: conn.execute(held).fetchone() == (1,))
            conn.execute("INSERT INTO base VALUES (4, 'too late for it')")
            forced = pool.submit(running.force)
            wait_until(lambda: conn.execute(held).fetchone() == (2,))
            conn.execute("SELECT pg_advisory_unlock_all()")
            assert not forced.result()["mv"].shared
        assert other.result()
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)

    def test_a_transaction_in_progress_at_the_other_refresh_is_not_held(
        self, running, database, conn, dsn
    ):
        """Its number is below the newest that the content holds, and yet it is not in it."""
        conn.execute(
            "CREATE FUNCTION hold() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
            " PERFORM pg_advisory_xact_lock(7); RETURN 1; END$$;"
            "DROP MATERIALIZED VIEW mv;"
            "CREATE MATERIALIZED VIEW mv AS SELECT id, name FROM base, hold()"
        )
        conn.execute("SELECT pg_advisory_lock(7)")
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with ThreadPoolExecutor(2) as pool, closing(psycopg.connect(dsn)) as early:
            early.execute("INSERT INTO base VALUES (4, 'early, but late')")
            conn.execute("INSERT INTO base VALUES (5, 'later')")  # a higher number commits first
            other = pool.submit(mvrefresh.refresh, database, ["mv"])
            wait_until(lambda: conn.execute(held).fetchone() == (1,))
            early.commit()
            forced = pool.submit(running.force)
            wait_until(lambda: conn.execute(held).fetchone() == (2,))
            conn.execute("SELECT pg_advisory_unlock_all()")
            assert not forced.result()["mv"].shared
        assert other.result()
        assert conn.execute("SELECT count(*) FROM mv").fetchone() == (5,)

    def test_content_that_somebody_else_put_there_is_not_shared(self, running, conn):
        running.force()
        conn.execute("REFRESH MATERIALIZED VIEW mv")
        # Even with a snapshot that holds everything: the row speaks of content that is gone.
        conn.execute(
            "UPDATE mvrefresh.state SET content_snapshot = (SELECT concat(x, ':', x, ':')"
            " FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1 AS x) o"
            ")::pg_snapshot"
        )
        assert not running.force()["mv"].shared

    def test_a_snapshot_from_the_future_is_of_another_cluster(self, running, conn):
        conn.execute(
            "CREATE FUNCTION lie() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
            " NEW.content_snapshot := '999999999:999999999:'; RETURN NEW; END$$;"
            "CREATE TRIGGER lie BEFORE UPDATE ON mvrefresh.state"
            " FOR EACH ROW EXECUTE FUNCTION lie()"
        )
        running.force()
        assert not running.force()["mv"].shared


def test_stop_refuses_those_whose_refresh_has_not_begun(service_of, slow, conn):
    service = service_of(["slow"])
    service.start()
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
    first = service.force(wait=False)
    wait_until(
        lambda: conn.execute(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        ).fetchone()
    )
    second = service.force(wait=False)
    service.stop(timeout=0.1)
    assert first.result(1)["slow"].status is Status.CANCELLED
    with pytest.raises(errors.NotRunning, match="before it could begin"):
        second.result(1)


def test_a_crowd_of_unknown_names_takes_no_crowd_of_connections(running, conn):
    gate, caught = threading.Barrier(32), []

    def ask():
        gate.wait()
        try:
            running.force(["nobody"])
        except errors.UnknownView as error:
            caught.append(error)

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caught) == 32


def test_a_scheduled_refresh_is_shared_too(service_of, heard, conn):
    service = service_of(["mv"], schedule=Every(seconds=0.2))
    service.start()
    heard.wait(RefreshFinished, 2)
    for number in range(10, 20):
        conn.execute("INSERT INTO base VALUES (%s, 'x')", (number,))
        service.force()
        assert conn.execute("SELECT 1 FROM mv WHERE id = %s", (number,)).fetchone()

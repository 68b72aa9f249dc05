"""Start and stop, in every order and from everywhere: no thread left, no backend left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import psycopg
import pytest
from tests.refreshing.test_runner import ASLEEP
from tests.refreshing.test_transaction import wait_until

from mvrefresh import (
    Cron,
    Database,
    Every,
    FinalMetrics,
    RefreshPolicy,
    RefreshService,
    Status,
    errors,
)
from mvrefresh.events import (
    HealthChanged,
    RefreshFinished,
    RefreshStarted,
    ServiceStarted,
    ServiceStopped,
)


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("mvrefresh-")]


def nothing_left(backends) -> None:
    assert our_threads() == []
    wait_until(lambda: not backends(), 2)


def test_start_is_idempotent_and_starts_one_thread(service_of, heard):
    service = service_of(["mv"])
    assert service.start() is True
    assert service.start() is False
    heard.wait(RefreshFinished)
    assert our_threads().count("mvrefresh-service") == 1
    assert len(heard.of(ServiceStarted)) == 1


def test_many_threads_that_start_at_once_start_one(service_of):
    service = service_of(["mv"])
    gate, answers = threading.Barrier(16), []

    def start():
        gate.wait()
        answers.append(service.start())

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(True) == 1
    assert our_threads().count("mvrefresh-service") == 1


def test_stop_before_start_and_twice_gives_figures(service_of, heard, backends):
    service = service_of(["mv"])
    assert service.stop() == FinalMetrics()
    service.start()
    heard.wait(RefreshFinished)
    final = service.stop()
    assert (final.total_refreshes, final.successful_refreshes, final.failed_refreshes) == (1, 1, 0)
    assert final.average_duration_ms > 0
    assert final.uptime_seconds > 0
    assert service.stop() == final
    nothing_left(backends)
    assert heard.of(ServiceStopped)[0].metrics.total_refreshes == 1


def test_stop_waits_for_the_refresh_in_progress(service_of, heard, slow, conn, backends):
    service = service_of(["slow"])
    service.start()
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
    stopper = threading.Thread(target=service.stop)
    stopper.start()
    wait_until(lambda: service.status()["state"] == "stopping")
    assert stopper.is_alive()
    assert not service.running
    # Every session of the server sees the new pace only in its next sleep: end this one by hand.
    conn.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    stopper.join(10)
    assert not stopper.is_alive()
    nothing_left(backends)


def test_stop_cancels_in_the_server_after_its_timeout(service_of, slow, conn, backends, history):
    service = service_of(["slow"])
    service.start()
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
    began = time.monotonic()
    final = service.stop(timeout=0.1)
    assert time.monotonic() - began < 10
    assert conn.execute(ASLEEP).fetchone() == (0,)
    assert (final.total_refreshes, final.failed_refreshes) == (1, 1)
    assert history()[0][:2] == ("slow", "cancelled")
    nothing_left(backends)
    # It is no failure of the view, and its slot was not served: whoever comes next tries it.
    assert conn.execute("SELECT failures, slot < now() FROM mvrefresh.schedule").fetchone() == (
        0,
        True,
    )


def test_two_stops_at_once_get_the_same_figures(service_of, slow, conn, backends):
    service = service_of(["slow"])
    service.start()
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
    finals = []
    threads = [
        threading.Thread(target=lambda t=timeout: finals.append(service.stop(timeout=t)))
        for timeout in (None, 60, 0.1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(finals) == 3
    assert len(set(finals)) == 1
    nothing_left(backends)


@pytest.mark.parametrize("kind", [RefreshStarted, RefreshFinished, ServiceStarted])
def test_stop_from_a_callback_asks_and_returns(service_of, heard, backends, kind):
    service, answers = service_of(["mv"]), []

    def stop(event):
        if isinstance(event, kind):
            answers.append(service.stop())

    with service.subscribe(stop):
        service.start()
        heard.wait(ServiceStopped)
    assert isinstance(answers[0], FinalMetrics)
    service.stop()
    nothing_left(backends)


def test_stop_from_a_callback_of_a_future(service_of, backends):
    service, done = service_of(["mv"]), threading.Event()
    service.start()

    def stop(_future):
        service.stop()
        done.set()

    service.force(wait=False).add_done_callback(stop)
    assert done.wait(10)
    service.stop()
    nothing_left(backends)


def test_start_again_after_stop_counts_anew(service_of, heard):
    service = service_of(["mv"])
    service.start()
    heard.wait(RefreshFinished)
    service.stop()
    assert service.start() is True
    assert service.status()["success_count"] == 0
    service.force()
    assert service.stop().total_refreshes == 1


def test_start_while_it_stops_waits_and_starts(service_of, slow, conn):
    service = service_of(["slow"])
    service.start()
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))
    stopper = threading.Thread(target=service.stop, kwargs={"timeout": 0.2})
    stopper.start()
    wait_until(lambda: service.status()["state"] == "stopping")
    slow(0)
    assert service.start() is True
    stopper.join()
    assert service.running


def test_start_in_a_callback_while_it_stops_is_refused(service_of, heard, slow, conn):
    service, errors_ = service_of(["slow"]), []
    service.start()
    wait_until(lambda: conn.execute(ASLEEP).fetchone() == (1,))

    def start(event):
        if isinstance(event, RefreshFinished):
            try:
                service.start()
            except errors.NotRunning as error:
                errors_.append(error)

    with service.subscribe(start):
        service.stop(timeout=0.1)
    assert len(errors_) == 1


def test_it_is_a_context_manager(service_of, heard, backends):
    with service_of(["mv"]) as service:
        assert service.running
        heard.wait(RefreshFinished)
    assert not service.running
    nothing_left(backends)


def test_several_services_in_one_process(service_of, conn, heard):
    conn.execute("CREATE MATERIALIZED VIEW other AS SELECT 1 AS x")
    with service_of(["mv"]) as one, service_of(["other"]) as two, service_of(["mv"]):
        heard.wait(RefreshFinished, 2)
        assert {e.outcome.view for e in heard.of(RefreshFinished)} == {"mv", "other"}
        assert one.force(["other"])
        one.stop()
        assert two.force()


class TestStartSaysWhatWouldNeverWork:
    def test_an_unknown_view(self, service_of):
        service = service_of(["nobody"])
        with pytest.raises(errors.UnknownView, match="nobody"):
            service.start()
        assert not service.running
        assert our_threads() == []

    def test_a_table(self, service_of):
        with pytest.raises(errors.NotAMaterializedView, match="is a table"):
            service_of(["base"]).start()

    def test_without_the_schema(self, new_dsn):
        with Database(new_dsn()) as database, pytest.raises(errors.SchemaMissing, match="--apply"):
            RefreshService(database).start()

    def test_an_older_schema(self, database, conn, service_of):
        conn.execute("DELETE FROM mvrefresh.version WHERE version >= 4")
        with pytest.raises(errors.SchemaOutdated):
            service_of().start()

    @pytest.mark.parametrize(
        "settings",
        [
            {"views": "mv"},
            {"schedule": 300},
            {"schedule": {"mv": 300}},
            {"schedule": {"mv": Every()}, "views": ["other"]},
            {"suspend_after": 0},
            {"health_interval": 0},
        ],
    )
    def test_parameters_that_cannot_be_meant(self, database, settings):
        with pytest.raises(errors.ConfigurationError):
            RefreshService(database, **settings)


def test_a_schedule_a_view(service_of, conn, heard):
    service = service_of(schedule={"mv": Every(seconds=500), "other": Cron("0 3 * * *")})
    conn.execute("CREATE MATERIALIZED VIEW other AS SELECT 1 AS x")
    conn.execute("CREATE MATERIALIZED VIEW stranger AS SELECT 1 AS x")
    service.start()
    heard.wait(RefreshFinished)
    views = {view["view"]: view for view in service.status()["views"]}
    assert views["mv"]["schedule"] == "every 500 s"
    assert views["other"]["schedule"] == "cron 0 3 * * * UTC"
    assert set(views) == {"mv", "other"}
    assert views["other"]["last_run"] is None  # a cron slot before the first start was not missed
    assert views["mv"]["next_run"] == pytest.approx(views["mv"]["last_run"] + 500, abs=1)
    assert service.status()["interval_seconds"] is None


class TestFork:
    """In a process of its own: what pytest and its threads hold must not be forked."""

    def run(self, dsn: str, code: str) -> str:
        script = (
            "import os, sys, threading, traceback\n"
            "from mvrefresh import *\n"
            "from mvrefresh import errors\n"
            "from mvrefresh.events import RefreshFinished\n"
            "database = Database(sys.argv[1])\n"
            "service = RefreshService(database, ['mv'], Every(seconds=3600))\n"
            "def child(work):\n"
            "    pid = os.fork()\n"
            "    if not pid:\n"
            "        code = 1\n"
            "        try:\n"
            "            work(); code = 0\n"
            "        except BaseException:\n"
            "            traceback.print_exc()\n"
            "        finally:\n"
            "            sys.stdout.flush(); sys.stderr.flush(); os._exit(code)\n"
            "    assert os.waitpid(pid, 0)[1] == 0\n" + code
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, dsn],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_the_child_begins_stopped_and_can_start(self, database, dsn, backends):
        self.run(
            dsn,
            "service.start(); service.force()\n"
            "import psycopg\n"  # the first slot is due at once: it is the parent's to serve
            "with psycopg.connect(sys.argv[1], autocommit=True) as c:\n"
            "    slot = 'SELECT 1 FROM mvrefresh.schedule WHERE last_started_at IS NOT NULL'\n"
            "    while c.execute(slot).fetchone() is None: pass\n"
            "def work():\n"
            "    assert not service.running\n"
            "    assert service.status()['state'] == 'stopped'\n"
            "    assert service.stop() == FinalMetrics()\n"
            "    try: service.force()\n"
            "    except errors.NotRunning: pass\n"
            "    else: raise AssertionError\n"
            "    assert service.start()\n"
            "    assert service.force()\n"
            "    assert service.stop().total_refreshes == 1\n"
            "    assert [t.name for t in threading.enumerate()] == ['MainThread']\n"
            "child(work)\n"
            "assert service.running and service.force()\n"  # the parent's connections are whole
            "assert service.stop().failed_refreshes == 0\n",
        )
        wait_until(lambda: not backends(), 2)

    def test_a_host_that_forgot_to_stop_ends_all_the_same(self, database, dsn, slow, backends):
        began = time.monotonic()
        self.run(
            dsn,
            "service = RefreshService(database, ['slow'], Every(seconds=3600))\n"
            "begun = threading.Event()\n"
            "hear = service.subscribe(lambda event: begun.set()); hear.__enter__()\n"
            "service.start()\n"
            "future = service.force(['slow'], wait=False)\n"
            "begun.wait(20)\n",
        )
        assert time.monotonic() - began < 30  # the refresh takes 60
        wait_until(lambda: not backends(), 5)


class TestWithoutADatabase:
    def test_it_starts_and_goes_on_asking(self, restartable, heard):
        dsn = restartable.dsn()
        with psycopg.connect(dsn, autocommit=True) as connection:
            from mvrefresh import Schema

            Schema().apply(connection)
            connection.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")
        restartable.stop()
        with Database(dsn) as database:
            service = RefreshService(database, ["mv"], Every(seconds=3600))
            with service.subscribe(heard), service:
                heard.wait(HealthChanged, after="unhealthy")
                status = service.status()
                assert status["state"] == "degraded"
                assert status["fleet"] is None
                assert status["error"]
                assert service.health().status == "unhealthy"
                with pytest.raises(errors.DatabaseUnavailable):
                    service.force()
                restartable.start()
                (finished,) = heard.wait(RefreshFinished)
                assert finished.outcome
                heard.wait(HealthChanged, after="healthy")
                assert service.health().status == "healthy"
        assert our_threads() == []

    def test_a_server_that_hangs_does_not_hold_up_a_stop(self, restartable, heard, monkeypatch):
        import signal

        from mvrefresh.service import loop

        monkeypatch.setattr(loop, "_PATIENCE", 0.5)
        dsn = restartable.dsn()
        with psycopg.connect(dsn, autocommit=True) as connection:
            from mvrefresh import Schema

            Schema().apply(connection)
            connection.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")
        with Database(dsn) as database:
            service = RefreshService(database, ["mv"], Every(seconds=0.2))
            with service.subscribe(heard):
                service.start()
                heard.wait(RefreshFinished)
                with psycopg.connect(dsn, autocommit=True) as connection:
                    pids = connection.execute(
                        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mvrefresh%'"
                    ).fetchall()
                for (pid,) in pids:
                    os.kill(pid, signal.SIGSTOP)
                try:
                    session = service._session
                    wait_until(
                        lambda: (
                            time.monotonic() - (session._looking_since or time.monotonic()) > 0.3
                        )
                    )
                    began = time.monotonic()
                    service.stop(timeout=0.2)
                    assert time.monotonic() - began < 20
                    assert our_threads() == []
                finally:
                    for (pid,) in pids:
                        os.kill(pid, signal.SIGCONT)


def test_local_coordination_needs_no_schema(new_dsn, heard):
    dsn = new_dsn()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")
    policy = RefreshPolicy(coordination="local")
    with Database(dsn) as database:
        service = RefreshService(database, schedule=Every(seconds=0.2), policy=policy)
        with service.subscribe(heard), service:
            heard.wait(RefreshFinished, 3)
            assert service.status()["coordination"] == "local"
            assert service.force()["mv"].status is Status.SUCCEEDED
            assert service.metrics.summary().success_count >= 4
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('mvrefresh')").fetchone() == (None,)

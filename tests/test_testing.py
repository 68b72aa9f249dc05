"""The fake service does what the real one does, and what a test wants besides."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest

import mvrefresh.testing
from mvrefresh import Cron, Database, Every, RefreshPolicy, RefreshService, Schema
from mvrefresh.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    DefinitionFailed,
    LockNotAvailable,
    NotRunning,
    UnknownView,
)
from mvrefresh.events import HealthChanged, RefreshFinished, ServiceStopped, ViewSuspended
from mvrefresh.testing import FakeRefreshService, RefreshServiceContract

SELDOM = Cron("0 0 29 2 *")  # nothing is due by itself


class RealWorld:
    """Three views in a database; faults and locks are PostgreSQL's own."""

    def __init__(self, database: Database, dsn: str) -> None:
        self._dsn = dsn
        self._finished = threading.Condition()
        self._outcomes: list[str] = []
        self.service = RefreshService(
            database,
            ["orders", "totals", "visits"],
            SELDOM,
            policy=RefreshPolicy(lock_timeout=60.0, attempts=1),
            suspend_after=2,
            health_interval=0.05,
        )

    def execute(self, statement: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement)

    def fail(self, view: str) -> None:
        self.execute(f"UPDATE {view}_base SET divisor = 0")

    def mend(self, view: str) -> None:
        self.execute(f"UPDATE {view}_base SET divisor = 1")

    @contextmanager
    def hold(self):
        with psycopg.connect(self._dsn) as connection:
            connection.execute("LOCK TABLE orders_base, visits_base IN ACCESS EXCLUSIVE MODE")
            yield

    def run_scheduled(self, view: str, *, served: bool = True) -> None:
        done = threading.Event()

        def callback(event: object) -> None:
            if isinstance(event, RefreshFinished) and event.outcome.view == view:
                done.set()

        deadline = time.monotonic() + 10
        while not self.service.status()["views"]:  # they are registered at the first look
            assert time.monotonic() < deadline
        with self.service.subscribe(callback):
            self.execute(
                "UPDATE mvrefresh.schedule SET slot = clock_timestamp()"
                f" WHERE view = '{view}'::regclass"
            )
            assert done.wait(10 if served else 0.3) is served
        time.sleep(0.2)  # a few looks: what follows from it is known


class FakeWorld:
    def __init__(self) -> None:
        self.service = FakeRefreshService(
            ["orders", "totals", "visits"], SELDOM, reads={"totals": ["orders"]}, suspend_after=2
        )
        self.fail = self.service.fail
        self.mend = self.service.mend
        self.hold = self.service.hold

    def run_scheduled(self, view: str, *, served: bool = True) -> None:
        assert bool(self.service.run_scheduled([view])) is served


class TestRealService(RefreshServiceContract):
    @pytest.fixture
    def world(self, dsn, conn):
        Schema().apply(conn)
        conn.execute(
            "CREATE TABLE orders_base AS SELECT 1 AS id, 1 AS divisor;"
            "CREATE TABLE visits_base AS SELECT 1 AS id, 1 AS divisor;"
            "CREATE MATERIALIZED VIEW orders AS SELECT id, id / divisor AS n FROM orders_base;"
            "CREATE MATERIALIZED VIEW totals AS SELECT sum(n) AS n FROM orders;"
            "CREATE MATERIALIZED VIEW visits AS SELECT id, id / divisor AS n FROM visits_base"
        )
        with Database(dsn) as database:
            yield RealWorld(database, dsn)


class TestFakeService(RefreshServiceContract):
    @pytest.fixture
    def world(self):
        return FakeWorld()


@pytest.fixture
def fake():
    with FakeRefreshService(["sales", "app.totals"], reads={"app.totals": ["sales"]}) as fake:
        yield fake


def test_nothing_happens_by_itself(fake):
    assert not fake.metrics.recent()
    assert threading.active_count() == len(threading.enumerate())
    assert fake.run_scheduled()[0].view == "sales"
    assert [o.view for o in fake.run_scheduled()] == ["sales", "app.totals"]


def test_a_failure_may_be_of_any_kind_and_pass(fake):
    error = LockNotAvailable("sales", "somebody holds it")
    fake.fail("sales", error, times=2)
    assert [fake.force(["sales"])["sales"].error for _ in range(2)] == [error, error]
    assert fake.force(["sales"])
    fake.fail("sales", "no such table")
    assert isinstance(fake.force(["sales"])["sales"].error, DefinitionFailed)
    fake.mend("sales")
    assert fake.force(["sales"])


def test_a_view_can_be_suspended(fake):
    events = []
    with fake.subscribe(events.append):
        fake.suspend("sales", "deadlock")
    told = {(e.view, e.because) for e in events if isinstance(e, ViewSuspended)}
    assert told == {("sales", "sales"), ("app.totals", "sales")}
    assert fake.run_scheduled() == []
    assert fake.force(["sales"])
    assert len(fake.run_scheduled()) == 2


def test_the_database_can_be_away(fake):
    events = []
    with fake.subscribe(events.append):
        with fake.away("no route"):
            assert fake.status()["state"] == "degraded"
            assert fake.status()["error"] == "no route"
            assert fake.status()["fleet"] is None
            assert fake.health().status == "unhealthy"
            with pytest.raises(DatabaseUnavailable, match="no route"):
                fake.force()
            assert fake.run_scheduled() == []
        assert fake.health().status == "healthy"
        assert fake.force()
    assert [e.after for e in events if isinstance(e, HealthChanged)] == ["unhealthy", "healthy"]


def test_schedules_may_name_the_views():
    fake = FakeRefreshService(schedule={"a": Every(seconds=60, jitter=30), "b": SELDOM})
    with fake:
        assert [view["view"] for view in fake.status()["views"]] == ["a", "b"]
        assert fake.status()["interval_seconds"] is None
        assert len(fake.run_scheduled(["a"])) == 1
        with pytest.raises(UnknownView):
            fake.run_scheduled(["c"])
    with pytest.raises(NotRunning):
        fake.run_scheduled()


@pytest.mark.parametrize("arguments", [{"views": "one"}, {"schedule": 300}])
def test_what_cannot_be_meant_is_refused(arguments):
    with pytest.raises(ConfigurationError):
        FakeRefreshService(**arguments)


def test_a_stop_in_a_callback_may_cancel_what_is_held(fake):
    with fake.hold():
        held = fake.force(["sales"], wait=False)
        with fake.subscribe(lambda _: fake.stop(timeout=0)):
            fake.run_scheduled(["sales"])
        assert held.result(0)["sales"].status == "cancelled"
        assert not fake.running


def test_services_may_call_each_other():
    one, two = FakeRefreshService(["one"]), FakeRefreshService(["two"])
    futures = []
    with one, two, one.subscribe(lambda _: futures.append(two.force(wait=False))):
        one.run_scheduled()
        assert [future.result(0).results for future in futures] == [{"two": True}] * 2


def test_many_threads_force_at_once(fake):
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(fake.force(timeout=10))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 16
    assert all(reports)
    assert fake.status()["success_count"] == 2 * len({report.run_id for report in reports})


def test_stopped_is_told_when_it_is_over(fake):
    states = []
    with fake.subscribe(
        lambda event: isinstance(event, ServiceStopped) and states.append(fake.status()["state"])
    ):
        fake.stop()
    assert states == ["stopped"]


def test_the_fake_needs_no_pytest():
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from mvrefresh.testing import FakeRefreshService, a_record\n"
        "assert FakeRefreshService(['mv']).start()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_all_that_is_offered_is_there():
    for name in mvrefresh.testing.__all__:
        assert getattr(mvrefresh.testing, name)
    with pytest.raises(AttributeError):
        mvrefresh.testing.nothing  # noqa: B018

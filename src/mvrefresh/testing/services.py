"""What every refresh service does: the real one on a database, and the fake one.

A service is one when it passes, in a world of its own::

    class TestMyService(RefreshServiceContract):
        @pytest.fixture
        def world(self):
            yield MyWorld(...)
"""
# ruff: noqa: S101, PLR2004 - contract suites are tests

from __future__ import annotations

import inspect
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Protocol, TypeAlias

import pytest

from mvrefresh.errors import (
    ConfigurationError,
    DefinitionFailed,
    NotRunning,
    RefreshCancelled,
    RefreshTimeout,
    UnknownView,
    UpstreamFailed,
)
from mvrefresh.events import (
    HealthChanged,
    RefreshFinished,
    RefreshStarted,
    RunFinished,
    RunStarted,
    ServiceStarted,
    ServiceStopped,
    ViewResumed,
    ViewSuspended,
)
from mvrefresh.refreshing.report import FinalMetrics, RefreshReport
from mvrefresh.service.service import RefreshService
from mvrefresh.service.status import FleetMember, ServiceStatus, ViewStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from mvrefresh.events import Event
    from mvrefresh.testing.fake import FakeRefreshService

    AnyService: TypeAlias = RefreshService | FakeRefreshService

PATIENCE = 10.0
"""Seconds that a service may take for what it does on a thread of its own."""


class ServiceWorld(Protocol):
    """A service of the views `orders`, `totals`, which reads it, and `visits`.

    It suspends after two failures, and nothing is due by itself.
    """

    @property
    def service(self) -> AnyService:
        """The service; not started."""

    def fail(self, view: str) -> None:
        """Let refreshes of a view fail, by its own definition."""

    def mend(self, view: str) -> None:
        """Let them succeed again."""

    def hold(self) -> AbstractContextManager[None]:
        """Let refreshes that are forced in the block begin, and end only after it."""

    def run_scheduled(self, view: str, *, served: bool = True) -> None:
        """Let the slot of a view come, and return when it was served, or could have been."""


def eventually(fact: Callable[[], object]) -> None:
    """Wait for something that another thread brings about."""
    deadline = monotonic() + PATIENCE
    while not fact():
        assert monotonic() < deadline, "it did not come about"
        sleep(0.01)


@contextmanager
def heard(service: AnyService) -> Iterator[list[Event]]:
    """All events of the block."""
    events: list[Event] = []
    with service.subscribe(events.append):
        yield events


def of(kind: type, events: list[Event]) -> list[Event]:
    """Those of one kind."""
    return [event for event in events if isinstance(event, kind)]


def view_of(service: AnyService, name: str) -> ViewStatus:
    """What `status()` says of a view."""
    (found,) = [view for view in service.status()["views"] if view["view"] == name]
    return found


class RefreshServiceContract:
    """What every refresh service does. Subclasses give a `ServiceWorld` by the fixture `world`."""

    @pytest.fixture
    def world(self) -> ServiceWorld:
        """Three views and their service, to be given by the subclass."""
        raise NotImplementedError

    @pytest.fixture
    def service(self, world: ServiceWorld) -> Iterator[AnyService]:
        """The service, which is stopped in the end."""
        yield world.service
        world.service.stop(timeout=0)

    @pytest.fixture
    def running(self, service: AnyService) -> AnyService:
        """The service, started."""
        service.start()
        return service

    # -- its face ------------------------------------------------------------------------------

    def test_it_has_the_face_of_a_service(self, service: AnyService) -> None:
        """Names, parameters and their defaults."""
        for name, real in inspect.getmembers(RefreshService):
            if name.startswith("_") or name == "database":
                continue
            ours = getattr(type(service), name)
            if not callable(real):
                assert isinstance(ours, type(real)), name
                continue
            shown, wanted = inspect.signature(ours), inspect.signature(real)
            assert [(p.name, p.kind, p.default) for p in shown.parameters.values()] == [
                (p.name, p.kind, p.default) for p in wanted.parameters.values()
            ], name

    # -- starting and stopping -----------------------------------------------------------------

    def test_it_starts_once_and_stops_once(self, service: AnyService) -> None:
        """Both may be called again and do nothing then."""
        with heard(service) as events:
            assert not service.running
            assert service.stop() == FinalMetrics()
            assert service.start() is True
            assert service.start() is False
            assert service.running
            final = service.stop()
            assert not service.running
            assert service.stop() == final
        assert of(ServiceStarted, events) == [ServiceStarted(("orders", "visits", "totals"))]
        (stopped,) = of(ServiceStopped, events)
        assert isinstance(stopped, ServiceStopped)
        assert stopped.metrics.total_refreshes == final.total_refreshes == 0
        assert final.average_duration_ms is None
        assert final.uptime_seconds >= 0.0

    def test_it_is_a_context(self, service: AnyService) -> None:
        """Which starts and stops it."""
        with service as entered:
            assert entered is service
            assert service.running
        assert not service.running

    def test_it_starts_again_with_new_figures(self, service: AnyService) -> None:
        """Counts are of one life."""
        service.start()
        service.force(["visits"])
        assert service.stop().total_refreshes == 1
        service.start()
        assert service.status()["success_count"] == 0
        assert service.stop().total_refreshes == 0

    def test_stop_waits_for_what_runs(self, world: ServiceWorld, running: AnyService) -> None:
        """And what it was asked for is done."""
        with ThreadPoolExecutor(1) as pool:
            with heard(running) as events, world.hold():
                future = running.force(["orders"], wait=False)
                eventually(lambda: of(RefreshStarted, events))
                stopping = pool.submit(running.stop)
                eventually(lambda: not running.running)
                assert running.status()["state"] == "stopping"
                assert not stopping.done()
            assert stopping.result(PATIENCE).successful_refreshes == 1
        assert future.result(PATIENCE).results == {"orders": True}

    def test_stop_cancels_at_its_timeout(self, world: ServiceWorld, running: AnyService) -> None:
        """What runs is cancelled; who had yet to be served is told that nobody will."""
        with heard(running) as events, world.hold():
            served = running.force(["orders"], wait=False)
            eventually(lambda: of(RefreshStarted, events))
            waiting = running.force(["orders"], wait=False)
            final = running.stop(timeout=0)
            (outcome,) = served.result(PATIENCE)
        assert (outcome.status, outcome.success, outcome.attempts) == ("cancelled", False, 1)
        assert isinstance(outcome.error, RefreshCancelled)
        assert isinstance(waiting.exception(PATIENCE), NotRunning)
        assert (final.total_refreshes, final.failed_refreshes) == (1, 1)

    # -- forcing -------------------------------------------------------------------------------

    def test_forcing_needs_a_running_service(self, service: AnyService) -> None:
        """Before its start and after its stop."""
        with pytest.raises(NotRunning):
            service.force()
        service.start()
        service.stop()
        with pytest.raises(NotRunning):
            service.force(["no such view"], wait=False)

    def test_forcing_takes_names_of_views(self, running: AnyService) -> None:
        """In a list."""
        with pytest.raises(UnknownView):
            running.force(["nobody"])
        with pytest.raises(ConfigurationError):
            running.force("orders")

    def test_all_views_are_forced_in_order(self, running: AnyService) -> None:
        """A view comes after those that it reads, and content is counted."""
        report = running.force()
        assert report
        assert report.results == {"orders": True, "totals": True, "visits": True}
        views = list(report.results)
        assert views.index("orders") < views.index("totals")
        assert report["totals"].status == "succeeded"
        assert not report["totals"].shared
        assert (report["totals"].attempts, report["totals"].refresh_no) == (1, 1)
        assert report["totals"].content_token is not None
        assert running.status()["success_count"] == 3
        assert running.stop().successful_refreshes == 3

    def test_what_a_view_reads_is_brought_up_too(self, running: AnyService) -> None:
        """And with `cascade` what reads it."""
        assert list(running.force(["totals"]).results) == ["orders", "totals"]
        assert list(running.force(["orders"]).results) == ["orders"]
        assert list(running.force(["orders"], cascade=True).results) == ["orders", "totals"]

    def test_a_failure_is_in_the_report(self, world: ServiceWorld, running: AnyService) -> None:
        """And not an exception; what reads the view is skipped, the rest goes on."""
        world.fail("orders")
        report = running.force()
        assert report.results == {"orders": False, "totals": False, "visits": True}
        failed, skipped = report["orders"], report["totals"]
        assert (failed.status, failed.success, failed.attempts) == ("failed", False, 1)
        assert isinstance(failed.error, DefinitionFailed)
        assert (skipped.status, skipped.success, skipped.attempts) == ("skipped_upstream", None, 0)
        assert isinstance(skipped.error, UpstreamFailed)
        status = running.status()
        assert (status["success_count"], status["failure_count"]) == (1, 1)
        assert view_of(running, "orders")["failures"] == 0  # it counts those of schedules
        world.mend("orders")
        assert running.force(["totals"])

    def test_without_waiting_there_is_a_future(self, running: AnyService) -> None:
        """With the same report."""
        future = running.force(["visits"], wait=False)
        assert isinstance(future, Future)
        report = future.result(PATIENCE)
        assert isinstance(report, RefreshReport)
        assert report.results == {"visits": True}

    def test_a_caller_waits_as_long_as_it_wants(
        self, world: ServiceWorld, running: AnyService
    ) -> None:
        """The refresh goes on without it."""
        with heard(running) as events:
            with world.hold():
                with pytest.raises(RefreshTimeout):
                    running.force(["visits"], timeout=0.2)
                assert not of(RunFinished, events)
            eventually(lambda: of(RunFinished, events))
        assert running.status()["success_count"] == 1

    def test_callers_share(self, world: ServiceWorld, running: AnyService) -> None:
        """Those who come while a refresh runs are served by the next one."""
        with heard(running) as events:
            with world.hold():
                first = running.force(["orders"], wait=False)
                eventually(lambda: of(RefreshStarted, events))
                others = [running.force(["orders"], wait=False) for _ in range(3)]
            reports = [future.result(PATIENCE) for future in others]
        assert {report.run_id for report in reports} == {reports[0].run_id}
        assert first.result(PATIENCE).run_id != reports[0].run_id
        assert len(of(RunFinished, events)) == 2

    def test_a_future_that_waits_can_be_cancelled(
        self, world: ServiceWorld, running: AnyService
    ) -> None:
        """One whose refresh runs cannot."""
        with heard(running) as events, world.hold():
            first = running.force(["orders"], wait=False)
            eventually(lambda: of(RefreshStarted, events))
            second, third = (running.force(["orders"], wait=False) for _ in range(2))
            assert not first.cancel()
            assert second.cancel()
        assert third.result(PATIENCE)

    # -- telling -------------------------------------------------------------------------------

    def test_a_forced_run_is_told_step_by_step(self, running: AnyService) -> None:
        """From its start to its end, with one id."""
        with heard(running) as events:
            report = running.force(["totals"])
            eventually(lambda: of(RunFinished, events))
        told = [e for e in events if not isinstance(e, ServiceStarted | HealthChanged)]
        assert [type(event) for event in told] == [
            RunStarted,
            RefreshStarted,
            RefreshFinished,
            RefreshStarted,
            RefreshFinished,
            RunFinished,
        ]
        assert {event.run_id for event in told} == {report.run_id}  # type: ignore[union-attr]
        assert [e.view for e in told if isinstance(e, RefreshStarted)] == ["orders", "totals"]
        assert [e.outcome for e in told if isinstance(e, RefreshFinished)] == list(report)

    def test_every_outcome_is_recorded(self, world: ServiceWorld, running: AnyService) -> None:
        """By force and on schedule, with what was wrong."""
        world.fail("orders")
        running.force(["totals"])
        world.run_scheduled("visits")
        newest, skipped, failed = running.metrics.recent()
        assert (newest.view_name, newest.success, newest.trigger) == ("visits", True, "schedule")
        assert (skipped.view_name, skipped.success) == ("totals", None)
        assert (failed.view_name, failed.success, failed.trigger) == ("orders", False, "force")
        assert failed.error_message
        assert running.metrics.summary().total_count == 2

    def test_a_callback_that_raises_costs_nothing(
        self, running: AnyService, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is logged, and stays subscribed."""

        def callback(_: object) -> None:
            raise RuntimeError

        with caplog.at_level(logging.ERROR, "mvrefresh"), running.subscribe(callback):
            assert running.force(["visits"])
        assert "a subscriber raised on RefreshFinished" in caplog.text

    def test_a_callback_may_ask_for_a_stop(self, running: AnyService) -> None:
        """It gets the figures so far, and the service ends when the callback is over."""
        figures: list[FinalMetrics] = []

        def callback(event: object) -> None:
            if isinstance(event, RefreshFinished):
                figures.append(running.stop())

        with heard(running) as events, running.subscribe(callback):
            assert running.force(["visits"])
            eventually(lambda: of(ServiceStopped, events))
        assert isinstance(figures[0], FinalMetrics)
        assert running.stop().successful_refreshes == 1

    def test_a_callback_must_not_wait_for_a_refresh(self, running: AnyService) -> None:
        """It would wait for itself; it may ask for one."""
        refusals: list[Exception] = []
        futures: list[Future[RefreshReport]] = []

        def callback(event: object) -> None:
            if isinstance(event, RunFinished) and not futures:
                try:
                    running.force(["visits"])
                except ConfigurationError as error:
                    refusals.append(error)
                futures.append(running.force(["visits"], wait=False))

        with running.subscribe(callback):
            running.force(["orders"])
            eventually(lambda: futures)
            assert futures[0].result(PATIENCE).results == {"visits": True}
        assert len(refusals) == 1

    # -- schedules -----------------------------------------------------------------------------

    def test_a_slot_is_served(self, world: ServiceWorld, running: AnyService) -> None:
        """One view, without a run around it; the next slot is later."""
        assert view_of(running, "orders")["last_run"] is None
        with heard(running) as events:
            world.run_scheduled("orders")
        told = [type(event) for event in events if not isinstance(event, ServiceStarted)]
        assert told == [RefreshStarted, RefreshFinished]
        eventually(lambda: view_of(running, "orders")["last_run"])
        view, status = view_of(running, "orders"), running.status()
        assert view["last_run"] == status["last_run"]
        assert view["next_run"] is not None
        assert view["last_run"] is not None
        assert view["next_run"] > view["last_run"]
        assert view["refresh_no"] == 1
        assert view["content_as_of"] is not None
        assert status["success_count"] == 1

    def test_forcing_does_not_move_the_schedule(self, running: AnyService) -> None:
        """Neither the last run nor the next."""
        eventually(lambda: running.status()["views"])
        eventually(lambda: all(view["next_run"] for view in running.status()["views"]))
        before = running.status()
        running.force()
        after = running.status()
        assert (after["last_run"], after["next_run"]) == (before["last_run"], before["next_run"])

    def test_what_reads_a_failing_view_is_skipped(
        self, world: ServiceWorld, running: AnyService
    ) -> None:
        """Its slot passes; it has not failed itself."""
        world.fail("orders")
        world.run_scheduled("orders")
        eventually(lambda: view_of(running, "orders")["failures"] == 1)
        with heard(running) as events:
            world.run_scheduled("totals")
        (finished,) = of(RefreshFinished, events)
        assert isinstance(finished, RefreshFinished)
        assert finished.outcome.status == "skipped_upstream"
        assert view_of(running, "totals")["failures"] == 0
        assert view_of(running, "orders")["last_error"]

    def test_a_view_is_suspended_and_resumed(
        self, world: ServiceWorld, running: AnyService
    ) -> None:
        """With all that read it; a success by force resumes them."""
        world.fail("orders")
        with heard(running) as events:
            for _ in range(2):
                world.run_scheduled("orders")
            eventually(lambda: len(of(ViewSuspended, events)) == 2)
            eventually(lambda: of(HealthChanged, events))
        told = {(e.view, e.because, e.failures) for e in events if isinstance(e, ViewSuspended)}
        assert told == {("orders", "orders", 2), ("totals", "orders", 2)}
        assert [(e.before, e.after) for e in events if isinstance(e, HealthChanged)] == [
            ("healthy", "degraded")
        ]
        assert "suspended after 2 failures" in (running.metrics.recent(1)[0].reason or "")
        view = view_of(running, "totals")
        assert (view["suspended_because"], view["next_run"]) == ("orders", None)
        assert view_of(running, "visits")["suspended_because"] is None
        health = running.health()
        assert health.status == "degraded"
        assert health.checks["suspended"].detail == "suspended: orders, totals"

        with heard(running) as events:
            world.run_scheduled("orders", served=False)
        assert not of(RefreshFinished, events)

        world.mend("orders")
        with heard(running) as events:
            assert running.force(["orders"])
            eventually(lambda: len(of(ViewResumed, events)) == 2)
            eventually(lambda: of(HealthChanged, events))
        assert running.health().status == "healthy"
        assert view_of(running, "orders")["suspended_because"] is None
        assert view_of(running, "orders")["failures"] == 0

    # -- saying how it is ----------------------------------------------------------------------

    def test_status_of_a_running_service(self, running: AnyService) -> None:
        """It has the keys that are promised, and this process in its fleet."""
        eventually(lambda: running.status()["views"])
        status = running.status()
        assert status.keys() == ServiceStatus.__annotations__.keys()
        assert (status["state"], status["enabled"], status["error"]) == ("running", True, None)
        assert [view["view"] for view in status["views"]] == ["orders", "visits", "totals"]
        for view in status["views"]:
            assert view.keys() == ViewStatus.__annotations__.keys()
            assert not view["running"]
        assert status["fleet"] is not None
        (member,) = status["fleet"]
        assert member.keys() == FleetMember.__annotations__.keys()
        assert member["here"] is True

    def test_status_of_a_stopped_service(self, service: AnyService) -> None:
        """The same keys, and nothing that runs."""
        status = service.status()
        assert status.keys() == ServiceStatus.__annotations__.keys()
        assert (status["state"], status["enabled"]) == ("stopped", False)
        assert (status["views"], status["fleet"], status["started_at"]) == ([], [], None)
        assert (status["success_count"], status["failure_count"]) == (0, 0)

    def test_health(self, service: AnyService) -> None:
        """A service that does not run is not well."""
        assert service.health().status == "unhealthy"
        assert set(service.health().checks) == {"service", "database", "pool"}
        assert service.health().checks["service"].detail == "the refresh service is not running"
        service.start()
        eventually(lambda: service.health().checked_at)
        health = service.health()
        assert (health.status, health.detail) == ("healthy", "")
        assert set(health.checks) == {
            "service",
            "database",
            "pool",
            "overdue",
            "suspended",
            "unknown",
        }

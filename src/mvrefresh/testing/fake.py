"""A refresh service for the tests of its hosts: no database, no thread, nothing by itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Literal, overload

from mvrefresh.errors import ConfigurationError, NotRunning, RefreshTimeout
from mvrefresh.events import EventBus, ServiceStarted
from mvrefresh.metrics.memory import InMemoryMetricsStore
from mvrefresh.refreshing.report import FinalMetrics
from mvrefresh.refreshing.schedule import Every
from mvrefresh.service.roster import Roster, check_names
from mvrefresh.testing.imagined import ImaginedViews
from mvrefresh.testing.stage import Life, Stage, act, in_callback

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from typing import Self

    from mvrefresh.events import Event
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.refreshing.plan import ViewLike
    from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport
    from mvrefresh.refreshing.schedule import Schedule
    from mvrefresh.service.health import ServiceHealth
    from mvrefresh.service.status import FleetMember, ServiceConfig, ServiceStatus


class FakeRefreshService:
    """As `RefreshService`, for tests: what happens is what the test says.

    It passes `RefreshServiceContract`, as the real one does. A forced refresh is done at once, on
    the caller's thread. A scheduled one is done when the test calls `run_scheduled`, and never
    otherwise. There is no attribute `database`.

    Args:
        views: The names of its views; or leave them to a mapping of schedules.
        schedule: `Every` or `Cron` for all of them, or a mapping of name to schedule.
        metrics: Where outcomes are recorded; process memory by default.
        reads: By name, the views that a view reads.
        events: Whom to tell; a bus of its own by default.
        suspend_after: As the real one takes it.
        duration_ms: What every refresh takes, as reports and records say.

    Raises:
        ConfigurationError: A parameter cannot be meant.
    """

    def __init__(
        self,
        views: Iterable[str] | None = None,
        schedule: Schedule | Mapping[str, Schedule] = Every(seconds=300),  # noqa: B008 - a value
        metrics: MetricsStore | None = None,
        *,
        reads: Mapping[str, Collection[str]] | None = None,
        events: EventBus | None = None,
        suspend_after: int | None = 5,
        duration_ms: float = 1.0,
    ) -> None:
        check_names(views)
        names = None if views is None else tuple(views)
        self._interval = Roster(names, schedule).interval_seconds
        if isinstance(schedule, Mapping):
            schedules = dict(schedule)
        else:
            schedules = dict.fromkeys(("mv",) if names is None else names, schedule)
        self._views = ImaginedViews(schedules, reads or {}, duration_ms=duration_ms)
        self._stage = Stage(
            self._views,
            metrics or InMemoryMetricsStore(),
            events or EventBus(),
            suspend_after=suspend_after,
            on_end=self._ended,
        )
        self._lock = Lock()
        self._life: Life | None = None
        self._final = FinalMetrics()

    def __repr__(self) -> str:
        return f"<FakeRefreshService, {'running' if self.running else 'stopped'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- the face of the real one --------------------------------------------------------------

    @property
    def metrics(self) -> MetricsStore:
        """Where outcomes are recorded: `recent()`, `summary()`."""
        return self._stage.metrics

    @property
    def events(self) -> EventBus:
        """Who is told of what happens."""
        return self._stage.events

    @property
    def running(self) -> bool:
        """Whether it was started and not yet told to stop."""
        life = self._life
        return life is not None and not life.stopping

    @property
    def config(self) -> ServiceConfig:
        """As `RefreshService.config`."""
        return {
            "interval_seconds": self._interval,
            "concurrent_refresh": True,
            "views": list(self._views.roll.labels()),
        }

    @property
    def state(self) -> str:
        """As `status()` has it."""
        life = self._life
        if life is None:
            return "stopped"
        return (
            "stopping" if life.stopping else "running" if self._stage.away is None else "degraded"
        )

    @property
    def views(self) -> tuple[str, ...]:
        """The views that are cared for; none while it is stopped."""
        return () if self._life is None else self._views.roll.labels()

    def start(self) -> bool:
        """As `RefreshService.start`; nothing is refreshed by it."""
        while True:
            with self._lock:
                life = self._life
                if life is None:
                    life = self._life = Life()
                    break
                if not life.stopping:
                    return False
            if in_callback():
                raise NotRunning("the service stops, and waits for this callback")
            life.over.wait()
        begun = life
        act(lambda: self.events.publish(ServiceStarted(self._views.roll.labels())))
        act(lambda: self._stage.look(begun))
        return True

    def stop(self, timeout: float | None = None) -> FinalMetrics:
        """As `RefreshService.stop`; it waits for what is held, and cancels it at the timeout."""
        life = self._life
        if life is None:
            return self._final
        self._stage.close(life)
        act(lambda: self._stage.end(life))
        if in_callback():
            if timeout is not None:
                act(lambda: self._stage.go_on(life, cancel=True))
            return life.tally.sum()
        if not life.over.wait(timeout):
            act(lambda: self._stage.go_on(life, cancel=True))
            life.over.wait()
        return self._final

    def _ended(self, life: Life) -> None:
        with self._lock:
            self._final = life.tally.sum()
            self._life = None

    @overload
    def force(
        self,
        views: Iterable[ViewLike] | None = None,
        *,
        cascade: bool = False,
        wait: Literal[True] = True,
        timeout: float | None = None,
    ) -> RefreshReport: ...
    @overload
    def force(
        self,
        views: Iterable[ViewLike] | None = None,
        *,
        cascade: bool = False,
        wait: Literal[False],
        timeout: float | None = None,
    ) -> Future[RefreshReport]: ...

    def force(
        self,
        views: Iterable[ViewLike] | None = None,
        *,
        cascade: bool = False,
        wait: bool = True,
        timeout: float | None = None,
    ) -> RefreshReport | Future[RefreshReport]:
        """As `RefreshService.force`; while it is held (`hold`), it waits as for a long refresh."""
        life = self._life
        if life is None or life.stopping:
            raise NotRunning("the refresh service is not running")
        if isinstance(views, str | bytes):
            raise ConfigurationError(f"views={views!r} is one name: pass a list, [{views!r}]")
        if wait and in_callback():
            raise ConfigurationError(
                "force() in a callback would wait for what waits for the callback: pass wait=False"
            )
        future = self._stage.ask(life, (self._views.oids(views), cascade))
        if not wait:
            return future
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():
                return future.result()
            raise RefreshTimeout(f"the refresh was not done within {timeout:g} s") from None

    def subscribe(self, callback: Callable[[Event], None]) -> AbstractContextManager[None]:
        """Hear of events for as long as the block lasts; see `mvrefresh.events`."""
        return self.events.subscribe(callback)

    def status(self) -> ServiceStatus:
        """As `RefreshService.status`; the fleet is this process."""
        life, away = self._life, self._stage.away
        views = [] if life is None else self._views.statuses(life.running, life.suspended)
        figures = FinalMetrics() if life is None else life.tally.sum()
        here: FleetMember = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": 0.0 if life is None else life.started_at,
            "here": True,
        }
        return {
            "state": self.state,
            "enabled": life is not None,
            "coordination": "schema",
            "started_at": None if life is None else life.started_at,
            "last_run": max((v["last_run"] for v in views if v["last_run"]), default=None),
            "next_run": min((v["next_run"] for v in views if v["next_run"]), default=None),
            "interval_seconds": self._interval,
            "success_count": figures.successful_refreshes,
            "failure_count": figures.failed_refreshes,
            "views": views,
            "fleet": None if away is not None else [] if life is None else [here],
            "error": away,
        }

    def health(self) -> ServiceHealth:
        """As `RefreshService.health`."""
        return self._stage.health(self._life)

    # -- what the test says --------------------------------------------------------------------

    def fail(
        self,
        view: str,
        error: Exception | str = "division by zero",
        *,
        times: int | None = None,
    ) -> None:
        """Let refreshes of a view fail.

        Args:
            view: Its name.
            error: Why; text becomes `DefinitionFailed`, and other errors what they would.
            times: How many of them; None: until `mend`.
        """
        self._views.fail(view, error, times)

    def mend(self, view: str) -> None:
        """Let refreshes of a view succeed again."""
        self._views.mend(view)

    def suspend(self, view: str, last_error: str = "division by zero") -> None:
        """Let a view be suspended, as after too many failures on schedule."""
        self._views.suspend(view, self._stage.suspend_after or 1, last_error)
        self._look_again()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let refreshes that are forced in the block begin, and go on only at its end."""
        self._stage.hold(1)
        try:
            yield
        finally:
            released, life = self._stage.hold(-1), self._life
            if released and life is not None:
                act(lambda: self._stage.go_on(life))

    @contextmanager
    def away(self, error: str = "connection refused") -> Iterator[None]:
        """Let the database be away for as long as the block lasts."""
        self._stage.away = error
        self._look_again()
        try:
            yield
        finally:
            self._stage.away = None
            self._look_again()

    def run_scheduled(self, views: Iterable[ViewLike] | None = None) -> list[RefreshOutcome]:
        """Let the slots of some views come, and serve them: the service's thread, in one go.

        Args:
            views: Names; None: all of the service.

        Returns:
            What came of it; nothing of views that are suspended.

        Raises:
            NotRunning: The service is not running.
        """
        life = self._life
        if life is None or life.stopping:
            raise NotRunning("the refresh service is not running")
        outcomes: list[RefreshOutcome] = []
        oids = self._views.oids(views)
        if self._stage.away is None:
            act(lambda: self._stage.serve_slots(life, oids, outcomes))
        return outcomes

    def _look_again(self) -> None:
        life = self._life
        if life is not None:
            act(lambda: self._stage.look(life))

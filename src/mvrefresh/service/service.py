"""RefreshService: the face of refreshing on schedule and by force. It owns the thread.

What is due is decided by `due` and again under the lock of each refresh; what runs is the
dispatcher's; this module keeps the states straight::

                  start()                                stop(), exit of the process
    STOPPED ────────────────────▶ RUNNING ─────────────────────────▶ STOPPING
       ▲                            │  ▲                                │
       │                   (no word │  │ the                            │ nothing runs any more:
       │                    of the  ▼  │ database answers               │ ended by itself, or in the
       │                 database)  DEGRADED, or STANDBY                │ server at the timeout
       │                            (a server that takes no writes)     │
       └────────────────────────────────────────────────────────────────┘
    In a forked child: STOPPED at once, with nothing of the parent's.

    start()   STOPPED: starts. RUNNING: does nothing. STOPPING: waits for STOPPED, and starts.
    stop()    STOPPED: gives the last figures. RUNNING: stops. STOPPING: waits along.
    force()   RUNNING: refreshes. Else: NotRunning.
"""

from __future__ import annotations

import atexit
import os
import weakref
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, overload

from mvrefresh.errors import ConfigurationError, DatabaseUnavailable, NotRunning, RefreshTimeout
from mvrefresh.expected import DATABASE, expect
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.refreshing.report import FinalMetrics
from mvrefresh.refreshing.runner import Runner
from mvrefresh.refreshing.schedule import Every
from mvrefresh.refreshing.threads import on_our_thread
from mvrefresh.service.dispatcher import Dispatcher
from mvrefresh.service.forcing import Forcing
from mvrefresh.service.health import Check, ServiceHealth, database_check, pool_check
from mvrefresh.service.loop import Session
from mvrefresh.service.roster import Roster
from mvrefresh.service.status import ServiceConfig, ServiceStatus, service_status, state_of
from mvrefresh.service.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from typing import Self

    from mvrefresh.events import Event, EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import Fallback, Method, ViewLike
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport
    from mvrefresh.refreshing.schedule import Schedule

_AT_EXIT: Final = 8.0  # seconds; a host's callback or store may never let go
_services: weakref.WeakSet[RefreshService] = weakref.WeakSet()


def _after_fork() -> None:
    for service in list(_services):
        service._forget_parent()  # noqa: SLF001 - our own


def _at_exit() -> None:
    for service in list(_services):
        with suppress(Exception):
            service._end_with_the_process()  # noqa: SLF001 - our own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


class RefreshService:
    """Keeps views fresh from a thread of its own, once per fleet.

    Any number of processes may run one for the same views: a view that is due is refreshed by one
    of them. Safe to call from any thread; several services may live in one process.

    Args:
        database: Whose views.
        views: Names (`"mv"`, `"app.mv"`); None: all views of the database, also later ones.
        schedule: `Every` or `Cron` for all of them, or a mapping of name to schedule.
        metrics: Where outcomes are recorded; by default table `refresh_metrics`.
        policy: Limits, retries, and `jobs`: how many scheduled refreshes run here at a time.
        method, fallback: As `mvrefresh.plan` takes them.
        events: Whom to tell; a bus of its own by default.
        suspend_after: Scheduled failures in a row after which a view, and all that read it, are
            left alone until any refresh of it succeeds; None: never.
        health_interval: Seconds between two looks at the database at most.

    Raises:
        ConfigurationError: A parameter cannot be meant.
    """

    def __init__(
        self,
        database: Database,
        views: Iterable[ViewLike] | None = None,
        schedule: Schedule | Mapping[str, Schedule] = Every(seconds=300),  # noqa: B008 - a value
        metrics: MetricsStore | None = None,
        *,
        policy: RefreshPolicy | None = None,
        method: Method = "auto",
        fallback: Fallback = "regular",
        events: EventBus | None = None,
        suspend_after: int | None = 5,
        health_interval: float = 30.0,
    ) -> None:
        expect(database, DATABASE, "RefreshService(database, views, schedule=...)")
        if suspend_after is not None and suspend_after < 1:
            raise ConfigurationError(f"suspend_after={suspend_after} is less than 1")
        if health_interval <= 0:
            raise ConfigurationError(f"health_interval={health_interval} is no interval")
        self._runner = Runner(database, metrics=metrics, policy=policy, events=events)
        self._roster = Roster(views, schedule)
        self._method: Method = method
        self._fallback: Fallback = fallback
        self._suspend_after = suspend_after
        self._interval = health_interval
        self._lock = Lock()
        self._session: Session | None = None
        self._final = FinalMetrics()
        _services.add(self)

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<RefreshService of {self.database!r}, {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def database(self) -> Database:
        """Whose views are kept fresh."""
        return self._runner.database

    @property
    def metrics(self) -> MetricsStore:
        """Where outcomes are recorded: `recent()`, `summary()`."""
        return self._runner.metrics

    @property
    def events(self) -> EventBus:
        """Who is told of what happens."""
        return self._runner.events

    @property
    def running(self) -> bool:
        """Whether it was started and not yet told to stop."""
        session = self._session
        return session is not None and not session.stopping

    @property
    def config(self) -> ServiceConfig:
        """Interval, method and views, as far as they are known without asking the database."""
        return {
            "interval_seconds": self._roster.interval_seconds,
            "concurrent_refresh": self._method != "regular",
            "views": self._roster.names,
        }

    @property
    def state(self) -> str:
        """As `status()` has it; asks nobody."""
        return state_of(self._session)

    @property
    def views(self) -> tuple[str, ...]:
        """The views that are cared for, as of the last look; none before the first."""
        session = self._session
        roll = None if session is None else session.roster.roll
        return () if roll is None else roll.labels()

    def start(self) -> bool:
        """Start the service's thread, unless it runs.

        A database that cannot be reached is no obstacle: the thread goes on asking.

        Returns:
            False if it was running already.

        Raises:
            UnknownView: No such materialized view. Nothing was started.
            SchemaMissing: The library's tables are not installed. Nothing was started.
            NotRunning: Called by a callback while the service stops, which waits for that.
        """
        while True:
            with self._lock:
                session = self._session
                if session is None:
                    self._check()
                    session = self._new_session()
                    self._session = session  # callbacks of its first events may ask for it
                    try:
                        session.thread.start()
                    except BaseException:  # the system has no threads left
                        self._session = None
                        raise
                    return True
                if not session.stopping:
                    return False
            if on_our_thread():
                raise NotRunning("the service stops, and waits for this callback")
            session.join()

    def _check(self) -> None:
        """Say at once what would never work."""
        with (
            suppress(DatabaseUnavailable),
            unavailable_when_lost(),
            self.database.dedicated() as connection,
        ):
            self._roster.check(connection, self._runner.schema)

    def _new_session(self) -> Session:
        tally, crew = Tally(), object()

        def changed() -> None:
            session.changed()

        def report(report: RefreshReport) -> None:
            dispatcher.look_again()
            for outcome in report:
                tally.count(outcome)
                self._resume(dispatcher, outcome)

        dispatcher = Dispatcher(
            self._runner,
            self._roster,
            method=self._method,
            fallback=self._fallback,
            suspend_after=self._suspend_after,
            longest=self._interval,
            on_outcome=tally.count,
            on_change=changed,
        )
        forcing = Forcing(
            self._runner,
            self._roster,
            method=self._method,
            fallback=self._fallback,
            on_report=report,
            on_change=changed,
            crew=crew,
        )
        session = Session(
            self._runner,
            self._roster,
            dispatcher,
            forcing,
            tally,
            crew=crew,
            interval=self._interval,
            on_end=self._ended,
        )
        return session

    def _resume(self, dispatcher: Dispatcher, outcome: RefreshOutcome) -> None:
        roll = self._roster.roll
        if outcome and roll is not None and self._runner.schema is None:
            dispatcher.resume({v.oid for v in roll.graph.views if v.label == outcome.view})

    def _told_to_stop(self, timeout: float | None) -> Session | None:
        if on_our_thread():  # it may be needed for what holds the lock
            session = self._session
        else:
            with self._lock:  # not between a start and its session
                session = self._session
        if session is not None:
            session.ask_to_stop(timeout)
        return session

    def _end_with_the_process(self) -> None:
        """Cancel in the server what runs; wait a little, but for nobody who does not let go."""
        session = self._session
        if session is not None:
            session.ask_to_stop(0)
            session.join(_AT_EXIT)

    def _ended(self, session: Session) -> None:
        with self._lock:
            if self._session is session:
                self._final = session.tally.sum()
                self._session = None

    def stop(self, timeout: float | None = None) -> FinalMetrics:
        """Stop: nothing begins any more, what runs may end; return when the thread is gone.

        Never started, or stopped before: returns the last figures. Called by a callback, or on
        another thread of the library's, it cannot wait for itself: it asks for the stop and
        returns the figures so far.

        Args:
            timeout: Seconds after which refreshes that still run are cancelled in the server;
                None waits for them. Of several calls the earliest end counts.
        """
        session = self._told_to_stop(timeout)
        if session is None:
            return self._final
        if not on_our_thread():
            session.join()
        return session.tally.sum() if self._session is session else self._final

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
        """Refresh now; on return the views hold every commit from before the call.

        Callers share: those who come while a forced refresh runs are served by the next one, and
        a refresh of any process that holds what was committed before the call is taken for it
        (`RefreshOutcome.shared`). Views that these read are brought up with them. Schedules are
        not moved; a suspended view is refreshed, and resumed by a success.

        Args:
            views: Names; None: all views of the service.
            cascade: Also every view that reads one of these.
            wait: False gives a future instead.
            timeout: Seconds to wait; the refresh goes on without the caller.

        Returns:
            The report; a view that failed is in it, and is not an exception.

        Raises:
            NotRunning: The service is not running, or was stopped before it could begin.
            RefreshTimeout: It took longer than `timeout`.
            UnknownView: No such materialized view. This and the next are in the future, where one
                is asked for.
            DatabaseUnavailable: The database cannot be reached.
            ConfigurationError: A callback asked with `wait=True`, and would wait for itself.
        """
        session = self._session
        if session is None or session.stopping:
            raise NotRunning("the refresh service is not running")
        if isinstance(views, str | bytes):
            raise ConfigurationError(f"views={views!r} is one name: pass a list, [{views!r}]")
        if wait and on_our_thread():
            raise ConfigurationError(
                "force() in a callback would wait for what waits for the callback: pass wait=False"
            )
        future = session.forcing.ask(views, cascade=cascade)
        if not wait:
            return future
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # raised by the refresh itself
                return future.result()
            raise RefreshTimeout(f"the refresh was not done within {timeout:g} s") from None

    def subscribe(self, callback: Callable[[Event], None]) -> AbstractContextManager[None]:
        """Hear of events for as long as the block lasts; see `mvrefresh.events`."""
        return self.events.subscribe(callback)

    def status(self) -> ServiceStatus:
        """What the service does, for which views, and who else does; never raises.

        Counts are of this process since its start; `last_run` and `next_run` are the fleet's.
        """
        return service_status(
            self.database,
            self._session,
            coordination=self._runner.policy.coordination,
            interval_seconds=self._roster.interval_seconds,
        )

    def health(self) -> ServiceHealth:
        """How the service is, by its last check in the background: costs nothing, never raises."""
        session = self._session
        if session is not None:
            return session.health()
        found = self.database.health()
        return ServiceHealth(
            {
                "service": Check("unhealthy", "the refresh service is not running"),
                "database": database_check(
                    found.detail if found.status == "unhealthy" else None, 0.0, self._interval
                ),
                "pool": pool_check(self.database.pool_use()),
            }
        )

    def _forget_parent(self) -> None:
        """In a forked child: no thread of the parent's is here, so nothing runs."""
        self._lock = Lock()
        self._session = None
        self._final = FinalMetrics()
        self._roster.forget_parent()
        self._runner.forget_parent()

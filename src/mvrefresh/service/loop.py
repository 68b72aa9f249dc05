"""The service's thread: turns of the dispatcher, and pauses that end early when something changed.

One session lasts from a start to a stop. Whatever happens in it stays in it: no exception leaves
the thread, a database that is away is asked again with growing pauses, and the end comes only when
nothing of the session runs any more.
"""

from __future__ import annotations

import logging
import os
import random
import socket
from contextlib import ExitStack
from threading import Event, Lock
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import psycopg

from mvrefresh.errors import MvrefreshError
from mvrefresh.events import HealthChanged, ServiceStarted, ServiceStopped
from mvrefresh.postgres.faults import message_of
from mvrefresh.refreshing.threads import OurThread
from mvrefresh.service.health import (
    GRACE,
    Check,
    ServiceHealth,
    database_check,
    pool_check,
    views_check,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.runner import Runner
    from mvrefresh.service.dispatcher import Dispatcher
    from mvrefresh.service.forcing import Forcing
    from mvrefresh.service.roster import Roster
    from mvrefresh.service.tally import Tally

logger = logging.getLogger("mvrefresh")

_BACKOFF: Final = (0.1, 5.0)  # seconds: the first pause after a failed look, and the longest
_PATIENCE: Final = 5.0  # seconds that a look or a cancel may take while the service stops
_LONG: Final = 10.0  # seconds of pause in which connections are not kept for the next refresh
_GLANCE: Final = 0.05  # seconds between two looks at whether all has ended, while stopping
_IDENTIFIER: Final = 63  # bytes; what PostgreSQL keeps of an application_name


def service_name() -> str:
    """The application_name by which the processes of a fleet know each other."""
    tail = f":{os.getpid()}"
    return f"mvrefresh service {socket.gethostname()}"[: _IDENTIFIER - len(tail)] + tail


class Session:
    """One life of a service. `run` is the thread's; the rest is safe from any.

    Args:
        runner: Whose events and database are used.
        roster, dispatcher, forcing, tally: The parts that it drives.
        crew: Marks the session's threads.
        interval: Seconds between two looks at most: the health check.
        on_end: Called by the thread when all is over.
    """

    def __init__(
        self,
        runner: Runner,
        roster: Roster,
        dispatcher: Dispatcher,
        forcing: Forcing,
        tally: Tally,
        *,
        crew: object,
        interval: float,
        on_end: Callable[[Session], None],
    ) -> None:
        self.runner = runner
        self.roster = roster
        self.dispatcher = dispatcher
        self.forcing = forcing
        self.tally = tally
        self.started_at = time()
        self.stopping = False
        self._crew = crew
        self._interval = interval
        self._on_end = on_end
        self._wake = Event()
        self._lock = Lock()
        self._deadline: float | None = None
        self._connections = ExitStack()
        self._connection: AnyConnection | None = None
        self._looking_since: float | None = None
        self._failures = 0
        self._error: str | None = None
        self._answered = monotonic()
        self._answered_at: float | None = None
        self._last_health = "healthy"
        self.thread = OurThread(crew=crew, target=self.run, name="mvrefresh-service")

    # -- the thread ----------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop, and until all that was begun has ended."""
        try:
            roll = self.roster.roll
            self.runner.events.publish(ServiceStarted(roll.labels() if roll else ()))
            while not self.stopping:
                pause = self._turn()
                self._tell_health()
                self._wake.wait(pause)
                self._wake.clear()
            self._drain()
        except BaseException:
            logger.exception("the service's thread ends by an error of its own")
            raise
        finally:
            self._disconnect()
            self.runner.database.trim()
            self.runner.events.publish(ServiceStopped(self.tally.sum()))
            self._on_end(self)

    def _turn(self) -> float:
        self._looking_since = monotonic()
        before = self.dispatcher.tick
        try:
            pause = self.dispatcher.turn(self._connect())
        except (psycopg.Error, MvrefreshError, OSError) as error:
            return self._failed(message_of(error))
        except BaseException as error:
            logger.exception("an unexpected error in the service; it goes on")
            return self._failed(message_of(error))
        finally:
            self._looking_since = None
        self._failures, self._error = 0, None
        if self.dispatcher.tick is not before:  # a turn without a look asked nobody
            self._answered, self._answered_at = monotonic(), time()
        if pause > _LONG and not self.dispatcher.in_flight:
            self.runner.database.trim()
        return pause

    def _failed(self, error: str) -> float:
        """Look again after a pause that grows; in the fleet not all at the same time."""
        if self._error is None:
            logger.warning("the service cannot look what is due, and tries again: %s", error)
        self._error = error
        self._disconnect()
        self.dispatcher.lost_sight()
        first, longest = _BACKOFF
        pause = min(longest, first * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return pause * (0.5 + random.random() / 2)  # noqa: S311 - no secret

    def _connect(self) -> AnyConnection:
        if self._connection is None or self._connection.closed:
            self._disconnect()
            connection = self._connections.enter_context(self.runner.database.dedicated())
            self._connection = connection
            connection.execute(
                "SELECT set_config('application_name', %s, false),"
                " set_config('idle_session_timeout', '0', false)",  # we pause for as long as we do
                (service_name(),),
            )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()  # it has a name of its own: nobody else is to have it
        self._connections.close()

    def _drain(self) -> None:
        """Let what runs end, or end it in the server when the deadline comes."""
        while self.dispatcher.in_flight or self.forcing.busy:
            self.dispatcher.reap()
            left = None if self._deadline is None else self._deadline - monotonic()
            if left is not None and left <= 0:
                if not self.runner.cancel(_PATIENCE) or left < -_PATIENCE:
                    self.runner.database.sever(self._crew)
                left = _GLANCE
            self._wake.wait(_GLANCE if left is None else min(left, _GLANCE))
            self._wake.clear()

    # -- from any thread -----------------------------------------------------------------------

    def changed(self) -> None:
        """Another turn is worth while."""
        self._wake.set()

    def ask_to_stop(self, timeout: float | None) -> None:
        """Begin nothing any more; after `timeout` seconds end what runs. Of several the least."""
        with self._lock:
            if timeout is not None:
                deadline = monotonic() + max(0.0, timeout)
                self._deadline = min(deadline, self._deadline or deadline)
            self.stopping = True
        self.forcing.close()
        self._wake.set()

    def join(self, limit: float | None = None) -> None:
        """Wait until the thread is gone, or `limit` seconds; a look that hangs is cut off."""
        end = None if limit is None else monotonic() + limit
        while self.thread.is_alive() and (end is None or monotonic() < end):
            self.thread.join(0.1 if self._looking_since is not None else _PATIENCE)
            since = self._looking_since
            if since is not None and monotonic() - since > _PATIENCE:
                self.runner.database.sever(self._crew)

    @property
    def error(self) -> str | None:
        """Why the last look failed; None if it did not."""
        return self._error

    def health(self) -> ServiceHealth:
        """How the service is, by the last look."""
        looking = self._looking_since
        silent = monotonic() - (self._answered if looking is None else min(self._answered, looking))
        overdue, suspended = self._views_in_trouble()
        roll = self.roster.roll
        return ServiceHealth(
            {
                "service": Check()
                if self.thread.is_alive()
                else Check("unhealthy", "the service's thread is gone"),
                "database": database_check(self._error, silent, self._interval),
                "pool": pool_check(self.runner.database.pool_use()),
                "overdue": views_check("overdue", overdue),
                "suspended": views_check("suspended", suspended),
                "unknown": views_check(
                    "no such view, or several", list(roll.unknown) if roll is not None else []
                ),
            },
            self._answered_at,
        )

    def _views_in_trouble(self) -> tuple[list[str], list[str]]:
        roll, decision, tick = (
            self.roster.roll, self.dispatcher.decision, self.dispatcher.tick,
        )  # fmt: skip
        if roll is None or tick is None:
            return [], []
        overdue = [
            oid
            for oid, since in self.dispatcher.overdue_since.items()
            if (tick.now - since).total_seconds() > GRACE
        ]
        return (
            [roll.graph[oid].label for oid in overdue if oid in roll.graph],
            [roll.graph[oid].label for oid in decision.suspended if oid in roll.graph],
        )

    def _tell_health(self) -> None:
        health = self.health()
        before, self._last_health = self._last_health, health.status
        if before != health.status:
            self.runner.events.publish(HealthChanged(before, health.status, health.detail))

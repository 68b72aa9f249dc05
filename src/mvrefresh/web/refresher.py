"""Refreshes for callers of a router: with a service or without one, running or not.

As `RefreshService.force`: who comes while one runs is served by the next, so that a crowd of
requests costs a handful of refreshes, and on the answer the views hold every commit from before
the request.
"""

from __future__ import annotations

from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

import psycopg

from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.postgres.slots import read_tick
from mvrefresh.postgres.state import read_states
from mvrefresh.refreshing.runner import Runner
from mvrefresh.service.forcing import Forcing
from mvrefresh.service.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from mvrefresh.events import EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import ViewLike
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.report import RefreshReport
    from mvrefresh.service.service import RefreshService

_PATIENCE: Final = 5.0  # seconds for the server to end what is cancelled, before it is hung up on


class Refresher:
    """Refreshes on demand. Any thread may ask.

    Args:
        database: Whose views.
        views: Which, if a caller names none; None: all of the database.
        metrics, policy, events: As `mvrefresh.refresh` takes them.
        then: Called after each refresh, before its callers are told.
    """

    def __init__(
        self,
        database: Database,
        views: Iterable[ViewLike] | None,
        *,
        metrics: MetricsStore | None = None,
        policy: RefreshPolicy | None = None,
        events: EventBus | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._views = None if views is None else tuple(views)
        self._runner = Runner(database, metrics=metrics, policy=policy, events=events)
        self._roster = Roster(self._views, None)
        self._then = then
        self._crew = object()
        self._changed = Event()
        self._lock = Lock()
        self._forcing: Forcing | None = None

    @property
    def database(self) -> Database:
        """Whose views."""
        return self._runner.database

    @property
    def metrics(self) -> MetricsStore:
        """Where outcomes are recorded."""
        return self._runner.metrics

    def ask(
        self, views: Iterable[ViewLike] | None = None, *, cascade: bool = False
    ) -> Future[RefreshReport]:
        """Begin a refresh, or join the next; waits for nothing."""
        with self._lock:
            if self._forcing is None:
                self._forcing = Forcing(
                    self._runner,
                    self._roster,
                    method="auto",
                    fallback="regular",
                    on_report=lambda _: self._then(),
                    on_change=self._changed.set,
                    crew=self._crew,
                )
            forcing = self._forcing
        # By their names: one that is not there is to be an error, and not one view less.
        return forcing.ask(self._views if views is None else views, cascade=cascade)

    def last_refresh(self) -> float | None:
        """Unix seconds of the latest refresh of one of the views, by any process; None: never.

        Raises:
            DatabaseUnavailable, SchemaMissing: As `mvrefresh.refresh`.
        """
        schema = self._runner.schema
        if schema is None:  # nobody keeps it but the history
            newest = self.metrics.recent(1)
            moments = [record.created_at for record in newest if record.created_at is not None]
        else:
            with (
                unavailable_when_lost(psycopg.Error),
                self._runner.database.dedicated() as connection,
            ):
                schema.check(connection)
                tick = read_tick(connection, None)
                roll = self._roster.at(connection, tick.fingerprint)
                states = read_states(connection, schema, list(roll.schedules))
            moments = [state.last_finished_at for state in states.values()]
        return max((moment.timestamp() for moment in moments), default=None)

    def close(self) -> None:
        """End in the server what runs, and return when nothing does; asking again begins anew."""
        with self._lock:
            forcing, self._forcing = self._forcing, None
        if forcing is None:
            return
        forcing.close()
        since = monotonic()
        while forcing.busy:
            ended = self._runner.cancel(_PATIENCE)
            if not ended or monotonic() - since > _PATIENCE:
                self._runner.database.sever(self._crew)
            self._changed.wait(0.05)
            self._changed.clear()


class ByService:
    """Refreshes by a service that has no database, as the fake has none."""

    database = None

    def __init__(self, service: RefreshService) -> None:
        self._service = service

    @property
    def metrics(self) -> MetricsStore:
        """The service's."""
        return self._service.metrics

    def ask(
        self, views: Iterable[ViewLike] | None = None, *, cascade: bool = False
    ) -> Future[RefreshReport]:
        """As `RefreshService.force`."""
        return self._service.force(views, cascade=cascade, wait=False)

    def last_refresh(self) -> float | None:
        """As its status says."""
        return self._service.status()["last_run"]

    def close(self) -> None:
        """Its own refreshes end with it."""

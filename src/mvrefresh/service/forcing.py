"""Refreshes by force: a caller gets content that holds every commit from before its call.

Callers that come while a forced refresh of the same views runs are served by the next one, all of
them together: it begins with a snapshot, taken after the last of them came. Other processes share
through the state row: under the lock of a view, content whose snapshot holds ours is as good as
new. So a crowd costs a handful of refreshes, whatever its size.

A view that reads other views can hold no more than they do, so these are brought up as well.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import psycopg

from mvrefresh.errors import NotRunning
from mvrefresh.postgres.catalog import naming_the_kind
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.postgres.slots import read_tick
from mvrefresh.refreshing.plan import make_plan
from mvrefresh.refreshing.threads import Work, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.plan import Fallback, Method, Plan, ViewLike
    from mvrefresh.refreshing.report import RefreshReport
    from mvrefresh.refreshing.runner import Runner
    from mvrefresh.service.roster import Roster


@dataclass(slots=True)
class _Crowd:
    """Those who ask for the same views: one lot is served, the next one gathers."""

    serving: bool = False
    gathering: list[Future[RefreshReport]] = field(default_factory=list)


class Forcing:
    """Serves `force()`. Any thread may ask.

    Args:
        runner: Who refreshes.
        roster: Which views "all" are.
        method, fallback: As `plan` takes them.
        on_report: Told of every report, before its callers are.
        on_change: Called when a refresh has ended.
    """

    def __init__(
        self,
        runner: Runner,
        roster: Roster,
        *,
        method: Method,
        fallback: Fallback,
        on_report: Callable[[RefreshReport], None],
        on_change: Callable[[], None],
    ) -> None:
        self._runner = runner
        self._roster = roster
        self._method: Method = method
        self._fallback: Fallback = fallback
        self._on_report = on_report
        self._on_change = on_change
        self._lock = Lock()
        self._looking_up = Lock()
        self._crowds: dict[tuple[frozenset[int] | None, bool], _Crowd] = {}
        self._work: list[Work[None]] = []
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether anybody is being served."""
        with self._lock:
            return any(work.thread.is_alive() for work in self._work)

    def join(self) -> None:
        """Wait for the threads of those who are served."""
        for work in list(self._work):
            work.thread.join()

    def ask(self, views: Iterable[ViewLike] | None, *, cascade: bool) -> Future[RefreshReport]:
        """Ask for a refresh that begins from now on.

        Raises:
            UnknownView: No such materialized view.
            DatabaseUnavailable: It cannot be looked up.
            NotRunning: The service stops.
        """
        key = self._oids(views), cascade
        future: Future[RefreshReport] = Future()
        with self._lock:
            if self._closed:
                raise NotRunning("the service stops")
            crowd = self._crowds.setdefault(key, _Crowd())
            crowd.gathering.append(future)
            if not crowd.serving:
                crowd.serving = True
                self._work = [work for work in self._work if not work.done()]
                self._work.append(in_thread("mvrefresh-force", self._serve, key, crowd))
        return future

    def close(self) -> None:
        """Let nobody in any more; who waits for a refresh that has not begun gets `NotRunning`."""
        with self._lock:
            self._closed = True
            refused = [f for crowd in self._crowds.values() for f in crowd.gathering]
            for crowd in self._crowds.values():
                crowd.gathering = []
        for future in refused:
            if future.set_running_or_notify_cancel():
                future.set_exception(NotRunning("the service was stopped before it could begin"))

    def _oids(self, views: Iterable[ViewLike] | None) -> frozenset[int] | None:
        """Whom they mean, None for all; the catalog is read only for a name that is not known."""
        if views is None:
            return None
        wanted, roll = list(views), self._roster.roll
        if roll is not None:
            with suppress(LookupError):  # it may have been made since
                return frozenset(roll.graph.find(view).oid for view in wanted)
        with (
            self._looking_up,  # a crowd must not take a connection each
            unavailable_when_lost(psycopg.Error),
            self._runner.database.dedicated() as connection,
        ):
            roll = self._roster.at(connection, read_tick(connection, None).fingerprint)
            with naming_the_kind(connection):
                return frozenset(roll.graph.find(view).oid for view in wanted)

    def _serve(self, key: tuple[frozenset[int] | None, bool], crowd: _Crowd) -> None:
        while True:
            with self._lock:
                lot, crowd.gathering = crowd.gathering, []
                if not lot:
                    crowd.serving = False
                    self._crowds.pop(key, None)
                    break
            lot = [future for future in lot if future.set_running_or_notify_cancel()]
            try:
                report = self._refresh(*key)
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                for future in lot:
                    future.set_exception(error)
            else:
                self._on_report(report)
                for future in lot:
                    future.set_result(report)
        self._on_change()

    def _refresh(self, oids: frozenset[int] | None, cascade: bool) -> RefreshReport:
        with unavailable_when_lost(psycopg.Error), self._runner.database.dedicated() as connection:
            plan, snapshot = self._plan(connection, oids, cascade=cascade)
        local = self._runner.policy.coordination == "local"
        return self._runner.run(plan, since=None if local else snapshot, trigger="force")

    def _plan(
        self, connection: AnyConnection, oids: frozenset[int] | None, *, cascade: bool
    ) -> tuple[Plan, str | None]:
        tick = read_tick(connection, None)
        roll = self._roster.at(connection, tick.fingerprint)
        graph = roll.graph
        wanted = {oid for oid in (roll.schedules if oids is None else oids) if oid in graph}
        if cascade:
            wanted |= graph.dependants(wanted)
        wanted |= graph.upstream(wanted)
        plan = make_plan(graph, wanted, method=self._method, fallback=self._fallback)
        return plan, tick.snapshot or None

"""Refreshes by force: a caller gets content that holds every commit from before its call.

Callers that come while a forced refresh of the same views runs are served by the next one, all of
them together: it begins with a snapshot, taken after the last of them came. Other processes share
through the state row: under the lock of a view, content whose snapshot holds ours is as good as
new. So a crowd costs a handful of refreshes, whatever its size.

A view that reads other views can hold no more than they do, so these are brought up as well.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING

import psycopg

from mvrefresh.errors import NotRunning, UnknownView
from mvrefresh.postgres.catalog import naming_the_kind
from mvrefresh.postgres.faults import message_of, unavailable_when_lost
from mvrefresh.postgres.slots import read_tick
from mvrefresh.refreshing.commission import Since
from mvrefresh.refreshing.plan import make_plan
from mvrefresh.refreshing.report import RefreshOutcome, Status
from mvrefresh.refreshing.threads import Work, crew_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias

    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.plan import Fallback, Method, Plan, ViewLike
    from mvrefresh.refreshing.report import RefreshReport
    from mvrefresh.refreshing.runner import Runner
    from mvrefresh.service.roster import Roster

    _Key: TypeAlias = tuple[frozenset[ViewLike] | None, bool]

logger = logging.getLogger("mvrefresh")


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
        crew: Whose threads its own are.
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
        crew: object,
    ) -> None:
        self._runner = runner
        self._roster = roster
        self._method: Method = method
        self._fallback: Fallback = fallback
        self._on_report = on_report
        self._on_change = on_change
        self._crew = crew
        self._lock = Lock()
        self._crowds: dict[_Key, _Crowd] = {}
        self._work: list[Work[None]] = []
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether anybody is being served."""
        with self._lock:
            return any(work.thread.is_alive() for work in self._work)

    def ask(self, views: Iterable[ViewLike] | None, *, cascade: bool) -> Future[RefreshReport]:
        """Ask for a refresh that begins from now on.

        Raises:
            NotRunning: The service stops.
        """
        # By the names as they are: what they mean is looked up when the refresh begins.
        key = None if views is None else frozenset(views), cascade
        future: Future[RefreshReport] = Future()
        with self._lock:
            if self._closed:
                raise NotRunning("the service stops")
            crowd = self._crowds.setdefault(key, _Crowd())
            crowd.gathering.append(future)
            if not crowd.serving:
                self._work = [work for work in self._work if not work.done()]
                try:
                    work = crew_thread(self._crew, "mvrefresh-force", self._serve, key, crowd)
                except BaseException:  # the system has no threads left
                    crowd.gathering.remove(future)
                    raise
                self._work.append(work)
                crowd.serving = True
        return future

    def close(self) -> None:
        """Let nobody in any more; who waits for a refresh that has not begun gets `NotRunning`."""
        with self._lock:
            self._closed = True
            refused = [f for crowd in self._crowds.values() for f in crowd.gathering]
            for crowd in self._crowds.values():
                crowd.gathering = []
        for future in filter(_begins, refused):
            _fail(future, NotRunning("the service was stopped before it could begin"))

    def _serve(self, key: _Key, crowd: _Crowd) -> None:
        """Serve one lot after the other, until nobody has gathered; nothing is left waiting."""
        while True:
            with self._lock:
                lot, crowd.gathering = crowd.gathering, []
                if not lot:
                    crowd.serving = False
                    self._crowds.pop(key, None)
                    break
            lot = [future for future in lot if _begins(future)]
            try:
                report = self._refresh(*key)
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                for future in lot:
                    _fail(future, error)
            else:
                self._tell(report)
                for future in lot:
                    _succeed(future, report)
        self._on_change()

    def _tell(self, report: RefreshReport) -> None:
        """What is done with a report must not cost its callers theirs."""
        try:
            self._on_report(report)
        except Exception as error:  # noqa: BLE001 - whatever it is, the views are refreshed
            logger.warning("what follows a refresh failed: %s", message_of(error))

    def _refresh(self, views: frozenset[ViewLike] | None, cascade: bool) -> RefreshReport:
        with unavailable_when_lost(psycopg.Error), self._runner.database.dedicated() as connection:
            plan, since, missing = self._plan(connection, views, cascade=cascade)
        known = self._runner.schema is not None  # without, nobody knows what content holds
        report = self._runner.run(plan, since=since if known else None, trigger="force")
        return _with_the_missing(report, missing)

    def _plan(
        self, connection: AnyConnection, views: frozenset[ViewLike] | None, *, cascade: bool
    ) -> tuple[Plan, Since | None, tuple[str, ...]]:
        """What to do, since when, and which of all the service's views are not there."""
        tick = read_tick(connection, None)
        roll = self._roster.at(connection, tick.fingerprint)
        graph = roll.graph
        if views is None:
            wanted = set(roll.schedules)
        else:
            with naming_the_kind(connection):
                wanted = {graph.find(view).oid for view in views}
        if cascade:
            wanted |= graph.dependants(wanted)
        wanted |= graph.upstream(wanted)
        plan = make_plan(graph, wanted, method=self._method, fallback=self._fallback)
        missing = roll.unknown if views is None else ()
        return plan, Since(tick.snapshot, tick.now) if tick.snapshot else None, missing


def _with_the_missing(report: RefreshReport, missing: tuple[str, ...]) -> RefreshReport:
    """Views that were to be refreshed and are not there have failed."""
    outcomes = list(report.outcomes)
    for name in missing:
        error = UnknownView(f"there is no materialized view {name} in this database, or several")
        outcomes.append(
            RefreshOutcome(
                name, Status.FAILED, report.run_id, reason="there is no such view", error=error
            )
        )
    return replace(report, outcomes=tuple(outcomes)) if missing else report


def _begins(future: Future[RefreshReport]) -> bool:
    """Whether its caller has not cancelled it; from now on it cannot."""
    with _whatever_its_callbacks_do():
        return future.set_running_or_notify_cancel()
    return False


def _fail(future: Future[RefreshReport], error: BaseException) -> None:
    with _whatever_its_callbacks_do():
        future.set_exception(error)


def _succeed(future: Future[RefreshReport], report: RefreshReport) -> None:
    with _whatever_its_callbacks_do():
        future.set_result(report)


@contextmanager
def _whatever_its_callbacks_do() -> Iterator[None]:
    """One caller's callback must not keep the others from their answer."""
    try:
        yield
    except BaseException:
        logger.exception("a callback of a future of force() raised")

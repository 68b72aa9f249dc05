"""What a fake service does in place of its threads: the caller's thread does it, in order."""

from __future__ import annotations

import socket
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from threading import Event as Flag, Lock, local
from time import time
from typing import TYPE_CHECKING, TypeAlias, cast
from uuid import uuid4

from mvrefresh.errors import DatabaseUnavailable, NotRunning
from mvrefresh.events import (
    HealthChanged,
    RefreshFinished,
    RefreshStarted,
    RunFinished,
    RunStarted,
    ServiceStopped,
    ViewResumed,
    ViewSuspended,
)
from mvrefresh.refreshing.cancellation import Cancellation
from mvrefresh.refreshing.claim import Claim
from mvrefresh.refreshing.plan import Plan, make_plan
from mvrefresh.refreshing.policy import RefreshPolicy
from mvrefresh.refreshing.recording import record_afterwards
from mvrefresh.refreshing.report import RefreshReport
from mvrefresh.refreshing.run import Run
from mvrefresh.service.health import Check, ServiceHealth, database_check, views_check
from mvrefresh.service.tally import Tally
from mvrefresh.testing.imagined import ImaginedViews, now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mvrefresh.events import EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import Step
    from mvrefresh.refreshing.report import RefreshOutcome

Key: TypeAlias = tuple[frozenset[int], bool]
"""What is forced: the views that were asked for, and whether with those that read them."""


class _Acting(local):
    """What the present thread has yet to do for a fake service; None while it does nothing."""

    queue: deque[Callable[[], None]] | None = None


_acting = _Acting()


def act(work: Callable[[], None]) -> None:
    """Do a service's work on the caller's thread; in a callback, when the work there is done."""
    if _acting.queue is not None:
        _acting.queue.append(work)
        return
    queue = _acting.queue = deque([work])
    try:
        while queue:
            queue.popleft()()
    finally:
        _acting.queue = None


def in_callback() -> bool:
    """Whether the caller's thread does a service's work just now, as in a callback."""
    return _acting.queue is not None


@dataclass(slots=True)
class _Crowd:
    """Those who force the same views: one lot is served, the next one gathers."""

    serving: bool = False
    gathering: list[Future[RefreshReport]] = field(default_factory=list)


@dataclass(slots=True)
class _Lot:
    """Those who are served, and the run that has begun for them."""

    key: Key
    futures: list[Future[RefreshReport]]
    run: Run


@dataclass(slots=True, eq=False)
class Life:
    """From a start to a stop."""

    started_at: float = field(default_factory=time)
    tally: Tally = field(default_factory=Tally)
    stopping: bool = False
    ended: bool = False
    over: Flag = field(default_factory=Flag)
    busy: int = 0
    running: set[int] = field(default_factory=set)
    crowds: dict[Key, _Crowd] = field(default_factory=dict)
    held: list[_Lot] = field(default_factory=list)
    suspended: dict[int, int] = field(default_factory=dict)
    health: str = "healthy"


class Stage:
    """Refreshes imagined views, by force and on schedule. Any thread may ask.

    Args:
        views: Which, and what comes of it.
        metrics, events: Who is told.
        suspend_after: As `RefreshService` takes it.
        on_end: Called when a life is over, before the events are told.
    """

    def __init__(
        self,
        views: ImaginedViews,
        metrics: MetricsStore,
        events: EventBus,
        *,
        suspend_after: int | None,
        on_end: Callable[[Life], None],
    ) -> None:
        self.views = views
        self.metrics = metrics
        self.events = events
        self.suspend_after = suspend_after
        self.away: str | None = None
        self.holds = 0
        self._on_end = on_end
        self._lock = Lock()

    # -- forced --------------------------------------------------------------------------------

    def ask(self, life: Life, key: Key) -> Future[RefreshReport]:
        """Ask for a refresh that begins from now on; serve it, unless somebody does."""
        future: Future[RefreshReport] = Future()
        with self._lock:
            if life.stopping:
                raise NotRunning("the service stops")
            crowd = life.crowds.setdefault(key, _Crowd())
            crowd.gathering.append(future)
            first, crowd.serving = not crowd.serving, True
            life.busy += first
        if first:
            act(lambda: self._serve(life, key))
        return future

    def close(self, life: Life) -> None:
        """Let nobody in any more; who waits for a refresh that has not begun is told so."""
        with self._lock:
            life.stopping = True
            refused = [future for crowd in life.crowds.values() for future in crowd.gathering]
            for crowd in life.crowds.values():
                crowd.gathering = []
        for future in refused:
            if future.set_running_or_notify_cancel():
                future.set_exception(NotRunning("the service was stopped before it could begin"))

    def hold(self, change: int) -> bool:
        """One more who holds what is forced, or one less; whether nobody does any more."""
        with self._lock:
            self.holds += change
            return not self.holds

    def go_on(self, life: Life, *, cancel: bool = False) -> None:
        """Finish, or cancel, what was held."""
        with self._lock:
            lots, life.held = life.held, []
        for lot in lots:
            if cancel:
                lot.run.cancellation.request()
            self._finish(life, lot)
            self._serve(life, lot.key)

    def _serve(self, life: Life, key: Key) -> None:
        """Serve lot after lot, until nobody is left or the test holds it."""
        while True:
            with self._lock:
                crowd = life.crowds[key]
                gathered, crowd.gathering = crowd.gathering, []
                if not gathered:
                    del life.crowds[key]
                    life.busy -= 1
                    break
            futures = [future for future in gathered if future.set_running_or_notify_cancel()]
            if self.away is not None:
                for future in futures:
                    future.set_exception(DatabaseUnavailable(self.away))
                continue
            lot = _Lot(key, futures, self._run(self._plan(key), "force"))
            self.events.publish(RunStarted(lot.run.run_id, lot.run.plan, lot.run.policy.trigger))
            for step in lot.run.plan.steps[:1]:
                self._tell_start(lot.run, step)
            with self._lock:
                if self.holds:
                    life.held.append(lot)
                    return
            self._finish(life, lot)
        self.look(life)
        self.end(life)

    def _finish(self, life: Life, lot: _Lot) -> None:
        run, outcomes = lot.run, dict[int, "RefreshOutcome"]()
        for step in run.plan:
            broken = [outcomes[oid].view for oid in sorted(step.after) if not outcomes[oid]]
            begun = not outcomes
            if run.cancellation.requested:
                outcome = self.views.cancel(step, run.run_id, begun=begun)
            elif broken:
                outcome = self.views.skip(step, run.run_id, broken)
            else:
                if not begun:
                    self._tell_start(run, step)
                outcome = self.views.refresh(step, run.run_id)
            outcomes[step.view.oid] = self._tell_end(run, outcome)
        report = RefreshReport(
            run.run_id,
            tuple(outcomes.values()),
            started_at=now(),
            duration_ms=sum(outcome.duration_ms for outcome in outcomes.values()),
        )
        self.events.publish(RunFinished(run.run_id, report))
        for outcome in report:
            life.tally.count(outcome)
        for future in lot.futures:
            future.set_result(report)

    def _plan(self, key: Key) -> Plan:
        oids, cascade = key
        graph = self.views.roll.graph
        wanted = oids | graph.dependants(oids) if cascade else oids
        return make_plan(graph, wanted | graph.upstream(wanted))

    # -- on schedule ---------------------------------------------------------------------------

    def serve_slots(
        self, life: Life, oids: Collection[int], outcomes: list[RefreshOutcome]
    ) -> None:
        """Let the slots of these views come, and serve them in order."""
        with self._lock:
            if life.stopping:
                return
            life.busy += 1
        moment, left = self.views.make_due(oids), set(oids)
        while True:
            decision = self.views.decide(left, moment)
            todo = (*decision.skip, *decision.ready)
            if not todo:
                break
            left -= set(todo)
            outcomes.extend(self._serve_slot(life, oid, decision.skip.get(oid)) for oid in todo)
        with self._lock:
            life.busy -= 1
        self.look(life)
        self.end(life)

    def _serve_slot(self, life: Life, oid: int, because: int | None) -> RefreshOutcome:
        views = self.views
        claim = Claim(
            views.rows[oid], views.schedules[oid], now(), suspend_after=self.suspend_after
        )
        run = self._run(make_plan(views.roll.graph, [oid]), "schedule")
        (step,) = run.plan
        if because is None:
            life.running.add(oid)
            self._tell_start(run, step)
            outcome = views.refresh(step, run.run_id, claim)
        else:
            outcome = views.skip(step, run.run_id, [views.label(because)])
        if not outcome:
            outcome = views.give_up(claim, outcome)
        life.tally.count(outcome)
        life.running.discard(oid)
        return self._tell_end(run, outcome)

    # -- both ----------------------------------------------------------------------------------

    def _run(self, plan: Plan, trigger: str) -> Run:
        return Run(
            run_id=uuid4(),
            plan=plan,
            database=cast("Database", None),  # there is none, and nothing here asks it
            metrics=self.metrics,
            policy=RefreshPolicy(trigger=trigger),
            events=self.events,
            cancellation=Cancellation(),
            host=socket.gethostname(),
        )

    def _tell_start(self, run: Run, step: Step) -> None:
        self.events.publish(
            RefreshStarted(
                run.run_id,
                step.view.label,
                str(step.strategy),
                step.reason,
                run.policy.trigger,
            )
        )

    def _tell_end(self, run: Run, outcome: RefreshOutcome) -> RefreshOutcome:
        recorded = replace(outcome, record_id=record_afterwards(run, outcome))
        self.events.publish(RefreshFinished(run.run_id, recorded))
        return recorded

    # -- what there is to tell -----------------------------------------------------------------

    def look(self, life: Life) -> None:
        """Tell of what has changed since the last look."""
        graph = self.views.roll.graph
        if self.away is None:
            now_so = dict(self.views.decide(self.views.schedules, now()).suspended)
            before, life.suspended = life.suspended, now_so
            for oid in now_so.keys() - before.keys():
                row = self.views.rows[now_so[oid]]
                self.events.publish(
                    ViewSuspended(
                        graph[oid].label,
                        graph[now_so[oid]].label,
                        row.failures,
                        row.last_error or "",
                    )
                )
            for oid in before.keys() - now_so.keys():
                self.events.publish(ViewResumed(graph[oid].label))
        found = self.health(life)
        was, life.health = life.health, found.status
        if was != found.status:
            self.events.publish(HealthChanged(was, found.status, found.detail))

    def health(self, life: Life | None) -> ServiceHealth:
        """As `RefreshService.health`."""
        database = database_check(self.away, 0.0, 1.0)
        if life is None:
            stopped = Check("unhealthy", "the refresh service is not running")
            return ServiceHealth({"service": stopped, "database": database, "pool": Check()})
        suspended = [self.views.label(oid) for oid in life.suspended]
        return ServiceHealth(
            {
                "service": Check(),
                "database": database,
                "pool": Check(),
                "overdue": Check(),
                "suspended": views_check("suspended", suspended),
                "unknown": Check(),
            },
            checked_at=time(),
        )

    def end(self, life: Life) -> None:
        """End a life that was told to, once nothing of it is under way."""
        with self._lock:
            if not life.stopping or life.busy or life.ended:
                return
            life.ended = True
        self._on_end(life)
        self.events.publish(ServiceStopped(life.tally.sum()))
        life.over.set()

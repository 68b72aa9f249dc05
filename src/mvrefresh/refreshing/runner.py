"""Runs a plan: every step after those it reads, several at once, each to its own outcome."""

from __future__ import annotations

import socket
from collections import deque
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from time import monotonic
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg

from mvrefresh.events import EventBus, RefreshFinished, RunFinished, RunStarted
from mvrefresh.metrics.memory import InMemoryMetricsStore
from mvrefresh.metrics.postgres import PostgresMetricsStore
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.refreshing.cancellation import Cancellation
from mvrefresh.refreshing.policy import RefreshPolicy
from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport
from mvrefresh.refreshing.run import Run
from mvrefresh.refreshing.step import StepRun
from mvrefresh.refreshing.threads import Work, in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.commission import Since
    from mvrefresh.refreshing.plan import Plan, Step


class Runner:
    """Runs plans on a database. Any thread may run one; several may at a time.

    Args:
        database: Whose views.
        metrics: Where outcomes are recorded; by default table `refresh_metrics` of the
            database, or process memory with `coordination="local"`.
        policy: How runs behave.
        events: Whom to tell; one's own bus by default.
    """

    def __init__(
        self,
        database: Database,
        *,
        metrics: MetricsStore | None = None,
        policy: RefreshPolicy | None = None,
        events: EventBus | None = None,
    ) -> None:
        self.database = database
        self.policy = policy or RefreshPolicy()
        self.metrics: MetricsStore = metrics or self._default_metrics()
        self.events = events or EventBus()
        self._running: set[Cancellation] = set()

    def _default_metrics(self) -> MetricsStore:
        if self.policy.coordination == "local":
            return InMemoryMetricsStore()
        return PostgresMetricsStore(self.database)

    @property
    def schema(self) -> Schema | None:
        """Where state, slots and history are; None without coordination."""
        return self.database.schema if self.policy.coordination == "schema" else None

    def run(
        self, plan: Plan, *, since: Since | None = None, trigger: str | None = None
    ) -> RefreshReport:
        """Carry out a plan, to the end of every step that can be reached.

        A view's failure is its outcome; the views that read it are skipped, all others go on.

        Args:
            plan: What to do.
            since: A moment of this database: a view that holds all that was committed by then,
                when its turn comes, is not refreshed again (`RefreshOutcome.shared`).
            trigger: Who asks, for the record; by default as the policy says.

        Raises:
            SchemaMissing: Coordination needs the library's tables, and they are not there (or
                of another version). Nothing was touched.
            DatabaseUnavailable: The database cannot be reached.
        """
        with self.opened(plan, since=since, trigger=trigger) as run:
            if self.schema is not None:
                with unavailable_when_lost(psycopg.Error), self.database.dedicated() as connection:
                    self.schema.check(connection)
            return self._report(run)

    @contextmanager
    def opened(
        self, plan: Plan, *, since: Since | None = None, trigger: str | None = None
    ) -> Iterator[Run]:
        """What the steps of a plan share while they run; `cancel` reaches them in the block."""
        run = Run(
            run_id=uuid4(),
            plan=plan,
            database=self.database,
            metrics=self.metrics,
            policy=self.policy if trigger is None else replace(self.policy, trigger=trigger),
            events=self.events,
            cancellation=Cancellation(),
            host=socket.gethostname(),
            since=since,
        )
        self._running.add(run.cancellation)
        try:
            yield run
        finally:
            self._running.discard(run.cancellation)

    def _report(self, run: Run) -> RefreshReport:
        plan, started_at, started = run.plan, datetime.now(UTC), monotonic()
        run.events.publish(RunStarted(run.run_id, plan, run.policy.trigger))
        outcomes = _Schedule(run).complete()
        report = RefreshReport(
            run_id=run.run_id,
            outcomes=tuple(outcomes[step.view.oid] for step in plan),
            started_at=started_at,
            duration_ms=round((monotonic() - started) * 1000, 3),
        )
        run.events.publish(RunFinished(run.run_id, report))
        return report

    def cancel(self, timeout: float = 10.0) -> bool:
        """End all runs of this runner, in the server; their reports say what was cancelled.

        Args:
            timeout: Seconds to wait for the server.

        Returns:
            Whether nothing runs any more.
        """
        running, deadline = list(self._running), monotonic() + timeout
        for cancellation in running:  # all at once, before waiting for any
            cancellation.request()
        stopped = [c.cancel(max(0.0, deadline - monotonic())) for c in running]
        return all(stopped)

    def forget_parent(self) -> None:
        """In a forked child: what the parent runs is not ours to cancel."""
        self._running = set()
        self.events.forget_parent()
        if isinstance(self.metrics, InMemoryMetricsStore):
            self.metrics.forget_parent()


class _Schedule:
    """The steps of one run, begun as soon as all they wait for is done."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._steps = {step.view.oid: step for step in run.plan}
        self._sorter = TopologicalSorter({oid: step.after for oid, step in self._steps.items()})
        self._outcomes: dict[int, RefreshOutcome] = {}

    def complete(self) -> dict[int, RefreshOutcome]:
        """Run them all; outcome by oid."""
        jobs = min(self._run.policy.jobs, max(len(wave) for wave in self._run.plan.waves or ((),)))
        try:
            self._one_by_one() if jobs <= 1 else self._together(jobs)
        except BaseException:  # Ctrl-C: leave nothing running, and say what was not done
            self._run.cancellation.cancel()
            for step in self._run.plan:
                if step.view.oid not in self._outcomes:
                    self._finish(step.view.oid, StepRun(self._run, step).leave())
            raise
        return self._outcomes

    def _one_by_one(self) -> None:
        for step in self._run.plan:
            self._finish(step.view.oid, self._outcome(step))

    def _together(self, jobs: int) -> None:
        self._sorter.prepare()
        ready: deque[int] = deque()
        pending: dict[Work[RefreshOutcome], int] = {}
        try:
            while self._sorter.is_active():
                ready.extend(self._sorter.get_ready())
                while ready and len(pending) < jobs:
                    oid = ready.popleft()
                    work = in_thread("mvrefresh-refresh", self._outcome, self._steps[oid])
                    pending[work] = oid
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in [work for work in pending if work in done]:
                    oid = pending.pop(future)
                    future.thread.join()
                    self._finish(oid, future.result())
                    self._sorter.done(oid)
        except BaseException:
            self._run.cancellation.cancel()
            for future, oid in pending.items():
                if future.exception() is None:
                    self._finish(oid, future.result())
            raise

    def _outcome(self, step: Step) -> RefreshOutcome:
        upstream = [self._outcomes[oid] for oid in sorted(step.after)]
        broken = [outcome.view for outcome in upstream if not outcome]
        if not broken:
            return StepRun(self._run, step)()
        if self._run.cancellation.requested:
            return StepRun(self._run, step).leave()
        return StepRun(self._run, step).skip(broken)

    def _finish(self, oid: int, outcome: RefreshOutcome) -> None:
        self._outcomes[oid] = outcome
        self._run.events.publish(RefreshFinished(self._run.run_id, outcome))

"""One step of a plan, to its end: attempts, fallback, and what came of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
import stamina
from psycopg import sql

from mvrefresh import errors
from mvrefresh.events import RefreshFellBack, RefreshRetried, RefreshStarted
from mvrefresh.postgres import faults
from mvrefresh.postgres.catalog import read_catalog
from mvrefresh.refreshing.plan import make_plan
from mvrefresh.refreshing.recording import lost, record_afterwards, record_first
from mvrefresh.refreshing.report import RefreshOutcome, Status
from mvrefresh.refreshing.strategies import STRATEGIES
from mvrefresh.refreshing.transaction import (
    Commission,
    Committed,
    PlanOutdated,
    refresh_in_transaction,
)

if TYPE_CHECKING:
    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.plan import Step
    from mvrefresh.refreshing.run import Run

logger = logging.getLogger("mvrefresh")


class StepRun:
    """Carries one step out. Made for one use, by one thread."""

    def __init__(self, run: Run, step: Step) -> None:
        self._run = run
        self._step = step
        self._label = step.view.label
        self._attempts = 0
        self._notify = True
        self._record_id: int | None = None

    def __call__(self) -> RefreshOutcome:
        """Refresh the view; never raises: whatever happens is the outcome."""
        started = monotonic()
        try:
            committed = self._with_retries()
        except Exception as error:  # noqa: BLE001 - every failure of a view is an outcome
            return self._failed(error, (monotonic() - started) * 1000)
        self._after_commit()
        outcome = self._succeeded(committed)
        if committed.record_error is not None:
            lost(self._run, self._label, errors.RecordingFailed(committed.record_error))
        elif outcome.record_id is None and not self._run.records_itself:
            outcome = replace(outcome, record_id=record_afterwards(self._run, outcome))
        return outcome

    def skip(self, upstream: list[str]) -> RefreshOutcome:
        """Leave the view alone: what it reads was not refreshed."""
        error = errors.UpstreamFailed(self._label, f"{', '.join(upstream)} was not refreshed")
        return self._not_refreshed(Status.SKIPPED_UPSTREAM, error, 0.0)

    # -- attempts ------------------------------------------------------------------------------

    def _with_retries(self) -> Committed:
        policy = self._run.policy
        for attempt in stamina.retry_context(
            on=self._worth_another,
            attempts=policy.attempts,
            timeout=policy.retry_timeout,
            wait_initial=policy.backoff_initial,
            wait_max=policy.backoff_max,
            wait_jitter=policy.backoff_initial,
        ):
            with attempt:
                self._attempts += 1
                return self._attempt()
        raise AssertionError("stamina returns or raises")  # pragma: no cover

    def _worth_another(self, error: Exception) -> bool:
        if self._run.cancellation.requested or not faults.is_transient(error):
            return False
        if self._attempts < self._run.policy.attempts:
            self._run.events.publish(
                RefreshRetried(self._run.run_id, self._label, self._attempts, error)
            )
        return True

    def _attempt(self) -> Committed:
        with (
            self._run.database.dedicated() as connection,
            self._run.cancellation.reaches(connection),
        ):
            try:
                return self._transaction(connection)
            except PlanOutdated:
                self._reconsider(connection)
            except psycopg.Error as error:
                if not self._can_go_on(connection, error):
                    raise
            return self._transaction(connection)

    def _transaction(self, connection: AnyConnection) -> Committed:
        run, step = self._run, self._step
        run.cancellation.check(self._label)
        if step.strategy is None:
            raise errors.ConcurrentlyImpossible(self._label, step.reason)
        run.events.publish(RefreshStarted(run.run_id, self._label, step.strategy, step.reason))
        required_elsewhere = run.policy.metrics_policy == "required" and not run.records_itself
        order = Commission(
            view=step.view,
            strategy=STRATEGIES[step.strategy],
            reason=step.reason,
            run_id=run.run_id,
            trigger=run.policy.trigger,
            host=run.host,
            schema=run.schema,
            history=run.policy.metrics_policy if run.records_itself else "none",
            notify=self._notify,
            before_commit=self._record_first if required_elsewhere else None,
        )
        return refresh_in_transaction(
            connection, order, run.policy, proceed=lambda: run.cancellation.check(self._label)
        )

    def _record_first(self, committed: Committed, connection: AnyConnection) -> None:
        self._record_id = record_first(self._run, self._succeeded(committed), connection)

    # -- what a second transaction can mend ----------------------------------------------------

    def _can_go_on(self, connection: AnyConnection, error: psycopg.Error) -> bool:
        """Whether the same attempt, a little different, is worth a second transaction."""
        if error.sqlstate == faults.QUEUE_FULL and self._notify:
            # A listener somewhere sleeps in a transaction. Polls will carry the news.
            logger.warning("the notification queue is full: %s goes without", self._label)
            self._notify = False
            return True
        if error.sqlstate not in faults.MAYBE_NOT_CONCURRENTLY:
            return False
        if self._step.strategy != "concurrent":
            return False
        # A definition can raise these codes itself: only the catalog knows.
        self._reconsider(connection)
        if self._step.strategy == "concurrent":
            return False
        if self._step.strategy is not None:
            self._run.events.publish(
                RefreshFellBack(self._run.run_id, self._label, self._step.reason)
            )
        return True

    def _reconsider(self, connection: AnyConnection) -> None:
        """Choose again, from the catalog as it is now."""
        graph, oid = read_catalog(connection), self._step.view.oid
        if oid not in graph:
            raise errors.ViewVanished(self._label, "it was dropped")
        plan = self._run.plan
        (again,) = make_plan(graph, [oid], method=plan.method, fallback=plan.fallback)
        self._step = replace(
            self._step, view=again.view, strategy=again.strategy, reason=again.reason
        )

    # -- afterwards ----------------------------------------------------------------------------

    def _after_commit(self) -> None:
        """ANALYZE and prewarm: outside the transaction, where they hold nobody up."""
        policy, view = self._run.policy, self._step.view
        if not policy.analyze and not policy.prewarm:
            return
        try:
            with self._run.database.dedicated() as connection:
                if policy.analyze:
                    name = sql.Identifier(view.name.schema, view.name.name)
                    connection.execute(sql.SQL("ANALYZE {}").format(name))
                if policy.prewarm:
                    connection.execute("SELECT pg_prewarm(%s::oid::regclass)", (view.oid,))
        except (psycopg.Error, errors.DatabaseUnavailable) as error:
            logger.warning(
                "%s: refreshed, but ANALYZE or prewarm failed: %s",
                self._label,
                faults.message_of(error),
            )

    def _succeeded(self, committed: Committed) -> RefreshOutcome:
        return RefreshOutcome(
            view=self._label,
            status=Status.SUCCEEDED,
            run_id=self._run.run_id,
            strategy=self._step.strategy,
            reason=self._step.reason,
            duration_ms=committed.duration_ms,
            attempts=self._attempts,
            refresh_no=committed.refresh_no,
            content_token=committed.content_token,
            content_as_of=committed.content_as_of,
            content_changed=committed.content_changed,
            rows_inserted=committed.rows_inserted,
            rows_deleted=committed.rows_deleted,
            record_id=committed.record_id or self._record_id,
        )

    def _failed(self, error: Exception, duration_ms: float) -> RefreshOutcome:
        sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
        ended = sqlstate == "57014" or faults.is_connection_loss(error)
        if self._run.cancellation.requested and ended:
            typed: Exception = errors.RefreshCancelled(self._label, "it was cancelled")
        elif sqlstate == faults.RECORD_REFUSED:
            typed = errors.RecordingFailed(f"{self._label}: {faults.message_of(error)}")
        elif isinstance(error, errors.RecordingFailed):
            typed = error
        else:
            typed = faults.as_refresh_error(self._label, error)
        if typed is not error:
            typed.__cause__ = error
        if not isinstance(error, psycopg.Error | errors.MvrefreshError):
            logger.error("%s: an unexpected error", self._label, exc_info=error)
        cancelled = isinstance(typed, errors.RefreshCancelled)
        return self._not_refreshed(
            Status.CANCELLED if cancelled else Status.FAILED, typed, duration_ms
        )

    def _not_refreshed(
        self, status: Status, error: Exception, duration_ms: float
    ) -> RefreshOutcome:
        outcome = RefreshOutcome(
            view=self._label,
            status=status,
            run_id=self._run.run_id,
            strategy=self._step.strategy if self._attempts else None,
            reason=self._step.reason,
            duration_ms=duration_ms,
            attempts=self._attempts,
            error=error,
        )
        return replace(outcome, record_id=record_afterwards(self._run, outcome))

"""One step of a plan, to its end: attempts, fallback, and what came of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from mvrefresh import errors
from mvrefresh.events import RefreshFellBack, RefreshRetried, RefreshStarted
from mvrefresh.postgres import faults
from mvrefresh.postgres.catalog import read_catalog
from mvrefresh.refreshing.claim import SlotTaken
from mvrefresh.refreshing.commission import Commission, Committed, PlanOutdated
from mvrefresh.refreshing.plan import make_plan
from mvrefresh.refreshing.recording import lost, record_afterwards, record_first
from mvrefresh.refreshing.report import RefreshOutcome, Status
from mvrefresh.refreshing.settling import give_up_slot
from mvrefresh.refreshing.strategies import STRATEGIES
from mvrefresh.refreshing.tending import tend
from mvrefresh.refreshing.transaction import find_committed_after_all, refresh_in_transaction

if TYPE_CHECKING:
    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.claim import Claim
    from mvrefresh.refreshing.plan import Step
    from mvrefresh.refreshing.run import Run

logger = logging.getLogger("mvrefresh")

SHARED = "another refresh holds all that was committed before this one was asked for"


class StepRun:
    """Carries one step out. Made for one use, by one thread.

    Args:
        run: The run that it belongs to.
        step: What to do.
        claim: The slot that is to be served by it, if any.
    """

    def __init__(self, run: Run, step: Step, claim: Claim | None = None) -> None:
        self._run = run
        self._step = step
        self._claim = claim
        self._label = step.view.label
        self._attempts = 0
        self._began = monotonic()
        self._last_error: Exception | None = None
        self._lost_sight = False
        self._notify = True
        self._recorded_first = False
        self._record_id: int | None = None

    def __call__(self) -> RefreshOutcome:
        """Refresh the view; whatever happens is the outcome, but for what ends the process.

        Raises:
            SlotTaken: There was a claim, and somebody else serves the slot. Nothing was touched.
        """
        try:
            committed = self._with_retries()
        except SlotTaken as taken:
            found = self._committed_after_all(taken)  # it may have been us
            if found is None:
                raise
            committed = found
        except Exception as error:  # noqa: BLE001 - every failure of a view is an outcome
            found = self._committed_after_all(error)
            if found is None:
                return self._failed(error)
            committed = found
        outcome = self._succeeded(committed)
        if outcome.shared:
            return outcome
        self._after_commit()
        if committed.record_error is not None:
            lost(self._run, self._label, errors.RecordNotStored(committed.record_error))
        elif not self._recorded_first and not self._run.records_itself:
            outcome = replace(outcome, record_id=record_afterwards(self._run, outcome))
        return outcome

    def skip(self, upstream: list[str]) -> RefreshOutcome:
        """Leave the view alone: what it reads was not refreshed.

        Raises:
            SlotTaken: There was a claim, and somebody else has skipped the slot.
        """
        error = errors.UpstreamFailed(self._label, f"{', '.join(upstream)} was not refreshed")
        return self._not_refreshed(Status.SKIPPED_UPSTREAM, error)

    def leave(self) -> RefreshOutcome:
        """Leave the view alone: the run ends before its time."""
        return self._not_refreshed(
            Status.CANCELLED, errors.RefreshCancelled(self._label, "the run ended before it began")
        )

    # -- attempts ------------------------------------------------------------------------------

    def _with_retries(self) -> Committed:
        policy = self._run.policy
        for attempt in Retrying(
            retry=retry_if_exception(self._worth_another),
            stop=stop_after_attempt(policy.attempts) | stop_after_delay(policy.retry_timeout),
            wait=wait_exponential(policy.backoff_initial, max=policy.backoff_max)
            + wait_random(0, policy.backoff_initial),
            sleep=sleep_using_event(self._run.cancellation.wish),
            reraise=True,
        ):
            with attempt:
                return self._attempt()
        raise AssertionError("tenacity returns or raises")  # pragma: no cover

    def _worth_another(self, error: BaseException) -> bool:
        if not isinstance(error, Exception):
            return False
        self._last_error = error
        self._lost_sight = self._lost_sight or faults.is_connection_loss(error)
        return not self._run.cancellation.requested and faults.is_transient(error)

    def _attempt(self) -> Committed:
        run = self._run
        run.cancellation.check(self._label)
        if self._step.strategy is None:
            raise errors.ConcurrentlyImpossible(self._label, self._step.reason)
        if self._last_error is not None:
            run.events.publish(
                RefreshRetried(run.run_id, self._label, self._attempts, self._last_error)
            )
        self._attempts += 1
        self._began = monotonic()
        with run.database.dedicated() as connection, run.cancellation.reaches(connection):
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
        if step.strategy is None:
            raise errors.ConcurrentlyImpossible(self._label, step.reason)
        started = RefreshStarted(
            run.run_id, self._label, step.strategy, step.reason, run.policy.trigger
        )

        def proceed() -> None:
            run.cancellation.check(self._label)
            if self._may_be_left:
                run.events.publish(started)
                run.cancellation.check(self._label)

        if not self._may_be_left:
            run.events.publish(started)
        return refresh_in_transaction(connection, self._commission(), run.policy, proceed=proceed)

    def _commission(self) -> Commission:
        run, step = self._run, self._step
        required_elsewhere = run.policy.metrics_policy == "required" and not run.records_itself
        return Commission(
            view=step.view,
            strategy=STRATEGIES[step.strategy or "regular"],
            reason=step.reason,
            run_id=run.run_id,
            trigger=run.policy.trigger,
            host=run.host,
            schema=run.schema,
            history=run.policy.metrics_policy if run.records_itself else "none",
            notify=self._notify,
            again=self._lost_sight,
            claim=self._claim,
            since=run.since,
            unhurried=required_elsewhere or (self._may_be_left and run.events.heard),
            before_commit=self._record_first if required_elsewhere else None,
        )

    @property
    def _may_be_left(self) -> bool:
        """Whether another's refresh may be found instead: only the lock says that ours begins."""
        return self._claim is not None or self._run.since is not None

    def _record_first(self, committed: Committed, connection: AnyConnection) -> None:
        self._record_id = record_first(self._run, self._succeeded(committed), connection)
        self._recorded_first = True

    def _committed_after_all(self, error: Exception) -> Committed | None:
        """Whether a COMMIT arrived whose answer did not: then nothing has failed."""
        if self._run.schema is None or not (self._lost_sight or faults.is_connection_loss(error)):
            return None
        try:
            with self._run.database.dedicated() as connection:
                return find_committed_after_all(connection, self._commission(), self._run.policy)
        except (psycopg.Error, errors.DatabaseUnavailable):
            return None  # nobody can tell; the record says that the connection was lost

    # -- what a second transaction can mend ----------------------------------------------------

    def _can_go_on(self, connection: AnyConnection, error: psycopg.Error) -> bool:
        """Whether the same attempt, a little different, is worth a second transaction."""
        if faults.is_queue_full(error) and self._notify:
            # A listener somewhere sleeps in a transaction. Polls will carry the news.
            logger.warning("the notification queue is full: %s goes without", self._label)
            self._notify = False
            return True
        known = {faults.ANOTHER_VIEW, faults.UNDEFINED_TABLE, *faults.MAYBE_NOT_CONCURRENTLY}
        if error.sqlstate not in known:
            return False
        # A definition can raise most of these itself: only the catalog knows.
        planned = self._step
        self._reconsider(connection)  # raises if the view is gone
        if self._step.view.name != planned.view.name or error.sqlstate == faults.ANOTHER_VIEW:
            return True  # REFRESH goes by name, and the name had moved
        if planned.strategy == self._step.strategy or error.sqlstate == faults.UNDEFINED_TABLE:
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
        run, view = self._run, self._step.view
        if not run.policy.analyze and not run.policy.prewarm:
            return
        try:
            with run.database.dedicated() as connection, run.cancellation.reaches(connection):
                tend(connection, view, run.policy)
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
            strategy=None if committed.shared else self._step.strategy,
            reason=SHARED if committed.shared else self._step.reason,
            duration_ms=committed.duration_ms,
            attempts=self._attempts,
            refresh_no=committed.refresh_no,
            content_token=committed.content_token,
            content_as_of=committed.content_as_of,
            content_changed=committed.content_changed,
            rows_inserted=committed.rows_inserted,
            rows_deleted=committed.rows_deleted,
            shared=committed.shared,
            record_id=committed.record_id or self._record_id,
        )

    def _failed(self, error: Exception) -> RefreshOutcome:
        sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
        limit = self._run.policy.refresh_timeout
        if self._run.cancellation.requested and faults.is_connection_loss(error):
            typed: Exception = errors.RefreshCancelled(self._label, "it was cancelled")
        elif sqlstate == "57014" and limit is not None and monotonic() - self._began >= limit:
            typed = errors.RefreshTimedOut(self._label, f"it took longer than {limit:g} s")
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
        return self._not_refreshed(Status.CANCELLED if cancelled else Status.FAILED, typed)

    def _not_refreshed(self, status: Status, error: Exception) -> RefreshOutcome:
        outcome = RefreshOutcome(
            view=self._label,
            status=status,
            run_id=self._run.run_id,
            strategy=self._step.strategy if self._attempts else None,
            reason=self._step.reason,
            duration_ms=round((monotonic() - self._began) * 1000, 3) if self._attempts else 0.0,
            attempts=self._attempts,
            error=error,
        )
        if self._claim is not None and not self._run.cancellation.requested:
            words = give_up_slot(self._run, self._claim, outcome)
            if words is None and status is Status.SKIPPED_UPSTREAM:
                raise SlotTaken(busy=True)  # another has skipped and recorded it, or is at work
            outcome = replace(
                outcome, reason=f"{outcome.reason}; {words}" if words else outcome.reason
            )
        return replace(outcome, record_id=record_afterwards(self._run, outcome))

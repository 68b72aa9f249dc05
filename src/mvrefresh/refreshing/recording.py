"""The record of an outcome, wherever the refresh's own transaction does not write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvrefresh.errors import RecordingFailed
from mvrefresh.events import RecordLost
from mvrefresh.metrics.postgres import PostgresMetricsStore
from mvrefresh.metrics.store import RefreshRecord
from mvrefresh.postgres.batch import brief_transaction
from mvrefresh.postgres.faults import message_of

if TYPE_CHECKING:
    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.report import RefreshOutcome
    from mvrefresh.refreshing.run import Run


def record_of(run: Run, outcome: RefreshOutcome) -> RefreshRecord:
    """The line of history that says what `outcome` says."""
    return RefreshRecord(
        view_name=outcome.view,
        refresh_duration_ms=outcome.duration_ms,
        success=outcome.success,
        error_message=str(outcome.error) if outcome.error else None,
        status=outcome.status.value,
        strategy=outcome.strategy,
        reason=outcome.reason,
        trigger=run.policy.trigger,
        run_id=outcome.run_id,
        refresh_no=outcome.refresh_no,
        host=run.host,
        rows_inserted=outcome.rows_inserted,
        rows_deleted=outcome.rows_deleted,
    )


def record_afterwards(run: Run, outcome: RefreshOutcome) -> int | None:
    """Store it in a transaction of its own; a store that fails is an event, no more.

    Returns:
        The record's id, or None if it was lost.
    """
    record = record_of(run, outcome)
    try:
        if not run.metrics_in_database:
            return run.metrics.record(record).id
        with run.database.dedicated() as connection, brief_transaction(connection):
            return run.metrics.record(record, connection=connection).id
    except Exception as error:  # noqa: BLE001 - whatever a host's store raises
        lost(run, outcome.view, error)
        return None


def record_first(run: Run, outcome: RefreshOutcome, connection: AnyConnection) -> int | None:
    """Store it before the refresh commits: no record, no refresh.

    Raises:
        RecordingFailed: The store raised; the refresh must be rolled back.
    """
    of_elsewhere = isinstance(run.metrics, PostgresMetricsStore) and not run.metrics_in_database
    try:
        return run.metrics.record(
            record_of(run, outcome), connection=None if of_elsewhere else connection
        ).id
    except Exception as error:
        raise RecordingFailed(f"{outcome.view}: {message_of(error)}") from error


def lost(run: Run, view: str, error: Exception) -> None:
    """Say that a record was lost."""
    run.events.publish(RecordLost(run.run_id, view, error))

"""What came of a refresh: one outcome a view, one report a run. Values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from uuid import UUID


class Status(StrEnum):
    """What became of a view in a run. Each means one thing (promise P5)."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED_UNCHANGED = "skipped_unchanged"
    SKIPPED_UPSTREAM = "skipped_upstream"
    CANCELLED = "cancelled"

    @property
    def success(self) -> bool | None:
        """True, False, or None where the view was skipped and nothing ran."""
        if self is Status.SUCCEEDED:
            return True
        if self in (Status.FAILED, Status.CANCELLED):
            return False
        return None


@dataclass(frozen=True, slots=True)
class RefreshOutcome:
    """What became of one view. Truthy when the view is as fresh as was asked.

    Attributes:
        view: The view's label.
        strategy: What was done in the end ("concurrent", "regular"); None if nothing was.
        reason: Why that strategy, or why nothing, in words.
        duration_ms: Milliseconds of the refresh itself, by the database's clock; for a failure
            those of the last attempt as seen from here.
        attempts: How often it was tried; 0 when skipped.
        refresh_no: Number of the content, counted up when the content may have changed; None
            without the schema.
        content_token: Random token of the content: another token, other content.
        content_as_of: The moment for which the content stands, by the database's clock.
        content_changed: False when the refresh provably changed nothing; None when unknown.
        rows_inserted, rows_deleted: Rows written to the view by this refresh (a changed row
            counts in both; a regular refresh inserts them all); None when unknown.
        shared: Nothing was done here: another refresh, of this process or another, holds all
            that was committed before it was asked for; its duration and token are given.
        error: Why it failed.
        record_id: The metrics store's id of the record; None if there is none.
    """

    view: str
    status: Status
    run_id: UUID
    strategy: str | None = None
    reason: str = ""
    duration_ms: float = 0.0
    attempts: int = 0
    refresh_no: int | None = None
    content_token: UUID | None = None
    content_as_of: datetime | None = None
    content_changed: bool | None = None
    rows_inserted: int | None = None
    rows_deleted: int | None = None
    shared: bool = False
    error: Exception | None = None
    record_id: int | None = None

    def __bool__(self) -> bool:
        return self.status in (Status.SUCCEEDED, Status.SKIPPED_UNCHANGED)

    @property
    def success(self) -> bool | None:
        """True, False, or None where nothing ran: skipped, or cancelled before it began."""
        if self.status is Status.CANCELLED and self.attempts == 0:
            return None
        return self.status.success


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What came of a run: an outcome for every view of its plan, in the plan's order."""

    run_id: UUID
    outcomes: tuple[RefreshOutcome, ...]
    started_at: datetime
    duration_ms: float

    def __iter__(self) -> Iterator[RefreshOutcome]:
        return iter(self.outcomes)

    def __bool__(self) -> bool:
        return all(self.outcomes)

    def __getitem__(self, view: str) -> RefreshOutcome:
        for outcome in self.outcomes:
            if outcome.view == view:
                return outcome
        raise KeyError(view)

    @property
    def results(self) -> dict[str, bool]:
        """View -> whether it is as fresh as was asked."""
        return {outcome.view: bool(outcome) for outcome in self.outcomes}

    @property
    def failed_views(self) -> list[str]:
        """The views that are not, in the plan's order."""
        return [outcome.view for outcome in self.outcomes if not outcome]

    def raise_for_failures(self) -> None:
        """Raise what went wrong: the one error, or an ExceptionGroup of several."""
        errors = [o.error for o in self.outcomes if o.error is not None]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup(f"{len(errors)} views were not refreshed", errors)


@dataclass(frozen=True, slots=True)
class FinalMetrics:
    """What a refresh service did between its start and its stop, in this process.

    Attributes:
        total_refreshes: Views refreshed or tried; skipped ones and those that another process
            refreshed are not counted.
        average_duration_ms: Milliseconds, over all of them; None of none.
        uptime_seconds: From start to stop; 0.0 if it never ran.
    """

    total_refreshes: int = 0
    successful_refreshes: int = 0
    failed_refreshes: int = 0
    average_duration_ms: float | None = None
    uptime_seconds: float = 0.0

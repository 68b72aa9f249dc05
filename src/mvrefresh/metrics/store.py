"""The record of refreshes: what one says, what a store of them can do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

MAX_LIMIT = 10_000
"""The most records that one call of `recent` gives."""


@dataclass(frozen=True, slots=True)
class RefreshRecord:
    """One line of history.

    The first six fields are table `refresh_metrics` as its users have always known it.

    Attributes:
        id: Given by the store; None before it is stored.
        refresh_duration_ms: Milliseconds, 0 for what never ran.
        success: True, False, or None when the view was skipped: rates, averages and
            percentiles are over runs that ran.
        created_at: When the outcome was known; timezone-aware; None lets the store say now.
        trigger: Who asked: "manual", "schedule", "sql", ...
        host: Where the asking process ran.
    """

    view_name: str
    refresh_duration_ms: float
    success: bool | None
    created_at: datetime | None = None
    error_message: str | None = None
    id: int | None = None
    status: str = "succeeded"
    strategy: str | None = None
    reason: str | None = None
    trigger: str | None = None
    run_id: UUID | None = None
    refresh_no: int | None = None
    host: str | None = None
    rows_inserted: int | None = None
    rows_deleted: int | None = None


@dataclass(frozen=True, slots=True)
class MetricsSummary:
    """Figures over many records: skipped ones are not counted. Of no records: counts 0, rest None.

    Attributes:
        success_rate: 0 to 100.
        average_duration_ms, p50_duration_ms, ...: Milliseconds over runs that ran, failed ones
            too, with three digits. Percentiles interpolate between neighbours, as PostgreSQL's
            `percentile_cont`.
    """

    total_count: int = 0
    success_count: int = 0
    failure_count: int = 0
    success_rate: float | None = None
    average_duration_ms: float | None = None
    p50_duration_ms: float | None = None
    p95_duration_ms: float | None = None
    p99_duration_ms: float | None = None
    min_duration_ms: float | None = None
    max_duration_ms: float | None = None


@runtime_checkable
class MetricsStore(Protocol):
    """Keeps records of refreshes. Safe to call from any thread.

    `mvrefresh.testing.MetricsStoreContract` is the suite that a store must pass.
    """

    def record(self, record: RefreshRecord, *, connection: Any = None) -> RefreshRecord:
        """Store a record and return it with `id` and `created_at`.

        Args:
            record: What to store.
            connection: A psycopg connection inside the transaction of the refresh, where the
                record should become visible with it (`metrics_policy="required"`). A store
                that lives elsewhere ignores it.
        """
        ...

    def recent(
        self,
        limit: int = 100,
        view_name: str | None = None,
        since: datetime | None = None,
    ) -> Sequence[RefreshRecord]:
        """The newest records first.

        Args:
            limit: 1 to 10,000.
            view_name: Only this view's.
            since: Only those made at this moment or later; timezone-aware.

        Raises:
            ConfigurationError: `limit` out of bounds, or `since` without a time zone.
        """
        ...

    def summary(
        self, view_name: str | None = None, since: datetime | None = None
    ) -> MetricsSummary:
        """Figures over all records that match (see `recent`), not over a page of them."""
        ...

    def purge(
        self, *, older_than: timedelta | None = None, keep_per_view: int | None = None
    ) -> int:
        """Delete old records; returns how many.

        Args:
            older_than: Those made longer ago than this.
            keep_per_view: All but the newest so many of each view (0 deletes all).

        Raises:
            ConfigurationError: Neither was given, or one is negative.
        """
        ...


def check_filters(limit: int, since: datetime | None) -> None:
    """Refuse what `recent` and `summary` cannot mean."""
    if not 1 <= limit <= MAX_LIMIT:
        raise ConfigurationError(f"limit={limit} is not between 1 and {MAX_LIMIT}")
    if since is not None and since.tzinfo is None:
        raise ConfigurationError(f"since={since} has no time zone: use datetime.now(UTC) and such")


def check_purge(older_than: timedelta | None, keep_per_view: int | None) -> None:
    """Refuse what `purge` cannot mean."""
    if older_than is None and keep_per_view is None:
        raise ConfigurationError("purge() needs older_than= or keep_per_view=; it deletes records")
    if older_than is not None and older_than.total_seconds() < 0:
        raise ConfigurationError(f"older_than={older_than} is negative")
    if keep_per_view is not None and keep_per_view < 0:
        raise ConfigurationError(f"keep_per_view={keep_per_view} is negative")


def percentile_cont(ordered: Sequence[float], fraction: float) -> float:
    """The value at `fraction` of a sorted, non-empty sequence, as PostgreSQL interpolates it.

    Source: `percentile_cont` in PostgreSQL's orderedsetaggs.c: row = fraction * (N - 1), linear
    between the rows below and above.
    """
    position = fraction * (len(ordered) - 1)
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def summarize(records: Iterable[RefreshRecord]) -> MetricsSummary:
    """The figures of some records, in memory."""
    ran = [record for record in records if record.success is not None]
    if not ran:
        return MetricsSummary()
    successes = sum(1 for record in ran if record.success)
    durations = sorted(record.refresh_duration_ms for record in ran)
    summary = MetricsSummary(
        total_count=len(ran),
        success_count=successes,
        failure_count=len(ran) - successes,
        success_rate=100.0 * successes / len(ran),
        average_duration_ms=math.fsum(durations) / len(durations),
        p50_duration_ms=percentile_cont(durations, 0.50),
        p95_duration_ms=percentile_cont(durations, 0.95),
        p99_duration_ms=percentile_cont(durations, 0.99),
        min_duration_ms=durations[0],
        max_duration_ms=durations[-1],
    )
    return rounded(summary)


def rounded(summary: MetricsSummary) -> MetricsSummary:
    """To microseconds: the database's clock, by which refreshes are timed, has no more."""

    def brief(milliseconds: float | None) -> float | None:
        return None if milliseconds is None else round(milliseconds, 3)

    return replace(
        summary,
        average_duration_ms=brief(summary.average_duration_ms),
        p50_duration_ms=brief(summary.p50_duration_ms),
        p95_duration_ms=brief(summary.p95_duration_ms),
        p99_duration_ms=brief(summary.p99_duration_ms),
        min_duration_ms=brief(summary.min_duration_ms),
        max_duration_ms=brief(summary.max_duration_ms),
    )

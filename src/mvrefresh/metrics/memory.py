"""A metrics store in process memory: for `coordination="local"`, for tests, for scripts."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count, islice
from threading import Lock
from typing import TYPE_CHECKING, Any

from mvrefresh.errors import ConfigurationError
from mvrefresh.metrics.store import (
    MetricsSummary,
    RefreshRecord,
    check_filters,
    check_purge,
    summarize,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta


def _now() -> datetime:
    return datetime.now(UTC)


class InMemoryMetricsStore:
    """Keeps the newest `capacity` records of this process; they end with it.

    Args:
        capacity: How many to keep; the oldest go first.
        now: The clock, timezone-aware; tests give their own.
    """

    def __init__(self, capacity: int = 10_000, *, now: Callable[[], datetime] = _now) -> None:
        if capacity < 1:
            raise ConfigurationError(f"capacity={capacity} is less than 1")
        self._records: deque[RefreshRecord] = deque(maxlen=capacity)
        self._ids = count(1)
        self._now = now
        self._lock = Lock()

    def forget_parent(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._records)} of {self._records.maxlen} records)"

    def record(self, record: RefreshRecord, *, connection: Any = None) -> RefreshRecord:  # noqa: ARG002
        """Store a record and return it with `id` and `created_at`."""
        with self._lock:
            stored = replace(
                record, id=next(self._ids), created_at=record.created_at or self._now()
            )
            self._records.append(stored)
        return stored

    def _newest_first(
        self, view_name: str | None, since: datetime | None
    ) -> Iterator[RefreshRecord]:
        with self._lock:
            records = list(self._records)
        matching = (
            r
            for r in records
            if (view_name is None or r.view_name == view_name)
            and (since is None or _created(r) >= since)
        )
        return iter(sorted(matching, key=lambda r: (_created(r), r.id), reverse=True))

    def recent(
        self, limit: int = 100, view_name: str | None = None, since: datetime | None = None
    ) -> Sequence[RefreshRecord]:
        """The newest records first; see `MetricsStore.recent`."""
        check_filters(limit, since)
        return list(islice(self._newest_first(view_name, since), limit))

    def summary(
        self, view_name: str | None = None, since: datetime | None = None
    ) -> MetricsSummary:
        """Figures over all records that match; see `MetricsStore.summary`."""
        check_filters(1, since)
        return summarize(self._newest_first(view_name, since))

    def purge(
        self, *, older_than: timedelta | None = None, keep_per_view: int | None = None
    ) -> int:
        """Delete old records; see `MetricsStore.purge`."""
        check_purge(older_than, keep_per_view)
        horizon = None if older_than is None else self._now() - older_than
        with self._lock:
            kept: deque[RefreshRecord] = deque(maxlen=self._records.maxlen)
            seen: dict[str, int] = {}
            newest_first = sorted(self._records, key=lambda r: (_created(r), r.id), reverse=True)
            for record in newest_first:
                rank = seen[record.view_name] = seen.get(record.view_name, 0) + 1
                too_old = horizon is not None and _created(record) < horizon
                too_many = keep_per_view is not None and rank > keep_per_view
                if not too_old and not too_many:
                    kept.appendleft(record)
            deleted = len(self._records) - len(kept)
            self._records = kept
        return deleted


def _created(record: RefreshRecord) -> datetime:
    """When it was made; `record()` has seen to it that there is a moment."""
    assert record.created_at is not None  # noqa: S101
    return record.created_at

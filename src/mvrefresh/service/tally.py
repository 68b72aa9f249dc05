"""What a service has done since its start, in this process."""

from __future__ import annotations

from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from mvrefresh.refreshing.report import FinalMetrics

if TYPE_CHECKING:
    from mvrefresh.refreshing.report import RefreshOutcome


class Tally:
    """Counts outcomes. Any thread may."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._since = monotonic()
        self._successes = self._failures = 0
        self._duration_ms = 0.0

    def count(self, outcome: RefreshOutcome) -> None:
        """Count an outcome that was brought about here."""
        if outcome.success is None or outcome.shared:
            return
        with self._lock:
            self._duration_ms += outcome.duration_ms
            if outcome.success:
                self._successes += 1
            else:
                self._failures += 1

    def sum(self) -> FinalMetrics:
        """The figures as they are now."""
        with self._lock:
            total = self._successes + self._failures
            return FinalMetrics(
                total_refreshes=total,
                successful_refreshes=self._successes,
                failed_refreshes=self._failures,
                average_duration_ms=round(self._duration_ms / total, 3) if total else None,
                uptime_seconds=monotonic() - self._since,
            )

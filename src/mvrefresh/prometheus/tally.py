"""What the refreshes of this process came to, counted as their events arrive.

By events and not by the history: that is the whole fleet's, so that each process would show the
same refreshes once more, and its rows are purged, which a counter must not survive as a lower
figure. An event comes once a refresh; look-ups pass by here never.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from mvrefresh.events import RecordLost, RefreshFellBack, RefreshFinished, RefreshRetried
from mvrefresh.refreshing.report import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mvrefresh.events import Event
    from mvrefresh.prometheus.labels import Labels
    from mvrefresh.refreshing.report import RefreshOutcome


class Durations(NamedTuple):
    """How long the refreshes of a view took.

    Attributes:
        counts: How many fell into each bucket, the last one without an upper bound.
        seconds: All of them together.
    """

    counts: tuple[int, ...]
    seconds: float


class Figures(NamedTuple):
    """The tally at one moment; keys are labels of views, and a status beside the first.

    Attributes:
        refreshes: Outcomes that were brought about here.
        shared: Forced refreshes that another one, here or elsewhere, has served.
        retries, fallbacks, lost: Events of these kinds.
        durations: Of refreshes that ran.
    """

    refreshes: dict[tuple[str, str], int]
    shared: dict[str, int]
    retries: dict[str, int]
    fallbacks: dict[str, int]
    lost: dict[str, int]
    durations: dict[str, Durations]


class RefreshTally:
    """Counts events. Any thread may.

    Args:
        labels: Gives the views their labels.
        buckets: Upper bounds of the durations, in seconds, ascending.
    """

    def __init__(self, labels: Labels, buckets: Sequence[float]) -> None:
        self._labels = labels
        self._buckets = tuple(buckets)
        self.forget_parent()

    def forget_parent(self) -> None:
        """In a forked child: what the parent has done, the parent shows."""
        self._lock = Lock()
        self._refreshes: Counter[tuple[str, str]] = Counter()
        self._shared: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._fallbacks: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._counts: dict[str, list[int]] = {}

    def __call__(self, event: Event) -> None:
        """Count an event; a subscriber of an `EventBus`."""
        match event:
            case RefreshFinished(outcome=outcome):
                self._count(outcome)
            case RefreshRetried(view=view):
                self._one(self._retries, view)
            case RefreshFellBack(view=view):
                self._one(self._fallbacks, view)
            case RecordLost(view=view):
                self._one(self._lost, view)

    def _one(self, counter: Counter[str], view: str) -> None:
        label = self._labels.of(view)
        with self._lock:
            counter[label] += 1

    def _count(self, outcome: RefreshOutcome) -> None:
        label = self._labels.of(outcome.view)
        with self._lock:
            if outcome.shared:
                self._shared[label] += 1
                return
            self._refreshes[label, outcome.status.value] += 1
            if outcome.success is None:
                return
            seconds = max(0.0, outcome.duration_ms / 1000)
            counts = self._counts.setdefault(label, [0] * (len(self._buckets) + 1))
            counts[bisect_left(self._buckets, seconds)] += 1
            self._seconds[label] = self._seconds.get(label, 0.0) + seconds

    def expect(self, label: str) -> None:
        """Show a view before anything was done with it, so that its first failure is an increase.

        To Prometheus, a series that begins with 1 has never risen. Durations have too many series
        for that: of the first one in a process, only that it was is known.
        """
        with self._lock:
            for status in (Status.SUCCEEDED, Status.FAILED):
                self._refreshes.setdefault((label, status.value), 0)
            for counter in (self._shared, self._retries, self._fallbacks, self._lost):
                counter.setdefault(label, 0)

    def figures(self) -> Figures:
        """All of it at one moment."""
        with self._lock:
            return Figures(
                refreshes=dict(self._refreshes),
                shared=dict(self._shared),
                retries=dict(self._retries),
                fallbacks=dict(self._fallbacks),
                lost=dict(self._lost),
                durations={
                    label: Durations(tuple(counts), self._seconds[label])
                    for label, counts in self._counts.items()
                },
            )

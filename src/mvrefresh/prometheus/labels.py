"""Which views have a label of their own: a bounded number, since each costs the host's Prometheus.

A view keeps its place as long as the process lives. If it could lose it to another, the counters of
`other` would go down.
"""

from __future__ import annotations

from threading import Lock
from typing import Final

OTHER: Final = "other"
"""The label of all views that have none of their own."""

_NAMED_OTHER: Final = "public.other"  # as SQL reads it, and as no label of ours is spelled


class Labels:
    """Gives out labels, first come first served. Any thread may ask.

    Args:
        most: How many views have one of their own.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._given: set[str] = set()
        self._lock = Lock()

    def of(self, view: str) -> str:
        """The label of a view."""
        label = _NAMED_OTHER if view == OTHER else view
        if label in self._given:
            return label
        with self._lock:
            if len(self._given) >= self._most:
                return OTHER
            self._given.add(label)
        return label

    def forget_parent(self) -> None:
        """In a forked child: begin anew."""
        self._given = set()
        self._lock = Lock()

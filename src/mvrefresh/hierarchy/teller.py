"""Tells events on a thread of its own, in their order.

Who ends leases has to be in time, whatever a host's callback takes.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.refreshing.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from mvrefresh.events import Event


class Teller:
    """Hands events on. Any thread may; none waits.

    Args:
        tell: Is called with each event; it does not raise.
    """

    __slots__ = ("__weakref__", "_events", "_lock", "_tell", "_telling")

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self.after_fork()
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: the thread that tells is the parent's, and so is what it has to."""
        self._events: deque[Event] = deque()
        self._lock = Lock()
        self._telling = False

    def __call__(self, event: Event) -> None:
        """Tell it soon."""
        with self._lock:
            self._events.append(event)
            if self._telling:
                return
            self._telling = True
        in_thread("mvrefresh-teller", self._run)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._events:
                    self._telling = False
                    return
                event = self._events.popleft()
            self._tell(event)

"""Keeps away from what fails: after a few failures nobody tries, until one may."""

from __future__ import annotations

from threading import Lock
from time import monotonic, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Breaker:
    """Closed while all is well, open after failures, half open for one probe. Any thread may ask.

    Args:
        failures: In a row, after which it opens.
        pause, longest: Seconds for which it stays open at first, and at most; it doubles with each
            probe that fails.
        clock: Seconds; for tests.

    Attributes:
        errors: Failures since it was made.
        degraded_since: Unix seconds since when it has been open; None while it is not.
    """

    __slots__ = (
        "_clock", "_failures", "_in_a_row", "_lock", "_longest", "_opens_at", "_pause", "_pauses",
        "_probing", "degraded_since", "errors",
    )  # fmt: skip

    def __init__(
        self,
        failures: int = FAILURES,
        *,
        pause: float = FIRST_PAUSE,
        longest: float = LONGEST_PAUSE,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._failures = failures
        self._pause = pause
        self._longest = longest
        self._clock = clock
        self._in_a_row = 0
        self._pauses = 0
        self._opens_at: float | None = None  # the next probe; None: it is closed
        self._probing = False
        self.errors = 0
        self.degraded_since: float | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: nobody is in the middle of anything."""
        self._lock = Lock()
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether it keeps callers away."""
        return self._opens_at is not None

    @property
    def failing(self) -> bool:
        """Whether the last try went wrong."""
        return self._in_a_row > 0

    def may_try(self) -> bool:
        """Whether to try; who is told so has to say how it went."""
        if self._opens_at is None:
            return True
        with self._lock:
            if self._opens_at is None:
                return True
            if self._probing or self._clock() < self._opens_at:
                return False
            self._probing = True
            return True

    def gave_up(self) -> None:
        """Nobody knows how it went: another may try."""
        if self._probing:
            with self._lock:
                self._probing = False

    def succeeded(self) -> bool:
        """It went well; whether that has closed it."""
        if self._opens_at is None and not self._in_a_row:
            return False
        with self._lock:
            closed = self._opens_at is not None
            self._opens_at = self.degraded_since = None
            self._in_a_row = self._pauses = 0
            self._probing = False
            return closed

    def failed(self) -> bool:
        """It went wrong; whether that has opened it."""
        with self._lock:
            self.errors += 1
            self._in_a_row += 1
            if self._opens_at is None and self._in_a_row < self._failures:
                return False
            opened = self._opens_at is None
            if opened or self._probing:  # not for each that was under way when it opened
                pause = min(self._longest, self._pause * 2**self._pauses)
                self._opens_at = self._clock() + pause
                self._pauses += 1
            self._probing = False
            if opened:
                self.degraded_since = time()
            return opened

"""One load for all who want the same thing at the same time: they share its value or its error."""

from __future__ import annotations

from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class _Flight(Generic[T]):
    """A load that is under way.

    Attributes:
        results: Its value, once there is one.
        error: What it raised. Neither: it was broken off, and whoever waits is to begin again.
    """

    __slots__ = ("began", "error", "landed", "results")

    def __init__(self, began: float) -> None:
        self.began = began
        self.landed = Event()
        self.error: Exception | None = None
        self.results: tuple[T, ...] = ()


class Flights(Generic[T]):
    """Loads under way, by what they load. Any thread may ask.

    Args:
        oldest: Seconds; a load that began longer ago is not joined: it may hang, or have read
            what has changed since.
        clock: Seconds; for tests.
    """

    def __init__(self, oldest: float = 1.0, *, clock: Callable[[], float] = monotonic) -> None:
        self._oldest = oldest
        self._clock = clock
        self._lock = Lock()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def load(self, key: Hashable, load: Callable[[], T]) -> T:
        """What `load` gives, called by one of those who ask for `key` at the same time.

        Raises:
            Exception: What `load` raised, to every one of them; nobody tries again in turn. What
                is no `Exception`, as `KeyboardInterrupt`, concerns the thread that it met, and no
                other: another of them loads.
        """
        while True:
            with self._lock:
                flight = self._flights.get(key)
                now = self._clock()
                if flight is None or now - flight.began > self._oldest:
                    flight = self._flights[key] = _Flight(now)
                    break
            flight.landed.wait()
            if flight.results:
                return flight.results[0]
            if flight.error is not None:
                try:
                    raise flight.error
                finally:
                    del flight  # it holds the error, which holds this frame
        try:
            result = load()
        except Exception as error:
            flight.error = error
            raise
        else:
            flight.results = (result,)
            return result
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.landed.set()
            del flight  # as above

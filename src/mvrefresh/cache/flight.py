"""One load for all who want the same thing at the same time: they share its value or its error."""

from __future__ import annotations

from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class _Flight(Generic[T]):
    """A load that is under way."""

    __slots__ = ("began", "error", "landed", "result")

    def __init__(self, began: float) -> None:
        self.began = began
        self.landed = Event()
        self.error: BaseException | None = None
        self.result: T | None = None


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
            Exception: What `load` raised, to every one of them; nobody tries again in turn.
        """
        with self._lock:
            flight = self._flights.get(key)
            mine = flight is None or self._clock() - flight.began > self._oldest
            if mine:
                flight = self._flights[key] = _Flight(self._clock())
        assert flight is not None  # noqa: S101 - one of the two above
        if not mine:
            flight.landed.wait()
            if flight.error is not None:
                raise flight.error
            return flight.result  # type: ignore[return-value]
        try:
            flight.result = load()
        except BaseException as error:
            flight.error = error
            raise
        else:
            return flight.result
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.landed.set()

"""The tiers together: a look-up falls through them, and what it finds is kept on the way back.

A value is kept only under the tag that was read with it, in the same statement, and only if that is
the tag known to be current. Where the two differ, somebody has refreshed the view, or the read was
of an old snapshot: the current tag is asked for, and then it is decided.
"""

from __future__ import annotations

from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

import cachetools

from mvrefresh.cache.flight import Flights
from mvrefresh.cache.tier import MISSING, Loaded, Missing, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from mvrefresh.cache.memory import MemoryTier

K = TypeVar("K")
V = TypeVar("V")


class TieredCache(Generic[K, V]):
    """Values of one kind by key, read through from a loader. Any thread may ask.

    Args:
        memory: L1.
        load: Reads values and their tag from the database, in one statement.
        current: Reads the tag that is current, and the moment its content stands for.
        negative_ttl: Seconds for which a key that does not exist is remembered as such.
        negative_size: How many of those at most.
        clock: Seconds; for tests.
    """

    __slots__ = (
        "_as_of",
        "_current",
        "_flights",
        "_load",
        "_looking",
        "_negative",
        "_negative_lock",
        "memory",
    )

    def __init__(
        self,
        memory: MemoryTier[K, V],
        load: Callable[[Sequence[K]], Loaded[K, V]],
        current: Callable[[], tuple[Tag | None, datetime | None]],
        *,
        negative_ttl: float = 5.0,
        negative_size: int = 10_000,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.memory = memory
        self._load = load
        self._current = current
        self._as_of: datetime | None = None
        self._looking = Lock()
        self._flights: Flights[Loaded[K, V]] = Flights(clock=clock)
        # Its users' own words for "there is no such key": tag, so that a refresh ends it.
        self._negative: cachetools.TTLCache[K, Tag | None] = cachetools.TTLCache(
            negative_size, negative_ttl, timer=clock
        )
        self._negative_lock = Lock()

    @property
    def as_of(self) -> datetime | None:
        """The moment for which everything that is held stands."""
        return self._as_of

    def get(self, key: K) -> V | Missing:
        """The value, `MISSING` if the key does not exist.

        Raises:
            Exception: What the loader raised, to all who waited for it.
        """
        found = self.memory.get(key)
        return self.miss(key) if found is MISSING else found

    def miss(self, key: K) -> V | Missing:
        """What to do when L1 does not have it: load it once for all who ask now."""
        if self._known_missing(key):
            return MISSING
        memory = self.memory
        # Who comes after a change of the tag does not join a load that began before it.
        loaded = self._flights.load((key, id(memory.entries)), lambda: self._fetch([key]))
        return loaded.values.get(key, MISSING)

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """The values of those keys that exist; what is missing is loaded in one read."""
        wanted = list(dict.fromkeys(keys))
        found = self.memory.get_many(wanted)
        missing = [k for k in wanted if k not in found and not self._known_missing(k)]
        if missing:
            found |= self._fetch(missing).values
        return found

    def _fetch(self, keys: Sequence[K]) -> Loaded[K, V]:
        loaded = self._load(keys)
        if loaded.tag is None or loaded.tag != self.memory.tag:
            self.look_at_the_tag()
        if loaded.tag is not None and loaded.tag == self.memory.tag:
            self._as_of = loaded.as_of
        self.memory.put_many(loaded.values, loaded.tag)
        absent = [key for key in keys if key not in loaded.values]
        if absent:
            with self._negative_lock:
                for key in absent:
                    self._negative[key] = loaded.tag
        return loaded

    def look_at_the_tag(self) -> None:
        """Ask which content is current, and hold nothing of any other; with the same, all stays.

        Also after a refresh of our own: two of them may end here in another order than they
        committed. One after the other, so that no older answer overtakes a newer one.
        """
        with self._looking:
            tag, self._as_of = self._current()
            self.memory.retag(tag)

    def _known_missing(self, key: K) -> bool:
        if not self._negative:
            return False
        with self._negative_lock:
            tag = self._negative.get(key, MISSING)
        return tag is not MISSING and tag == self.memory.tag

    def discard(self, keys: Iterable[K]) -> None:
        """Forget some keys, and that they do not exist."""
        keys = list(keys)
        self.memory.discard(keys)
        with self._negative_lock:
            for key in keys:
                self._negative.pop(key, None)

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
from mvrefresh.cache.tier import MISSING, Loaded, Missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mvrefresh.cache.memory import MemoryTier
    from mvrefresh.cache.tier import Tag

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
        "_current",
        "_flights",
        "_load",
        "_lock",
        "_looking",
        "_negative",
        "_standing",
        "memory",
    )

    def __init__(
        self,
        memory: MemoryTier[K, V],
        load: Callable[[Sequence[K]], Loaded[K, V]],
        current: Callable[[], tuple[Tag | None, float | None]],
        *,
        negative_ttl: float = 5.0,
        negative_size: int = 10_000,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.memory = memory
        self._load = load
        self._current = current
        self._looking = Lock()
        self._flights: Flights[V | Missing] = Flights(clock=clock)
        self._lock = Lock()  # of the two below
        self._standing: tuple[Tag | None, float | None] = (None, None)
        # The tag beside each key that does not exist, so that a refresh ends it. Even asking for
        # the length of a TTLCache changes it.
        self._negative: cachetools.TTLCache[K, Tag] = cachetools.TTLCache(
            negative_size, negative_ttl, timer=clock
        )

    @property
    def as_of(self) -> float | None:
        """The moment for which everything that is held stands."""
        tag, moment = self._standing
        return moment if tag == self.memory.tag else None

    def get(self, key: K) -> V | Missing:
        """The value, `MISSING` if the key does not exist.

        Raises:
            Exception: What the loader raised, to all who waited for it.
        """
        found = self.memory.get(key)
        return self.miss(key) if found is MISSING else found

    def miss(self, key: K) -> V | Missing:
        """What to do when L1 does not have it: load it once for all who ask now.

        Counts nothing: the look-up in L1 has.
        """
        if self._known_missing(key):
            return MISSING
        # Who comes after a change of the tag does not join a load that began before it.
        flight = (self.memory.generation, key)
        return self._flights.load(flight, lambda: self._fetch_one(key))

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """The values of those keys that exist; what is missing is loaded in one read."""
        wanted = list(dict.fromkeys(keys))
        found = self.memory.get_many(wanted)
        missing = [k for k in wanted if k not in found and not self._known_missing(k)]
        if missing:
            found |= self._fetch(missing).values
        return found

    def _fetch_one(self, key: K) -> V | Missing:
        record = self.memory.entries.get(key)
        if record is not None:  # another load ended between our look-up and this one's beginning
            return record.value
        if self._known_missing(key):
            return MISSING
        return self._fetch([key]).values.get(key, MISSING)

    def _fetch(self, keys: Sequence[K]) -> Loaded[K, V]:
        loaded = self._load(keys)
        if loaded.tag != self.memory.tag:
            self._settle(loaded.tag)
        if loaded.tag is not None:
            self.memory.put_many(loaded.values, loaded.tag)
            self._note(loaded, keys)
        return loaded

    def _note(self, loaded: Loaded[K, V], keys: Sequence[K]) -> None:
        """What else a read says of the current content: its moment, and what it does not hold."""
        self._stand(loaded.tag, loaded.as_of)
        absent = [key for key in keys if key not in loaded.values]
        if absent and loaded.tag is not None and loaded.tag == self.memory.tag:
            with self._lock:
                for key in absent:
                    self._negative[key] = loaded.tag

    def _stand(self, tag: Tag | None, moment: float | None) -> None:
        """The content `tag` stands for this moment at least, if it is the current one."""
        with self._lock:
            if tag != self.memory.tag:
                return
            known, before = self._standing
            if tag != known or (moment is not None and (before is None or before < moment)):
                self._standing = (tag, moment)

    def _settle(self, tag: Tag | None) -> None:
        """Find out which is current, `tag` or the one that is known; many may find it at once."""
        with self._looking:
            if tag != self.memory.tag:  # nobody else has found out meanwhile
                self._look()

    def look_at_the_tag(self) -> None:
        """Ask which content is current, and hold nothing of any other; with the same, all stays.

        Also after a refresh of our own: two of them may end here in another order than they
        committed. One after the other, so that no older answer overtakes a newer one.
        """
        with self._looking:
            self._look()

    def _look(self) -> None:
        tag, moment = self._current()
        self.memory.retag(tag)
        self._stand(tag, moment)

    def _known_missing(self, key: K) -> bool:
        with self._lock:
            tag = self._negative.get(key)
        return tag is not None and tag == self.memory.tag

    def discard(self, keys: Iterable[K]) -> None:
        """Forget some keys, and that they do not exist."""
        keys = list(keys)
        self.memory.discard(keys)
        with self._lock:
            for key in keys:
                self._negative.pop(key, None)

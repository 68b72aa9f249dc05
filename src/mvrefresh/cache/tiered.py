"""The tiers together: a look-up falls through them, and what it finds is kept on the way back.

A value is kept only under the tag that was read with it, in the same statement, and only if that is
the tag known to be current: where the two differ, the `Content` finds out which one is.
"""

from __future__ import annotations

from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

import cachetools

from mvrefresh.cache.flight import Flights
from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.cache.gather import Gather
from mvrefresh.cache.tier import MISSING, Loaded, Missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mvrefresh.cache.chosen import ChosenTier
    from mvrefresh.cache.content import Content
    from mvrefresh.cache.memory import MemoryTier
    from mvrefresh.cache.redis import RedisTier
    from mvrefresh.cache.tier import Tag

K = TypeVar("K")
V = TypeVar("V")

_ORIGINS = 10_000  # keys of which is known where they were read


class TieredCache(Generic[K, V]):
    """Values of one kind by key, read through from a loader. Any thread may ask.

    Args:
        memory: L1; it follows the content's tag from now on.
        load: Reads values and their tag from the database, in one statement.
        content: Of which the values are.
        negative_ttl: Seconds for which a key that does not exist is remembered as such.
        negative_size: How many of those at most.
        together: Whether `load` takes several keys at once.
        shared: L2, asked before `load`; it is told of what that gives.
        clock: Seconds; for tests.
    """

    __slots__ = (
        "__weakref__", "_clock", "_flights", "_gather", "_load", "_lock", "_negative", "_origins",
        "_together", "content", "memory", "shared",
    )  # fmt: skip

    def __init__(
        self,
        memory: MemoryTier[K, V] | ChosenTier[K, V],
        load: Callable[[Sequence[K]], Loaded[K, V]],
        content: Content,
        *,
        negative_ttl: float = 5.0,
        negative_size: int = 10_000,
        together: bool = True,
        shared: RedisTier[K, V] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.memory = memory
        self.content = content
        self._load = load
        self._clock = clock
        self._together = together
        self.shared = shared
        self._origins: dict[K, str] = {}
        self._begin()
        self._lock = Lock()  # of the next: even asking for the length of a TTLCache changes it
        # The tag beside each key that does not exist, so that a refresh ends it.
        self._negative: cachetools.TTLCache[K, Tag] = cachetools.TTLCache(
            negative_size, negative_ttl, timer=clock
        )
        content.follow(memory)
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: nobody is in the middle of anything."""
        self._lock = Lock()
        self._begin()

    def _begin(self) -> None:
        self._flights: Flights[V | Missing] = Flights(clock=self._clock)
        self._gather: Gather[K, V] = Gather(lambda keys: self._fetch(keys).values)

    def get(self, key: K) -> V | Missing:
        """The value, `MISSING` if the key does not exist.

        Raises:
            Exception: What the loader raised, to all who waited for it.
        """
        if self.content.strict:
            self.content.check()
        found = self.memory.get(key)
        return self.miss(key) if found is MISSING else found

    def miss(self, key: K) -> V | Missing:
        """What to do when L1 does not have it: load it once for all who ask now.

        Counts nothing: the look-up in L1 has.
        """
        self.content.see()
        if self._known_missing(key):
            return MISSING
        # Who comes after a change of the tag does not join a load that began before it.
        flight = (self.memory.generation, key)
        return self._flights.load(flight, lambda: self._fetch_one(key))

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """The values of those keys that exist; what is missing is loaded in one read."""
        if self.content.strict:
            self.content.check()
        wanted = list(dict.fromkeys(keys))
        found = self.memory.get_many(wanted)
        if len(found) < len(wanted) and self.content.blind:
            self.content.see()
            parked = ((key, self.memory.entries.get(key)) for key in wanted)
            found |= {key: record.value for key, record in parked if record is not None}
        missing = self._not_known_missing([k for k in wanted if k not in found])
        if missing:
            found |= self._fetch(missing).values
        return found

    def _fetch_one(self, key: K) -> V | Missing:
        record = self.memory.entries.get(key)
        if record is not None:  # another load ended between our look-up and this one's beginning
            return record.value
        if self._known_missing(key):
            return MISSING
        if self._together:
            return self._gather.load(key)
        return self._fetch([key]).values.get(key, MISSING)

    def _fetch(self, keys: Sequence[K]) -> Loaded[K, V]:
        line = self.content.line
        if self.shared is None or line.tag is None:
            return self._fetch_below(keys)
        found = self.shared.under(line, keys)
        self._came_from("l2", found)
        self.memory.put_many(found, line.tag)
        rest = [key for key in keys if key not in found] if len(found) < len(keys) else []
        if not rest:
            return Loaded(found, line.tag)
        loaded = self._fetch_below(rest)
        line = self.content.line
        if loaded.tag is not None and loaded.tag == line.tag:
            passing = loaded.passing  # the others cannot know when that is over
            self.shared.keep(line, {k: v for k, v in loaded.values.items() if k not in passing})
        return Loaded(found | dict(loaded.values), loaded.tag)

    def _fetch_below(self, keys: Sequence[K]) -> Loaded[K, V]:
        loaded = self._load(keys)
        self._came_from(loaded.tier or "l4", loaded.values)
        if loaded.passing and loaded.tier is None:
            self._came_from("source", loaded.passing)
        self.content.settle(loaded.tag)
        if loaded.tag is not None:
            self.memory.put_many(loaded.values, loaded.tag, loaded.passing)
            self._note(loaded, keys)
        return loaded

    def _note(self, loaded: Loaded[K, V], keys: Sequence[K]) -> None:
        """What else a read says of the current content: its moment, and what it does not hold."""
        self.content.stand(loaded.tag, loaded.as_of)
        absent = [key for key in keys if key not in loaded.values]
        if absent and loaded.tag is not None and loaded.tag == self.memory.tag:
            with self._lock:
                for key in absent:
                    self._negative[key] = loaded.tag

    def _came_from(self, tier: str, keys: Iterable[K]) -> None:
        if len(self._origins) > _ORIGINS:
            self._origins = {}
        self._origins.update(dict.fromkeys(keys, tier))

    def origin(self, key: K) -> str | None:
        """Where a key that was not in L1 was read from last: "l2", "l4" or "source".

        To be asked right after the look-up: only the latest keys are known.
        """
        return self._origins.get(key)

    def _not_known_missing(self, keys: list[K]) -> list[K]:
        """Those of the keys that may exist."""
        with self._lock:
            if not self._negative.currsize:
                return keys
            tag, tags = self.memory.tag, self._negative
            return [key for key in keys if tag is None or tags.get(key) != tag]

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

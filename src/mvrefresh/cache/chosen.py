"""L1 in a cache of the host's choice: any of cachetools', under a lock at every look-up.

They change when they are read (an LRU moves what was asked for, a TTLCache drops what is over), so
that a hit needs the lock that our own map does without: `bench/lookups.py` says what that costs.
"""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.cache.memory import Record
from mvrefresh.cache.tier import MISSING, Missing, Tag, TierStats
from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import cachetools

log = logging.getLogger("mvrefresh")

K = TypeVar("K")
V = TypeVar("V")


class Entries(Generic[K, V]):
    """A cache under a lock, read as the dict of `MemoryTier` is."""

    __slots__ = ("_cache", "_lock")

    def __init__(
        self, cache: cachetools.Cache[K, Record[V]], lock: AbstractContextManager[object]
    ) -> None:
        self._cache = cache
        self._lock = lock

    def __getitem__(self, key: K) -> Record[V]:
        with self._lock:
            return self._cache[key]

    def get(self, key: K) -> Record[V] | None:
        """The record, or None."""
        with self._lock:
            return self._cache.get(key)

    def __len__(self) -> int:
        with self._lock:
            return len(self._cache)


class ChosenTier(Generic[K, V]):
    """Values under one tag in a cache of the host's choice. Any thread may do anything.

    Args:
        make: Makes an empty cache; called again after each change of the tag.

    Raises:
        ConfigurationError: `make` made something that is no cache.

    The attributes are those of `MemoryTier`.
    """

    __slots__ = (
        "__weakref__", "_cache", "_lock", "_make", "_misses", "_parked", "_passing", "_tag",
        "entries", "generation", "hits",
    )  # fmt: skip

    def __init__(self, make: Callable[[], cachetools.Cache[K, Record[V]]]) -> None:
        self.generation = 0
        self.hits = 0
        self._misses = 0
        self._make = make
        self._lock = Lock()
        self._tag: Tag | None = None
        self._parked: tuple[Tag, cachetools.Cache[K, Record[V]], set[K]] | None = None
        self._hold(self._made(), set())
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: nobody is in the middle of anything."""
        self._lock = Lock()
        self.entries = Entries(self._cache, self._lock)

    def _made(self) -> cachetools.Cache[K, Record[V]]:
        cache = self._make()
        if not hasattr(cache, "maxsize"):
            raise ConfigurationError(
                f"cache= made a {type(cache).__name__}, not a cachetools.Cache"
            )
        return cache

    def _another(self) -> cachetools.Cache[K, Record[V]]:
        """An empty one; the one that is there, to be cleared, if the host's code fails.

        Called without the lock: that code may do anything, and take its time.
        """
        try:
            return self._made()
        except Exception:
            log.exception("cache= failed: the cache that is there is cleared instead")
            return self._cache

    def _hold(self, cache: cachetools.Cache[K, Record[V]], passing: set[K]) -> None:
        self._cache, self._passing = cache, passing
        self.entries = Entries(cache, self._lock)
        self.generation += 1

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: K) -> V | Missing:
        """The value, or `MISSING`."""
        try:
            record = self.entries[key]
        except KeyError:
            self._misses += 1
            return MISSING
        self.hits += 1
        return record.value

    def get_many(self, keys: Sequence[K]) -> dict[K, V]:
        """Those of the keys that are here."""
        with self._lock:
            records = ((key, self._cache.get(key)) for key in keys)
            found = [(key, record.value) for key, record in records if record is not None]
        self.hits += len(found)
        self._misses += len(keys) - len(found)
        return dict(found)

    def all_of(self, keys: Sequence[K]) -> list[V] | None:
        """The values of all keys in their order; None, and nothing counted, if one is missing."""
        try:
            with self._lock:
                found = [self._cache[key].value for key in keys]
        except KeyError:
            return None
        self.hits += len(found)
        return found

    # -- writing -------------------------------------------------------------------------------

    @property
    def tag(self) -> Tag | None:
        """The tag under which values are held."""
        return self._tag

    def put_many(self, values: Mapping[K, V], tag: Tag | None, passing: Collection[K] = ()) -> None:
        """Keep values that were read under `tag`; see `MemoryTier.put_many`."""
        with self._lock:
            if tag is not None and tag == self._tag:
                self._passing.update(passing)
                if len(self._passing) > 2 * self._cache.maxsize:
                    self._passing &= self._cache.keys()
                for key, value in values.items():
                    self._cache[key] = Record(value)

    def retag(self, tag: Tag | None, *, park: bool = False) -> None:
        """Make `tag` the current one; see `MemoryTier.retag`."""
        empty = self._another()
        with self._lock:
            if tag == self._tag:
                return
            parked, held = self._parked, self._cache
            if empty is held:
                held.clear()
                self._parked = None
            elif park and self._tag is not None:
                self._parked = (self._tag, held, self._passing)
            else:
                self._parked = None
            if parked is not None and parked[0] == tag:
                self._hold(*parked[1:])
            else:
                self._hold(empty, set())
            self._tag = tag
        del parked, held  # a big one takes its time to be freed: not under the lock

    def advance(self, before: Tag, tag: Tag, keys: Collection[K]) -> None:
        """Make `tag` the current one, and hold on to the rest; see `MemoryTier.advance`."""
        empty = self._another()
        with self._lock:
            parked, held = self._parked, self._cache
            if before == self._tag:
                cache, passing = held, self._passing
            elif parked is not None and parked[0] == before:
                _, cache, passing = parked
            else:
                cache, passing = empty, set()
                if cache is held:
                    cache.clear()
            for key in (*keys, *passing):
                cache.pop(key, None)
            self._parked = None
            self._hold(cache, set())
            self._tag = tag
        del parked, held

    def discard(self, keys: Iterable[K]) -> None:
        """Forget some keys."""
        keys = list(keys)
        with self._lock:
            for key in keys:
                self._cache.pop(key, None)
                if self._parked is not None:
                    self._parked[1].pop(key, None)

    def sweep(self) -> float | None:
        """Take out what has expired, where the cache knows of that."""
        with self._lock:
            expire = getattr(self._cache, "expire", None)
            if expire is not None:
                expire()
        return None

    def stats(self) -> TierStats:
        """Exact, as far as no thread is in the middle of a look-up."""
        return TierStats(hits=self.hits, misses=self._misses, size=len(self.entries))

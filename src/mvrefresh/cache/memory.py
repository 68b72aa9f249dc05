"""L1: a bounded map in process memory, whose hit costs no lock, no clock and no comparison.

**A hit** is `record = entries[key]; record.visited = True; hits += 1`. Whoever wants the last
nanosecond reads `entries` itself, as the resolver does; `get` is the same for everybody else.

**The tag is the identity of the dict.** Another tag, another dict: everything held under the old
one is gone in one assignment, whatever its size, and a hit pays nothing for it. A reader that
still holds the old dict got it before the change, and its answer is one from before the change.

**Eviction is S3-FIFO** (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023)
with one bit instead of two: new keys pass a small queue, and only those that are asked for again
before its end reach the main one, so that a scan cannot wash it out. Above LRU in all traces that
were tried; SIEVE falls behind it when popularity shifts.

**A record's value is never changed** once it is in a dict: a reader without a lock may hold it.

**Time to live is kept by a sweeper**: all records live equally long, so the oldest is always in
front, and a thread takes out what is over. `strict` reads the clock at every hit instead.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from operator import attrgetter
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

from mvrefresh.cache.tier import MISSING, Missing, Tag, TierStats
from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

K = TypeVar("K")
V = TypeVar("V")

_SMALL = 0.1  # share of the room for keys that were asked for once
_value = attrgetter("value")


class Record(Generic[V]):
    """A value, and whether it was asked for since it was last looked at for eviction."""

    __slots__ = ("value", "visited")

    def __init__(self, value: V) -> None:
        self.value = value
        self.visited = False


class MemoryTier(Generic[K, V]):
    """A bounded map of values under one tag. Reads take no lock; any thread may do anything.

    Args:
        capacity: Entries at most.
        ttl: Seconds that an entry lives at most; None: as long as its tag. `sweep` ends it.
        clock: Seconds; for tests.

    Raises:
        ConfigurationError: A parameter is out of bounds.
    """

    __slots__ = (
        "_born", "_clock", "_evicted", "_expired", "_ghosts", "_lock", "_main", "_misses", "_small",
        "_tag", "_ttl", "capacity", "entries", "hits",
    )  # fmt: skip

    def __init__(
        self,
        capacity: int = 100_000,
        ttl: float | None = None,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if capacity < 1:
            raise ConfigurationError(f"capacity={capacity} is less than 1")
        if ttl is not None and ttl <= 0:
            raise ConfigurationError(f"ttl={ttl} is no time to live; None is for ever")
        self.capacity = capacity
        self.entries: dict[K, Record[V]] = {}
        self.hits = 0
        self._misses = 0
        self._ttl = ttl
        self._clock = clock
        self._tag: Tag | None = None
        self._lock = Lock()
        self._evicted = self._expired = 0
        self._clear()

    def _clear(self) -> None:
        """Swap the dict; the old one is freed by whoever holds it last, outside the lock."""
        self.entries = {}
        self._small: deque[tuple[K, Record[V]]] = deque()
        self._main: deque[tuple[K, Record[V]]] = deque()
        self._ghosts: OrderedDict[K, None] = OrderedDict()
        self._born: deque[tuple[float, K, Record[V]]] = deque()

    # -- reading: no lock ----------------------------------------------------------------------

    def get(self, key: K) -> V | Missing:
        """The value, or `MISSING`."""
        try:
            record = self.entries[key]
        except KeyError:
            self._misses += 1
            return MISSING
        record.visited = True
        self.hits += 1
        return record.value

    def get_many(self, keys: Sequence[K]) -> dict[K, V]:
        """Those of the keys that are here."""
        entries, found = self.entries, {}
        for key in keys:
            record = entries.get(key)
            if record is not None:
                record.visited = True
                found[key] = record.value
        self.hits += len(found)
        self._misses += len(keys) - len(found)
        return found

    def all_of(self, keys: Sequence[K]) -> list[V] | None:
        """The values of all keys in their order, at the speed of C; None if one is missing."""
        entries = self.entries
        try:
            records = list(map(entries.__getitem__, keys))
        except KeyError:
            return None
        if len(entries) * 2 > self.capacity:  # while there is room, nobody asks for the bits
            for record in records:
                record.visited = True
        self.hits += len(records)
        return list(map(_value, records))

    # -- writing: one at a time ----------------------------------------------------------------

    @property
    def tag(self) -> Tag | None:
        """The tag under which values are held."""
        return self._tag

    def put_many(self, values: Mapping[K, V], tag: Tag | None) -> None:
        """Keep values that were read under `tag`; without effect if that is not the current one."""
        with self._lock:
            if tag is None or tag != self._tag:
                return
            now = self._clock() if self._ttl is not None else 0.0
            for key, value in values.items():
                self._put(key, value, now)

    def _put(self, key: K, value: V, now: float) -> None:
        entries = self.entries
        record = Record(value)
        if key not in entries:
            while len(entries) >= self.capacity:
                self._evict()
        entries[key] = record
        if self._ghosts.pop(key, MISSING) is MISSING:
            self._small.append((key, record))
        else:
            self._main.append((key, record))
        if self._ttl is not None:
            self._born.append((now + self._ttl, key, record))
        if len(self._small) + len(self._main) > 2 * len(entries) + 64:
            self._forget_the_gone()

    def _evict(self) -> None:
        """Make room for one."""
        entries = self.entries
        if len(self._small) > _SMALL * self.capacity or not self._main:
            key, record = self._small.popleft()
            if entries.get(key) is not record:
                return  # it was discarded, replaced or has expired
            if record.visited:
                record.visited = False
                self._main.append((key, record))
                return
            del entries[key]
            self._ghosts[key] = None
            if len(self._ghosts) > self.capacity:
                self._ghosts.popitem(last=False)
        else:
            key, record = self._main.popleft()
            if entries.get(key) is not record:
                return
            if record.visited:
                record.visited = False
                self._main.append((key, record))
                return
            del entries[key]
        self._evicted += 1

    def _forget_the_gone(self) -> None:
        entries = self.entries
        for queue in (self._small, self._main):
            kept = [(key, record) for key, record in queue if entries.get(key) is record]
            queue.clear()
            queue.extend(kept)

    def retag(self, tag: Tag | None) -> None:
        """Make `tag` the current one; what is held under another is gone at once."""
        old = None
        with self._lock:
            if tag != self._tag or tag is None:
                old = (self.entries, self._small, self._main, self._born)
                self._tag = tag
                self._clear()
        del old  # a big dict takes its time to be freed: not under the lock

    def discard(self, keys: Iterable[K]) -> None:
        """Forget some keys."""
        with self._lock:
            for key in keys:
                self.entries.pop(key, None)

    def sweep(self) -> float | None:
        """Take out what has lived long enough.

        Returns:
            Seconds until the next entry has; None while there is none.
        """
        with self._lock:
            now, born, entries = self._clock(), self._born, self.entries
            while born and born[0][0] <= now:
                _, key, record = born.popleft()
                if entries.get(key) is record:
                    del entries[key]
                    self._expired += 1
            return born[0][0] - now if born else None

    def stats(self) -> TierStats:
        """Exact, as far as no thread is in the middle of a look-up."""
        return TierStats(hits=self.hits, misses=self._misses, size=len(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

"""L1: a bounded map in process memory, whose hit costs no lock, no clock and no comparison.

**A hit** is `record = entries[key]; record.visited = True; hits += 1`. Whoever wants the last
nanosecond reads `entries` itself, as the resolver does; `get` is the same for everybody else.

**The tag is the identity of the dict.** Another tag, another dict: everything held under the old
one is gone in one assignment, whatever its size, and a hit pays nothing for it. A reader that
still holds the old dict got it before the change, and its answer is one from before the change.
Where it is known which rows differ (`advance`), the dict stays, and those of them go.

**Eviction is S3-FIFO** (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023)
with one bit instead of two: new keys pass a small queue, and only those that are asked for again
before its end reach the main one, so that a scan cannot wash it out. How long the small queue is
follows what comes back after its eviction, as in ARC (Megiddo and Modha, FAST 2003): with a fixed
share of 10 % it fell behind LRU where popularity shifted. `bench/hit_ratio.py` compares.

**A record's value is never changed** once it is in a dict: a reader without a lock may hold it.

**Time to live is kept by a sweeper**: all records live equally long, so the oldest is always in
front, and a thread takes out what is over.

**Counters are exact** under the interpreter's lock: between reading and writing one of them nothing
is called, so that no other thread comes between.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import repeat
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.cache.tier import MISSING, Missing, Tag, TierStats
from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

K = TypeVar("K")
V = TypeVar("V")

_SMALL = 0.1  # share of the room for keys that were asked for once, at first
_SMALL_LEAST, _SMALL_MOST = 0.02, 0.5
_SLACK = 64  # what the queues may hold of what is gone, besides as much again as there is


class Record(Generic[V]):
    """A value, and whether it was asked for since it was last looked at for eviction.

    It knows its key and its end, so that the queues hold it and nothing else: a pair for each
    would be another object that the collector walks.
    """

    __slots__ = ("end", "key", "value", "visited")

    def __init__(self, value: V, key: Any = None, end: float = 0.0) -> None:
        self.value = value
        self.visited = False
        self.key = key
        self.end = end


class _State(NamedTuple, Generic[K, V]):
    """What is held under one tag.

    Attributes:
        entries: The dict.
        small, main: The two queues.
        gone_small, gone_main: Keys that were evicted from each of them, without their values.
        born: When the records end, the first of them first.
        passing: Keys of what ends with the tag, whatever rows the next one changes.
    """

    entries: dict[K, Record[V]]
    small: deque[Record[V]]
    main: deque[Record[V]]
    gone_small: OrderedDict[K, None]
    gone_main: OrderedDict[K, None]
    born: deque[Record[V]]
    passing: set[K]


def _nothing() -> _State[K, V]:
    return _State({}, deque(), deque(), OrderedDict(), OrderedDict(), deque(), set())


class MemoryTier(Generic[K, V]):
    """A bounded map of values under one tag. Reads take no lock; any thread may do anything.

    Args:
        capacity: Entries at most.
        ttl: Seconds that an entry lives at most; None: as long as its tag. `sweep` ends it.
        clock: Seconds; for tests.

    Attributes:
        entries: What is held; another dict after each change of the tag.
        hits: Look-ups that were answered; whoever reads `entries` itself counts them.
        generation: Counts the dicts. (The address of one that is gone may be that of another.)

    Raises:
        ConfigurationError: A parameter is out of bounds.
    """

    __slots__ = (
        "__weakref__",
        "_born",
        "_clock",
        "_evicted",
        "_expired",
        "_gone_main",
        "_gone_small",
        "_lock",
        "_main",
        "_misses",
        "_parked",
        "_passing",
        "_small",
        "_small_room",
        "_tag",
        "_ttl",
        "capacity",
        "entries",
        "generation",
        "hits",
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
        self.generation = 0
        self.hits = 0
        self._misses = 0
        self._ttl = ttl
        self._clock = clock
        self._tag: Tag | None = None
        self._lock = Lock()
        self._parked: tuple[Tag, _State[K, V]] | None = None
        self._evicted = self._expired = 0
        self._small_room = _SMALL * capacity
        self._hold(_nothing())
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: nobody is in the middle of anything."""
        self._lock = Lock()

    def _hold(self, state: _State[K, V]) -> None:
        """Swap the dict; the old one is freed by whoever holds it last, outside the lock."""
        self.entries = state.entries
        self.generation += 1
        self._small, self._main = state.small, state.main
        self._gone_small, self._gone_main = state.gone_small, state.gone_main
        self._born, self._passing = state.born, state.passing

    def _held(self) -> _State[K, V]:
        return _State(
            self.entries, self._small, self._main, self._gone_small, self._gone_main, self._born,
            self._passing,
        )  # fmt: skip

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
        hits = misses = 0
        for key in keys:
            record = entries.get(key)
            if record is None:
                misses += 1
            else:
                record.visited = True
                found[key] = record.value
                hits += 1
        self.hits += hits
        self._misses += misses
        return found

    def all_of(self, keys: Sequence[K]) -> list[V] | None:
        """The values of all keys in their order, for little more than looking them up.

        Returns:
            None if one is missing; then nothing is counted, `get_many` is to be asked.
        """
        entries = self.entries
        try:
            if len(entries) * 2 <= self.capacity:  # while there is room, nobody asks for the bits
                found = [entries[key].value for key in keys]
            else:
                found = []
                for key in keys:
                    record = entries[key]
                    record.visited = True
                    found.append(record.value)
        except KeyError:
            return None
        hits = len(found)
        self.hits += hits
        return found

    # -- writing: one at a time ----------------------------------------------------------------

    @property
    def tag(self) -> Tag | None:
        """The tag under which values are held."""
        return self._tag

    def put_many(self, values: Mapping[K, V], tag: Tag | None, passing: Collection[K] = ()) -> None:
        """Keep values that were read under `tag`; without effect if that is not the current one.

        Those of the `passing` keys end with the tag, whatever rows the next one changes.
        """
        with self._lock:
            if tag is None or tag != self._tag:
                return
            self._passing.update(passing)
            now = self._clock() if self._ttl is not None else 0.0
            if (
                len(self.entries) + len(values) <= self.capacity
                and not self._gone_small
                and not self._gone_main
            ):
                self._put_with_room(values, now)
                return
            for key, value in values.items():
                self._put(key, value, now)

    def _put(self, key: K, value: V, now: float) -> None:
        entries = self.entries
        record = Record(value, key, now if self._ttl is None else now + self._ttl)
        if key not in entries:
            while len(entries) >= self.capacity:
                self._evict()
        entries[key] = record
        queue = self._main if self._came_back(key) else self._small
        queue.append(record)
        if self._ttl is not None:
            self._born.append(record)
        self._forget_the_gone()

    def _put_with_room(self, values: Mapping[K, V], now: float) -> None:
        """As `_put` of each, where nobody has to go and nobody has gone."""
        end = now if self._ttl is None else now + self._ttl
        records = list(map(Record, values.values(), values, repeat(end)))
        self.entries.update(zip(values, records, strict=True))
        self._small.extend(records)
        if self._ttl is not None:
            self._born.extend(records)
        self._forget_the_gone()

    def _came_back(self, key: K) -> bool:
        """Whether it was evicted lately; then the queue that it fell out of was too short."""
        small, main = self._gone_small, self._gone_main
        if small.pop(key, MISSING) is not MISSING:
            longer = self._small_room + max(1.0, len(main) / max(1, len(small)))
            self._small_room = min(_SMALL_MOST * self.capacity, longer)
            return True
        if main.pop(key, MISSING) is not MISSING:
            shorter = self._small_room - max(1.0, len(small) / max(1, len(main)))
            self._small_room = max(_SMALL_LEAST * self.capacity, shorter)
            return True
        return False

    def _evict(self) -> None:
        """Make room for one, or at least let one of them go on."""
        if len(self._small) > self._small_room or not self._main:
            queue, gone = self._small, self._gone_small
        else:
            queue, gone = self._main, self._gone_main
        record = queue.popleft()
        key: K = record.key
        if self.entries.get(key) is not record:
            return  # it was discarded, replaced or has expired
        if record.visited:
            record.visited = False
            self._main.append(record)
            return
        del self.entries[key]
        self._evicted += 1
        gone[key] = None
        if len(gone) > self.capacity:
            gone.popitem(last=False)

    def _forget_the_gone(self) -> None:
        """Keep the queues from holding much more than there is, and its values from being freed."""
        entries = self.entries
        bound = 2 * len(entries) + _SLACK
        if len(self._small) + len(self._main) > bound:
            self._small = deque(each for each in self._small if entries.get(each.key) is each)
            self._main = deque(each for each in self._main if entries.get(each.key) is each)
        if len(self._born) > bound:
            self._born = deque(each for each in self._born if entries.get(each.key) is each)
        if len(self._passing) > bound:
            self._passing &= entries.keys()

    def retag(self, tag: Tag | None, *, park: bool = False) -> None:
        """Make `tag` the current one; what is held under another is gone at once.

        Args:
            tag: None: nothing is held.
            park: Put aside what is held; it comes back if its tag is the next.
        """
        freed: list[object] = []  # a big dict takes its time to be freed: not under the lock
        with self._lock:
            if tag == self._tag:
                return
            parked, held = self._parked, self._held()
            if park and self._tag is not None:
                self._parked = (self._tag, held)
            else:
                self._parked = None
                freed.append(held)
            if parked is not None and parked[0] == tag:
                self._hold(parked[1])
                self._expire()
            else:
                freed.append(parked)
                self._hold(_nothing())
            self._tag = tag  # after it: who reads the new one must not find the old dict
            del parked, held

    def advance(self, before: Tag, tag: Tag, keys: Collection[K]) -> None:
        """Make `tag` the current one; what is held under `before`, or parked, is held on.

        What is held of the rows that differ (their keys) goes first.
        """
        freed: list[object] = []  # as in `retag`
        with self._lock:
            parked = self._parked
            if before == self._tag:
                state = self._held()
            elif parked is not None and parked[0] == before:
                state = parked[1]
                freed.append(self._held())
            else:
                state = _nothing()
                freed.append(self._held())
            self._parked = None
            for key in (*keys, *state.passing):
                state.entries.pop(key, None)
            state.passing.clear()
            self._hold(state)
            self._expire()
            self._tag = tag  # after it, as in `retag`
            freed.append(parked)
            del parked, state

    def discard(self, keys: Iterable[K]) -> None:
        """Forget some keys."""
        keys = list(keys)  # an iterable may run code of its own: not under the lock
        with self._lock:
            for key in keys:
                self.entries.pop(key, None)
                if self._parked is not None:
                    self._parked[1].entries.pop(key, None)
            self._forget_the_gone()

    def sweep(self) -> float | None:
        """Take out what has lived long enough.

        Returns:
            Seconds until the next entry has, or one that comes from now on; None without `ttl`.
        """
        with self._lock:
            now = self._expire()
            return self._born[0].end - now if self._born else self._ttl

    def _expire(self) -> float:
        """Take out what has lived long enough by now, which is returned."""
        now, born, entries = self._clock(), self._born, self.entries
        while born:
            record = born[0]
            here = entries.get(record.key) is record
            if here and record.end > now:
                break
            born.popleft()
            if here:
                del entries[record.key]
                self._expired += 1
        self._forget_the_gone()
        return now

    def stats(self) -> TierStats:
        """Exact, as far as no thread is in the middle of a look-up."""
        return TierStats(hits=self.hits, misses=self._misses, size=len(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

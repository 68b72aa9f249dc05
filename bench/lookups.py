"""What a hit in process memory costs, against a bare `dict.get` and against other caches.

    python -m bench --only lookups

1,000 keys that are all there, asked for in turn by 1 thread and by 4, each for itself; a value is a
tuple of 8 texts. All of them bound the cache, end entries by time to live, count hits exactly and
load a missing key once for all who ask; `dict.get` does none of it. What each round does is timed
with the loop around it.
"""

from __future__ import annotations

from threading import Barrier, Condition, RLock, Thread
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import cachetools

from bench.measure import Row, compare
from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.tier import Loaded, Missing, Tag
from mvrefresh.cache.tiered import TieredCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Value: TypeAlias = tuple[str, ...]
LookUp: TypeAlias = "Callable[[int], object]"

KEYS = range(1_000)
BATCH = 100
ROOM, TTL = 10_000, 600.0
TAG = Tag(1, UUID(int=1))


def value_of(key: int) -> Value:
    """Eight ancestors."""
    return tuple(f"entity {key >> level}" for level in range(8))


class StandIn:
    """The shape of a resolver: a method that reads L1 itself, and asks where that has nothing."""

    __slots__ = ("_cache", "_memory")

    def __init__(self, cache: TieredCache[int, Value]) -> None:
        self._cache = cache
        self._memory = cache.memory

    def ancestors(
        self, entity_id: int, max_staleness: float | None = None
    ) -> Value | Missing | None:
        """The value; `max_staleness` is what its presence costs, no more."""
        if max_staleness is not None:
            return None
        memory = self._memory
        try:
            record = memory.entries[entity_id]
        except KeyError:
            return self._cache.get(entity_id)
        record.visited = True
        memory.hits += 1
        return record.value


class Counting:
    """What is written by hand around a TTLCache."""

    def __init__(self) -> None:
        self._cache: cachetools.TTLCache[int, Value] = cachetools.TTLCache(ROOM, TTL)
        self._lock = RLock()
        self.hits = self.misses = 0

    def ancestors(self, entity_id: int) -> Value:
        """Under the lock, as cachetools asks for."""
        with self._lock:
            try:
                value = self._cache[entity_id]
            except KeyError:
                self.misses += 1
                value = self._cache[entity_id] = value_of(entity_id)
            else:
                self.hits += 1
            return value


def warm(room: int = ROOM) -> TieredCache[int, Value]:
    """A cache that holds all keys."""
    cache: TieredCache[int, Value] = TieredCache(
        MemoryTier(room, TTL),
        lambda keys: Loaded({key: value_of(key) for key in keys}, TAG),
        lambda: (TAG, None),
    )
    cache.get_many(KEYS)
    return cache


def rivals() -> list[tuple[str, LookUp, float]]:
    """Each with how many times faster we promised to be."""
    import cachebox  # noqa: PLC0415 - a rival, which only who measures has

    @cachetools.cached(cachetools.TTLCache(ROOM, TTL), condition=Condition(), info=True)
    def by_cachetools(entity_id: int) -> Value:
        return value_of(entity_id)

    @cachebox.cached(cachebox.TTLCache(ROOM, TTL))
    def by_cachebox(entity_id: int) -> Value:
        return value_of(entity_id)

    return [
        ("cachetools @cached(TTLCache, condition, info)", by_cachetools, 12),
        ("cachetools TTLCache, RLock, counted", Counting().ancestors, 7),
        ("cachebox @cached(TTLCache)", by_cachebox, 3.5),
    ]


def rounds_of(look_up: LookUp, laps: int, threads: int) -> Callable[[], None]:
    """Ask for all keys `laps` times in each thread."""
    keys: Sequence[int] = list(KEYS)

    def lap() -> None:
        for _ in range(laps):
            for key in keys:
                look_up(key)

    if threads == 1:
        return lap

    def together() -> None:
        barrier = Barrier(threads)

        def one() -> None:
            barrier.wait()
            lap()

        runners = [Thread(target=one) for _ in range(threads)]
        for runner in runners:
            runner.start()
        for runner in runners:
            runner.join()

    return together


def hits(laps: int, rounds: int, threads: int) -> list[Row]:
    """One key after the other."""
    bare: LookUp = {key: value_of(key) for key in KEYS}.get
    ours: LookUp = StandIn(warm()).ancestors
    what = f"a hit, {threads} thread{'s' * (threads > 1)}"
    against = [("dict.get", bare, 3.6)] + [(name, of, 1 / by) for name, of, by in rivals()]
    return [
        compare(
            what,
            rounds_of(ours, laps, threads),
            name,
            rounds_of(rival, laps, threads),
            rounds=rounds,
            bound=bound,
        )
        for name, rival, bound in against
    ]


def batches(laps: int, rounds: int) -> list[Row]:
    """A hundred keys at once, per key; in a full cache each is marked for the eviction besides."""
    get: LookUp = {key: value_of(key) for key in KEYS}.get
    hundreds = [list(KEYS[begin : begin + BATCH]) for begin in range(0, len(KEYS), BATCH)]
    found = []
    for state, room, bound in (("", ROOM, 1.5), (", cache full", len(KEYS), None)):
        all_of = warm(room).memory.all_of

        def ours(all_of: Callable[[Sequence[int]], object] = all_of) -> None:
            for _ in range(laps):
                for keys in hundreds:
                    all_of(keys)

        found.append(
            compare(
                f"{BATCH} keys at once, each{state}",
                ours,
                "dict.get",
                rounds_of(get, laps, 1),
                rounds=rounds,
                bound=bound,
            )
        )
    return found


def run(_dsn: str, *, quick: bool = False) -> list[Row]:
    """By 1 thread and by 4, and in batches."""
    laps, rounds = (5, 2) if quick else (100, 31)
    return [
        *hits(laps, rounds, threads=1),
        *hits(max(1, laps // 4), rounds, threads=4),
        *batches(laps, rounds),
    ]

"""What a hit in process memory costs, against a bare `dict.get` and against other caches.

    python -m bench --only lookups

`ancestors()` of 1,000 entities that are all in memory, asked for in turn by 1 thread and by 4, each
for itself; kept one by one as they were asked for, or with the whole hierarchy resident. The rivals
hold the very same tuples, bounded, with a time to live, and counted; `dict.get` does none of it.
What each round does is timed with the loop around it.
"""

from __future__ import annotations

from contextlib import closing
from threading import Barrier, Condition, RLock, Thread
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import cachetools
import psycopg

from bench.measure import Row, compare
from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, Schema
from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.tier import Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Value: TypeAlias = tuple[object, ...]
Values: TypeAlias = "Mapping[int, Value]"
LookUp: TypeAlias = "Callable[[int], object]"

KEYS = range(1, 1_001)
BATCH = 100
ROOM, TTL = 10_000, 600.0
TAG = Tag(1, UUID(int=1))
SOURCE = HierarchySource("bench_lookups.entities")
# Each but the first is below the one of half its number: nine levels or ten.
SETUP = """
DROP SCHEMA IF EXISTS bench_lookups CASCADE;
CREATE SCHEMA bench_lookups;
CREATE TABLE bench_lookups.entities (id int PRIMARY KEY, path ltree, name text, entity_type text);
WITH RECURSIVE tree AS (
    SELECT 1 AS id, '1'::ltree AS path
    UNION ALL
    SELECT child, path || child::text
      FROM tree, generate_series(2 * id, 2 * id + 1) AS child WHERE child <= 1000)
INSERT INTO bench_lookups.entities SELECT id, path, 'entity ' || id, 'x' FROM tree;
CREATE INDEX ON bench_lookups.entities USING gist (path);
CREATE INDEX ON bench_lookups.entities (path)
"""


def prepare(dsn: str) -> None:
    """A hierarchy and its views."""
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS ltree")
        connection.execute(SETUP)
        Schema().apply(connection)
        SOURCE.create(connection)


class Counting:
    """What is written by hand around a TTLCache."""

    def __init__(self, values: Values) -> None:
        self._values = values
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
                value = self._cache[entity_id] = self._values[entity_id]
            else:
                self.hits += 1
            return value


def rivals(values: Values) -> list[tuple[str, LookUp, float]]:
    """Each with how many times faster we promised to be."""
    import cachebox  # noqa: PLC0415 - a rival, which only who measures has

    @cachetools.cached(cachetools.TTLCache(ROOM, TTL), condition=Condition(), info=True)
    def by_cachetools(entity_id: int) -> Value:
        return values[entity_id]

    @cachebox.cached(cachebox.TTLCache(ROOM, TTL))
    def by_cachebox(entity_id: int) -> Value:
        return values[entity_id]

    return [
        ("cachetools @cached(TTLCache, condition, info)", by_cachetools, 12),
        ("cachetools TTLCache, RLock, counted", Counting(values).ancestors, 7),
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


def hits(
    ours: LookUp, values: Values, laps: int, rounds: int, *, threads: int, kept: str = ""
) -> list[Row]:
    """One key after the other."""
    what = f"a hit, {threads} thread{'s' * (threads > 1)}{kept}"
    bare: LookUp = values.get
    against = [("dict.get", bare, 3.1 if kept else 3.6)]
    against += [(name, rival, 1 / times) for name, rival, times in rivals(values)]
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


def batches(values: Values, laps: int, rounds: int) -> list[Row]:
    """A hundred keys at once, per key; in a full cache each is marked for the eviction besides."""
    hundreds = [list(KEYS[begin : begin + BATCH]) for begin in range(0, len(KEYS), BATCH)]
    found = []
    for state, room, bound in (("", ROOM, 1.5), (", cache full", len(KEYS), None)):
        memory: MemoryTier[int, Value] = MemoryTier(room, TTL)
        memory.retag(TAG)
        memory.put_many(values, TAG)

        def ours(all_of: Callable[[Sequence[int]], object] = memory.all_of) -> None:
            for _ in range(laps):
                for keys in hundreds:
                    all_of(keys)

        found.append(
            compare(
                f"{BATCH} keys at once, each{state}",
                ours,
                "dict.get",
                rounds_of(values.get, laps, 1),
                rounds=rounds,
                bound=bound,
            )
        )
    return found


def run(dsn: str, *, quick: bool = False) -> list[Row]:
    """By 1 thread and by 4, and in batches."""
    laps, rounds = (5, 2) if quick else (100, 31)
    prepare(dsn)
    with (
        Database(dsn) as database,
        OptimizedHierarchyResolver(
            database, SOURCE, capacity=ROOM, ttl=TTL, resident=0
        ) as resolver,
        OptimizedHierarchyResolver(database, SOURCE, capacity=ROOM, ttl=TTL) as whole,
        OptimizedHierarchyResolver(
            database, SOURCE, capacity=ROOM, cache=cachetools.LRUCache
        ) as chosen,
    ):
        resolver.refresh_all_materialized_views()
        values = resolver.ancestors_many(KEYS)
        if len(values) != len(KEYS):
            raise AssertionError(f"{len(values)} of {len(KEYS)} entities were found")
        if not whole.preload() or whole.ancestors_many(KEYS) != values:
            raise AssertionError("the whole hierarchy is not in memory, or another one")
        ours = resolver.ancestors
        chosen.ancestors_many(KEYS)
        return [
            *hits(whole.ancestors, values, laps, rounds, threads=1, kept=", all resident"),
            *hits(ours, values, laps, rounds, threads=1),
            *hits(ours, values, max(1, laps // 4), rounds, threads=4),
            compare(
                "a hit, 1 thread, cache=cachetools.LRUCache",
                rounds_of(chosen.ancestors, laps, 1),
                "dict.get",
                rounds_of(values.get, laps, 1),
                rounds=rounds,
            ),
            *batches(values, laps, rounds),
        ]

"""What it costs to have a whole hierarchy in memory.

    python -m bench --only resident

**Loading** is compared with psycopg fetching the rows of the same statement on one connection,
binary, into a list, and building nothing; and, for what the order costs the server, with the same
columns in no order. **Bytes** are what the process grows by, divided by the entities: as loaded,
and after every entity was asked for once. **Readers** go on meanwhile: the longest pause between
two look-ups of a thread that does nothing else, while the hierarchy is loaded again and again.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import closing
from threading import Event, Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psycopg

from bench.hierarchy_build import fill
from bench.measure import Figure, Row, compare
from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver
from mvrefresh.cache.buffer import BufferMeter
from mvrefresh.hierarchy.reader import HierarchyReader

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (100_000, 1_000_000)
SIZES_QUICK = (2_000,)
SOURCE = HierarchySource("bench_resident.entities")
ROWS = "SELECT entity_id, entity_path::text, entity_name, NULL, NULL FROM {}"
ORDERED = " ORDER BY entity_path, entity_id"


def prepare(dsn: str, size: int) -> None:
    """A random recursive tree: as deep as the logarithm of its size, with many long paths."""
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        fill(connection, SOURCE, size, "random")
    with (
        Database(dsn) as database,
        OptimizedHierarchyResolver(database, SOURCE, resident=0, watch=False) as resolver,
    ):
        resolver.refresh_materialized_view(SOURCE.views[0])


def reader_of(database: Database) -> HierarchyReader:
    """As a resolver has one."""
    return HierarchyReader(database, SOURCE, tracked=True, meter=BufferMeter(0))


def resident_bytes() -> int:
    """What the process has in memory; Linux says so."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - one line
        return int(file.read().split()[1]) * 4096


def weigh(dsn: str) -> None:
    """In a process of its own: prints bytes an entity as loaded, and after all were asked for."""
    with Database(dsn) as database:
        reader = reader_of(database)
        reader.current(0, None)  # connections and statements are not the hierarchy's
        gc.collect()
        before = resident_bytes()
        hierarchy = reader.everything(10**9, 100_000, lambda: True).hierarchy
        if hierarchy is None:
            raise AssertionError("nothing was loaded")
        gc.collect()
        loaded = resident_bytes()
        for key in range(1, len(hierarchy) + 1):
            hierarchy.ancestors(key)
        gc.collect()
        print((loaded - before) / len(hierarchy), (resident_bytes() - before) / len(hierarchy))


def weighed(dsn: str, size: int) -> list[Figure]:
    """Bytes of an entity."""
    code = f"from bench.resident import weigh; weigh({dsn!r})"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    loaded, asked = map(float, said.stdout.split())
    how = f"{size:,} entities, a random recursive tree"
    return [
        Figure("resident, as loaded, an entity", loaded, "bytes", f"{how}; promised: <= 250"),
        Figure("resident, after each was asked for once", asked, "bytes", how),
    ]


def loading(dsn: str, size: int, rounds: int) -> list[Row]:
    """Against fetching the rows alone."""
    view = f"{SOURCE.views[0].schema}.{SOURCE.views[0].name}"
    with Database(dsn) as database, closing(psycopg.connect(dsn, autocommit=True)) as by_hand:
        reader = reader_of(database)

        def ours() -> None:
            if reader.everything(10**9, 100_000, lambda: True).hierarchy is None:
                raise AssertionError("nothing was loaded")

        def fetched(order: str) -> Callable[[], list[Any]]:
            query = (ROWS.format(view) + order).encode()
            return lambda: by_hand.cursor(binary=True).execute(query).fetchall()

        what = f"{size:,} entities loaded"
        return [
            compare(
                what,
                ours,
                "psycopg, the same rows fetched",
                fetched(ORDERED),
                rounds=rounds,
                bound=3,
            ),
            compare(what, ours, "psycopg, fetched in no order", fetched(""), rounds=rounds),
        ]


def pauses(dsn: str, size: int, times: int) -> list[Figure]:
    """Of a reader while the hierarchy is loaded again and again."""
    with (
        Database(dsn) as database,
        OptimizedHierarchyResolver(database, SOURCE, resident=10**9) as resolver,
    ):
        if not resolver.preload():
            raise AssertionError("nothing was loaded")
        over, longest, asked = Event(), [0.0], [0]
        residence = resolver._tiers.residence  # noqa: SLF001 - the same again, without a refresh

        def read() -> None:
            ancestors, key, last = resolver.ancestors, 1, perf_counter()
            while not over.is_set():
                ancestors(key)
                now = perf_counter()
                longest[0] = max(longest[0], now - last)
                asked[0] += 1
                last, key = now, key % 1000 + 1

        reader = Thread(target=read)
        reader.start()
        began = perf_counter()
        for _ in range(times):
            tag = resolver._tiers.tree.tag  # noqa: SLF001 - as above
            residence.retag(None)
            residence.retag(tag)
            resolver.preload()
        took = perf_counter() - began
        over.set()
        reader.join()
    how = f"{times} loads of {size:,} entities in {took:.1f} s, {asked[0]:,} look-ups meanwhile"
    return [Figure("longest pause of a reader while it is loaded", longest[0] * 1e3, "ms", how)]


def run(dsn: str, *, quick: bool = False) -> list[Row | Figure]:
    """Time, memory, pauses."""
    found: list[Row | Figure] = []
    for size in SIZES_QUICK if quick else SIZES:
        prepare(dsn, size)
        found += loading(dsn, size, 2 if quick else 5)
        if sys.platform == "linux":
            found += weighed(dsn, size)
        found += pauses(dsn, size, 1 if quick else 3)
    return found

"""How soon other processes notice a refresh, what watching costs, and what a refresh leaves.

    python -m bench --only coherence

**From commit to invalidation.** Another process has a resolver with its hits in memory, and
threads that do nothing but ask for them; then the same without such threads. What is timed: from
the return of COMMIT in this process to the moment at which that one holds nothing more of what has
changed, as the last of its followers is told. The clock is the machine's monotonic one, the same
for both.

**At rest.** What the watch of one database with two resolvers asks, counted by
`pg_stat_statements` in the server, over a stated time.

**What a refresh leaves.** Every entity is in memory; the names of a hundred leaves are changed and
the views refreshed, by the resolver itself or by somebody else. Then a thread asks for nodes and
ancestors at random for a second. Counted: hits in memory, and names that are not the new ones.
"""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from itertools import cycle
from statistics import median
from threading import Event, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import orjson
import psycopg

from bench import hung
from bench.hierarchy_build import fill
from bench.hit_ratio import Score
from bench.measure import Figure, Row
from bench.service import counted, fresh
from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, refresh
from mvrefresh.refreshing import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mvrefresh.cache.tier import Tag

Connection = psycopg.Connection[Any]

SOURCE = HierarchySource("bench_coherence.entities")
VIEW = str(SOURCE.views[0])
RENAME = "UPDATE bench_coherence.entities SET name = %s WHERE id = ANY (%s)"
HOT = range(1, 101)
READERS = 4
CHANGED = 100
PROMISED = 99.9


class Seen:
    """Notes when a content has which tag. The last of its followers: the others have it by then.

    Attributes:
        at: By the number of the refresh.
        changed: Set whenever there is one.
    """

    def __init__(self) -> None:
        self.at: dict[int, float] = {}
        self.changed = Event()
        self.let_go = 0.0

    def retag(self, tag: Tag | None, **_: object) -> None:
        """Note the moment."""
        if tag is not None:
            self.at.setdefault(tag.refresh_no, monotonic())
            self.changed.set()

    def discard(self, keys: object) -> None:  # noqa: ARG002 - a follower
        """What is over is held no more, though the tag has not moved yet."""
        self.let_go = monotonic()

    def advance(self, before: Tag, tag: Tag, keys: object) -> None:  # noqa: ARG002 - a follower
        """Few rows have changed."""
        self.at.setdefault(tag.refresh_no, self.let_go or monotonic())
        self.let_go = 0.0
        self.changed.set()

    def after_fork(self) -> None:
        """Nobody forks here."""


# -- from commit to invalidation -------------------------------------------------------------------


def follow(dsn: str, readers: int) -> None:
    """The other process: prints when it had which tag, once it has the one its stdin names."""
    with (
        Database(dsn) as database,
        OptimizedHierarchyResolver(database, SOURCE, resident=0) as resolver,
    ):
        resolver.ancestors_many(HOT)
        seen, over = Seen(), Event()
        resolver._tiers.tree.follow(seen)  # noqa: SLF001 - nothing is nearer to the moment

        def read() -> None:
            ancestors = resolver.ancestors
            while not over.is_set():
                for key in HOT:
                    ancestors(key)

        threads = [Thread(target=read) for _ in range(readers)]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        last = int(sys.stdin.readline())
        while last not in seen.at:
            seen.changed.clear()
            if last not in seen.at and not seen.changed.wait(5.0):
                raise AssertionError(f"nobody has told of refresh {last}")
        over.set()
        for thread in threads:
            thread.join()
        print(orjson.dumps(list(seen.at.items())).decode(), flush=True)


@contextmanager
def commits() -> Iterator[list[float]]:
    """When batches of a refresh have come back: the last one is that of its COMMIT."""
    run_batch, at = transaction.run_batch, list[float]()

    def noted(*args: Any, **kwargs: Any) -> Any:
        rows = run_batch(*args, **kwargs)
        at.append(monotonic())
        return rows

    with patch.object(transaction, "run_batch", noted):
        yield at


def lags(dsn: str, inside: Connection, readers: int, wanted: int) -> list[float]:
    """Seconds of each refresh until the other process had noticed, from the answer to its COMMIT.

    Below 0 where the notification was there before that answer: the server sends it after all that
    makes the content visible, to both at about the same time.
    """
    code = f"from bench.coherence import follow; follow({dsn!r}, {readers})"
    other = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if other.stdin is None or other.stdout is None:
        raise AssertionError("it has no pipes")
    with other, Database(dsn) as database, commits() as returned:
        other.stdout.readline()
        committed: dict[int, float] = {}
        for number in range(wanted):
            inside.execute(RENAME, (f"lag {number}", [HOT[-1]]))
            outcome = refresh(database, [VIEW])[VIEW]
            committed[outcome.refresh_no or 0] = returned[-1]
            sleep(0.1)  # until it reads from memory again
        said, _ = other.communicate(f"{max(committed)}\n")
    seen = sorted(orjson.loads(said))
    # One tag may have been passed over for the next.
    return [
        min(at for later, at in seen if later >= number) - when
        for number, when in committed.items()
    ]


def noticed(dsn: str, inside: Connection, wanted: int) -> Iterator[Figure]:
    """With busy readers and without."""
    for readers in (READERS, 0):
        found = sorted(1000 * lag for lag in lags(dsn, inside, readers, wanted))
        how = f"{wanted} refreshes, {readers or 'no'} busy readers"
        what = "COMMIT to invalidation in another process"
        yield Figure(f"{what}, median", median(found), "ms", how)
        yield Figure(f"{what}, 99 of 100 within", hung.p99(found), "ms", how)


# -- at rest ---------------------------------------------------------------------------------------


def at_rest(dsn: str, inside: Connection, period: float) -> Iterator[Figure]:
    """The watch of a database with two resolvers that nobody asks."""
    with (
        Database(dsn) as database,
        OptimizedHierarchyResolver(database, SOURCE) as one,
        OptimizedHierarchyResolver(database, SOURCE) as two,
    ):
        for resolver in (one, two):
            resolver.preload()
        sleep(1.5)  # it listens now
        before = counted(inside)
        sleep(period)
        calls, ms = (b - a for a, b in zip(before, counted(inside), strict=True))
    how = f"two resolvers; {calls:.0f} statements, {ms:.2f} ms in {period:.0f} s"
    yield Figure("the watch, statements a minute", calls * 60 / period, "", how)
    yield Figure("the watch, server's time a minute", ms * 60 / period, "ms", how)


# -- what a refresh leaves -------------------------------------------------------------------------


class World:
    """A hierarchy whose names are known; all that is asked for is in memory.

    Attributes:
        names: By id, as the table has them.
    """

    def __init__(self, inside: Connection, size: int) -> None:
        rows = inside.execute("SELECT id, name FROM bench_coherence.entities").fetchall()
        self.names: dict[int, str] = dict(rows)
        self._inside = inside
        # Five children each: the last half are leaves.
        self._leaves = range(size // 2, size + 1)
        self._draw = random.Random(3)  # noqa: S311 - no secret

    def rename(self, count: int) -> None:
        """Some of the leaves."""
        ids = self._draw.sample(self._leaves, count)
        name = f"renamed {self._draw.random()}"
        self._inside.execute(RENAME, (name, ids))
        self.names.update(dict.fromkeys(ids, name))

    def ask(self, resolver: OptimizedHierarchyResolver, seconds: float) -> tuple[float, float]:
        """Of a hundred look-ups, how many were hits in memory, and how many were not stale."""
        ids = self._draw.choices(range(1, len(self.names) + 1), k=100_000)
        names, asked, stale = self.names, 0, 0
        hits, until = resolver.cache_metrics()["l1_cache"]["hits"], monotonic() + seconds
        for key in cycle(ids):
            nodes = resolver.node(key), *resolver.ancestors(key)
            stale += any(names[node.id] != node.name for node in nodes)
            asked += 2
            if monotonic() > until:
                break
        hits = resolver.cache_metrics()["l1_cache"]["hits"] - hits
        return 100 * hits / asked, 100 - 100 * stale / asked


def left(dsn: str, world: World, changed: int, seconds: float) -> Iterator[Score]:
    """Kept one by one and resident; refreshed by the resolver itself and by another."""
    size = len(world.names)
    for kept, resident in (("kept one by one", 0), ("resident", size)):
        with (
            Database(dsn) as database,
            Database(dsn) as elsewhere,
            OptimizedHierarchyResolver(
                database, SOURCE, resident=resident, capacity=size, ttl=None
            ) as resolver,
        ):
            seen = Seen()
            resolver._tiers.tree.follow(seen)  # noqa: SLF001 - when to begin to measure

            def by_itself(resolver: OptimizedHierarchyResolver = resolver) -> None:
                resolver.refresh_all_materialized_views()

            def by_another(elsewhere: Database = elsewhere, seen: Seen = seen) -> None:
                refresh(elsewhere, SOURCE.views).raise_for_failures()
                seen.changed.wait(5.0)

            ways: Sequence[tuple[str, Callable[[], None]]] = (
                ("by itself", by_itself),
                ("by another", by_another),
            )
            for whose, refreshed in ways:
                resolver.preload()
                for begin in range(1, size + 1, 10_000):
                    resolver.nodes_many(range(begin, min(begin + 10_000, size + 1)))
                world.rename(changed)
                seen.changed.clear()
                refreshed()
                hits, right = world.ask(resolver, seconds)
                what = f"{changed} of {size:,} changed, refreshed {whose}, {kept}"
                yield Score(f"{what}: hits", "promised", hits, PROMISED, promised=True)
                yield Score(f"{what}: not stale", "promised", right, 100.0, promised=True)


def run(dsn: str, *, quick: bool = False) -> list[Row | Figure | Score]:
    """In a database of its own."""
    found: list[Row | Figure | Score] = []
    with ExitStack() as stack:
        dsn, inside = fresh(dsn, stack, "bench_coherence")
        fill(inside, SOURCE, 1_000, "bushy")
        with Database(dsn) as database:
            refresh(database, SOURCE.views).raise_for_failures()
        found += noticed(dsn, inside, 3 if quick else 200)
        found += at_rest(dsn, inside, 1.0 if quick else 70.0)

        size, rounds = (1_000, 2) if quick else (20_000, 20)
        fill(inside, SOURCE, size, "bushy")
        with Database(dsn) as database:
            refresh(database, SOURCE.views).raise_for_failures()
            inside.execute("VACUUM ANALYZE")
            found += hung.run(database, SOURCE, size, rounds)

        size, changed, seconds = (2_000, 10, 0.1) if quick else (100_000, CHANGED, 1.0)
        fill(inside, SOURCE, size, "bushy")
        with Database(dsn) as database:
            refresh(database, SOURCE.views).raise_for_failures()
        found += left(dsn, World(inside, size), changed, seconds)
    return found

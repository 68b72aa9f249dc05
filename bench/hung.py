"""What a Redis that hangs costs look-ups, which can do without it. Part of `coherence`.

A resolver of its own whose Redis is stopped (SIGSTOP): its connections stay, and nobody answers.
First the look-ups until the breaker opens, of which some wait for Redis until they give it up. Then
the look-ups while it is open, the probes among them, against a resolver without any Redis; both are
asked in turn for the same entities, none of which is in memory.
"""

from __future__ import annotations

import os
import signal
from contextlib import closing, contextmanager
from statistics import quantiles
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tests.servers import RedisServer

from bench.measure import Figure, Row
from mvrefresh import OptimizedHierarchyResolver
from mvrefresh.cache.redis import TIMEOUT, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mvrefresh import Database, HierarchySource

THREADS = (1, 8)
WARM = 100


@contextmanager
def stopped(url: str) -> Iterator[None]:
    """Suspend the Redis there."""
    with closing(connect(url)) as client:
        info: Any = client.info("server")
    os.kill(info["process_id"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(info["process_id"], signal.SIGCONT)


def timed(
    resolver: OptimizedHierarchyResolver,
    ids: Sequence[int],
    threads: int,
    over: Callable[[], bool] = lambda: False,
) -> list[float]:
    """Seconds of each look-up, by so many threads, until it is over or all were asked for."""
    taken: list[float] = []

    def ask(mine: Sequence[int]) -> None:
        for key in mine:
            if over():
                return
            began = perf_counter()
            resolver.ancestors(key)
            taken.append(perf_counter() - began)

    runners = [Thread(target=ask, args=(ids[number::threads],)) for number in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return taken


def p99(values: Sequence[float]) -> float:
    """Of a hundred, the last but one."""
    return quantiles(values, n=100)[98]


def by(
    database: Database, source: HierarchySource, ids: Sequence[int], rounds: int, threads: int
) -> Iterator[Row | Figure]:
    """Until the breaker opens, and from then on."""
    # No read is metered: one in a hundred would be what the 99th percentile shows.
    settings: dict[str, Any] = {"resident": 0, "meter_every": 0}
    with (
        RedisServer() as server,
        OptimizedHierarchyResolver(database, source, redis=server.url, **settings) as ours,
        OptimizedHierarchyResolver(database, source, **settings) as without,
    ):
        for each in (ours, without):
            each.look_again()
            timed(each, ids[:WARM], threads)
        shared = ours._tiers.shared  # noqa: SLF001 - when to begin to measure
        if shared is None or not shared.stats().misses or shared.stats().errors:
            raise AssertionError("Redis was not asked, or hung before it was stopped")
        breaker = shared.link.breaker
        # Half of the rest at most until it opens; the look-ups to compare are of the other half.
        first, rest = ids[WARM : len(ids) // 2], ids[len(ids) // 2 :]
        with stopped(server.url):
            before = timed(ours, first, threads, lambda: breaker.is_open)
            if not breaker.is_open:
                raise AssertionError("the breaker did not open")
            taken: tuple[list[float], list[float]] = [], []
            size = len(rest) // rounds
            for number in range(rounds):
                batch = rest[number * size : (number + 1) * size]
                pairs = list(zip((ours, without), taken, strict=True))
                for resolver, into in pairs if number % 2 else reversed(pairs):
                    into.extend(timed(resolver, batch, threads))
    who = f"{threads} thread{'s' * (threads > 1)}"
    slow = [each for each in before if each >= TIMEOUT]
    how = f"{who}; of {len(before)} look-ups"
    yield Figure("Redis hangs: slow look-ups before the breaker opened", len(slow), "", how)
    yield Figure("Redis hangs: the slowest of them", 1000 * max(slow), "ms", who)
    mine, theirs = map(p99, taken)
    yield Row(
        what=f"Redis hangs: p99 of a cold look-up, {who}",
        rival="the same without Redis",
        rounds=rounds,
        seconds=mine,
        rival_seconds=theirs,
        ratio=mine / theirs,
        bound=3.0,
    )


def run(
    database: Database, source: HierarchySource, size: int, rounds: int
) -> Iterator[Row | Figure]:
    """By one thread and by many; `size` entities with ids from 1."""
    for threads in THREADS:
        yield from by(database, source, range(1, size + 1), rounds, threads)

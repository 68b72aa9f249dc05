"""Processes with resolvers, one that refreshes, and faults: no answer is older than was promised.

The name of the root entity is the number of the refresh that the answer is from. When a refresh has
returned, the moment is noted in memory that all processes share, on the machine's monotonic clock.
An answer of refresh n is **stale** if its call began more than BOUND seconds after that of n + 1.

    python -m tests.hammers --only coherence [--seconds 60] [--seed N]

**Faults**, drawn by the seed: the watch's backend is ended; its way goes silent for a while; a
process is suspended and goes on; Redis hangs, is flushed, or is restarted; the view is dropped and
made again; the server is restarted.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from struct import pack_into, unpack_from
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo
from tests.proxy import GoesSilent
from tests.servers import RedisServer

from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, Schema
from mvrefresh.cache import content as content_module
from mvrefresh.errors import MvrefreshError
from mvrefresh.postgres import watch as watch_module

if TYPE_CHECKING:
    from tests.servers import PostgresServer

BOUND = 2.5
ROOT = Path(__file__).parents[2]
ENTITIES = 300
MOST = 100_000  # refreshes
SETUP = f"""
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);
INSERT INTO entities VALUES (1, 'r', '0', 'x');
INSERT INTO entities SELECT n, ('r.c' || n % 7 || '.e' || n)::ltree, 'n', 'x'
  FROM generate_series(2, {ENTITIES}) n;
CREATE INDEX ON entities (path)
"""


class Moments:
    """When each refresh had returned, seen by all processes; 0: not yet."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        if new:
            path.write_bytes(bytes(8 * MOST))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8 * MOST)

    def note(self, number: int) -> None:
        """This one has returned; those before it that failed are over with it."""
        now = monotonic()
        while number and not self.of(number):
            pack_into("d", self._memory, 8 * number, now)
            number -= 1

    def of(self, number: int) -> float:
        return float(unpack_from("d", self._memory, 8 * number)[0])


# -- a process that reads ------------------------------------------------------------------------


@dataclass
class Reading:
    """What one process has seen."""

    answers: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    stale: list[str] = field(default_factory=list)
    oldest: float = 0.0


def read(
    resolver: OptimizedHierarchyResolver, moments: Moments, seed: int, over: threading.Event
) -> Reading:
    """Ask, and compare each answer with what was known when the call began."""
    random, found = Random(seed), Reading()  # noqa: S311
    while not over.is_set():
        key = random.randrange(2, ENTITIES + 1)
        began = monotonic()
        try:
            if random.random() < 0.9:
                chains = [resolver.ancestors(key)]
            else:
                chains = list(resolver.ancestors_many(range(key, min(key + 9, ENTITIES))).values())
        except MvrefreshError as error:
            found.errors[type(error).__name__] += 1
            sleep(0.01)
            continue
        for chain in chains:
            found.answers += 1
            number = int(chain[0].name)
            if (next_one := moments.of(number + 1)) and began > next_one:
                found.oldest = max(found.oldest, began - next_one)
                if began - next_one > BOUND:
                    found.stale.append(f"{number}: {began - next_one:.2f} s after the next")
        if random.random() < 0.01:
            sleep(0.001)  # so that one process does not take all
    return found


def reader(arguments: list[str]) -> None:
    """A process of the fleet: reads until its stdin ends, and says what it has seen."""
    dsn, redis_url, path, seed, threads, settings = arguments
    given = json.loads(settings)
    off = set(given.pop("off", []))
    if "watch" in off:
        given["watch"] = False
    if "lease" in off:  # nobody ends it
        content_module.Content.sweep = lambda _: None  # type: ignore[method-assign]
    if "poll" in off:
        watch_module.EVERY = 1e9
    moments, over = Moments(Path(path)), threading.Event()
    with Database(dsn, timeout=2) as database:
        resolver = OptimizedHierarchyResolver(database, redis=redis_url, **given)
        with resolver:
            readings: list[Reading] = []
            workers = [
                threading.Thread(
                    target=lambda n: readings.append(read(resolver, moments, n, over)),
                    args=(int(seed) + n,),
                )
                for n in range(int(threads))
            ]
            for worker in workers:
                worker.start()
            sys.stdin.read()
            over.set()
            for worker in workers:
                worker.join()
            figures = resolver.cache_metrics()
    total: Counter[str] = Counter()
    for reading in readings:
        total += reading.errors
    print(
        json.dumps(
            {
                "answers": sum(reading.answers for reading in readings),
                "errors": dict(total),
                "stale": [each for reading in readings for each in reading.stale][:20],
                "stale_answers": sum(len(reading.stale) for reading in readings),
                "oldest": max(reading.oldest for reading in readings),
                "l1": figures["l1_cache"]["hits"],
                "l2": figures["l2_cache"]["hits"],
                "l4": figures["l4_cache"]["hits"],
            }
        )
    )


# -- faults --------------------------------------------------------------------------------------


class World:
    """The servers, and what happens to them."""

    def __init__(self, server: PostgresServer, name: str, seed: int, stack: ExitStack) -> None:
        self.random = Random(seed)  # noqa: S311
        self.server = server
        self.name = name
        self.redis = stack.enter_context(RedisServer())
        self.proxy = stack.enter_context(GoesSilent(server.dsn(name, tcp=True)))
        self.done: Counter[str] = Counter()
        self.processes: list[subprocess.Popen[str]] = []

    def sql(self, statement: str) -> None:
        with closing(psycopg.connect(self.server.dsn(self.name), autocommit=True)) as connection:
            connection.execute(statement)

    def end_the_watches(self) -> None:
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE '%to_regclass%' AND pid <> pg_backend_pid()"
        )

    def go_silent(self) -> None:
        self.proxy.go_silent()
        sleep(self.random.uniform(0.5, 4))
        self.proxy.speak()

    def suspend(self) -> None:
        process = self.random.choice(self.processes)
        process.send_signal(signal.SIGSTOP)
        sleep(self.random.uniform(0.5, 4))
        process.send_signal(signal.SIGCONT)

    def hang_redis(self) -> None:
        assert self.redis._process is not None
        self.redis._process.send_signal(signal.SIGSTOP)
        sleep(self.random.uniform(0.2, 2))
        self.redis._process.send_signal(signal.SIGCONT)

    def restart_redis(self) -> None:
        self.redis.stop()
        sleep(self.random.uniform(0, 0.5))
        self.redis._socket.unlink(missing_ok=True)
        self.redis.start()

    def flush_redis(self) -> None:
        subprocess_client = __import__("redis").Redis.from_url(self.redis.url)
        with closing(subprocess_client) as client:
            client.flushall()

    def make_the_view_again(self) -> None:
        with closing(psycopg.connect(self.server.dsn(self.name), autocommit=True)) as connection:
            source = HierarchySource()
            with connection.transaction():
                source.drop(connection)
                source.create(connection)

    def fault(self) -> None:
        deeds = {
            self.end_the_watches: 4,
            self.go_silent: 2,
            self.suspend: 2,
            self.hang_redis: 2,
            self.restart_redis: 1,
            self.flush_redis: 2,
            self.make_the_view_again: 1,
        }
        deed = self.random.choices(list(deeds), list(deeds.values()))[0]
        deed()
        self.done[deed.__name__] += 1


# -- all of it -----------------------------------------------------------------------------------


@dataclass
class Audit:
    """What all of them have seen."""

    refreshes: int
    faults: dict[str, int]
    answers: int
    tiers: dict[str, int]
    errors: dict[str, int]
    oldest: float
    stale_answers: int
    stale: list[str]

    def __str__(self) -> str:
        return (
            f"{self.answers:,} answers ({self.tiers}), {self.refreshes} refreshes,"
            f" {sum(self.faults.values())} faults {self.faults}; errors {self.errors};"
            f" the oldest answer was over for {self.oldest:.2f} s, {self.stale_answers} of them"
            f" longer than {BOUND} s"
        )


def run(
    server: PostgresServer,
    name: str,
    *,
    seed: int = 1,
    seconds: float = 30.0,
    faults: int = 0,
    processes: int = 4,
    threads: int = 3,
    off: tuple[str, ...] = (),
) -> Audit:
    """Until so many seconds and so many faults are over; what was seen.

    Args:
        off: Mechanisms that are switched off in the readers, to show that they are needed.
    """
    with ExitStack() as stack:
        with closing(psycopg.connect(server.dsn(name), autocommit=True)) as connection:
            connection.execute(SETUP)
            Schema().apply(connection)
            HierarchySource().create(connection)
        world = World(server, name, seed, stack)
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "moments"
        moments = Moments(path, new=True)
        database = stack.enter_context(Database(server.dsn(name)))
        resolver = stack.enter_context(OptimizedHierarchyResolver(database, resident=0))
        resolver.refresh_all_materialized_views()
        for number in range(processes):
            settings: dict[str, Any] = {"strict": True, "resident": 0 if number % 2 else 10_000}
            if off:
                settings |= {"off": off}
            way = world.proxy.dsn if number % 2 else server.dsn(name)
            said = make_conninfo(way, application_name=f"mvrefresh hammer {number}")
            process = subprocess.Popen(
                [
                    sys.executable, "-m", __name__, said, world.redis.url, str(path),
                    str(1000 * seed + 10 * number), str(threads), json.dumps(settings),
                ],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            )  # fmt: skip
            world.processes.append(process)
            stack.callback(_end, process)
        number, over = 0, threading.Event()

        def disturb() -> None:
            while not over.wait(world.random.uniform(0.05, 0.6)):
                with suppress(psycopg.Error):
                    world.fault()

        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            end = monotonic() + seconds
            while monotonic() < end or sum(world.done.values()) < faults:
                number += 1
                with suppress(psycopg.Error, MvrefreshError):
                    _write(server, name, number)
                    if resolver.refresh_materialized_view("mv_entity_ancestors"):
                        moments.note(number)
                sleep(world.random.uniform(0.0, 0.4))
        finally:
            over.set()
            disturber.join()
        found = []
        for process in world.processes:
            process.send_signal(signal.SIGCONT)
            out, _ = process.communicate(timeout=60)
            found.append(json.loads(out))
    errors: Counter[str] = Counter()
    for each in found:
        errors += Counter(each["errors"])
    return Audit(
        refreshes=number,
        faults=dict(world.done),
        answers=sum(each["answers"] for each in found),
        tiers={tier: sum(each[tier] for each in found) for tier in ("l1", "l2", "l4")},
        errors=dict(errors),
        oldest=max(each["oldest"] for each in found),
        stale_answers=sum(each["stale_answers"] for each in found),
        stale=[line for each in found for line in each["stale"]],
    )


def _write(server: PostgresServer, name: str, number: int) -> None:
    with closing(psycopg.connect(server.dsn(name), autocommit=True)) as connection:
        connection.execute("UPDATE entities SET name = %s WHERE id = 1", (str(number),))


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with suppress(OSError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.communicate()


if __name__ == "__main__":
    reader(sys.argv[1:])

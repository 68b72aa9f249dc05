"""What may happen to a world's servers and processes, dealt by the seed.

Faults are dealt as cards of a pack: in each pack is every kind, in an order of its own, so that a
long run has seen all of them. One random number generator draws whatever there is to draw of a
fault when it is dealt; so the seed gives the same faults in the same order, whoever takes them.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from random import Random
from time import sleep
from typing import TYPE_CHECKING

import psycopg
import redis
from tests.hammers.truth import BOUND
from tests.proxy import GoesSilent
from tests.servers import PostgresServer, RedisServer, StandbyServer

from mvrefresh import HierarchySource

if TYPE_CHECKING:
    import subprocess

    from tests.hammers.writer import Writer

PACK = {
    "end_the_watches": 4,
    "go_silent": 3,
    "suspend": 3,
    "hang_redis": 2,
    "restart_redis": 1,
    "flush_redis": 2,
    "make_the_views_again": 1,
    "restart": 1,
    "crash": 1,
    "fail_over": 1,
    "shut_the_door": 1,
    "refresh_unheard": 1,
}


@dataclass(frozen=True)
class Fault:
    """A fault, with all that was drawn for it.

    Attributes:
        size: From 0 to 1: how long it lasts, or how much it is.
        target: Of those that it may happen to, one.
        pause: Seconds until the next.
    """

    kind: str
    size: float
    target: int
    pause: float


class Dealer:
    """Deals faults. Any thread may take the next.

    Args:
        pack: Kinds of faults, and how many there are of each.
        once: Whether one pack is all there is; else they follow each other without an end.
    """

    def __init__(self, seed: int, pack: dict[str, int], *, once: bool = False) -> None:
        self._pack = pack
        self._once = once
        self._dealt = 0
        self._random = Random(seed)  # noqa: S311
        self._cards: list[str] = []
        self._lock = threading.Lock()

    def deal(self) -> Fault | None:
        """The next; None where there are no more."""
        random = self._random
        with self._lock:
            if not self._cards:
                if not self._pack or (self._once and self._dealt):
                    return None
                self._dealt += 1
                self._cards = [kind for kind, count in self._pack.items() for _ in range(count)]
                random.shuffle(self._cards)
            return Fault(
                self._cards.pop(), random.random(), random.randrange(1 << 16),
                random.uniform(0.05, 0.5),
            )  # fmt: skip


class Servers:
    """The servers, the ways to them, and what happens to both.

    Args:
        primary: Running; it is stopped for good by the first failover.
        names: Of the databases on it, one a world.
    """

    def __init__(self, primary: PostgresServer, names: list[str], stack: ExitStack) -> None:
        self.primary = primary
        self.redis = stack.enter_context(RedisServer())
        self.ways = [
            stack.enter_context(GoesSilent(primary.dsn(names[0], tcp=True))) for _ in range(2)
        ]
        self.writers: list[Writer] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.done: Counter[str] = Counter()
        self._names = names
        self._stack = stack
        # One thing at a time happens to each.
        self._server, self._redis = threading.Lock(), threading.Lock()
        self._way = [threading.Lock() for _ in self.ways]
        self._process = [threading.Lock() for _ in range(16)]

    def dsn(self, world: int) -> str:
        """Of a world's database, on what is the primary now."""
        return self.primary.dsn(self._names[world])

    def suffer(self, fault: Fault) -> None:
        """Have a fault, from its beginning to its end."""
        with suppress(psycopg.Error):
            getattr(self, fault.kind)(fault)
        self.done[fault.kind] += 1

    # -- the watch and its way -----------------------------------------------------------------

    def end_the_watches(self, fault: Fault) -> None:
        with self._server:
            self._end_the_watches(fault.target % len(self._names))

    def _end_the_watches(self, world: int) -> None:
        with closing(psycopg.connect(self.dsn(world), autocommit=True)) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND query ~ 'to_regclass|LISTEN'"
            )

    def go_silent(self, fault: Fault) -> None:
        which = fault.target % len(self.ways)
        with self._way[which]:
            self.ways[which].go_silent()
            sleep(0.5 + 4.0 * fault.size)
            self.ways[which].speak()

    def shut_the_door(self, fault: Fault) -> None:
        which = fault.target % len(self.ways)
        with self._way[which]:
            self.ways[which].shut()
            sleep(1.5 * fault.size)
            self.ways[which].open()

    def refresh_unheard(self, fault: Fault) -> None:
        """A refresh while nobody listens; then connections that never live until the next poll.

        Whoever listens again has to ask first: no notification will come, and the lease is renewed
        often enough.
        """
        world = fault.target % len(self._names)
        with ExitStack() as held:
            for lock in (self._server, *self._way, self.writers[world].writing):
                held.enter_context(lock)
            for way in self.ways:
                way.shut()
            try:
                self.writers[world].change()
            finally:
                for way in self.ways:
                    way.open()
            for _ in range(6):
                sleep(0.6)
                self._end_the_watches(world)

    # -- processes -----------------------------------------------------------------------------

    def suspend(self, fault: Fault) -> None:
        which = fault.target % len(self.processes)
        with self._process[which]:
            self.processes[which].send_signal(signal.SIGSTOP)
            sleep(0.5 + 3.5 * fault.size)
            self.processes[which].send_signal(signal.SIGCONT)

    # -- Redis ---------------------------------------------------------------------------------

    def hang_redis(self, fault: Fault) -> None:
        with self._redis:
            assert self.redis._process is not None
            self.redis._process.send_signal(signal.SIGSTOP)
            sleep(0.2 + 1.8 * fault.size)
            self.redis._process.send_signal(signal.SIGCONT)

    def restart_redis(self, fault: Fault) -> None:
        with self._redis:
            self.redis.stop()
            sleep(0.5 * fault.size)
            self.redis._socket.unlink(missing_ok=True)
            self.redis.start()

    def flush_redis(self, _: Fault) -> None:
        with self._redis, closing(redis.Redis.from_url(self.redis.url)) as client:
            client.flushall()

    # -- the server ----------------------------------------------------------------------------

    def make_the_views_again(self, fault: Fault) -> None:
        dsn = self.dsn(fault.target % len(self._names))
        with (
            self._server,
            closing(psycopg.connect(dsn, autocommit=True)) as connection,
            connection.transaction(),
        ):
            source = HierarchySource()
            source.drop(connection)
            source.create(connection)

    def restart(self, _: Fault) -> None:
        with self._server:
            self.primary.restart("fast")

    def crash(self, _: Fault) -> None:
        with self._server:
            self.primary.restart("immediate")

    def fail_over(self, fault: Fault) -> None:
        """To a standby that has not the last refreshes; then that is the primary.

        Before anybody reaches it there are as many refreshes as were lost: their numbers are the
        same, and then nothing changes for longer than the bound.
        """
        times = 1 + fault.target % 2
        with ExitStack() as held:
            held.enter_context(self._server)
            standby = self._stack.enter_context(StandbyServer(self.primary))
            for writer in self.writers:
                held.enter_context(writer.writing)
                writer.change()  # what a failover before has lost is over for good
            standby.wait_for(self.primary)
            standby.cut_off()
            lost = [writer.change_what_will_be_lost(times) for writer in self.writers]
            sleep(fault.size)  # let it be seen
            over = [right_again() for right_again in lost]
            self.primary.stop("immediate")
            standby.promote()
            for is_over in over:
                is_over()
            self.primary.close()
            self.primary = standby
            for writer in self.writers * times:
                writer.change()
            for way in self.ways:
                way.move_to(standby.dsn(tcp=True))
            sleep(BOUND + 0.5)

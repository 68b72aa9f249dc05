"""Processes with resolvers, those who refresh, and faults: no answer is older than was promised.

Two worlds, with the same ids, in two databases on one server, share one Redis and its keys' prefix.
`writer` changes them and tells the oracle, `truth`; in each process a `reader` asks, and holds each
answer against it; `faults` says what happens meanwhile. An answer is **stale** if it had been over
for more than BOUND seconds when its call began.

    python -m tests.hammers --only coherence [--seconds 60] [--faults 500] [--seed N]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo
from tests.hammers.faults import PACK, Dealer, Servers
from tests.hammers.truth import BOUND, Truth
from tests.hammers.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import PostgresServer

REPOSITORY = Path(__file__).parents[2]
WORLDS = "AB"
DISTURBERS = 3
# Of each process: its world, its way, whether it is wide, whether all is resident.
PROCESSES = [
    (0, 0, False, True),
    (1, 0, True, False),
    (0, 1, True, False),
    (1, 1, False, False),
    (1, 0, True, True),
]


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
    *,
    seed: int = 1,
    seconds: float = 30.0,
    faults: int = 0,
    pack: dict[str, int] | None = None,
    once: bool = False,
    processes: int = len(PROCESSES),
    threads: int = 2,
    off: tuple[str, ...] = (),
) -> Audit:
    """Until so many seconds and so many faults are over; what was seen.

    Args:
        server: Running, and of this run alone: it is gone after a failover.
        pack: Kinds of faults, and how many there are of each; empty: none happen.
        once: Whether one pack of them is all.
        off: Mechanisms that are switched off in the readers, to show that they are needed; it ends
            as soon as something stale was seen.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [f"world_{letter.lower()}" for letter in WORLDS]
        with closing(psycopg.connect(server.dsn(), autocommit=True)) as connection:
            for name in names:
                connection.execute(f"CREATE DATABASE {name}")
        # Standbys that come later live as long as this one.
        servers = Servers(server, names, stack.enter_context(ExitStack()))
        truths = [Truth(directory / letter, new=True) for letter in WORLDS]
        for place, letter in enumerate(WORLDS):
            writer = Writer(letter, truths[place], lambda w=place: servers.dsn(w), seed + place)
            servers.writers.append(stack.enter_context(writer))
        for number in range(processes):
            process = _reader(servers, directory, number, seed, threads, off)
            servers.processes.append(process)
            stack.callback(_end, process)
        for process in servers.processes:
            assert process.stdout.readline() == "ready\n", "a reader has died"
        end = monotonic() + seconds

        def is_enough() -> bool:
            for writer in servers.writers:
                writer.check()
            if off and any(truth.alarmed for truth in truths):
                return True
            return monotonic() > end and sum(servers.done.values()) >= faults

        dealer = Dealer(seed, PACK if pack is None else pack, once=once)
        _disturb(servers, dealer, is_enough)
        found = []
        for process in servers.processes:
            process.stdin.close()
        for process in servers.processes:
            said = process.stdout.read()
            assert said, "a reader has died"
            found.append(json.loads(said))
    behind = [line for writer in servers.writers for line in writer.behind]
    return Audit(
        refreshes=sum(writer.refreshes for writer in servers.writers),
        faults=dict(servers.done),
        answers=sum(each["answers"] for each in found),
        tiers={tier: sum(each[tier] for each in found) for tier in ("l1", "l2", "l4")},
        errors=dict(sum((Counter(each["errors"]) for each in found), Counter())),
        oldest=max(each["oldest"] for each in found),
        stale_answers=sum(each["stale_answers"] for each in found) + len(behind),
        stale=[line for each in found for line in each["stale"]] + behind,
    )


def _reader(
    servers: Servers, directory: Path, number: int, seed: int, threads: int, off: tuple[str, ...]
) -> subprocess.Popen[str]:
    world, way, wide, resident = PROCESSES[number % len(PROCESSES)]
    settings: dict[str, Any] = {
        "strict": True, "resident": 10_000 if resident else 0, "wide": wide, "off": off,
    }  # fmt: skip
    # The proxy leads to whatever server is the primary; the database is for the client to say.
    dsn = make_conninfo(
        servers.ways[way].dsn,
        dbname=servers._names[world],
        application_name=f"mvrefresh hammer {number}",
        connect_timeout=2,
    )
    arguments = [
        dsn, servers.redis.url, str(directory / WORLDS[world]), WORLDS[world],
        str(1000 * seed + 10 * number), str(threads), json.dumps(settings),
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "tests.hammers.reader", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def _disturb(servers: Servers, dealer: Dealer, is_enough: Callable[[], bool]) -> None:
    """Have faults, several at a time, until it is enough."""
    over = threading.Event()
    failed: list[BaseException] = []

    def disturb() -> None:
        try:
            while fault := dealer.deal():
                if over.wait(fault.pause):
                    return
                servers.suffer(fault)
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    disturbers = [threading.Thread(target=disturb) for _ in range(DISTURBERS)]
    for disturber in disturbers:
        disturber.start()
    try:
        while not failed and not is_enough():
            over.wait(0.1)
    finally:
        over.set()
        for disturber in disturbers:
            disturber.join()
    if failed:
        raise failed[0]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with suppress(OSError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        stream.close()

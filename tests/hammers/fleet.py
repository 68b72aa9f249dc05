"""Many processes, one service: what becomes of the slots."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import psycopg
from tests.hammers.audit import SETUP, Audit, read_audit
from tests.hammers.process import Member

from mvrefresh import Schema

if TYPE_CHECKING:
    from tests.servers import PostgresServer


def prepare(dsn: str) -> None:
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        Schema().apply(connection)
        connection.execute(SETUP)


def let_pass(seconds: float) -> None:
    """A fleet needs time to do what it does; nothing here could tell when it is enough."""
    threading.Event().wait(seconds)


def members(stack: ExitStack, dsn: str, count: int, **settings: object) -> list[Member]:
    """So many processes, whose services start as nearly at once as can be."""
    fleet = [stack.enter_context(Member(dsn, **settings)) for _ in range(count)]  # type: ignore[arg-type]
    for member in fleet:  # each has imported what it needs when it answers
        assert member.ask("status")["state"] == "stopped"
    for member in fleet:
        member.say("start")
    for member in fleet:
        assert member.hear() is True
    return fleet


def run(
    dsn: str, *, through: str = "", count: int = 8, seconds: float = 30, every: float = 1
) -> Audit:
    """`count` processes with the same service for `seconds`; what they did.

    Args:
        dsn: The server; `through`: the way by which the fleet reaches it, a pooler's.
    """
    prepare(dsn)
    with ExitStack() as stack:
        fleet = members(stack, through or dsn, count, seconds=every)
        let_pass(seconds)
        for member in fleet:
            member.say("stop")
        done = sum(member.hear() for member in fleet)
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        audit = read_audit(connection)
    assert audit.twice == 0, f"a slot succeeded twice: {audit}"
    assert audit.failures == 0, f"a refresh failed: {audit}"
    assert audit.refreshes == len(audit.served) == done, f"{done} counted by the fleet: {audit}"
    assert audit.refreshes <= seconds / every + 1, f"too many: {audit}"
    assert audit.longest_pause <= 1.5 * every + 0.25, f"a slot was lost: {audit}"
    return audit


def kill_the_worker(dsn: str, *, work: float = 10, count: int = 4) -> float:
    """`kill -9` of the one that refreshes; seconds until another does."""
    prepare(dsn)
    with ExitStack() as stack, closing(psycopg.connect(dsn, autocommit=True)) as connection:
        connection.execute("UPDATE pace SET seconds = %s", (work,))
        fleet = members(stack, dsn, count, seconds=1)
        pid = worker(connection)
        victim = next(member for member in fleet if member.pid == pid)
        victim.kill()
        (killed,) = connection.execute("SELECT clock_timestamp()").fetchone()
        while worker(connection) == pid:
            let_pass(0.01)
        (again,) = connection.execute("SELECT clock_timestamp()").fetchone()
        connection.execute("UPDATE pace SET seconds = 0")
        for member in fleet:
            if member is not victim:
                member.say("stop")
                member.hear()
        audit = read_audit(connection)
    assert audit.twice == 0
    return (again - killed).total_seconds()


def worker(connection: psycopg.Connection, timeout: float = 20) -> int:
    """The process whose backend is just refreshing, found by its socket's other end."""
    for _ in range(int(timeout / 0.01)):
        row = connection.execute(
            "SELECT w.n FROM pg_stat_activity a, LATERAL (SELECT substring(a.application_name"
            " FROM 'hammer (.*)')::int AS n) w WHERE a.query LIKE '%REFRESH MATERIALIZED%'"
            " AND w.n IS NOT NULL AND a.state = 'active'"
        ).fetchone()
        if row is not None:
            return row[0]
        let_pass(0.01)
    raise AssertionError("nobody refreshes")


def suspend_the_worker(dsn: str, *, pause: float = 10, count: int = 3) -> Audit:
    """SIGSTOP of the one that refreshes, for so many seconds: the others go on, none does twice."""
    prepare(dsn)
    with ExitStack() as stack, closing(psycopg.connect(dsn, autocommit=True)) as connection:
        connection.execute("UPDATE pace SET seconds = 0.3")
        fleet = members(stack, dsn, count, seconds=1)
        pid = worker(connection)
        sleeper = next(member for member in fleet if member.pid == pid)
        sleeper.signal(signal.SIGSTOP)
        before = read_audit(connection)
        let_pass(pause)
        during = read_audit(connection)
        sleeper.signal(signal.SIGCONT)
        let_pass(3)
        for member in fleet:
            member.say("stop")
        done = sum(member.hear() for member in fleet)
        audit = read_audit(connection)
    gone_on = len(during.served) - len(before.served)
    assert gone_on >= pause - 2.5, f"the others served {gone_on} slots in {pause} s"
    assert audit.twice == 0, f"a slot succeeded twice: {audit}"
    # What the sleeper did without hearing the answer it finds in the history when it wakes.
    assert audit.refreshes == len(audit.served) == done, f"{done} counted: {audit}"
    return audit


def crowd(dsn: str, *, processes: int = 4, threads: int = 64, work: float = 2) -> int:
    """So many callers of `force()` during a running refresh; how many refreshes they cost."""
    prepare(dsn)
    with ExitStack() as stack, closing(psycopg.connect(dsn, autocommit=True)) as connection:
        connection.execute("UPDATE pace SET seconds = %s", (work,))
        fleet = [stack.enter_context(Member(dsn, seconds=3600)) for _ in range(processes)]
        for member in fleet:
            assert member.ask("start") is True
        worker(connection)  # the first slot: a refresh is running now
        for member in fleet:
            member.say(f"force {threads}")
        answers = [answer for member in fleet for answer in member.hear()]
        row = connection.execute(
            "SELECT count(*) FROM mvrefresh.refresh_metrics WHERE trigger = 'force'"
        ).fetchone()
        for member in fleet:
            member.ask("stop")
    assert row is not None
    assert len(answers) == processes * threads
    missed = [answer for answer in answers if not answer["found"] or not answer["ok"]]
    assert not missed, f"{len(missed)} callers did not find their own write: {missed[:3]}"
    assert row[0] <= 16, f"{row[0]} refreshes for {len(answers)} callers"
    return int(row[0])


def restarts(server: PostgresServer, *, rounds: int = 2, count: int = 3) -> Audit:
    """The server is stopped and started under the fleet, politely and by a crash."""
    dsn = server.dsn()
    prepare(dsn)
    with ExitStack() as stack:
        with closing(psycopg.connect(dsn, autocommit=True)) as connection:
            connection.execute("UPDATE pace SET seconds = 0.4")
        fleet = members(stack, dsn, count, seconds=1)
        for mode in ("fast", "immediate") * rounds:
            let_pass(2.2)
            server.restart(mode)
        let_pass(3)
        with closing(psycopg.connect(dsn, autocommit=True)) as connection:
            before = read_audit(connection)
            let_pass(2.5)
            after = read_audit(connection)
        for member in fleet:
            member.say("stop")
        done = sum(member.hear() for member in fleet)
        with closing(psycopg.connect(dsn, autocommit=True)) as connection:
            audit = read_audit(connection)
    assert len(after.served) > len(before.served), "nobody goes on after the restarts"
    assert audit.twice == 0, f"a slot succeeded twice: {audit}"
    # Every success is in the history, every one of the history was counted, and failures too.
    assert audit.refreshes == len(audit.served), f"{audit}"
    assert audit.refreshes + audit.failures == done, f"{done} counted by the fleet: {audit}"
    return audit

"""A refresh service at rest over 500 views, and how soon after its due time a refresh begins.

    python -m bench --only service

**At rest.** All views were served a moment ago, by the hour. What the service then asks is counted
by `pg_stat_statements` in the server, over a stated time; a single turn, and its round trips, by
the messages that libpq sends.

**Latency.** From the due time of a slot, as table `schedule` has it, to the BEGIN of the
transaction that refreshes for it (`transaction_timestamp()`, the moment at which the server has
that message): both by the database's clock, noted by a trigger that fires in that transaction. The
rival is how late a thread of the same process wakes from `Event().wait(timeout)` with nothing else
to do, at the same time and half an interval apart.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack, closing
from statistics import median, quantiles
from threading import Event, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import psycopg
from tests.servers import PostgresServer, postgres_bin_dir

from bench.measure import Figure, Row, compare
from mvrefresh import Database, Every, RefreshService, Schema
from mvrefresh.refreshing.runner import Runner
from mvrefresh.service.dispatcher import Dispatcher
from mvrefresh.service.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Iterator

Connection = psycopg.Connection[Any]

VIEWS, VIEWS_QUICK = 500, 50
HOURLY = Every(seconds=3600)
PROMISED = 0.020
"""Seconds by which the median refresh may begin later than an empty loop wakes."""

COUNT = """
SELECT coalesce(sum(calls), 0)::float8, coalesce(sum(total_plan_time + total_exec_time), 0)
  FROM pg_stat_statements
 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND query NOT LIKE '%pg_stat_statements%'
"""
NOTES = """
CREATE TABLE bench_begun (late float8);
CREATE FUNCTION bench_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench_begun VALUES (extract(epoch FROM transaction_timestamp() - OLD.slot));
    RETURN NULL;
END $$;
CREATE TRIGGER bench_note AFTER UPDATE OF slot ON mvrefresh.schedule
    FOR EACH ROW EXECUTE FUNCTION bench_note()
"""


def watched(connection: Connection) -> bool:
    """Whether the server counts statements; then from now on for this database."""
    (preloaded,) = connection.execute("SHOW shared_preload_libraries").fetchone() or ("",)
    if "pg_stat_statements" not in preloaded:
        return False
    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    return True


def fresh(dsn: str, stack: ExitStack, name: str = "bench_service") -> tuple[str, Connection]:
    """An empty database on a server that counts statements: on this one, or on one of our own."""
    connection = stack.enter_context(closing(psycopg.connect(dsn, autocommit=True)))
    if not watched(connection):
        settings = {"shared_preload_libraries": "pg_stat_statements"}
        server = stack.enter_context(PostgresServer(postgres_bin_dir(18), settings))
        dsn = server.dsn()
        connection = stack.enter_context(closing(psycopg.connect(dsn, autocommit=True)))
        watched(connection)
    connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    connection.execute(f"CREATE DATABASE {name}")
    stack.callback(connection.execute, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    connection.execute(f"ALTER DATABASE {name} SET pg_stat_statements.track_planning = on")
    dsn = psycopg.conninfo.make_conninfo(dsn, dbname=name)
    inside = stack.enter_context(closing(psycopg.connect(dsn, autocommit=True)))
    watched(inside)
    Schema().apply(inside)
    return dsn, inside


def at_rest(connection: Connection, views: int) -> None:
    """Views that were all served a moment ago."""
    connection.execute(
        ";".join(
            f"CREATE MATERIALIZED VIEW v{number} AS SELECT g AS id FROM generate_series(1, 3) g;"
            f"CREATE UNIQUE INDEX ON v{number} (id)"
            for number in range(views)
        )
    )
    connection.execute(
        "INSERT INTO mvrefresh.schedule (view, slot, schedule, last_started_at)"
        " SELECT oid, now() + interval '1 hour', %s, now() FROM pg_class WHERE relkind = 'm'",
        (str(HOURLY),),
    )
    connection.execute("VACUUM ANALYZE")


def counted(connection: Connection) -> tuple[float, float]:
    """Statements of all others, and their milliseconds in the server, so far."""
    calls, ms = connection.execute(COUNT).fetchone() or (0.0, 0.0)
    return float(calls), float(ms)


def round_trips(connection: Connection, work: Any) -> int:
    """How often `work` waits for the server: each Sync or simple Query that libpq sends is one."""
    with tempfile.TemporaryFile("w+") as log:
        connection.pgconn.trace(log.fileno())
        work()
        connection.pgconn.untrace()
        log.seek(0)
        # time, F for what goes from here, length, message
        return len(re.findall(r"\tF\t\d+\t(?:Sync|Query)\b", log.read()))


def one_turn(dsn: str, inside: Connection, views: int, *, quick: bool) -> Iterator[Row | Figure]:
    """A look at views none of which is due, without the thread around it."""
    rounds = 20 if quick else 300
    with Database(dsn) as database, database.dedicated() as connection:
        dispatcher = Dispatcher(Runner(database), Roster(None, HOURLY))

        def turn() -> None:
            dispatcher.look_again()  # or it would remember that nothing is due yet
            dispatcher.turn(connection)

        for _ in range(3):  # the catalog is read, caches are warm
            turn()
        if len(dispatcher.rows) != views or dispatcher.decision.ready:
            raise AssertionError("there is something to do")
        yield Figure("round trips of a turn", round_trips(connection, turn), "", "libpq's trace")
        before = counted(inside)
        for _ in range(rounds):
            turn()
        calls, ms = (b - a for a, b in zip(before, counted(inside), strict=True))
        yield Figure("statements of a turn", calls / rounds, "", f"mean of {rounds}")
        yield Figure("server's time of a turn", ms / rounds, "ms", f"mean of {rounds}")
        yield compare(
            f"a turn over {views} views, none due",
            turn,
            "SELECT 1 on the same connection",
            lambda: connection.execute("SELECT 1").fetchone(),
            rounds=rounds,
        )


def idle(dsn: str, inside: Connection, *, quick: bool) -> Iterator[Figure]:
    """A running service, from the end of its first turn on."""
    period = 3.0 if quick else 70.0
    with Database(dsn) as database, RefreshService(database, schedule=HOURLY) as service:
        while service.health().checked_at is None:
            sleep(0.05)
        sleep(1.0)
        before = counted(inside)
        sleep(period)
        calls, ms = (b - a for a, b in zip(before, counted(inside), strict=True))
    how = f"{calls:.0f} statements, {ms:.2f} ms in {period:.0f} s"
    yield Figure("statements a minute at rest", calls * 60 / period, "", how)
    yield Figure("server's time a minute at rest", ms * 60 / period, "ms", how)


class EmptyLoop(Thread):
    """Wakes every so often, and notes how late."""

    def __init__(self, interval: float) -> None:
        super().__init__(daemon=True)
        self._interval = interval
        self._over = Event()
        self.late: list[float] = []

    def run(self) -> None:
        """Wait, until `stop`."""
        due = monotonic() + self._interval / 2
        while not self._over.wait(due - monotonic()):
            self.late.append(monotonic() - due)
            due += self._interval

    def stop(self) -> None:
        """Return when it has ended."""
        self._over.set()
        self.join()


def latency(dsn: str, inside: Connection, *, quick: bool) -> Iterator[Row | Figure]:
    """One small view with a short interval; the first slots, with connections to make, not."""
    interval, warm, wanted = (0.2, 2, 6) if quick else (0.5, 4, 120)
    inside.execute("CREATE MATERIALIZED VIEW often AS SELECT 1 AS id")
    inside.execute("CREATE UNIQUE INDEX ON often (id)")
    inside.execute(NOTES)
    schedule = {"often": Every(seconds=interval)}
    loop = EmptyLoop(interval)
    with Database(dsn) as database, RefreshService(database, schedule=schedule):
        sleep(interval * 1.5)
        loop.start()
        deadline = monotonic() + (warm + wanted) * interval * 3 + 10
        while noted(inside) < warm + wanted and monotonic() < deadline:
            sleep(interval)
    loop.stop()
    late = [ms for (ms,) in inside.execute("SELECT late FROM bench_begun ORDER BY ctid")][warm:]
    if len(late) < wanted:
        raise AssertionError(f"{len(late)} of {wanted} slots were served")
    yield Row(
        what="due time to BEGIN of the refresh",
        rival="how late an empty loop wakes",
        rounds=len(late),
        seconds=median(late),
        rival_seconds=median(loop.late),
        ratio=median(late) / median(loop.late),
        above=PROMISED,
    )
    for share in (95, 99):
        ours, theirs = (quantiles(each, n=100)[share - 1] for each in (late, loop.late))
        how = f"of {len(late)} slots; the empty loop {theirs * 1000:.1f} ms"
        yield Figure(f"due time to BEGIN, {share} of 100 within", ours * 1000, "ms", how)


def noted(connection: Connection) -> int:
    """How many slots were served."""
    (count,) = connection.execute("SELECT count(*) FROM bench_begun").fetchone() or (0,)
    return int(count)


def run(dsn: str, *, quick: bool = False) -> list[Row | Figure]:
    """Latency first, on a database with one view; then many at rest."""
    with ExitStack() as stack:
        dsn, inside = fresh(dsn, stack)
        found: list[Row | Figure] = [*latency(dsn, inside, quick=quick)]
        inside.execute("DROP MATERIALIZED VIEW often; DROP TABLE bench_begun")
        inside.execute("DROP TRIGGER bench_note ON mvrefresh.schedule")
        inside.execute("TRUNCATE mvrefresh.schedule")
        views = VIEWS_QUICK if quick else VIEWS
        at_rest(inside, views)
        found += one_turn(dsn, inside, views, quick=quick)
        found += idle(dsn, inside, quick=quick)
        return found

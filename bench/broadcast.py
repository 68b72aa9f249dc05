"""How soon an event has reached 200 WebSocket clients, beside a bare Starlette broadcast.

    python -m bench --only broadcast

One uvicorn, one worker. On the same application are the library's `events_router` and what one
would write without it: a set of sockets, and for each event a loop of `send_text`, or a `gather`.
A thread of the server publishes events, 80 milliseconds apart; each has the moment of its
publication in it, and what is timed is until the last of the clients has read it. Clients are of
one of them at a time, in a process of their own, round by round; who is first alternates. The bare
ones send a message as long, written beforehand but for the moment. The CPU time of the thread that
has the event loop is the steadier figure where others use the machine; look-ups are in it for both.
Where the system cannot tell it, there is nothing to measure.

**Meanwhile** a thread of the server refreshes a view of 5,000 rows, without a pause. The feed hears
another database, in which nothing is refreshed: of these refreshes ours alone would tell. And a
client asks for ancestors over HTTP, 5 milliseconds after each answer. It is no thread that asks
without a pause: that would measure how the interpreter hands on its lock.

**A client stalls**: one more, who never reads. Its sockets are filled, and most of its queue, with
events that do not count; it is dropped among those that do. The rival is ours with the same events
and nobody who stalls. Of the bare loop it is counted how many events still reach the others.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from itertools import cycle
from statistics import median, quantiles
from threading import Event, Thread, main_thread
from time import monotonic_ns, sleep
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from urllib.request import urlopen
from uuid import UUID

import orjson
import psycopg
from psycopg.conninfo import make_conninfo

from bench import web
from bench.listeners import Heard
from bench.lookups import KEYS, SOURCE, prepare
from bench.measure import Figure, Row
from mvrefresh import Database, EventBus, OptimizedHierarchyResolver, Schema, events, refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastapi import FastAPI
    from starlette.websockets import WebSocket

Fill: TypeAlias = "Sequence[tuple[int, int, float]]"
"""Events that do not count: how many, of how many bytes, and seconds after each."""

OURS, LOOP, GATHER = "ours", "loop", "gather"
PATHS = {OURS: "/api/refresh/events", LOOP: "/bare", GATHER: "/bare"}
NAMES = {OURS: "ours", LOOP: "Starlette, a loop of sends", GATHER: "Starlette, a gather of sends"}
PAUSE = 0.08  # seconds between two events
WORDS = "its rows are written anew; " * 16  # as long a message as an outcome's
BUSY = "bench_broadcast_busy"  # the database whose view is refreshed meanwhile
HEARD = "bench_broadcast_heard"  # that of the feed
ROWS = """
CREATE TABLE rows (id int PRIMARY KEY, kind int, amount numeric);
INSERT INTO rows SELECT g, g % 7, g / 3.0 FROM generate_series(1, 5000) g;
CREATE MATERIALIZED VIEW busy AS SELECT id, kind, amount * 2 AS amount FROM rows;
CREATE UNIQUE INDEX ON busy (id)
"""


class Size(NamedTuple):
    """Of the whole.

    Attributes:
        events: In each round.
        first: Rounds that do not count.
        rounds, stalls: Rounds beside the bare broadcasts, and beside a client that stalls.
        fill: More than the sockets of who does not read take, then most of a queue. The last
            pause is for all the others to have them.
    """

    clients: int
    events: int
    first: int
    rounds: int
    stalls: int
    fill: Fill


FULL = Size(200, 40, 1, 9, 9, ((48, 131_072, 0.06), (220, 400, 0.015), (1, 400, 1.0)))
QUICK = Size(10, 5, 0, 1, 1, ((48, 131_072, 0.005), (256, 400, 0.001)))


# -- the server ------------------------------------------------------------------------------------


def event_of(moment: int, words: str = WORDS) -> events.Event:
    """An event in which a moment is."""
    return events.RefreshStarted(UUID(int=1), "sales.by_region", "concurrent", f"{moment} {words}")


class Bare:
    """A broadcast as one writes it: nothing is bounded, nobody is dropped."""

    def __init__(self) -> None:
        self._sockets: set[WebSocket] = set()

    async def endpoint(self, socket: WebSocket) -> None:
        """A client, until it hangs up."""
        await socket.accept()
        await socket.send_text('{"event":"Joined"}')
        self._sockets.add(socket)
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
        self._sockets.discard(socket)

    async def loop(self, text: str) -> None:
        """To one after the other."""
        for socket in tuple(self._sockets):
            await socket.send_text(text)

    async def gather(self, text: str) -> None:
        """To all, with a task for each."""
        await asyncio.gather(*(socket.send_text(text) for socket in self._sockets))


class Publisher:
    """Publishes from a thread, as whoever does the work."""

    def __init__(self, bus: EventBus, bare: Bare) -> None:
        from mvrefresh.fleet.cursor import cursor_text  # noqa: PLC0415 - of the process that serves
        from mvrefresh.fleet.news import news_of  # noqa: PLC0415 - the same
        from mvrefresh.web.serialize import safe_serialize_message  # noqa: PLC0415 - the same

        news = replace(news_of(event_of(0, "{}")), id=cursor_text(datetime.now(UTC), ()))
        self._text = safe_serialize_message(news).decode()
        self._bus, self._bare = bus, bare

    def _publish(self, how: str, loop: asyncio.AbstractEventLoop, moment: int, words: str) -> None:
        if how == OURS:
            self._bus.publish(event_of(moment, words))
            return
        text = self._text.replace("0 {}", f"{moment} {words}")
        send = self._bare.loop if how == LOOP else self._bare.gather
        asyncio.run_coroutine_threadsafe(send(text), loop)

    def publish(self, how: str, loop: asyncio.AbstractEventLoop, count: int, fill: Fill) -> float:
        """Those that do not count, then `count` of them; CPU seconds of the loop for each."""
        for times, size, pause in fill:
            for _ in range(times):
                self._publish(how, loop, 0, "x" * size)
                sleep(pause)
        clock = time.pthread_getcpuclockid(main_thread().ident or 0)
        before = time.clock_gettime(clock)
        for _ in range(count):
            self._publish(how, loop, monotonic_ns(), WORDS)
            sleep(PAUSE)
        return (time.clock_gettime(clock) - before) / count


def app() -> FastAPI:
    """The application that is asked; for `uvicorn --factory`."""
    from fastapi import FastAPI  # noqa: PLC0415 - of the process that serves
    from starlette.routing import WebSocketRoute  # noqa: PLC0415 - the same

    from mvrefresh.fleet.feed import FleetFeed  # noqa: PLC0415 - the same
    from mvrefresh.web import lifespan, refresh_router  # noqa: PLC0415 - the same
    from mvrefresh.web.events import events_router  # noqa: PLC0415 - the same

    dsn = os.environ["MVREFRESH_DSN"]
    database, bus, bare = Database(dsn), EventBus(), Bare()
    feed = FleetFeed(Database(make_conninfo(dsn, dbname=HEARD)), bus)
    resolver = OptimizedHierarchyResolver(database, SOURCE)
    resolver.refresh_all_materialized_views()
    if not resolver.preload():
        raise RuntimeError("the hierarchy is not in memory")
    publisher, refreshes = Publisher(bus, bare), [0]
    application = FastAPI(lifespan=lifespan(database, resolver))
    application.include_router(events_router(feed), prefix="/api")
    application.include_router(refresh_router(resolver), prefix=web.PREFIX)
    application.router.routes.append(WebSocketRoute("/bare", bare.endpoint))

    @application.get("/publish")
    async def publish(how: str, count: int, fill: str) -> tuple[float, int]:
        loop, before = asyncio.get_running_loop(), refreshes[0]
        cpu = await asyncio.to_thread(publisher.publish, how, loop, count, orjson.loads(fill))
        return cpu, refreshes[0] - before

    def refresh_on() -> None:
        with Database(make_conninfo(dsn, dbname=BUSY)) as busy:
            while True:
                refresh(busy, ["busy"]).raise_for_failures()
                refreshes[0] += 1

    Thread(target=refresh_on, daemon=True).start()
    return application


# -- the clients -----------------------------------------------------------------------------------


class Round(NamedTuple):
    """One round's events.

    Attributes:
        last: Seconds of each event until all had it; of those that have reached all.
        each: Seconds of each of these events and each client.
        size: Bytes of a message.
        cpu: Seconds of the server's event loop for an event.
        refreshes, lookups: How many went on meanwhile.
        dropped: Code and reason of who stalled.
    """

    last: list[float]
    each: list[float]
    size: int
    cpu: float
    refreshes: int
    lookups: int
    dropped: tuple[int, str] | None


@contextmanager
def asking(address: str) -> Iterator[list[int]]:
    """Ask for ancestors for as long as the block lasts; how often is in the list."""
    over, asked = Event(), [0]

    def ask() -> None:
        host = address.removeprefix("http://")
        with closing(HTTPConnection(host, timeout=30)) as connection:
            for key in cycle(KEYS):
                if over.wait(0.005):
                    return
                connection.request("GET", f"{web.PREFIX}/{key}/ancestors")
                connection.getresponse().read()
                asked[0] += 1

    thread = Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def one_round(
    address: str, how: str, size: Size, fill: Fill = (), *, stalled: bool = False
) -> Round:
    """Clients come, hear so many events, and go."""
    lost = stalled and how == LOOP  # what does not come within a second, does not come
    wish = {
        "address": address.removeprefix("http://"), "path": PATHS[how], "clients": size.clients,
        "events": size.events, "patience": 1.0 if lost else 15.0, "stalled": stalled,
    }  # fmt: skip
    command = [sys.executable, "-m", "bench.listeners", orjson.dumps(wish).decode()]
    url = f"{address}/publish?how={how}&count={size.events}&fill={orjson.dumps(fill).decode()}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listeners:  # noqa: S603
        if listeners.stdout is None or listeners.stdout.readline() != "ready\n":
            raise AssertionError("the clients have not joined")
        with asking(address) as asked, urlopen(url) as answer:  # noqa: S310 - our own
            cpu, refreshes = orjson.loads(answer.read())
        heard = Heard(*orjson.loads(listeners.stdout.read()))
    whole = [taken for taken in heard.events.values() if len(taken) == size.clients]
    if len(whole) < size.events and not lost:
        raise AssertionError(f"{how}: {len(whole)} of {size.events} events have reached all")
    return Round(
        [max(taken) / 1e9 for taken in whole],
        [nanoseconds / 1e9 for taken in whole for nanoseconds in taken],
        heard.size,
        cpu,
        refreshes,
        asked[0],
        heard.dropped,
    )


def in_turn(first: int, rounds: int, *kinds: Callable[[], Round]) -> list[list[Round]]:
    """The rounds of each kind, after those that do not count; who begins alternates."""
    found: list[list[Round]] = [[] for _ in kinds]
    for number in range(first + rounds):
        for place in range(len(kinds)) if number % 2 else reversed(range(len(kinds))):
            found[place].append(kinds[place]())
    return [each[first:] for each in found]


def rows(what: str, ours: list[Round], rival: str, theirs: list[Round]) -> Iterator[Row]:
    """A round's median event, until the last client had it; and what it cost the server."""
    for suffix, of in (("", lambda one: median(one.last)), (", CPU time", lambda one: one.cpu)):
        pairs = [(of(mine), of(other)) for mine, other in zip(ours, theirs, strict=True)]
        yield Row(
            f"{what}{suffix}",
            rival,
            len(pairs),
            seconds=median(mine for mine, _ in pairs),
            rival_seconds=median(other for _, other in pairs),
            ratio=median(mine / other for mine, other in pairs),
        )


def figures(what: str, rounds: list[Round]) -> Iterator[Figure]:
    """Median and worst event, and single clients."""
    last = sorted(seconds for one in rounds for seconds in one.last)
    each = [seconds for one in rounds for seconds in one.each]
    refreshes = sum(one.refreshes for one in rounds)
    lookups = sum(one.lookups for one in rounds)
    how = (
        f"{len(last)} events of {rounds[0].size} bytes,"
        f" {refreshes} refreshes and {lookups:,} look-ups meanwhile"
    )
    yield Figure(f"{what}: an event to the last client, median", 1e3 * median(last), "ms", how)
    yield Figure(f"{what}: an event to the last client, worst", 1e3 * last[-1], "ms", how)
    p99 = quantiles(each, n=100)[98]
    yield Figure(f"{what}: an event to a client, 99 of 100 within", 1e3 * p99, "ms", how)


def beside_bare(address: str, size: Size) -> Iterator[Row | Figure]:
    """Ours, a loop, a gather."""
    kinds = [partial(one_round, address, how, size) for how in NAMES]
    ours, *bare = in_turn(size.first, size.rounds, *kinds)
    if abs(ours[0].size / bare[0][0].size - 1) > 0.02:  # noqa: PLR2004 - digits of moments
        raise AssertionError(f"messages of {ours[0].size} bytes and of {bare[0][0].size}")
    for how, theirs in zip((LOOP, GATHER), bare, strict=True):
        yield from rows(f"an event to the last of {size.clients} clients", ours, NAMES[how], theirs)
    for how, rounds in zip(NAMES, (ours, *bare), strict=True):
        yield from figures(NAMES[how], rounds)


def beside_stalled(address: str, size: Size) -> Iterator[Row | Figure]:
    """Ours with a client that stalls, and without; then the loop with one."""
    stalled, without = in_turn(
        size.first,
        size.stalls,
        partial(one_round, address, OURS, size, size.fill, stalled=True),
        partial(one_round, address, OURS, size, size.fill),
    )
    what = f"a client stalls: an event to the last of {size.clients} others"
    yield from rows(what, stalled, "ours, nobody stalls", without)
    yield from figures("ours, a client stalls", stalled)
    yield from figures("ours, the same events, nobody stalls", without)
    for one in stalled:
        if one.dropped is None:
            raise AssertionError("the client that stalls was not dropped")
    code, reason = stalled[0].dropped or (0, "")
    dropped = "a client stalls: rounds in which ours dropped it"
    yield Figure(dropped, len(stalled), "", f"closed with {code}, {reason}")
    bare = one_round(address, LOOP, size, size.fill, stalled=True)
    reached = f"{NAMES[LOOP]}, a client stalls: events that reach all others"
    yield Figure(reached, len(bare.last), "", f"of {size.events}, within a second after them")


@contextmanager
def databases(dsn: str) -> Iterator[None]:
    """One with the view that is refreshed meanwhile, and one for the feed."""
    with closing(psycopg.connect(dsn, autocommit=True)) as connection, ExitStack() as stack:
        for name in (BUSY, HEARD):
            drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
            connection.execute(drop)
            connection.execute(f"CREATE DATABASE {name}")
            stack.callback(connection.execute, drop)
            inside = make_conninfo(dsn, dbname=name)
            with closing(psycopg.connect(inside, autocommit=True)) as inner:
                Schema().apply(inner)
                if name == BUSY:
                    inner.execute(ROWS)
        yield


def run(dsn: str, *, quick: bool = False) -> Sequence[Row | Figure]:
    """Beside the bare broadcasts, and beside a client that stalls."""
    if not hasattr(time, "pthread_getcpuclockid"):
        print("broadcast: this system does not tell the CPU time of a thread", file=sys.stderr)
        return []
    size = QUICK if quick else FULL
    prepare(dsn)
    with databases(dsn), web.served(dsn, "bench.broadcast:app", "/docs") as (address, _):
        return [*beside_bare(address, size), *beside_stalled(address, size)]

"""One task sends to all, each in its connection's context, and nobody waits for another."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from functools import partial

import pytest
from fastapi import FastAPI
from tests.web.live.conftest import SECONDS, Socket, served
from websockets.exceptions import ConnectionClosed

from mvrefresh import Database, events
from mvrefresh.fleet.feed import FleetFeed
from mvrefresh.fleet.news import News
from mvrefresh.web.audience import Audience
from mvrefresh.web.delivery import Delivery
from mvrefresh.web.events import events_router
from mvrefresh.web.message import message

name = ContextVar("name")  # without a default, as hosts have them


@contextmanager
def listening(feed, names, before_send, **settings):
    """A client of each name, and a host's middleware that does something before each message."""
    app = FastAPI()
    app.include_router(events_router(feed, **settings), prefix="/api")

    async def host(scope, receive, send):
        if scope["type"] != "websocket":
            await app(scope, receive, send)
            return
        whose = dict(scope["headers"])[b"x-name"].decode()
        name.set(whose)

        async def careful(message):
            if b"Tier" in message.get("text", "").encode():
                await before_send(whose)
            await send(message)

        await app(scope, receive, careful)

    with served(host) as address, ExitStack() as stack:
        clients = {}
        for each in names:
            headers = {"x-name": each}
            client = Socket(address, additional_headers=headers)
            clients[each] = stack.enter_context(closing(client))
            client.until("Joined")
        yield clients


def publish(bus, numbers):
    for number in numbers:
        bus.publish(events.TierRecovered(str(number)))


def tiers(client, count):
    return [client.until("TierRecovered")["data"]["tier"] for _ in range(count)]


@pytest.mark.parametrize("turns", [0, 1, 3], ids=["at once", "after a turn", "after three"])
def test_a_message_is_sent_in_the_context_of_its_connection(feed, bus, turns):
    """Whether it is taken at once or not; a timeout of the host's is of the task that sends."""
    seen = []

    async def before_send(whose):
        async with asyncio.timeout(SECONDS):
            for _ in range(turns):
                await asyncio.sleep(0)
                seen.append((whose, name.get()))
        seen.append((whose, name.get()))
        name.set("nobody's")
        name.set(whose)

    with listening(feed, ["one", "two", "three"], before_send) as clients:
        publish(bus, range(5))
        for client in clients.values():
            assert tiers(client, 5) == list("01234")
    assert len(seen) == 3 * 5 * (turns + 1)
    assert all(whose == found for whose, found in seen)


def test_nobody_waits_for_another(feed, bus):
    """Two are waited for; the others hear all meanwhile, and these two all of it afterwards."""
    gates = {}

    async def before_send(whose):
        if whose.startswith("slow"):
            _, gate = gates.setdefault(whose, (asyncio.get_running_loop(), asyncio.Event()))
            await gate.wait()

    names = ["slow 1", "a", "slow 2", "b", "c"]
    with listening(feed, names, before_send) as clients:
        publish(bus, range(10))
        expected = [str(number) for number in range(10)]
        for each in "abc":
            assert tiers(clients[each], 10) == expected
        for whose, (loop, gate) in gates.items():
            loop.call_soon_threadsafe(gate.set)
            assert tiers(clients[whose], 10) == expected
    assert len(gates) == 2


def test_who_has_much_to_catch_up_with_does_not_hold_the_loop():
    class Reader:
        context, sender = copy_context(), None

        def __init__(self):
            self.left, self.ended = 100, asyncio.Event()

        def next(self):
            self.left -= 1
            return message("Heartbeat") if self.left >= 0 else None

        async def send(self, _message):
            pass

        def rest(self, _since):
            self.ended.set()

        def end(self):
            raise AssertionError

    async def catch_up():
        delivery, reader, turns = Delivery(), Reader(), 0
        delivery.due.append(reader)
        delivery.go()
        async with asyncio.timeout(SECONDS):
            while not reader.ended.is_set():
                turns += 1
                await asyncio.sleep(0)
        return turns

    assert asyncio.run(catch_up()) >= 20


def test_a_send_that_is_cancelled_by_itself_ends_its_client_alone():
    class Reader:
        context, sender = copy_context(), None

        def __init__(self, error=None):
            self.error, self.left, self.rested, self.ended = error, 1, False, False

        def next(self):
            self.left -= 1
            return message("Heartbeat") if self.left >= 0 else None

        async def send(self, _message):
            if self.error is not None:
                raise self.error

        def rest(self, _since):
            self.rested = True

        def end(self):
            self.ended = True

    async def send_all():
        delivery, sick, well = Delivery(), Reader(asyncio.CancelledError()), Reader()
        delivery.due.extend([sick, well])
        delivery.go()
        async with asyncio.timeout(SECONDS):
            while not well.rested:  # noqa: ASYNC110 - it is told by a flag
                await asyncio.sleep(0)
        return sick.ended

    assert asyncio.run(send_all())


class Feed:
    """Without a database."""

    lost = None

    def listen(self, listener):
        self.listener = listener

    def leave(self, listener):
        assert listener == self.listener

    def since(self, _cursor):
        found = Future()
        found.set_result([News("Joined", datetime.now(UTC), {"feed": "listening"})])
        return found


class Crowd:
    """Clients that come, leave and stall in any order."""

    def __init__(self, seed):
        self.draw = random.Random(seed)  # noqa: S311 - no secret
        self.audience = Audience(Feed(), queue=10**6)
        self.stalled, self.clients, self.number = [], {}, 0

    async def send(self, heard, message):
        chance = self.draw.random()
        if chance < 0.1:
            await asyncio.sleep(0)
        elif chance < 0.2:
            self.stalled.append(asyncio.get_running_loop().create_future())
            await self.stalled[-1]
        if message.news.event == "Number":
            heard.append(message.news.data["number"])

    def come(self):
        heard = []
        client = self.audience.join(partial(self.send, heard), None, 0.003)
        self.clients[client] = heard, self.number

    async def leave(self):
        if self.clients:
            client = self.draw.choice(list(self.clients))
            del self.clients[client]
            await self.audience.leave(client)

    def let_one_go(self):
        if self.stalled:
            go_on = self.stalled.pop(self.draw.randrange(len(self.stalled)))
            if not go_on.done():
                go_on.set_result(None)

    async def step(self):
        chance = self.draw.random()
        if chance < 0.1 and len(self.clients) < 20:
            self.come()
        elif chance < 0.17:
            await self.leave()
        elif chance < 0.5:
            self.let_one_go()
            if chance < 0.3:
                await self.leave()  # in the same tick
        elif chance < 0.9:
            self.audience._hand_out(message("Number", number=self.number))
            self.number += 1
        else:
            await asyncio.sleep(0)

    def all_have_heard_all(self):
        return all(
            heard == list(range(since, self.number)) for heard, since in self.clients.values()
        )


@pytest.mark.parametrize("seed", range(3))
def test_whoever_leaves_takes_nobody_along(seed):
    """Who stays hears all, in order, once; no task and no error is left."""

    async def play():
        problems = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
        crowd = Crowd(seed)
        for _ in range(1500):
            await crowd.step()
        crowd.come()  # somebody has stayed
        async with asyncio.timeout(SECONDS):
            while not crowd.all_have_heard_all():
                crowd.let_one_go()
                await asyncio.sleep(0)
        assert crowd.number > 100
        while crowd.clients:
            await crowd.leave()
        await asyncio.sleep(0)
        return problems, len(asyncio.all_tasks())

    assert asyncio.run(play()) == ([], 1)


def test_who_joins_in_an_outage_is_told(bus):
    with Database("host=127.0.0.1 port=1 connect_timeout=2") as away:
        feed = FleetFeed(away, bus)
        app = FastAPI()
        app.include_router(events_router(feed), prefix="/api")
        with served(app) as address, ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(closing(Socket(address))).until("FeedLost")


def test_an_error_is_the_end_of_its_own_connection(feed, bus):
    async def before_send(whose):
        if whose == "broken":
            raise OSError("the line is dead")

    with listening(feed, ["a", "broken", "b"], before_send) as clients:
        publish(bus, range(3))
        for each in "ab":
            assert tiers(clients[each], 3) == list("012")
        with pytest.raises(ConnectionClosed):
            clients["broken"].next()
        publish(bus, [3])
        assert tiers(clients["a"], 1) == ["3"]

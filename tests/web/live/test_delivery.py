"""One task sends to all, each in its connection's context, and nobody waits for another."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar, copy_context

import pytest
from fastapi import FastAPI
from tests.web.live.conftest import SECONDS, Socket, served
from websockets.exceptions import ConnectionClosed

from mvrefresh import events
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

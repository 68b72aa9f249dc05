"""Those who hear a feed on one event loop: each with a queue of its own that is not waited for.

The feed calls from whatever thread has news. A message is made once, on that thread, and handed to
the loop; there it goes into the queue of every client. Whoever lets his queue fill is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from typing_extensions import TypeVarTuple, Unpack

from mvrefresh.fleet.news import News
from mvrefresh.web.serialize import safe_serialize_message

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from mvrefresh.fleet.cursor import Cursor
    from mvrefresh.fleet.feed import FleetFeed
    from mvrefresh.fleet.news import Key

Ts = TypeVarTuple("Ts")

QUEUE: Final = 256  # messages that may wait for a client


class Message(NamedTuple):
    """News, as they are sent."""

    news: News
    text: bytes


def message_of(news: News) -> Message:
    """News with their JSON."""
    return Message(news, safe_serialize_message(news))


def message(event: str, **data: object) -> Message:
    """A message of the stream's own."""
    return message_of(News(event, datetime.now(UTC), data))


class Client:
    """What waits for one client. For its event loop alone.

    Attributes:
        dropped: Set with the reason once the client is too slow.
    """

    def __init__(self, cursor: Cursor | None, queue: int) -> None:
        self.dropped: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._cursor = cursor
        self._most = queue
        self._waiting: deque[Message] = deque()
        self._missed: deque[Message] = deque()  # first; a bound of their own
        self._heard: set[Key] = set()  # out of `_missed`
        self._resuming = cursor is not None
        self._bell = asyncio.Event()

    def offer(self, message: Message) -> None:
        """Let it wait, or drop the client."""
        if self.dropped.done():
            return
        news = message.news
        if news.key is not None and (
            news.key in self._heard or (self._cursor and self._cursor.has_heard(news.key))
        ):
            return
        if len(self._waiting) >= self._most:
            self._waiting.clear()
            self._missed.clear()
            self.dropped.set_result(f"too slow: {self._most} messages waited")
        else:
            if self._resuming:  # heard before what was missed: it is no place to go on from
                message = message_of(replace(news, id=None))
            self._waiting.append(message)
        self._bell.set()

    def resume(self, missed: list[News], joined: News) -> None:
        """What the client has missed comes before all that waits, and that it has joined after."""
        self._resuming = False
        if not self.dropped.done():
            self._heard = {news.key for news in missed if news.key}
            self._missed.extend(map(message_of, missed))
            self._waiting = deque(m for m in self._waiting if m.news.key not in self._heard)
            self._waiting.append(message_of(joined))
            self._bell.set()

    async def next(self, patience: float) -> Message:
        """The next message; a `Heartbeat` where none comes in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not self._missed and not self._waiting:
                    self._bell.clear()
                    await self._bell.wait()
        if self._missed:
            return self._missed.popleft()
        if self._waiting:
            return self._waiting.popleft()
        return message("Heartbeat")


class Audience:
    """The clients of one event loop; it listens while there are any."""

    def __init__(self, feed: FleetFeed, *, queue: int = QUEUE) -> None:
        self._feed = feed
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._clients: set[Client] = set()

    def join(self, cursor: Cursor | None) -> Client:
        """A client that hears everything from now on, and what it missed since the cursor."""
        client = Client(cursor, self._queue)
        self._clients.add(client)
        if len(self._clients) == 1:
            self._feed.listen(self._hear)
        found = self._feed.since(cursor)
        found.add_done_callback(lambda future: self._call(self._resume, client, future))
        return client

    def leave(self, client: Client) -> None:
        """A client that hears no more."""
        self._clients.discard(client)
        if not self._clients:
            self._feed.leave(self._hear)

    def _hear(self, news: News) -> None:
        self._call(self._hand_out, message_of(news))

    def _call(self, method: Callable[[Unpack[Ts]], None], *args: *Ts) -> None:
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(method, *args)

    def _hand_out(self, message: Message) -> None:
        for client in self._clients:
            client.offer(message)

    def _resume(self, client: Client, found: Future[list[News]]) -> None:
        if found.cancelled():
            return
        if found.exception() is None:
            *missed, joined = found.result()
        else:  # the database answers, and not this
            at = datetime.now(UTC)
            missed, joined = [News("Gap", at, {"before": None})], News("Joined", at, {"feed": None})
        client.resume(missed, joined)


class Audiences:
    """One audience an event loop: a test's, or a host's, may come and go."""

    def __init__(self, feed: FleetFeed, *, queue: int) -> None:
        self._feed = feed
        self._queue = queue
        self._of: dict[asyncio.AbstractEventLoop, Audience] = {}

    def here(self) -> Audience:
        """That of the loop that runs."""
        loop = asyncio.get_running_loop()
        for closed in [each for each in self._of if each.is_closed()]:
            del self._of[closed]
        if loop not in self._of:
            self._of[loop] = Audience(self._feed, queue=self._queue)
        return self._of[loop]

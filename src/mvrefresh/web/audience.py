"""Those who hear a feed on one event loop: each with a queue of its own that is not waited for.

The feed calls from whatever thread has news. A message is made once, on that thread, and handed to
the loop; there it goes into the queue of every client. Whoever lets his queue fill is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import TypeVarTuple, Unpack

from mvrefresh.fleet.news import News
from mvrefresh.web.delivery import Delivery
from mvrefresh.web.message import Message, message, message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future
    from typing import TypeAlias

    from mvrefresh.fleet.cursor import Cursor
    from mvrefresh.fleet.feed import FleetFeed
    from mvrefresh.fleet.news import Key

    Send: TypeAlias = Callable[[Message], Coroutine[Any, Any, None]]

Ts = TypeVarTuple("Ts")

QUEUE: Final = 256  # messages that may wait for a client


class Client:
    """What waits for one client. For its event loop alone.

    Attributes:
        over: Set once nothing more is sent to it: with the reason, if it is too slow; with None, if
            it has gone.
        asked: What it has missed, once that is read.
        context, send, sender: See `Recipient`.
    """

    __slots__ = (
        "_cursor", "_delivery", "_heard", "_heartbeat", "_idle", "_loop", "_missed",
        "_most", "_resuming", "_silent_since", "_timer", "_waiting", "asked", "context", "over",
        "send", "sender",
    )  # fmt: skip

    def __init__(
        self, delivery: Delivery, send: Send, cursor: Cursor | None, queue: int, heartbeat: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[str | None] = self._loop.create_future()
        self.context = copy_context()
        self.send = send
        self.asked: Future[list[News]] | None = None
        self.sender: asyncio.Task[Any] | None = None
        self._delivery = delivery
        self._cursor = cursor
        self._most = queue
        self._waiting: deque[Message] = deque()
        self._missed: deque[News] = deque()  # first; a bound of their own
        self._heard: set[Key] = set()  # out of `_missed`
        self._resuming = cursor is not None
        self._idle = True  # nothing waits, and nothing is being sent
        self._heartbeat = heartbeat
        self._silent_since = self._loop.time()
        self._timer = self._loop.call_later(heartbeat, self._beat)

    def offer(self, message: Message) -> None:
        """Let it wait, or drop the client. Then somebody has to `go`."""
        if self.over.done():
            return
        if (
            self._cursor is not None
            and (key := message.news.key) is not None
            and (key in self._heard or self._cursor.has_heard(key))
        ):
            return
        if len(self._waiting) >= self._most:
            self.end(f"too slow: {self._most} messages waited")
            return
        if self._resuming:  # heard before what was missed: it is no place to go on from
            message = message_of(replace(message.news, id=None))
        self._waiting.append(message)
        if self._idle:
            self._idle = False
            self._delivery.due.append(self)

    def resume(self, missed: list[News], joined: News) -> None:
        """What the client has missed comes before all that waits, and that it has joined after."""
        self._resuming = False
        if not self.over.done():
            self._heard = {news.key for news in missed if news.key}
            self._missed.extend(missed)
            self._waiting = deque(m for m in self._waiting if m.news.key not in self._heard)
            self._say(message_of(joined))

    def _say(self, message: Message) -> None:
        """Something to this one alone; it comes last, and is not too much."""
        self._waiting.append(message)
        if self._idle:
            self._idle = False
            self._delivery.due.append(self)
            self._delivery.go()

    def next(self) -> Message | None:
        """What comes next; None: nothing waits, or nothing is to be sent any more."""
        if self._missed:
            return message_of(self._missed.popleft())
        return self._waiting.popleft() if self._waiting else None

    def rest(self, since: float) -> None:
        """All was sent."""
        self._idle, self._silent_since = True, since

    def _beat(self) -> None:
        """Break the silence. What is under way will break it, too."""
        left = self._silent_since + self._heartbeat - self._loop.time()
        if left <= 0 and self._idle:
            self._say(message("Heartbeat"))
        self._timer = self._loop.call_later(left if left > 0 else self._heartbeat, self._beat)

    def end(self, reason: str | None = None) -> None:
        """Send nothing more."""
        self._waiting.clear()
        self._missed.clear()
        if not self.over.done():
            self.over.set_result(reason)

    async def leave(self) -> None:
        """Send nothing more, not even what is under way."""
        self.end()
        self._timer.cancel()
        if self.sender is not None:
            self.sender.cancel()
            await asyncio.wait({self.sender})


class Audience:
    """The clients of one event loop; it listens while there are any."""

    def __init__(self, feed: FleetFeed, *, queue: int = QUEUE) -> None:
        self._feed = feed
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._clients: set[Client] = set()
        self._delivery = Delivery()

    def join(self, send: Send, cursor: Cursor | None, heartbeat: float) -> Client:
        """A client that hears everything from now on, and what it missed since the cursor.

        Args:
            send: Called in the context that is the current one now.
            cursor: Where to go on.
            heartbeat: Seconds of silence after which it is broken.
        """
        lost = None
        if self._clients:
            lost = self._feed.lost  # the first one hears it as a listener does
        else:
            self._feed.listen(self._hear)
        client = Client(self._delivery, send, cursor, self._queue, heartbeat)
        self._clients.add(client)
        if lost is not None:
            client.offer(message_of(lost))
            self._delivery.go()
        found = client.asked = self._feed.since(cursor)
        found.add_done_callback(lambda future: self._call(self._resume, client, future))
        return client

    async def leave(self, client: Client) -> None:
        """A client that hears no more."""
        self._clients.discard(client)
        if not self._clients:
            self._feed.leave(self._hear)
        if client.asked is not None:
            client.asked.cancel()
        await client.leave()

    def forsake(self) -> None:
        """The loop is closed, and whoever was left on it with it."""
        self._feed.leave(self._hear)

    def _hear(self, news: News) -> None:
        self._call(self._hand_out, message_of(news))

    def _call(self, method: Callable[[Unpack[Ts]], None], *args: *Ts) -> None:
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(method, *args)

    def _hand_out(self, message: Message) -> None:
        for client in self._clients:
            client.offer(message)
        self._delivery.go()

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
            self._of.pop(closed).forsake()
        if loop not in self._of:
            self._of[loop] = Audience(self._feed, queue=self._queue)
        return self._of[loop]

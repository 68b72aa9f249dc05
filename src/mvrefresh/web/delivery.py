"""One task that sends to all, for as long as each takes what it gets at once.

A task for each client costs more than its message does. So one task goes round them all. Where a
send has to wait, the task stays with that client until nothing waits for it any more, and another
one goes round the rest: whoever does not read costs the others a task, and no time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

    from mvrefresh.web.message import Message


_AT_ONCE: Final = 4
"""Messages to one recipient before the loop has its turn, and may hear that he has gone: of the
fifth that is written to a socket which is, asyncio warns."""


class Recipient(Protocol):
    """Somebody to send to.

    Attributes:
        context: In which `send` is called, and goes on.
        sender: The task that is sending now.
    """

    context: Context
    sender: asyncio.Task[Any] | None

    def next(self) -> Message | None:
        """What comes next; None: nothing waits, or nothing is to be sent any more."""

    def send(self, message: Message, /) -> Coroutine[Any, Any, None]:
        """Send it, and wait until it is taken."""

    def rest(self, since: float) -> None:
        """All was sent."""

    def end(self) -> None:
        """It has gone."""


class Delivery:
    """Goes round those for whom something waits. For its event loop alone.

    Attributes:
        due: For whom something waits that nobody sends yet; each once. Whoever puts somebody here
            calls `go`.
    """

    def __init__(self) -> None:
        self.due: deque[Recipient] = deque()
        self._loop = asyncio.get_running_loop()
        self._turn: object | None = None  # whose it is to go round

    def go(self) -> None:
        """See to it that somebody goes round."""
        if self.due and self._turn is None:
            self._turn = turn = object()
            self._loop.create_task(self._go_round(turn))
            self._loop.call_soon(self._look_after, turn)  # after the first step of the task

    def _look_after(self, turn: object) -> None:
        """Whoever has not come round by now waits for somebody."""
        if self._turn is turn:
            self._turn = None
            self.go()

    async def _go_round(self, turn: object) -> None:
        task, now, due = asyncio.current_task(), self._loop.time(), self.due
        while due and self._turn is turn:
            recipient = due.popleft()
            recipient.sender = task
            try:
                left = _AT_ONCE
                while (message := recipient.next()) is not None:
                    if not left:  # whoever has much to catch up with is not to hold the loop
                        await asyncio.sleep(0)
                        left, now = _AT_ONCE, self._loop.time()
                    left -= 1
                    work = recipient.send(message)
                    try:
                        awaited = recipient.context.run(work.send, None)
                    except StopIteration:  # it was taken at once
                        continue
                    await _go_on(work, awaited, recipient.context)
                    now = self._loop.time()
            except BaseException as error:
                recipient.end()
                if not isinstance(error, Exception):
                    raise
            finally:
                recipient.sender = None
            recipient.rest(now)
        if self._turn is turn:
            self._turn = None


@coroutine
def _go_on(
    work: Coroutine[Any, Any, None], awaited: object, context: Context
) -> Generator[Any, Any, None]:
    """Await the rest of `work` in a context that is not the task's.

    A trace, or the name of a request, is in the context; a timeout is of the task.
    """
    while True:
        step: Callable[[Any], object] = work.send
        try:
            argument = yield awaited
        except BaseException as error:  # noqa: BLE001 - for the work to deal with
            step, argument = work.throw, error
        try:
            awaited = context.run(step, argument)
        except StopIteration:
            return

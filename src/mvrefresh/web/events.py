"""The fleet's events on WebSockets and as server-sent events: one JSON message an event.

Both have the same messages, by the same queue; `docs/reference/events.md` has their shapes. A
client that does not keep up is dropped with a reason, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Query, WebSocket, WebSocketDisconnect
from starlette.responses import Response

from mvrefresh.errors import ConfigurationError
from mvrefresh.fleet.cursor import Cursor
from mvrefresh.fleet.feed import FleetFeed
from mvrefresh.web.audience import QUEUE, Audience, Audiences
from mvrefresh.web.errors import documented
from mvrefresh.web.message import Message, message
from mvrefresh.web.origin import checked, is_same_origin
from mvrefresh.web.route import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Sequence

    from fastapi.params import Depends
    from starlette.types import Receive, Scope, Send


__all__ = ["FleetFeed", "events_router"]

log = logging.getLogger("mvrefresh")

HEARTBEAT: Final = 15.0  # seconds
TRY_AGAIN_LATER: Final = 1013
POLICY_VIOLATION: Final = 1008
_FAREWELL: Final = 5.0  # seconds for the last words to somebody who hardly reads
_LONGEST_REASON: Final = 120  # bytes: of a close frame's 123

Since = Annotated[
    str | None,
    Query(
        max_length=2000,
        description="Where to go on: the `id` of the last message, Unix seconds, or an ISO-8601 "
        "moment. Outcomes of refreshes since then come first.",
        examples=["2025-01-13T10:30:00Z"],
    ),
]


def events_router(
    feed: FleetFeed,
    *,
    dependencies: Sequence[Depends] = (),
    origins: Collection[str] = (),
    heartbeat: float = HEARTBEAT,
    queue: int = QUEUE,
) -> APIRouter:
    """`WS` and `GET .../refresh/events`: what happens in the whole fleet, live.

    Args:
        feed: Whose news; one for the process.
        dependencies: The host's, for example who may listen. They have to do for a WebSocket,
            too: ask for `starlette.requests.HTTPConnection`, not for `Request`.
        origins: Of pages on other hosts that may listen by WebSocket, `https://admin.example.org`.
        heartbeat: Seconds of silence after which a `Heartbeat` is sent.
        queue: Messages that may wait for a client; one more, and it is dropped.

    Raises:
        ConfigurationError: A number is less than 1, or no time.
    """
    if queue < 1 or heartbeat <= 0:
        raise ConfigurationError(f"queue={queue}, heartbeat={heartbeat}: they must be more than 0")
    router = APIRouter(route_class=Route, dependencies=list(dependencies))
    add_events(router, feed, origins, heartbeat=heartbeat, queue=queue)
    return router


def add_events(
    router: APIRouter,
    feed: FleetFeed,
    origins: Collection[str] = (),
    *,
    heartbeat: float = HEARTBEAT,
    queue: int = QUEUE,
) -> None:
    """Both ways to hear, in a router of their own or with other routes."""
    origins = checked(origins)
    audiences = Audiences(feed, queue=queue)

    @router.websocket("/refresh/events", name="refresh_events_socket")
    async def events_socket(socket: WebSocket, since: Since = None) -> None:
        if not is_same_origin(socket, origins):
            await socket.close(POLICY_VIOLATION)  # before the handshake is accepted: 403
            return
        await socket.accept()
        try:
            cursor = _cursor(since)
        except ConfigurationError as error:
            await socket.close(POLICY_VIOLATION, _reason(error))
            return

        def send(message: Message) -> Coroutine[Any, Any, None]:
            return socket.send_text(message.text)

        dropped = await _serve(audiences.here(), cursor, send, partial(_hung_up, socket), heartbeat)
        if dropped is not None:
            with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
                async with asyncio.timeout(_FAREWELL):
                    await socket.close(TRY_AGAIN_LATER, dropped)

    @router.get(
        "/refresh/events",
        name="refresh_events",
        summary="What happens in the whole fleet, live",
        tags=["live"],
        response_class=Response,
        responses={
            200: {
                "description": "Server-sent events; the data of each is one JSON message.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **documented(422),
        },
    )
    async def events_stream(
        since: Since = None,
        last_event_id: Annotated[str | None, Header(max_length=2000)] = None,
    ) -> Response:
        """Each event as a message of its own, for as long as the client stays."""
        # What a browser sends when it reconnects is later than what is in the address.
        return _Stream(audiences.here(), _cursor(last_event_id or since), heartbeat)


def _cursor(text: str | None) -> Cursor | None:
    return Cursor.parse(text) if text else None


def _reason(error: Exception) -> str:
    """As much as fits into a close frame."""
    return str(error).encode()[:_LONGEST_REASON].decode(errors="ignore")


async def _serve(
    audience: Audience,
    cursor: Cursor | None,
    send: Callable[[Message], Coroutine[Any, Any, None]],
    gone: Callable[[], Coroutine[Any, Any, None]],
    heartbeat: float,
) -> str | None:
    """Send until the client goes or is dropped; the reason, if it is dropped."""
    client = audience.join(send, cursor, heartbeat)
    hung_up = asyncio.create_task(gone())
    try:
        ends: set[asyncio.Future[Any]] = {hung_up, client.over}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        reason = client.over.result() if client.over.done() else None
        if reason is not None:
            log.info("a listener to events was dropped, %s", reason)
        return reason
    finally:
        hung_up.cancel()
        await audience.leave(client)
        await asyncio.gather(hung_up, return_exceptions=True)


async def _hung_up(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass  # there is nothing to say to us


class _Stream(Response):
    """Server-sent events. Not a `StreamingResponse`: that would wait for a client who stalls."""

    media_type = "text/event-stream"

    def __init__(self, audience: Audience, cursor: Cursor | None, heartbeat: float) -> None:
        super().__init__(
            headers={
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would collect them
            }
        )
        del self.headers["content-length"]
        self._audience, self._cursor, self._heartbeat = audience, cursor, heartbeat

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002 - ASGI
        receive: Receive,
        send: Send,
    ) -> None:
        async def put(text: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": more})

        async def send_message(message: Message) -> None:
            await put(message.event)

        async def hung_up() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        await put(b": here is what happens\n\n")
        reason = await _serve(self._audience, self._cursor, send_message, hung_up, self._heartbeat)
        if reason is not None:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(_FAREWELL):
                    await put(message("Dropped", reason=reason).event, more=False)

"""News as they are sent: made once, on the thread that has them, for all who hear them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from mvrefresh.fleet.news import News
from mvrefresh.web.serialize import safe_serialize_message


class Message(NamedTuple):
    """News, in each form in which they are sent.

    Attributes:
        text: JSON, for a WebSocket.
        event: As the HTML standard has server-sent events.
    """

    news: News
    text: str
    event: bytes


def message_of(news: News) -> Message:
    """News with their JSON; it has no line breaks."""
    json = safe_serialize_message(news)
    head = b"" if news.id is None else b"id: " + news.id.encode() + b"\n"
    return Message(news, json.decode(), head + b"data: " + json + b"\n\n")


def message(event: str, **data: object) -> Message:
    """A message of the stream's own."""
    return message_of(News(event, datetime.now(UTC), data))

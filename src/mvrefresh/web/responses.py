"""Answers by orjson, straight to bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Iterable

_JSON: Final = (b"content-type", b"application/json")


class Bytes(Response):
    """JSON that is written already: its headers are put together without a search among them."""

    def __init__(
        self, body: bytes, status: int = 200, more: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [_JSON, (b"content-length", b"%d" % len(body)), *more]


def answer(document: Any, status: int = 200) -> Bytes:
    """A document as JSON; moments of UTC end in Z."""
    return Bytes(orjson.dumps(document, default=str, option=orjson.OPT_UTC_Z), status)


def utc(moment: datetime) -> datetime:
    """The same moment, in UTC: it is written with a Z."""
    return moment.astimezone(UTC)

"""Whether a browser asks for its own page's host, or some other site makes it ask.

A browser sends its cookies along whichever page makes a request. One that changes something, and a
WebSocket, whose messages any page could read, are refused where another site's page asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI reads the annotation

if TYPE_CHECKING:
    from collections.abc import Collection


def is_same_origin(connection: HTTPConnection, allowed: Collection[str] = ()) -> bool:
    """Whether the page that asks is of the host that it asks, or of one that is allowed.

    Who sends no `Origin` is no page of another site: programs, and browsers that read.

    Args:
        connection: A request or a WebSocket.
        allowed: Origins, `https://admin.example.org`, that may ask, too: behind a proxy that
            changes `Host`, the one that the browser sees.
    """
    origin = connection.headers.get("origin")
    if origin is None or origin in allowed:
        return True
    return urlsplit(origin).netloc.lower() == connection.headers.get("host", "").lower() != ""


def same_origin(connection: HTTPConnection) -> None:
    """A dependency for routes that change something: 403 to pages of other sites.

    `refresh_router(..., dependencies=[Depends(same_origin)])`.
    """
    if not is_same_origin(connection):
        raise HTTPException(403, "a page of another site may not ask for this")

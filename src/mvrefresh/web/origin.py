"""Whether a browser asks for its own page's host, or some other site makes it ask.

A browser sends its cookies along whichever page makes a request. One that changes something, and a
WebSocket, whose messages any page could read, are refused where another site's page asks.

What decides is `Sec-Fetch-Site`, by which a browser itself says whose page asks: it holds behind a
proxy that changes `Host`, too. Over plain HTTP and from old browsers it does not come; then
`Origin` has to be of the host that is asked. Who sends neither is no browser: a page cannot leave
`Origin` out of a request that changes something. (As `http.CrossOriginProtection` of Go 1.25.)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException
from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI reads the annotation

from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:\d+)?")
"""As a browser sends it: in small letters, and the usual port left out."""


def is_same_origin(connection: HTTPConnection, allowed: Collection[str] = ()) -> bool:
    """Whether the page that asks is of the host that it asks, or of one that is allowed.

    Args:
        connection: A request or a WebSocket.
        allowed: Origins, `https://admin.example.org`, that may ask, too.
    """
    origin, site = connection.headers.get("origin"), connection.headers.get("sec-fetch-site")
    if origin is not None and origin in allowed:
        return True
    if site is not None:
        return site in ("same-origin", "none")  # none: the user's own doing, not a page's
    if origin is None:
        return True
    try:
        asks = urlsplit(origin).netloc
    except ValueError:  # no origin that a browser sends
        return False
    return asks.lower() == connection.headers.get("host", "").lower() != ""


async def same_origin(connection: HTTPConnection) -> None:
    """A dependency for routes of the host's own that change something: 403 to other sites' pages.

    `@app.post("/orders", dependencies=[Depends(same_origin)])`.
    """
    _refuse_others(connection, ())


def only_from(allowed: Collection[str]) -> Any:
    """The same dependency, where some origins are allowed besides.

    Raises:
        ConfigurationError: One that is allowed is no origin.
    """
    origins = checked(allowed)

    async def check(connection: HTTPConnection) -> None:
        _refuse_others(connection, origins)

    return Depends(check)


def checked(origins: Collection[str]) -> frozenset[str]:
    """Origins as a host gives them.

    Raises:
        ConfigurationError: One is none.
    """
    for origin in (origins,) if isinstance(origins, str) else origins:
        if isinstance(origins, str) or not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"origins= takes a list of origins, ['https://admin.example.org'], not {origin!r}"
            )
    return frozenset(origins)


def _refuse_others(connection: HTTPConnection, allowed: Collection[str]) -> None:
    if not is_same_origin(connection, allowed):
        raise HTTPException(
            403, "a page of another site asks for this, and the application allows only its own"
        )

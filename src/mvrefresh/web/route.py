"""The routers' route: errors by the table, and nothing of FastAPI's that a route does not use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from mvrefresh.errors import Stopping
from mvrefresh.web.errors import EXPECTED, answer_to
from mvrefresh.web.responses import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response

_STOPS: Final = "graceful shutdown"  # in what uvicorn says to a request that has had its time

_TAKEN = (
    "dependencies", "path_params", "query_params", "header_params", "cookie_params",
    "body_params", "websocket_param_name", "http_connection_param_name", "response_param_name",
    "background_tasks_param_name", "security_scopes_param_name",
)  # fmt: skip


class Route(APIRoute):
    """A route whose errors are answered by the table, whatever handlers the host has.

    An endpoint that takes the request and nothing else, and that nobody has given a dependency,
    is called at once: to find out that there is nothing to solve costs more than a look-up. By
    whatever way a dependency came (the app, a router, an inclusion), FastAPI solves it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, and what it raises as an answer."""
        handle = _directly(super().get_route_handler())

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except EXPECTED as error:
                return answer_to(error, f"{request.method} {request.url.path!r:.200}")
            except ClientDisconnect:  # in the middle of what it had to say
                return answer({"detail": "the client has gone"}, 400)
            except asyncio.CancelledError as error:
                if _STOPS not in str(error):
                    raise
                return answer_to(Stopping("the application stops"))

        return answered


def _directly(
    handle: Callable[[Request], Coroutine[Any, Any, Response]],
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """The endpoint itself, where FastAPI's handler would add nothing; else that handler.

    What the handler would solve is asked of the handler: a route that is included has another
    `dependant` than its own. A FastAPI that keeps it elsewhere gets its own way.
    """
    code, cells = getattr(handle, "__code__", None), getattr(handle, "__closure__", None) or ()
    names = () if code is None else code.co_freevars
    dependant = dict(zip(names, cells, strict=True)).get("dependant")
    asked = None if dependant is None else dependant.cell_contents
    if not isinstance(asked, Dependant) or any(getattr(asked, name, True) for name in _TAKEN):
        return handle
    endpoint: Any = asked.call
    return endpoint if asked.request_param_name == "request" else handle

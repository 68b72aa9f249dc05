"""`GET .../refresh/dashboard`: the page, and the figures that it asks for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request  # read by FastAPI as annotations
from starlette.responses import Response

from mvrefresh.refreshing.threads import in_thread
from mvrefresh.web.dashboard.figures import Figures
from mvrefresh.web.dashboard.page import make_page
from mvrefresh.web.errors import documented
from mvrefresh.web.route import Route
from mvrefresh.web.serialize import safe_serialize_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastapi.params import Depends

    from mvrefresh.postgres.database import Database


def dashboard_router(
    database: Database,
    *,
    cache: Callable[[], Mapping[str, Any]] | None = None,
    read_only: bool = False,
    title: str = "Materialized views",
    dependencies: Sequence[Depends] = (),
) -> APIRouter:
    """`GET .../refresh/dashboard` and `.../refresh/dashboard/data`.

    The page hears the `events_router` and asks the `refresh_router` of the same prefix.

    Args:
        database: Whose views it shows.
        cache: Gives the tiers' figures: `resolver.cache_metrics`.
        read_only: Show no buttons that refresh. It hides them; whoever may not refresh has to be
            refused by the host's `dependencies=` of the refresh router.
        title: Of the page.
        dependencies: The host's, for example who may look.
    """
    router = APIRouter(route_class=Route, dependencies=list(dependencies))
    add_dashboard(router, database, cache, read_only=read_only, title=title)
    return router


def add_dashboard(
    router: APIRouter,
    database: Database,
    cache: Callable[[], Mapping[str, Any]] | None,
    *,
    read_only: bool,
    title: str = "Materialized views",
) -> None:
    """The page and what it asks for, in a router of their own or with other routes."""
    figures = Figures(database, cache)
    page = make_page(
        title=title,
        read_only=read_only,
        urls={"data": "dashboard/data", "events": "events", "refresh": "../refresh"},
    )

    @router.head("/refresh/dashboard", include_in_schema=False)
    @router.get(
        "/refresh/dashboard",
        name="refresh_dashboard",
        summary="The dashboard, a page for people",
        tags=["live"],
        response_class=Response,
        responses={
            200: {"content": {"text/html": {"schema": {"type": "string"}}}},
            304: {"description": "The page that the browser has is the same."},
        },
    )
    async def dashboard(request: Request) -> Response:
        """One page; all that it needs is in it, or asked of its own host."""
        if request.headers.get("if-none-match") == page.headers["ETag"]:
            return Response(status_code=304, headers=page.headers)
        return Response(page.body, media_type="text/html", headers=page.headers)

    shared: asyncio.Task[bytes] | None = None

    async def look() -> bytes:
        # On a thread of its own: the framework's are the host's, and a database may take its time.
        found = await asyncio.wrap_future(in_thread("mvrefresh-dashboard", figures.read))
        return safe_serialize_message(found)

    @router.get(
        "/refresh/dashboard/data",
        name="refresh_dashboard_data",
        summary="What the dashboard shows",
        tags=["live"],
        response_class=Response,
        responses={
            200: {"content": {"application/json": {"schema": {"type": "object"}}}},
            **documented(503),
        },
    )
    async def dashboard_data() -> Response:
        """Views, their runs, the tiers of the cache, and the fleet."""
        nonlocal shared
        loop = asyncio.get_running_loop()
        if shared is None or shared.done() or shared.get_loop() is not loop:
            shared = loop.create_task(look())
        body = await asyncio.shield(shared)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

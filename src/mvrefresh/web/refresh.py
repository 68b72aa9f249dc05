"""`refresh_router`: refreshes, how things stand, and the other routes of a hierarchy's host."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request  # read by FastAPI as annotations

from mvrefresh.errors import ConfigurationError
from mvrefresh.expected import DATABASE, METRICS_STORE, RESOLVER, SERVICE, expect
from mvrefresh.fleet.feed import FleetFeed
from mvrefresh.web import automated, hierarchy
from mvrefresh.web.answers import refreshed, status_of
from mvrefresh.web.bodies import read_body, taken
from mvrefresh.web.dashboard.router import add_dashboard
from mvrefresh.web.errors import documented
from mvrefresh.web.events import add_events
from mvrefresh.web.models import NothingRefreshed, Refreshed, RefreshStatus, Selection
from mvrefresh.web.origin import only_from
from mvrefresh.web.refresher import ByService, Refresher
from mvrefresh.web.responses import answer
from mvrefresh.web.route import Route
from mvrefresh.web.waiting import Waiting, on_a_thread, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

    from fastapi.params import Depends
    from starlette.responses import Response

    from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import ViewLike
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.service.service import RefreshService

_WAY: Final = "refresh_router(resolver, service, database=database)"
_WITH_METRICS: Final = "refresh_router(resolver, service, metrics=InMemoryMetricsStore())"


def refresh_router(
    resolver: OptimizedHierarchyResolver | None = None,
    service: RefreshService | None = None,
    *,
    database: Database | None = None,
    views: Iterable[ViewLike] | None = None,
    metrics: MetricsStore | None = None,
    policy: RefreshPolicy | None = None,
    id_type: Callable[[str], Any] = int,
    read_only: bool = False,
    timeout: float | None = None,
    origins: Collection[str] = (),
    feed: FleetFeed | None = None,
    live_events: bool = True,
    dashboard: bool = True,
    dependencies: Sequence[Depends] = (),
) -> APIRouter:
    """Routes to refresh, to run the service, to look up the hierarchy, and to look on.

    `app.include_router(refresh_router(resolver, service), prefix="/api/entities")`. The router
    ends its own work with the app; resolver and service stay the host's to start and stop (see
    `lifespan`).

    Args:
        resolver: Whose hierarchy; None: without its routes.
        service: Which the routes below `/refresh/automated` are about; None: status says that
            none is enabled, and there is none to start, stop or force.
        database: By default that of the resolver or the service.
        views: Those of `POST /refresh`; by default the hierarchy's, else the service's.
        metrics: The history; by default the service's, else the database's.
        policy: Of `POST /refresh`; by default the resolver's.
        id_type: Makes an id of the text in a path: `int`, `uuid.UUID`, `str`, or a function that
            raises ValueError.
        read_only: Leave out every route that changes something.
        timeout: Seconds that a request waits for a refresh, then 504: the refresh goes on.
        origins: Of pages on other hosts that may change something or listen by WebSocket,
            `https://admin.example.org`; those of the host itself may.
        feed: Whose news the live events are; by default one of its own, with the events of the
            service and the resolver.
        live_events: Whether there are any (`events_router`).
        dashboard: Whether there is one (`dashboard_router`); it needs the live events.
        dependencies: The host's, of every route: `[Depends(require_user)]`. For the WebSocket as
            well: one that asks for a `Request` and not for an `HTTPConnection` keeps it shut, and
            the dashboard takes server-sent events.

    Raises:
        ConfigurationError: Neither a resolver nor a service nor a database was given, or one of
            them is something else.
    """
    _check(resolver, service, database, metrics)
    refresher = _refresher(resolver, service, database, views=views, metrics=metrics, policy=policy)
    if metrics is None:
        metrics = refresher.metrics if service is None else service.metrics
    waiting = Waiting(resolver)
    # A history of years takes its time, and is not to keep the others waiting.
    reading = Waiting(threads=4, patience=60.0)

    @asynccontextmanager
    async def end_with_the_app(_app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await within(on_a_thread("mvrefresh-web-close", refresher.close), None)
            await asyncio.gather(waiting.close(), reading.close())

    router = APIRouter(
        route_class=Route, dependencies=list(dependencies), lifespan=end_with_the_app
    )
    if resolver is not None:
        # No path below /refresh ends like one of these, so that they may stand before: a look-up
        # goes past no other route.
        hierarchy.add_hot_route(router, resolver, waiting, id_type)
    only_ours = only_from(origins)
    if not read_only:
        _add_refresh(router, refresher, timeout, only_ours)
    _add_status(router, resolver, service, refresher, waiting)
    automated.add_history(router, metrics, reading)
    if not read_only:
        automated.add_switches(router, service, timeout, only_ours)
    if refresher.database is not None and live_events:
        buses = [source.events for source in (service, resolver) if source is not None]
        feed = feed or FleetFeed(refresher.database, buses)
        add_events(router, feed, origins)
    if refresher.database is not None and live_events and dashboard:
        tiers = None if resolver is None else resolver.cache_metrics
        add_dashboard(router, refresher.database, tiers, read_only=read_only)
    if resolver is not None:
        hierarchy.add_routes(router, resolver, waiting, id_type)
    return router


def _check(resolver: object, service: object, database: object, metrics: object) -> None:
    given = ((resolver, RESOLVER), (service, SERVICE), (database, DATABASE))
    for value, kind in given:
        if value is not None:
            expect(value, kind, _WAY)
    if metrics is not None:
        expect(metrics, METRICS_STORE, _WITH_METRICS)


def _refresher(
    resolver: OptimizedHierarchyResolver | None,
    service: RefreshService | None,
    database: Database | None,
    *,
    views: Iterable[ViewLike] | None,
    metrics: MetricsStore | None,
    policy: RefreshPolicy | None,
) -> Refresher | ByService:
    """Who refreshes on demand; what was not given is as the resolver or the service has it."""
    events, then = None, _nothing
    if resolver is not None:
        ours = resolver.runner()
        database, policy = database or ours.database, policy or ours.policy
        metrics = metrics or (ours.metrics if service is None else service.metrics)
        views = resolver.source.views if views is None else views
        events, then = resolver.events, resolver.look_again
    if service is not None:
        events, metrics = service.events, metrics or service.metrics
        database = database or getattr(service, "database", None)
        views = service.config["views"] if views is None else views
        if database is None:
            return ByService(service)
    if database is None:
        raise ConfigurationError("refresh_router() needs a resolver, a service, or database=")
    return Refresher(database, views, metrics=metrics, policy=policy, events=events, then=then)


def _nothing() -> None:
    """What a router without a hierarchy does after a refresh."""


def _add_refresh(
    router: APIRouter,
    refresher: Refresher | ByService,
    timeout: float | None,
    only_ours: Depends,
) -> None:
    @router.post(
        "/refresh",
        summary="Refresh now",
        response_model=Refreshed,
        responses=documented(403, 404, 422, 503, 504, _500=NothingRefreshed),
        dependencies=[only_ours],
        openapi_extra=taken(Selection, required=False),
        tags=["refresh"],
    )
    async def refresh(request: Request) -> Response:
        """Refresh materialized views, with a service or without; returns when they are done."""
        wish = await read_body(request, Selection)
        future = refresher.ask(wish.views, cascade=wish.cascade)
        return refreshed(await within(future, timeout))


def _add_status(
    router: APIRouter,
    resolver: OptimizedHierarchyResolver | None,
    service: RefreshService | None,
    refresher: Refresher | ByService,
    waiting: Waiting,
) -> None:
    def look() -> dict[str, Any]:
        return status_of(
            None if resolver is None else resolver.cache_metrics(),
            None if service is None else service.status(),
            refresher.last_refresh(),
        )

    @router.get(
        "/refresh/status",
        summary="How things stand",
        response_model=RefreshStatus,
        responses=documented(503),
        tags=["refresh"],
    )
    async def status() -> Response:
        """When the views were refreshed last, what the cache does, what the service does."""
        return answer(await waiting.call(look))

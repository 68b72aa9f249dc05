"""`ops_router`: health, and metrics for whoever scrapes them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from mvrefresh.errors import ConfigurationError
from mvrefresh.expected import DATABASE, RESOLVER, SERVICE, expect
from mvrefresh.web.errors import documented
from mvrefresh.web.health import EVERY, HealthWatch
from mvrefresh.web.models import Alive, Health
from mvrefresh.web.responses import answer
from mvrefresh.web.route import Route
from mvrefresh.web.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from fastapi.params import Depends
    from redis import Redis

    from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver
    from mvrefresh.postgres.database import Database
    from mvrefresh.service.health import ServiceHealth
    from mvrefresh.service.service import RefreshService

_WAY: Final = "ops_router(database, service=service, resolver=resolver)"


def ops_router(
    database: Database,
    *,
    service: RefreshService | None = None,
    resolver: OptimizedHierarchyResolver | None = None,
    redis: Redis | None = None,
    metrics: Callable[[], tuple[bytes, str]] | None = None,
    every: float = EVERY,
    dependencies: Sequence[Depends] = (),
) -> APIRouter:
    """Routes for those who run the application: `app.include_router(ops_router(db))`.

    Args:
        database: Asked for a sign of life; its pool is looked at, too.
        service: Looked at, where there is one.
        resolver: Its listener and its Redis are looked at, where there are any.
        redis: Sent a PING with each look.
        metrics: Gives the text of `GET /metrics` and its content type; without it there is none.
        every: Seconds between two looks in the background.
        dependencies: The host's, of every route.

    Raises:
        ConfigurationError: One of them is something else.
    """
    expect(database, DATABASE, _WAY, "health", "pool_use")
    if service is not None:
        expect(service, SERVICE, _WAY, "running", "health")
    if resolver is not None:
        expect(resolver, RESOLVER, _WAY, "cache_metrics")
    if redis is not None and not hasattr(redis, "ping"):
        raise ConfigurationError(
            f"redis= takes a client of redis-py, not {type(redis).__name__}: Redis.from_url(...)"
        )
    if metrics is not None and not callable(metrics):
        raise ConfigurationError(
            f"metrics= takes a function, not {type(metrics).__name__}: write"
            " metrics=lambda: exposition(registry), of mvrefresh.prometheus"
        )
    watch = HealthWatch(database, service=service, resolver=resolver, redis=redis, every=every)
    waiting = Waiting(threads=2)

    @asynccontextmanager
    async def look_while_it_runs(_app: Any) -> AsyncIterator[None]:
        watch.start()
        try:
            yield
        finally:
            await watch.stop()
            await waiting.close()

    router = APIRouter(
        route_class=Route, dependencies=list(dependencies), lifespan=look_while_it_runs
    )
    unhealthy: dict[int | str, dict[str, Any]] = {
        503: {"model": Health, "description": "Unhealthy"}
    }

    # Whoever watches from outside may ask by HEAD; the server leaves out the body.
    @router.head("/health", include_in_schema=False)
    @router.get("/health", response_model=Health, responses=unhealthy, tags=["operations"])
    async def health() -> Response:
        """How the process is, by the last look in the background; 503 when it is unhealthy."""
        return _shown(await watch.latest())

    @router.head("/health/ready", include_in_schema=False)
    @router.get("/health/ready", response_model=Health, responses=unhealthy, tags=["operations"])
    async def ready() -> Response:
        """Whether it can serve: as `/health`, for a load balancer."""
        return _shown(await watch.latest())

    @router.head("/health/live", include_in_schema=False)
    @router.get("/health/live", response_model=Alive, tags=["operations"])
    async def live() -> Response:
        """Whether the process answers: no database that is away is a reason to restart it."""
        return answer({"status": "healthy", "checks": {}, "checked_at": watch.checked_at})

    if metrics is not None:
        _add_metrics(router, metrics, waiting)
    return router


def _add_metrics(
    router: APIRouter, metrics: Callable[[], tuple[bytes, str]], waiting: Waiting
) -> None:
    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **documented(503)},
        tags=["operations"],
    )
    async def scrape() -> Response:
        """For Prometheus."""
        body, content_type = await waiting.call(metrics)
        return Response(body, headers={"content-type": content_type})


def _shown(found: ServiceHealth) -> Response:
    status = found.status
    document = {
        "status": status,
        "checks": {name: asdict(check) for name, check in found.checks.items()},
        "checked_at": found.checked_at,
    }
    return answer(document, 503 if status == "unhealthy" else 200)

"""A FastAPI host with both systems: a hierarchy's refresh API, and usage roll-ups.

The dashboard is at /api/entities/refresh/dashboard.

    MVREFRESH_DSN=postgresql:///app uvicorn fastapi_app:app
    python smoke.py http://localhost:8000 --entity 1

Needs the extra `fastapi`, `prometheus_client` and uvicorn. Tables, views and the library's schema
are there already, as examples/geopolitical.py and examples/usage_rollups.py make them.
"""

import os

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from mvrefresh import (
    Database,
    EventBus,
    Every,
    HierarchySource,
    OptimizedHierarchyResolver,
    RefreshService,
    UsageSource,
)
from mvrefresh.prometheus import MvrefreshCollector, exposition
from mvrefresh.web import lifespan, ops_router, refresh_router, usage_router

ENTITIES, USAGE = "/api/entities", "/api/mcp/analytics"


def create_app(dsn: str) -> FastAPI:
    """The whole host; nothing is connected before it starts."""
    database = Database(dsn)
    events = EventBus()
    hierarchy, usage = HierarchySource(), UsageSource()
    resolver = OptimizedHierarchyResolver(
        database, hierarchy, events=events, redis=os.environ.get("MVREFRESH_REDIS_URL")
    )
    service = RefreshService(
        database, [*hierarchy.views, *usage.views], Every(seconds=300), events=events
    )
    registry = CollectorRegistry()
    registry.register(
        MvrefreshCollector(database, service=service, resolvers=[resolver], events=[events])
    )

    app = FastAPI(title="mvrefresh", lifespan=lifespan(database, resolver, service))
    # Whoever may refresh, listen and look is for the host to say: dependencies=[Depends(...)].
    app.include_router(refresh_router(resolver, service), prefix=ENTITIES)
    app.include_router(usage_router(database, usage), prefix=USAGE)
    app.include_router(
        ops_router(
            database,
            service=service,
            resolver=resolver,
            metrics=lambda: exposition(registry),
        )
    )
    return app


def __getattr__(name: str) -> FastAPI:
    """`fastapi_app:app`, made when it is asked for: importing this module connects to nothing."""
    if name == "app":
        return create_app(os.environ["MVREFRESH_DSN"])
    raise AttributeError(name)

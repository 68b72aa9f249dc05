"""A FastAPI host with both systems: a hierarchy's refresh API, and usage roll-ups.

In a checkout:

    pip install ".[fastapi]" prometheus_client uvicorn websockets
    export MVREFRESH_DSN=postgresql:///app
    python examples/fastapi_app.py --prepare
    uvicorn --app-dir examples fastapi_app:app --timeout-graceful-shutdown 5
    python examples/smoke.py http://localhost:8000 --entity 3

The dashboard is at /api/entities/refresh/dashboard. uvicorn has WebSockets where `websockets` is
installed; without the timeout, an open stream of events keeps it from stopping. With
MVREFRESH_REDIS_URL the look-ups share a cache.
"""

import argparse
import logging
import os
import sys

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

WORLD = """
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE TABLE entities (
    id integer PRIMARY KEY, path ltree NOT NULL UNIQUE, name text, entity_type text
);
CREATE INDEX ON entities USING gist (path);
INSERT INTO entities VALUES
    (1, 'earth', 'Earth', 'root'),
    (2, 'earth.EU', 'Europe', 'continent'),
    (3, 'earth.EU.CH', 'Switzerland', 'country');
"""


def address() -> str:
    """Of the database; by the environment, since uvicorn takes no arguments for an app."""
    dsn = os.environ.get("MVREFRESH_DSN")
    if not dsn:
        sys.exit("Set MVREFRESH_DSN to your database, as in MVREFRESH_DSN=postgresql:///app")
    return dsn


def prepare(dsn: str) -> None:
    """Create what is missing, and leave alone what is there; in real life in migrations."""
    hierarchy, usage = HierarchySource(), UsageSource()
    with Database(dsn) as database, database.dedicated() as connection:
        database.schema.apply(connection)
        for name, create in (
            (hierarchy.base_table, lambda connection: connection.execute(WORLD)),
            (hierarchy.views[0], hierarchy.create),  # all of them, or none
            (usage.base_table, usage.create_events),
            (usage.views[0], usage.create),
        ):
            (there,) = connection.execute(
                "SELECT to_regclass(%s) IS NOT NULL", [f"{name.schema}.{name.name}"]
            ).fetchone()
            if not there:
                create(connection)
            print(name, "was there" if there else "was created")


def create_app(dsn: str) -> FastAPI:
    """The whole host; nothing is connected before it starts."""
    database = Database(dsn)
    events = EventBus()  # one for all who refresh: Prometheus counts what is told there
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
    app.include_router(usage_router(database, usage, events=events), prefix=USAGE)
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
        logging.basicConfig(level=logging.INFO)  # uvicorn sets up its own loggers, and no others
        return create_app(address())
    raise AttributeError(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--prepare", action="store_true", required=True, help="create what is missing, and end"
    )
    parser.parse_args()
    prepare(address())

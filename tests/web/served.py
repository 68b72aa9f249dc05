"""An application with all routers, over a database that it fills, for `uvicorn --factory`."""

from __future__ import annotations

import os

import psycopg
from fastapi import FastAPI

from mvrefresh import (
    Database,
    Every,
    HierarchySource,
    OptimizedHierarchyResolver,
    RefreshService,
    Schema,
    UsageSource,
)
from mvrefresh.web import lifespan, ops_router, refresh_router, usage_router

TABLE = """
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);
CREATE INDEX ON entities USING gist (path); CREATE INDEX ON entities (path);
INSERT INTO entities VALUES (1, 'a', 'A', 'x'), (2, 'a.b', 'B', 'x'), (3, 'a.b.c', 'C', 'x');
"""


def fill(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        Schema().apply(connection)
        HierarchySource().create(connection)
        usage = UsageSource()
        usage.create_events(connection)
        usage.create(connection)


def app() -> FastAPI:
    database = Database(os.environ["MVREFRESH_DSN"])
    resolver = OptimizedHierarchyResolver(database, resident=0)
    service = RefreshService(database, schedule=Every(seconds=300))
    application = FastAPI(lifespan=lifespan(database, resolver, service, stop_timeout=5))
    router = refresh_router(resolver, service, timeout=30)
    application.include_router(router, prefix="/api/entities")
    application.include_router(usage_router(database, timeout=30), prefix="/api/mcp/analytics")
    application.include_router(ops_router(database, service=service, resolver=resolver))
    return application

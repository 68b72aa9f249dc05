"""Applications with the routers mounted, asked over ASGI as a server would."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from tests.hierarchy.test_resolver import TREE, make, table  # noqa: F401 - fixtures
from tests.refreshing.conftest import database, history, state  # noqa: F401 - fixtures
from tests.service.conftest import backends, slow  # noqa: F401 - fixtures

from mvrefresh import Every, RefreshPolicy, RefreshService
from mvrefresh.web import lifespan

PATIENCE = 20
NEVER = Every(seconds=86400)
POLICY = RefreshPolicy(attempts=1, lock_timeout=10, backoff_initial=0.01, backoff_max=0.02)
ENTITIES = "/api/entities"
USAGE = "/api/mcp/analytics"


def app_of(router, *resources, prefix=ENTITIES, **settings):
    app = FastAPI(lifespan=lifespan(*resources, stop_timeout=0), **settings)
    app.include_router(router, prefix=prefix)
    return app


@asynccontextmanager
async def visited(app):
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://host", timeout=60) as client,
    ):
        yield client


def visit(app, talk):
    """What `talk(client)` gives, while the app runs."""

    async def whole():
        async with asyncio.timeout(60), visited(app) as client:
            return await talk(client)

    return asyncio.run(whole())


def ask(app, method, path, **more):
    """One request; (status, document)."""

    async def talk(client):
        answer = await client.request(method, path, **more)
        return answer.status_code, answer.json()

    return visit(app, talk)


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the server tells by being asked
            await asyncio.sleep(0.01)


@pytest.fixture
def service_on(database):  # noqa: F811
    """Makes services over views of the database."""
    with ExitStack() as stack:

        def make_one(*views, **settings):
            settings = {"policy": POLICY, "schedule": NEVER} | settings
            service = RefreshService(database, views or None, **settings)
            stack.callback(service.stop, timeout=0)
            return service

        yield make_one


@pytest.fixture
def broken(conn, database):  # noqa: F811
    """A view `broken` that can never be refreshed."""
    conn.execute(
        "CREATE VIEW ill AS SELECT 1 / (SELECT count(*) FROM base WHERE id < 0) AS x;"
        "CREATE MATERIALIZED VIEW broken AS SELECT x FROM ill WITH NO DATA"
    )


@pytest.fixture
def resolver(make):  # noqa: F811
    resolver = make(resident=0)
    resolver.refresh_all_materialized_views()
    return resolver

"""The host decides who may: its dependencies are asked for every route, the hot one too."""

from __future__ import annotations

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from tests.web.conftest import ENTITIES, ask, visit

from mvrefresh.web import ops_router, refresh_router, usage_router


def require_key(x_key: str = Header(default="")):
    if x_key != "right":
        raise HTTPException(401, "who are you?")


LOCKED = [Depends(require_key)]
MUTATING = {
    f"{ENTITIES}/refresh",
    f"{ENTITIES}/refresh/automated/start",
    f"{ENTITIES}/refresh/automated/stop",
    f"{ENTITIES}/refresh/automated/force",
    "/usage/refresh-views",
}


def host(resolver, service, database, where):
    own = LOCKED if where == "router" else []
    include = LOCKED if where == "inclusion" else []
    app = FastAPI(dependencies=LOCKED if where == "app" else [])
    for router, prefix in (
        (refresh_router(resolver, service, dependencies=own), ENTITIES),
        (usage_router(database, dependencies=own), "/usage"),
        (ops_router(database, metrics=lambda: (b"", "text/plain"), dependencies=own), ""),
    ):
        app.include_router(router, prefix=prefix, dependencies=include)
    return app


HEADS = ("/health", "/health/ready", "/health/live", f"{ENTITIES}/refresh/dashboard")


@pytest.mark.parametrize("where", ["router", "inclusion", "app"])
def test_every_route_asks_the_host(resolver, database, service_on, where):
    app = host(resolver, service_on("mv"), database, where)

    async def talk(client):
        routes = [(m, p) for p, ways in app.openapi()["paths"].items() for m in ways]
        assert len(routes) == 18
        for method, path in routes:
            answer = await client.request(method, path.replace("{id}", "3"))
            assert answer.status_code == 401, (method, path)
            assert answer.json() == {"detail": "who are you?"}
        for path in HEADS:
            assert (await client.head(path)).status_code == 401, path
        answer = await client.get(f"{ENTITIES}/3/ancestors", headers={"x-key": "right"})
        assert answer.status_code == 200
        assert answer.headers["x-mvrefresh-tier"] == "l4"

    visit(app, talk)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://host"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": "http://[x]"}, 403),
        ({"origin": "https://admin.example.org"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://outside.example"}, 200),  # a proxy
        ({"sec-fetch-site": "cross-site", "origin": "http://host"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "https://admin.example.org"}, 200),
    ],
)
def test_pages_of_other_sites_may_change_nothing(resolver, database, service_on, headers, status):
    service, origins = service_on("mv"), ["https://admin.example.org"]
    app = FastAPI()
    router = refresh_router(resolver, service, origins=origins)
    app.include_router(router, prefix=ENTITIES)
    app.include_router(usage_router(database, origins=origins), prefix="/usage")

    async def talk(client):
        for path in sorted(MUTATING):
            found = (await client.post(path, headers=headers)).status_code
            assert (found == 403) is (status == 403), path
        for path in (f"{ENTITIES}/3/ancestors", f"{ENTITIES}/refresh/status"):
            assert (await client.get(path, headers=headers)).status_code == 200

    visit(app, talk)
    assert service.running is False


def test_a_dependency_that_is_overridden_in_tests(resolver):
    app = FastAPI()
    app.include_router(refresh_router(resolver, dependencies=LOCKED), prefix=ENTITIES)
    app.dependency_overrides[require_key] = lambda: None
    assert ask(app, "GET", f"{ENTITIES}/3/ancestors")[0] == 200


def test_read_only_leaves_out_what_changes(resolver, database, service_on):
    service = service_on("mv")
    whole, reading = FastAPI(), FastAPI()
    for app, read_only in ((whole, False), (reading, True)):
        router = refresh_router(resolver, service, read_only=read_only)
        app.include_router(router, prefix=ENTITIES)
        app.include_router(usage_router(database, read_only=read_only), prefix="/usage")
    assert set(whole.openapi()["paths"]) - set(reading.openapi()["paths"]) == MUTATING

    async def talk(client):
        for path in MUTATING:
            assert (await client.post(path)).status_code == 404
        assert (await client.get(f"{ENTITIES}/refresh/status")).status_code == 200
        assert (await client.get(f"{ENTITIES}/3/ancestors")).status_code == 200
        answer = await client.post(f"{ENTITIES}/ancestors:batch", json={"ids": [3]})
        assert answer.status_code == 200

    visit(reading, talk)

"""The reference of the routes is whole: what is mounted stands there, and nothing else."""

from __future__ import annotations

import pytest
from tests import documents

pytest.importorskip("fastapi")

from fastapi import FastAPI

from mvrefresh import Database, OptimizedHierarchyResolver, RefreshService, errors
from mvrefresh.web import ops_router, refresh_router, usage_router
from mvrefresh.web.errors import MEANINGS

PAGE = documents.DOCS / "reference/http.md"


def test_every_route_is_in_the_reference():
    with Database("host=nowhere") as database, OptimizedHierarchyResolver(database) as resolver:
        routers = {
            "refresh_router": refresh_router(resolver, RefreshService(database)),
            "usage_router": usage_router(database),
            "ops_router": ops_router(database, metrics=lambda: (b"", "text/plain")),
        }
    mounted = set()
    for name, router in routers.items():
        app = FastAPI()
        app.include_router(router)
        for path, ways in app.openapi()["paths"].items():
            mounted |= {(f"{way.upper()} {path}", name) for way in ways}
    shown = {tuple(row[:2]) for row in documents.table(PAGE, "Routes")}
    assert shown == mounted


def test_every_error_with_a_row_is_in_the_reference():
    shown = {int(row[0]): row[1] for row in documents.table(PAGE, "Errors")}
    for kind, meaning in MEANINGS:
        assert meaning.status in shown
        if kind.__module__ == errors.__name__ and kind is not errors.MvrefreshError:
            assert kind.__name__ in shown[meaning.status], kind


def test_the_checks_are_in_the_reference():
    rows = documents.table(PAGE, "Health")
    assert [row[0] for row in rows] == ["database", "redis", "pool", "listener", "service"]

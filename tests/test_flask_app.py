"""The Flask example answers in the shapes of the HTTP surface, over a real database."""

from __future__ import annotations

import importlib
import sys

import pytest
from tests.documents import ROOT

from mvrefresh import HierarchySource, UsageSource

pytest.importorskip("flask")

ENTITIES = """
CREATE TABLE entities (id int PRIMARY KEY, path ltree UNIQUE, name text, entity_type text);
INSERT INTO entities VALUES (1, 'earth', 'Earth', 'root'), (2, 'earth.EU', 'Europe', 'continent'),
    (3, 'earth.EU.CH', 'Switzerland', 'country');
"""
VIEWS = ["mv_descendant_counts", "mv_entity_ancestors", "mv_entity_hierarchy_stats"]
R = "/api/entities/refresh"
A = f"{R}/automated"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield importlib.import_module
    for name in ("flask_app", "smoke"):
        sys.modules.pop(name, None)


@pytest.fixture
def smoke(example):
    return example("smoke")


@pytest.fixture
def client(conn, dsn, example):
    app = example("flask_app").create_app(dsn)
    site = app.extensions["mvrefresh"]
    site.database.schema.apply(conn)
    conn.execute(ENTITIES)
    HierarchySource().create(conn)
    UsageSource().create_events(conn)
    UsageSource().create(conn)
    yield app.test_client()
    site.close()


def shape(smoke, answer, expected, status=200):
    assert answer.status_code == status, answer.text
    assert answer.content_type.startswith("application/json")
    assert smoke.wrong(answer.json, expected) == []
    return answer.json


def break_view(conn, view="mv_entity_hierarchy_stats"):
    conn.execute(f"DROP MATERIALIZED VIEW {view} CASCADE")
    conn.execute(f"CREATE MATERIALIZED VIEW {view} AS SELECT 1 / 0 AS x WITH NO DATA")


def test_refresh_and_its_status(client, smoke):
    before = shape(smoke, client.get(f"{R}/status"), smoke.STATUS)
    assert before["last_refresh"] is None
    done = shape(smoke, client.post(R), smoke.REFRESHED)
    assert sorted(done["results"]) == VIEWS
    assert "failed_views" not in done
    after = shape(smoke, client.get(f"{R}/status"), smoke.STATUS)
    assert isinstance(after["last_refresh"], float)
    one = client.post(R, json={"views": VIEWS[:1]})
    assert shape(smoke, one, smoke.REFRESHED)["results"] == {VIEWS[0]: True}


def test_refresh_that_fails_in_part_and_as_a_whole(client, smoke, conn):
    break_view(conn)
    done = client.post(R).json
    assert done["status"] == "partial_success"
    assert done["failed_views"] == ["mv_entity_hierarchy_stats"]
    assert done["results"]["mv_entity_ancestors"] is True
    answer = client.post(R, json={"views": ["mv_entity_hierarchy_stats"]})
    whole = {"detail": str, "results": smoke.flags}
    assert shape(smoke, answer, whole, 500)["results"] == {"mv_entity_hierarchy_stats": False}


def test_start_force_stop(client, smoke):
    conflict = {"detail": "Automated refresh service is not running"}
    shape(smoke, client.post(f"{A}/stop"), conflict, 409)
    shape(smoke, client.post(f"{A}/force"), conflict, 409)
    started = shape(smoke, client.post(f"{A}/start"), smoke.STARTED)
    assert sorted(started["config"]["views"]) == VIEWS
    again = {"status": "success", "message": "Automated refresh service is already running"}
    shape(smoke, client.post(f"{A}/start"), again)
    forced = shape(smoke, client.post(f"{A}/force"), smoke.FORCED)
    assert forced["result"]["views_refreshed"] == 3
    status = shape(smoke, client.get(f"{R}/status"), smoke.STATUS)
    assert status["automated_refresh_status"]["enabled"] is True
    stopped = shape(smoke, client.post(f"{A}/stop"), smoke.STOPPED)
    assert stopped["final_metrics"]["total_refreshes"] >= 3
    shape(smoke, client.post(f"{A}/stop"), conflict, 409)


def test_history(client, smoke):
    shape(smoke, client.get(f"{A}/metrics"), smoke.METRICS)
    shape(smoke, client.get(f"{A}/metrics"), smoke.NO_ROWS)
    client.post(R)
    client.post(R)
    found = shape(smoke, client.get(f"{A}/metrics?limit=2"), smoke.METRICS)
    assert len(found["metrics"]) == 2
    assert found["summary"]["total_count"] == 6
    one = client.get(f"{A}/metrics?view_name={VIEWS[0]}").json
    assert [row["view_name"] for row in one["metrics"]] == VIEWS[:1] * 2
    shape(smoke, client.get(f"{A}/metrics?since=32503680000"), smoke.NO_ROWS)


def test_look_ups(client, smoke):
    client.post(R)
    answer = client.get("/api/entities/3/ancestors")
    assert [node["name"] for node in shape(smoke, answer, dict)["ancestors"]] == ["Earth", "Europe"]
    assert answer.headers["X-Cache-Tier"] in ("l1", "l4")
    assert float(answer.headers["X-Content-Age-Seconds"]) >= 0
    batch = client.post("/api/entities/ancestors:batch", json={"ids": [1, 2, 99]}).json
    assert {key: len(nodes) for key, nodes in batch["ancestors"].items()} == {"1": 0, "2": 1}


def test_usage(client, smoke, conn):
    shape(smoke, client.post("/api/mcp/analytics/refresh-views"), smoke.USAGE)
    break_view(conn, "archon_mcp_usage_daily")
    answer = client.post("/api/mcp/analytics/refresh-views")
    failed = {"success": bool, "message": str, "refreshed_at": smoke.utc}
    found = shape(smoke, answer, failed, 500)
    assert found["success"] is False
    assert "archon_mcp_usage_daily" in found["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", R, {"views": ["nobody"]}, 404),
        ("POST", R, {"views": "mv_entity_ancestors"}, 422),
        ("POST", R, {"views": [None]}, 422),
        ("POST", R, ["mv_entity_ancestors"], 422),
        ("GET", f"{A}/metrics?limit=0", None, 422),
        ("GET", f"{A}/metrics?limit=10001", None, 422),
        ("GET", f"{A}/metrics?limit=x", None, 422),
        ("GET", f"{A}/metrics?since=x", None, 422),
        ("GET", f"{A}/metrics?since=nan", None, 422),
        ("GET", f"{A}/metrics?since=1e99", None, 422),
        ("GET", "/api/entities/99/ancestors", None, 404),
        ("GET", "/api/entities/x%20y/ancestors", None, 422),
        ("POST", "/api/entities/ancestors:batch", {}, 422),
        ("POST", "/api/entities/ancestors:batch", {"ids": [{}]}, 422),
        ("GET", "/nowhere", None, 404),
    ],
)
def test_errors(client, smoke, method, path, body, status):
    answer = client.open(path, method=method, json=body)
    shape(smoke, answer, smoke.ERROR, status)


def test_without_a_database(example, smoke):
    app = example("flask_app").create_app("host=127.0.0.1 port=1 connect_timeout=2")
    client = app.test_client()
    for method, path in (
        ("POST", R),
        ("GET", f"{A}/metrics"),
        ("GET", "/api/entities/3/ancestors"),
        ("POST", "/api/mcp/analytics/refresh-views"),
    ):
        shape(smoke, client.open(path, method=method), smoke.ERROR, 503)
    app.extensions["mvrefresh"].close()

"""The FastAPI example, whole, as its users run it: the smoke script finds nothing wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from tests.documents import ROOT
from tests.web.live.conftest import served

from mvrefresh import HierarchySource, Schema, UsageSource

ENTITIES = """
CREATE TABLE entities (id int PRIMARY KEY, path ltree UNIQUE, name text, entity_type text);
INSERT INTO entities VALUES (1, 'earth', 'Earth', 'root'), (2, 'earth.EU', 'Europe', 'continent'),
    (3, 'earth.EU.CH', 'Switzerland', 'country');
"""


@pytest.fixture
def app(conn, dsn, redis_url, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("MVREFRESH_REDIS_URL", redis_url)
    monkeypatch.setenv("MVREFRESH_DSN", dsn)
    Schema().apply(conn)
    conn.execute(ENTITIES)
    HierarchySource().create(conn)
    UsageSource().create_events(conn)
    UsageSource().create(conn)
    yield importlib.import_module("fastapi_app").app
    sys.modules.pop("fastapi_app", None)


def test_the_smoke_script_walks_every_endpoint(app):
    with served(app) as address:
        done = subprocess.run(
            [sys.executable, ROOT / "examples/smoke.py", f"http://{address}", "--entity", "3"],
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ancestors" in done.stdout

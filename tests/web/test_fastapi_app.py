"""The FastAPI example, whole, as its users run it: the smoke script finds nothing wrong."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.documents import ROOT
from tests.web.live.conftest import served

from mvrefresh import UsageSource

EXAMPLES = ROOT / "examples"
VIEWS = {str(view) for view in UsageSource().views}


@pytest.fixture
def run():
    """Runs a script of examples/."""

    def call(*arguments, **environment):
        return subprocess.run(
            [sys.executable, *arguments], cwd=EXAMPLES, env=os.environ | environment,
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    return call


@pytest.fixture
def example(dsn, redis_url, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("MVREFRESH_REDIS_URL", redis_url)
    monkeypatch.setenv("MVREFRESH_DSN", dsn)
    yield importlib.import_module("fastapi_app")
    sys.modules.pop("fastapi_app", None)


@pytest.fixture
def address(example, dsn):
    example.prepare(dsn)
    with served(example.app) as address:
        yield f"http://{address}"


def test_the_smoke_script_walks_every_endpoint(address, run):
    done = run("smoke.py", address, "--entity", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ancestors" in done.stdout


def test_it_prepares_what_is_missing_and_no_more(dsn, conn, run):
    first = run("fastapi_app.py", "--prepare", MVREFRESH_DSN=dsn)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("was created\n") == 4
    conn.execute("DELETE FROM entities WHERE id = 3")
    conn.execute("DROP MATERIALIZED VIEW archon_mcp_usage_daily, archon_mcp_usage_hourly")
    second = run("fastapi_app.py", "--prepare", MVREFRESH_DSN=dsn)
    assert second.stdout.count("was there\n") == 3
    assert "archon_mcp_usage_hourly was created\n" in second.stdout
    assert conn.execute("SELECT count(*) FROM entities").fetchone() == (2,)


@pytest.mark.parametrize(
    "command", [["fastapi_app.py", "--prepare"], ["-c", "import fastapi_app; fastapi_app.app"]]
)
def test_without_a_database_it_says_what_to_set(run, command):
    done = run(*command, MVREFRESH_DSN="")
    assert done.returncode == 1
    assert done.stderr.startswith("Set MVREFRESH_DSN ")
    assert done.stderr.count("\n") == 1


def counted(address):
    """View -> refreshes that succeeded, as Prometheus reads it."""
    page = httpx.get(f"{address}/metrics").text
    return {
        sample.labels["view"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "mvrefresh_refreshes_total" and sample.labels["status"] == "succeeded"
    }


def test_prometheus_counts_refreshes_of_both_routers(address):
    def post(path):
        assert httpx.post(f"{address}/api/{path}", timeout=60).status_code == 200
        return counted(address)

    before = post("entities/refresh/automated/stop")  # from here on nothing comes by schedule
    after = post("mcp/analytics/refresh-views")
    assert {view: after[view] - before.get(view, 0) for view in VIEWS} == dict.fromkeys(VIEWS, 1)
    last = post("entities/refresh")
    assert {view for view in last if last[view] > after.get(view, 0)} == set(last) - VIEWS

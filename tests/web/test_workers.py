"""Several workers of uvicorn: each with a service, and each view refreshed once a slot."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx
import pytest
from tests.web.uvicorned import EXAMPLES, running

pytest.importorskip("uvicorn")

WORKERS = 4
ENTITIES = "/api/entities"


def fleet_of(address):
    document = httpx.get(f"{address}{ENTITIES}/refresh/status").json()
    return document["automated_refresh_status"]


def walk_with_one_worker(address):
    """The smoke script stays with one worker, and leaves its service as it was."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "smoke.py", address, "--entity", "3"],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "another process" not in done.stdout


def test_four_workers_are_a_fleet_and_leave_nothing_behind(dsn, conn):
    with running(dsn, "--workers", str(WORKERS)) as address:
        deadline = time.monotonic() + 60
        while True:
            told = fleet_of(address)
            if len(told["fleet"]) == WORKERS and all(v["last_run"] for v in told["views"]):
                break
            assert time.monotonic() < deadline, told
        pids = {member["pid"] for member in told["fleet"]}
        assert len(pids) == WORKERS
        for _ in range(2 * WORKERS):  # whichever worker answers
            answer = httpx.post(f"{address}{ENTITIES}/refresh", timeout=60)
            assert answer.status_code == 200
            ancestors = httpx.get(f"{address}{ENTITIES}/3/ancestors").json()["ancestors"]
            assert [node["id"] for node in ancestors] == [1, 2]
        walk_with_one_worker(address)
        assert {member["pid"] for member in fleet_of(address)["fleet"]} == pids
    scheduled = conn.execute(
        "SELECT view_name, count(*) FROM mvrefresh.refresh_metrics WHERE trigger = 'schedule'"
        " GROUP BY 1"
    ).fetchall()
    assert {view for view, _ in scheduled} == {view["view"] for view in told["views"]}
    assert {count for _, count in scheduled} == {1}
    (left,) = conn.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'mvrefresh%'"
    ).fetchone()
    assert left == 0

"""The whole demo, as its users run it: a process of its own that leaves nothing behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import psutil
import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import conninfo_to_dict

from mvrefresh.cli.app import app
from mvrefresh.demo.command import _without_password

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, "-W", "error", "-m", "mvrefresh", "demo"]
VIEWS = [
    "mv_entity_ancestors",
    "mv_descendant_counts",
    "mv_entity_hierarchy_stats",
    "archon_mcp_usage_hourly",
    "archon_mcp_usage_daily",
]


@pytest.fixture
def home() -> Iterator[Path]:
    """The temporary directory of the demo; short, as a socket will be in it."""
    with tempfile.TemporaryDirectory(prefix="mvt-") as directory:
        yield Path(directory)
        assert servers_in(Path(directory)) == []
        # The wheel keeps the lock of all its servers there, where XDG_RUNTIME_DIR is not set.
        left = [path for path in Path(directory).iterdir() if not path.name.startswith("runtime-")]
        assert left == []


@pytest.fixture
def environment(home) -> dict[str, str]:
    """Nothing in it may reach the demo's own server, or send the demo to another."""
    hostile = {
        "PGHOST": "/nowhere",
        "PGPORT": "1",
        "PGUSER": "nobody",
        "PGOPTIONS": "-c nonsense=1",
    }
    elsewhere = {"MVREFRESH_DSN": "host=/nowhere", "LC_ALL": "xx_XX.nonsense"}
    left = {k: v for k, v in os.environ.items() if k not in ("XDG_RUNTIME_DIR", "COLUMNS")}
    return left | hostile | elsewhere | {"TMPDIR": str(home), "PYTHONUTF8": "1"}


def servers_in(directory: Path) -> list[str]:
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [" ".join(line) for line in lines if any(str(directory) in word for word in line)]


def run(environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args], env=environment, capture_output=True, text=True, timeout=110, check=False
    )


def test_from_end_to_end(environment):
    done = run(environment)
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    for view in VIEWS:
        # first plan, first refresh, second plan, two refreshes, percentiles; and the list
        assert done.stdout.count(view) >= 7
    for heading in ("p50", "p95", "p99", "Rows", "+5,303", "no. 2, kept"):
        assert heading in done.stdout
    assert "18 refreshes, 0 failed; the whole demo took" in done.stdout
    assert "1 in the first look-up after it." in done.stdout
    assert "\x1b" not in done.stdout


def test_as_json_and_kept(environment, home):
    done = run(environment, "--json", "--keep")
    assert (done.returncode, done.stderr) == (0, "")
    document = orjson.loads(done.stdout)
    assert document["success"]
    assert document["refreshes"] == 18
    chapters = document["chapters"]
    assert chapters["data"]["entities"] >= 5000
    assert chapters["data"]["too_old"] > 0
    assert chapters["views"]["views"] == VIEWS
    assert {step["strategy"] for step in chapters["first_plan"]["steps"]} == {"regular"}
    assert {step["strategy"] for step in chapters["second_plan"]["steps"]} == {"concurrent"}
    assert all(o["content_changed"] for o in chapters["second_refresh"]["outcomes"])
    assert set(VIEWS[:3]) <= set(chapters["third_refresh"]["kept"])
    check_look_ups(chapters["lookups"], chapters["data"]["entities"])
    assert set(chapters["history"]) == set(VIEWS)
    assert all(chapters["answers"].values())

    kept = document["kept"]
    with psycopg.connect(kept["dsn"]) as connection:
        assert connection.execute("SELECT count(*) FROM mv_entity_ancestors").fetchone()[0] > 5000
    stopped = run(environment, *shlex.split(kept["stop"])[2:])
    assert (stopped.returncode, stopped.stderr) == (0, "")


def check_look_ups(said, entities):
    assert said["tiers"] == ["l4", "l1"]
    assert said["resident"] == entities + 1  # Atlantis has risen since
    answers = {row["asked"]: row["answer"] for row in said["answers"]}
    assert answers["ancestors(California)"] == "Earth > North America > United States"
    assert answers["lowest_common_ancestor([Bas-Rhin, California])"] == "Earth"
    assert (said["batch"]["asked"], said["batch"]["found"]) == (1001, 1000)
    assert said["batch"]["elapsed_ms"] > 0
    assert said["metrics"]["l1_cache"]["hits"] >= 2000
    assert said["metrics"]["l3_cache"]["hits"] > 0
    assert said["metrics"]["l4_cache"]["misses"] == 2  # no such place, and one too new
    assert said["metrics"]["overall"]["source_reads"] == 1
    assert said["change"]["written"]["tier"] == "source"
    assert (said["change"]["before"], said["change"]["after"]) == (0, 1)
    assert said["change"]["results"] == dict.fromkeys(VIEWS[:3], True)


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(environment, signal_, code):
    with subprocess.Popen(
        COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1. A database\n"
        process.send_signal(signal_)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err


def test_on_a_given_server(dsn, conn):
    def databases():
        return set(conn.execute("SELECT datname FROM pg_database").fetchall())

    before = databases()
    result = CliRunner(catch_exceptions=False).invoke(app, ["demo", "--json", "--dsn", dsn])
    assert result.exit_code == 0, result.output
    assert orjson.loads(result.stdout)["success"]
    assert databases() == before


def test_the_dsn_that_is_shown_has_no_password():
    shown = _without_password("postgresql://me:hunter2@example.org/db?sslmode=require")
    assert conninfo_to_dict(shown) == {
        "user": "me", "host": "example.org", "dbname": "db", "sslmode": "require"
    }  # fmt: skip


def test_stops_nothing_else(tmp_path):
    (tmp_path / "data").mkdir()
    result = CliRunner(catch_exceptions=False).invoke(app, ["demo", "--stop", str(tmp_path)])
    assert result.exit_code == 2
    assert (tmp_path / "data").exists()

"""The benchmarks run, in their shortest form; what they measure is for `nox -s bench` to say."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from math import isfinite

import orjson
import pytest
from bench.hit_ratio import Score
from bench.measure import Row


@pytest.mark.timeout(300)  # half a minute; on a machine that is busy besides, minutes
def test_every_part_runs_and_writes_its_rows(dsn, tmp_path):
    target = tmp_path / "rows.json"
    command = [sys.executable, "-m", "bench", "--quick", "--dsn", dsn, "--json", str(target)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    document = orjson.loads(target.read_bytes())
    assert document["quick"] is True
    assert {"date", "cores", "postgresql"} <= document["machine"].keys()
    names = " ".join(row["what"] for row in document["rows"])
    for part in ("refresh(tiny)", "refresh(large)", "three views", "mv_descendant_counts"):
        assert part in names
        assert part in done.stdout
    assert "due time to BEGIN" in names
    assert "a turn over 50 views" in names
    assert all(row["ratio"] > 0 for row in document["rows"])
    figures = {figure["what"]: figure["value"] for figure in document["figures"]}
    assert figures["round trips of a turn"] == figures["statements of a turn"] == 1
    assert figures["server's time of a turn"] > 0
    assert figures["statements a minute at rest"] >= 0
    rivals = {row["rival"] for row in document["rows"] if row["what"].startswith("a hit, ")}
    assert {rival.split()[0] for rival in rivals} == {"dict.get", "cachetools", "cachebox"}
    cold = [row["rival"] for row in document["rows"] if "not in memory" in row["what"]]
    assert cold == ["psycopg, one query each", "psycopg, 100 in one query"]
    assert figures["look-ups a second in memory"] > figures["look-ups a second not in memory"] > 0
    assert "entities loaded" in names
    assert "ancestors from L2" in names
    assert "Redis hangs: p99 of a cold look-up, 8 threads" in names
    # Not above 0: the other process may hear of a COMMIT before its answer is here.
    assert isfinite(figures["COMMIT to invalidation in another process, median"])
    assert figures["the watch, statements a minute"] > 0
    assert figures["Redis hangs: slow look-ups before the breaker opened"] > 0
    left = [score for score in document["scores"] if score["rival"] == "promised"]
    assert len(left) == 8
    assert all(score["ours"] == 100 for score in left if "not stale" in score["what"])
    assert figures["longest pause of a reader while it is loaded"] > 0
    assert "import mvrefresh" in names
    assert figures["an interpreter that imports nothing"] > 0
    if shutil.which("wrk") is not None:
        assert "GET ancestors, a hit" in names
        assert figures["POST ancestors:batch"] > 0
    if hasattr(time, "pthread_getcpuclockid"):
        rivals = {row["rival"] for row in document["rows"] if "an event to the last" in row["what"]}
        assert rivals == {
            "Starlette, a loop of sends", "Starlette, a gather of sends", "ours, nobody stalls",
        }  # fmt: skip
        for whose in ("ours", "Starlette, a loop of sends", "ours, a client stalls"):
            assert figures[f"{whose}: an event to the last client, worst"] > 0
        assert figures["a client stalls: rounds in which ours dropped it"] == 1
    scores = [score for score in document["scores"] if score["rival"] != "promised"]
    assert len(scores) == 2 * (3 * 3 * 2 + 1)
    assert all(0 < score[whose] < 100 for score in scores for whose in ("ours", "theirs"))


@pytest.mark.parametrize(
    ("ours", "promised", "verdict"),
    [(50.0, True, "holds"), (49.9, True, "BROKEN"), (49.9, False, ""), (51.0, False, "")],
)
def test_a_hit_ratio_is_promised_not_to_be_lower(ours, promised, verdict):
    assert Score("trace", "theirs", ours, 50.0, promised).verdict == verdict


@pytest.mark.parametrize(
    ("promise", "verdict"),
    [
        ({}, ""),
        ({"bound": 3.0}, "holds"),
        ({"bound": 1.9}, "BROKEN"),
        ({"above": 0.02}, "holds"),
        ({"above": 0.009}, "BROKEN"),
        ({"bound": 1.9, "above": 0.02}, "BROKEN"),
    ],
)
def test_a_promise_is_about_the_ratio_or_the_difference(promise, verdict):
    row = Row("ours", "theirs", 1, seconds=0.02, rival_seconds=0.01, ratio=2.0, **promise)
    assert row.verdict == verdict
    assert bool(row.promised) is bool(promise)

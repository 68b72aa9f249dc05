"""The benchmarks run, in their shortest form; what they measure is for `nox -s bench` to say."""

from __future__ import annotations

import subprocess
import sys

import orjson


def test_every_part_runs_and_writes_its_rows(dsn, tmp_path):
    target = tmp_path / "rows.json"
    command = [sys.executable, "-m", "bench", "--quick", "--dsn", dsn, "--json", str(target)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    document = orjson.loads(target.read_bytes())
    assert document["quick"] is True
    assert {"date", "cores", "postgresql"} <= document["machine"].keys()
    names = " ".join(row["what"] for row in document["rows"])
    for part in ("refresh(tiny)", "refresh(large)", "three views", "mv_descendant_counts"):
        assert part in names
        assert part in done.stdout
    assert all(row["ratio"] > 0 for row in document["rows"])

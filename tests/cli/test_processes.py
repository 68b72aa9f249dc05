"""As a process of its own: `python -m mvrefresh`, signals, pipes, a missing extra."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import orjson
import pytest

COMMAND = [sys.executable, "-W", "error", "-m", "mvrefresh"]


@pytest.fixture
def environment(dsn) -> dict[str, str]:
    return {**os.environ, "MVREFRESH_DSN": dsn, "PYTHONUTF8": "1"}


@pytest.fixture
def endless(conn, mvrefresh) -> None:
    """A view whose refresh takes longer than any test."""
    conn.execute("CREATE TABLE t AS SELECT 1 AS n")
    conn.execute(
        "CREATE MATERIALIZED VIEW endless AS"
        " SELECT n FROM t WHERE pg_sleep(300) IS NOT NULL WITH NO DATA"
    )
    assert mvrefresh("schema", "--apply").exit_code == 0


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_as_a_module(environment, views):
    done = run([*COMMAND, "list", "--json"], environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(orjson.loads(done.stdout)["views"]) == 3
    done = run([*COMMAND, "plan", "nope"], environment)
    assert done.returncode == 2
    assert done.stderr.startswith("mvrefresh: there is no materialized view 'nope'")
    assert run([*COMMAND, "--help"], environment).stdout.startswith("Usage: mvrefresh ")


def test_ctrl_c_cancels_in_the_server(environment, endless, json_of, conn):
    with subprocess.Popen(
        [*COMMAND, "refresh"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "endless: refreshing (regular)\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "endless: cancelled\n0 of 1 view refreshed" in out
    assert err == ""
    (left,) = conn.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE query LIKE '%REFRESH MATERIALIZED%' AND pid <> pg_backend_pid()"
        " AND datname = current_database() AND state = 'active'"
    ).fetchone()
    assert left == 0
    assert json_of("history")["records"][0]["status"] == "cancelled"


def test_a_pipe_that_nobody_reads(environment, views):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "schema", "--sql"],
        env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_terminal_that_knows_ascii_only(environment, conn):
    conn.execute('CREATE MATERIALIZED VIEW "視圖" AS SELECT 1')
    environment |= {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = run([*COMMAND, "list"], environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u8996\u5716" in done.stdout


def test_without_the_extra(environment):
    for package in ("click", "rich"):
        code = f"""
            import sys

            class Blocked:
                def find_spec(self, name, path=None, target=None):
                    if name.partition(".")[0] == {package!r}:
                        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

            sys.meta_path.insert(0, Blocked())
            from mvrefresh.cli import main
            sys.exit(main())
        """
        done = run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], environment)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == 'mvrefresh: the command line needs: pip install "mvrefresh[cli]"\n'


def test_the_library_does_not_need_the_extra(environment):
    code = "import mvrefresh, sys; print(sorted({'click', 'rich'} & set(sys.modules)))"
    assert run([sys.executable, "-c", code], environment).stdout == "[]\n"


def test_the_demo_without_its_extra(environment):
    code = """
        import sys
        sys.modules["pycountry"] = None
        from mvrefresh.cli import main
        sys.argv[1:] = ["demo"]
        main()
    """
    done = run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], environment)
    assert done.returncode == 2
    assert done.stderr == 'mvrefresh: the demo needs: pip install "mvrefresh[demo]"\n'

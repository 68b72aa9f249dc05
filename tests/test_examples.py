"""Every example runs, as a user would run it, and says what it should."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.documents import ROOT

from mvrefresh import Database, refresh
from mvrefresh.errors import SchemaOutdated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Call = Callable[..., str]

EXAMPLES = ROOT / "examples"
NO_SCRIPTS = {"fastapi_app", "flask_app", "smoke"}  # applications, and what walks them: own tests
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem not in NO_SCRIPTS)


@pytest.fixture
def call(dsn: str, tmp_path: Path) -> Call:
    """Runs Python as a subprocess that knows its database by MVREFRESH_DSN alone."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    env |= {"MVREFRESH_DSN": dsn, "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*arguments: str | Path) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_runs_and_runs_again(script: Path, call: Call):
    assert call(script).count("\n") >= (script.stem != "embed")
    call(script)


def test_embed_reports_every_view(call: Call, conn):
    conn.execute("CREATE MATERIALIZED VIEW one AS SELECT 1 AS one")
    conn.execute("CREATE MATERIALIZED VIEW two AS SELECT one + 1 AS two FROM one")
    first, second = call(EXAMPLES / "embed.py").splitlines()
    assert first.startswith("one succeeded regular")
    assert second.startswith("two succeeded regular")


def test_service_holds_what_was_written(call: Call, conn):
    said = call(EXAMPLES / "service.py")
    assert "The average holds that order now: True" in said
    assert "The service has stopped; 0 refreshes failed" in said
    (average,) = conn.execute("SELECT average FROM example_service.average").fetchone()
    assert average == 10


def test_look_ups_are_fresh_after_a_refresh_elsewhere(call: Call):
    said = call(EXAMPLES / "hierarchy_lookups.py")
    assert "Knives are in: Everything > Kitchen\n" in said
    assert "After a refresh elsewhere: Cooking\n" in said


@pytest.fixture
def alembic(call: Call) -> Call:
    if importlib.util.find_spec("alembic") is None and not os.environ.get("CI"):
        pytest.skip("alembic is not installed")
    # Alembic's own imports may warn.
    return lambda *arguments: call(
        "-W", "ignore", "-m", "alembic", "-c", EXAMPLES / "alembic/alembic.ini", *arguments
    )


def test_alembic_installs_and_removes(alembic: Call, conn, dsn: str):
    alembic("upgrade", "head")
    conn.execute("CREATE MATERIALIZED VIEW one AS SELECT 1 AS one")
    with Database(dsn) as db:
        assert refresh(db).results == {"one": True}
    alembic("downgrade", "base")
    assert conn.execute("SELECT to_regnamespace('mvrefresh')").fetchone() == (None,)


def test_alembic_upgrades_in_place(alembic: Call, conn, dsn: str):
    conn.execute("CREATE MATERIALIZED VIEW one AS SELECT 1 AS one")
    alembic("upgrade", "0001")
    with Database(dsn) as db:
        with pytest.raises(SchemaOutdated):
            refresh(db)
        conn.execute(
            "INSERT INTO mvrefresh.refresh_metrics (view_name, refresh_duration_ms) VALUES ('x', 1)"
        )
        alembic("upgrade", "0002")
        with pytest.raises(SchemaOutdated):
            refresh(db)
        alembic("upgrade", "head")
        assert refresh(db).results == {"one": True}
    count = "SELECT count(*) FROM mvrefresh.refresh_metrics"
    assert conn.execute(count).fetchone() == (2,)
    alembic("downgrade", "0001")
    assert conn.execute("SELECT to_regclass('mvrefresh.schedule')").fetchone() == (None,)
    functions = "SELECT proname FROM pg_proc WHERE pronamespace = 'mvrefresh'::regnamespace"
    assert conn.execute(functions).fetchall() == [("finish_refresh",)]
    alembic("upgrade", "head")
    with Database(dsn) as db:
        assert refresh(db).results == {"one": True}
    assert conn.execute(count).fetchone() == (3,)


def test_alembic_writes_the_same_as_sql(alembic: Call, conn, dsn: str, new_dsn):
    conn.execute(alembic("upgrade", "head", "--sql").encode())
    sources = "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'mvrefresh'::regnamespace"
    with Database(dsn) as db, Database(new_dsn()) as other:
        with db.dedicated() as connection, other.dedicated() as applied:
            db.schema.check(connection)
            other.schema.apply(applied)
            assert sorted(connection.execute(sources)) == sorted(applied.execute(sources))


def test_alembic_shares_its_transaction(alembic: Call, conn):
    conn.execute("CREATE SCHEMA mvrefresh")
    conn.execute("CREATE TABLE mvrefresh.refresh_metrics (id int)")  # it cannot be adopted
    with pytest.raises(AssertionError, match="success"):
        alembic("upgrade", "head")
    assert conn.execute("SELECT to_regclass('mvrefresh.state')").fetchone() == (None,)
    assert conn.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,)

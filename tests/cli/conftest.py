"""The command line, called in this process, on a fresh database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from click.testing import CliRunner, Result

from mvrefresh.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import psycopg

    Call = Callable[..., Result]


@pytest.fixture
def call() -> Call:
    """Calls `mvrefresh`, without a database in the environment."""

    def run(*args: str, **env: str) -> Result:
        clean = {"MVREFRESH_DSN": None, "COLUMNS": None, "FORCE_COLOR": None, "NO_COLOR": None}
        result = CliRunner(catch_exceptions=False).invoke(app, args, env={**clean, **env})
        assert result.stderr.count("\n") <= 1 or "--verbose" in args
        return result

    return run


@pytest.fixture
def mvrefresh(call: Call, dsn: str) -> Call:
    """Calls `mvrefresh` with the test's database in the environment."""

    def run(*args: str, **env: str) -> Result:
        return call(*args, **{"MVREFRESH_DSN": dsn, **env})

    return run


@pytest.fixture
def json_of(mvrefresh: Call) -> Callable[..., Any]:
    """The document that a call with --json answers; nothing else may be written."""

    def run(*args: str, exit_code: int = 0, **env: str) -> Any:
        result = mvrefresh("--json", *args, **env)
        assert result.exit_code == exit_code, result.output
        assert result.stderr == ""
        return orjson.loads(result.stdout)

    return run


@pytest.fixture
def views(conn: psycopg.Connection) -> None:
    """`good` can be refreshed CONCURRENTLY, `plain` cannot, `reader` reads `good`, is empty."""
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    conn.execute("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 100) g")
    conn.execute("CREATE MATERIALIZED VIEW good AS SELECT * FROM t")
    conn.execute("CREATE UNIQUE INDEX good_id ON good (id)")
    conn.execute("CREATE MATERIALIZED VIEW plain AS SELECT v FROM t")
    conn.execute("CREATE MATERIALIZED VIEW reader AS SELECT count(*) AS n FROM good WITH NO DATA")


@pytest.fixture
def installed(mvrefresh: Call) -> None:
    """The library's tables."""
    assert mvrefresh("schema", "--apply").exit_code == 0

"""Every exit code, and that an error is one line or one document."""

from __future__ import annotations

import pytest

from mvrefresh import errors
from mvrefresh.cli.exits import Exit, exit_code

SECRET = "hunter2-s3cret"  # noqa: S105 - of nobody


def error_of(json_of, *args: str, exit_code: int) -> dict[str, str]:
    document = json_of(*args, exit_code=exit_code)
    assert list(document) == ["error"]
    assert list(document["error"]) == ["type", "message"]
    return document["error"]


class TestNotRefreshed:
    @pytest.fixture(autouse=True)
    def broken(self, conn, views, installed):
        conn.execute(
            "CREATE MATERIALIZED VIEW broken AS"
            " SELECT 1 / (SELECT count(*) FROM t WHERE id < 0) AS n WITH NO DATA"
        )
        conn.execute("CREATE MATERIALIZED VIEW above AS SELECT * FROM broken WITH NO DATA")

    def test_refresh(self, mvrefresh):
        result = mvrefresh("refresh")
        assert result.exit_code == Exit.NOT_REFRESHED
        assert "3 of 5 views refreshed" in result.stdout
        assert "broken: division by zero [22012]." in result.stdout
        assert "above: skipped" in result.stdout

    def test_refresh_json(self, json_of):
        document = json_of("refresh", exit_code=1)
        assert document["failed_views"] == ["broken", "above"]
        (failed,) = [o for o in document["outcomes"] if o["view"] == "broken"]
        assert failed["status"] == "failed"
        assert failed["error"]["type"] == "DefinitionFailed"
        assert failed["error"]["sqlstate"] == "22012"

    def test_status_and_history(self, mvrefresh):
        mvrefresh("refresh")
        result = mvrefresh("status")
        assert result.exit_code == Exit.NOT_REFRESHED
        assert "last refresh failed: broken: division by zero" in result.stdout
        history = mvrefresh("history")
        assert history.exit_code == 0
        assert "broken: division by zero" in history.stdout
        assert "skipped upstream" in history.stdout


def test_postgresql_refuses(call, dsn):
    read_only = f"{dsn} options='-c default_transaction_read_only=on'"
    result = call("schema", "--apply", "--dsn", read_only)
    assert result.exit_code == Exit.NOT_REFRESHED
    assert result.stderr.startswith("mvrefresh: cannot execute CREATE SCHEMA in a read-only")


@pytest.mark.usefixtures("views")
@pytest.mark.parametrize(
    "args",
    [
        ("plan", "nope"),
        ("refresh", "nope", "--local"),
        ("plan", "t"),
        ("plan", ""),
        ("plan", '"unfinished'),
        ("plan", "a\0b"),
        ("plan", "x" * 64),
        ("plan", "--method", "magic"),
        ("refresh", "--jobs", "0"),
        ("refresh", "--lock-timeout", "never"),
        ("schema", "--nonsense"),
        ("nonsense",),
        ("list", "--dsn", "nonsense"),
        ("demo", "--stop", "/"),
    ],
)
def test_usage(mvrefresh, json_of, args):
    result = mvrefresh(*args)
    assert result.exit_code == Exit.USAGE
    assert result.stderr.startswith("mvrefresh: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert error_of(json_of, *args, exit_code=2)["message"] == result.stderr[11:-1]


@pytest.mark.usefixtures("views", "installed")
@pytest.mark.parametrize(
    "args", [("history", "nope"), ("history", "--limit", "0"), ("history", "--since", "x")]
)
def test_usage_of_history(mvrefresh, args):
    assert mvrefresh(*args).exit_code == Exit.USAGE


@pytest.mark.usefixtures("views", "installed")
def test_a_name_of_several(mvrefresh, conn, json_of):
    for schema in ("a", "b"):
        conn.execute(f"CREATE SCHEMA {schema}")
        conn.execute(f"CREATE MATERIALIZED VIEW {schema}.mv AS SELECT 1")
    assert mvrefresh("history", "mv").exit_code == Exit.USAGE
    assert error_of(json_of, "plan", "mv", exit_code=2)["type"] == "AmbiguousView"


def test_kinds_of_errors(json_of):
    assert error_of(json_of, "plan", "nope", exit_code=2)["type"] == "UnknownView"
    assert error_of(json_of, "plan", "--nope", exit_code=2)["type"] == "UsageError"
    assert error_of(json_of, "list", "--dsn", "x", exit_code=2)["type"] == "ConfigurationError"


@pytest.mark.parametrize(
    "command", ["list", "plan", "refresh", "status", "watch", "history", "schema"]
)
def test_unavailable(call, command):
    dsn = f"host=127.0.0.1 port=1 dbname=nope password={SECRET}"
    result = call(command, "--dsn", dsn)
    assert result.exit_code == Exit.UNAVAILABLE
    assert result.stderr.startswith("mvrefresh: no connection to the database: ")
    assert SECRET not in result.output
    as_json = call(command, "--dsn", dsn, "--json")
    assert as_json.exit_code == Exit.UNAVAILABLE
    assert '"type": "DatabaseUnavailable"' in as_json.stdout


@pytest.mark.usefixtures("views")
class TestSchema:
    @pytest.mark.parametrize("args", [("refresh",), ("history",), ("schema", "--check")])
    def test_missing(self, mvrefresh, json_of, args):
        result = mvrefresh(*args)
        assert result.exit_code == Exit.SCHEMA
        assert result.stdout == ""
        assert "mvrefresh schema --apply" in result.stderr
        assert "`mvrefresh refresh --local` goes without" in result.stderr
        assert error_of(json_of, *args, exit_code=4)["type"] == "SchemaMissing"

    def test_status_says_so_and_shows_the_rest(self, mvrefresh, json_of):
        result = mvrefresh("status")
        assert result.exit_code == Exit.SCHEMA
        assert "Schema mvrefresh: not installed" in result.stdout
        assert "good" in result.stdout
        assert json_of("status", exit_code=4)["schema"]["status"] == "missing"

    @pytest.mark.parametrize(
        ("sql", "error"),
        [
            ("DELETE FROM mvrefresh.version WHERE version > 1", "SchemaOutdated"),
            ("INSERT INTO mvrefresh.version VALUES (999)", "SchemaTooNew"),
        ],
    )
    def test_another_version(self, json_of, conn, installed, sql, error):
        conn.execute(sql)
        assert error_of(json_of, "refresh", exit_code=4)["type"] == error
        assert error_of(json_of, "schema", "--check", exit_code=4)["type"] == error
        assert json_of("schema")["status"] in ("outdated", "too_new")


@pytest.mark.usefixtures("views", "installed")
@pytest.mark.parametrize(
    "args",
    [
        ("list",),
        ("plan",),
        ("refresh",),
        ("status",),
        ("watch", "--once"),
        ("history",),
        ("schema",),
        ("schema", "--sql"),
    ],
)
def test_no_password_is_shown(call, dsn, args):
    for more in ((), ("--json",), ("--verbose",)):
        result = call(*args, *more, MVREFRESH_DSN=f"{dsn} password={SECRET}")
        assert result.exit_code in (0, 1), result.output
        assert SECRET not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://me:{SECRET}@host:port:nonsense/db",
        f"postgresql://me:x@{SECRET}@127.0.0.1:1/db",
        f"postgresql://me:x/{SECRET}@127.0.0.1:1/db",
        f"postgresql://me:x%zz{SECRET}@127.0.0.1:1/db",
        f"host=x password='{SECRET}",
        f"nonsense {SECRET}",
    ],
)
def test_no_password_of_a_dsn_that_cannot_be_read(call, dsn):
    for more in ((), ("--json",)):
        result = call("list", *more, MVREFRESH_DSN=dsn)
        assert result.exit_code in (Exit.USAGE, Exit.UNAVAILABLE)
        assert SECRET not in result.stdout + result.stderr


def test_every_error_has_a_code():
    open_, seen = [errors.MvrefreshError], set()
    while open_:
        kind = open_.pop()
        seen.add(kind)
        open_ += kind.__subclasses__()
    for kind in seen:
        made = kind.__new__(kind)
        expected = Exit.NOT_REFRESHED
        if issubclass(kind, errors.ConfigurationError | errors.UnknownView):
            expected = Exit.USAGE
        elif issubclass(kind, errors.DatabaseUnavailable):
            expected = Exit.UNAVAILABLE
        elif issubclass(kind, errors.SchemaMissing):
            expected = Exit.SCHEMA
        assert exit_code(made) is expected
    assert exit_code(KeyboardInterrupt()) is Exit.INTERRUPTED

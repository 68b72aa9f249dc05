"""Every command, for people and with --json."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest

pytestmark = pytest.mark.usefixtures("views")

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def test_list(mvrefresh):
    result = mvrefresh("list")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()[2:5]}
    assert list(lines) == ["good", "plain", "reader"]
    assert "concurrent" in lines["good"]
    assert "regular" in lines["plain"]
    assert "\nplain: it has no unique index\n" in result.stdout
    assert lines["reader"].split()[-1] == "good"


def test_list_json(json_of):
    views = json_of("list")["views"]
    assert [view["view"] for view in views] == ["good", "plain", "reader"]
    good, plain, reader = views
    assert good["concurrently"]
    assert good["obstacle"] is None
    assert good["unique_indexes"] == [
        {"name": "good_id", "columns": ["id"], "usable": True, "obstacle": None}
    ]
    assert good["base_tables"] == ["t"]
    assert good["size_bytes"] > 0
    assert plain["obstacle"] == "it has no unique index"
    assert reader["reads"] == ["good"]
    assert not reader["populated"]


def test_plan(mvrefresh):
    result = mvrefresh("plan")
    assert result.exit_code == 0
    order = [line.split()[:3] for line in result.stdout.splitlines()[2:5]]
    assert order == [
        ["1", "good", "concurrent"],
        ["2", "plain", "regular"],
        ["3", "reader", "regular"],
    ]
    assert "3 views in 2 waves, 1 by a blocking refresh." in result.stdout


def test_plan_json(json_of):
    document = json_of("plan", "good", "--cascade", "--method", "regular")
    assert document["method"] == "regular"
    assert document["fallback"] == "regular"
    good, reader = document["steps"]
    assert (good["position"], good["wave"], good["cascaded"]) == (1, 1, False)
    assert (reader["position"], reader["wave"], reader["cascaded"]) == (2, 2, True)
    assert reader["after"] == ["good"]
    assert good["strategy"] == "regular"
    assert good["blocks_readers"]


def test_plan_refuses(mvrefresh, json_of):
    assert json_of("plan", "plain", "--fallback", "never")["steps"][0]["strategy"] is None
    assert "1 refused" in mvrefresh("plan", "plain", "--fallback", "never").stdout
    assert "readers go on" in mvrefresh("plan", "good").stdout


def test_refresh(mvrefresh, installed):
    result = mvrefresh("refresh")
    assert result.exit_code == 0, result.output
    assert "good: refreshing (concurrent)\n" in result.stdout
    assert re.search(
        r"^plain: refreshed in .* ms \(regular, 100 rows\)$", result.stdout, re.MULTILINE
    )
    assert re.search(r"^3 views refreshed in .*s\.$", result.stdout, re.MULTILINE)
    again = mvrefresh("refresh", "good")
    assert re.search(r"good: refreshing \(concurrent, usually .* ms\)", again.stdout)
    assert re.search(r"good: unchanged in .* ms \(concurrent, \+0 -0 rows\)", again.stdout)


def test_refresh_json(json_of, installed):
    document = json_of("refresh", "good", "reader", "--jobs", "1", "--analyze")
    assert document["success"]
    assert not document["interrupted"]
    assert document["results"] == {"good": True, "reader": True}
    assert document["failed_views"] == []
    assert ISO.fullmatch(document["started_at"])
    good, reader = document["outcomes"]
    assert good["status"] == "succeeded"
    assert good["strategy"] == "concurrent"
    assert reader["rows_inserted"] == 1
    assert good["refresh_no"] == 1
    assert good["record_id"]
    assert good["error"] is None
    assert ISO.fullmatch(good["content_as_of"])


def test_refresh_without_the_tables(json_of):
    document = json_of("refresh", "--local")
    assert document["success"]
    assert document["outcomes"][0]["refresh_no"] is None


def test_refresh_in_lines_without_the_tables(mvrefresh):
    assert "3 views refreshed" in mvrefresh("refresh", "--local").stdout


def test_refresh_live(mvrefresh, installed):
    mvrefresh("refresh", "good")
    result = mvrefresh("refresh", "good", FORCE_COLOR="1", COLUMNS="80", TERM="xterm")
    assert result.exit_code == 0
    screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", result.stdout)
    head = screen.splitlines()[0].split()
    assert head == ["View", "State", "Method", "Took", "Usually", "Rows"]
    assert re.search(r"good +unchanged +concurrent +.* m?s +.* m?s +\+0 -0", screen)


def test_status_is_well(mvrefresh, installed):
    mvrefresh("refresh")
    result = mvrefresh("status")
    assert result.exit_code == 0
    assert "healthy, PostgreSQL" in result.stdout
    assert "Schema mvrefresh: version" in result.stdout
    assert re.search(r"good +just now +1 +succeeded", result.stdout)
    assert result.stdout.endswith("All is well.\n")


def test_status_says_what_is_suspended(mvrefresh, json_of, conn, installed):
    mvrefresh("refresh")
    conn.execute(
        "INSERT INTO mvrefresh.schedule"
        " (view, last_started_at, slot, schedule, failures, suspended_at) VALUES"
        " ('good'::regclass, now(), now(), 'every 60 s', 5, now()),"
        " ('reader'::regclass, now(), now(), 'every 60 s', 0, NULL),"
        " ('plain'::regclass, now(), now(), 'every 60 s', 2, NULL)"
    )
    document = json_of("status", exit_code=1)
    assert document["problems"] == [
        "good is suspended, since good failed 5 times",
        "reader is suspended, since good failed 5 times",
    ]
    of = {view["view"]: view for view in document["views"]}
    assert {name: view["suspended_because"] for name, view in of.items()} == {
        "good": "good",
        "plain": None,
        "reader": "good",
    }
    assert ISO.fullmatch(of["good"]["suspended_at"])
    assert [of[name]["failures"] for name in ("good", "plain", "reader")] == [5, 2, 0]
    assert "good is suspended, since good failed 5 times" in mvrefresh("status").stdout


def test_status_json(json_of, installed):
    json_of("refresh", "good")
    document = json_of("status", exit_code=1)
    assert not document["healthy"]
    assert document["problems"] == ["reader is not populated: whoever reads it gets an error"]
    assert ISO.fullmatch(document["checked_at"])
    assert document["database"]["status"] == "healthy"
    assert document["schema"]["status"] == "current"
    good, plain, _ = document["views"]
    assert good["last_status"] == "succeeded"
    assert 0 <= good["age_seconds"] < 60
    assert ISO.fullmatch(good["last_refresh_at"])
    assert good["refresh_no"] == 1
    assert good["size_bytes"] > 0
    assert plain["last_status"] is None
    assert plain["age_seconds"] is None


def test_status_of_a_view_that_others_refreshed(mvrefresh, json_of, conn, installed):
    mvrefresh("refresh")
    conn.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY good")
    good, plain, _ = json_of("status")["views"]
    assert good["changed_by_others"]
    assert good["refresh_no"] is good["content_token"] is None
    assert good["content_as_of"] is good["age_seconds"] is None
    assert good["last_status"] == "succeeded"
    assert not plain["changed_by_others"]
    assert plain["refresh_no"] == 1
    result = mvrefresh("status")
    assert re.search(r"^good +by others +- +succeeded", result.stdout, re.MULTILINE)
    assert "\ngood: somebody else has refreshed or altered it since" in result.stdout
    mvrefresh("refresh", "good")
    assert json_of("status")["views"][0]["refresh_no"] == 2


def test_history(mvrefresh, installed):
    assert mvrefresh("history").stdout == "No refresh is on record.\n"
    mvrefresh("refresh")
    mvrefresh("refresh", "good")
    result = mvrefresh("history")
    assert result.exit_code == 0
    assert re.search(r"^View +Runs +Failed +p50 +p95 +p99 +Longest$", result.stdout, re.MULTILINE)
    assert re.search(r"^good +2 +0 ", result.stdout, re.MULTILINE)
    assert re.search(r"^all +4 +0 ", result.stdout, re.MULTILINE)
    assert "4 records shown, 4 runs in all, 100 % succeeded." in result.stdout


def test_history_json(json_of, installed):
    json_of("refresh")
    json_of("refresh", "good")
    document = json_of("history", '"good"', "--limit", "1", "--since", "1h")
    assert document["view"] == "good"
    assert ISO.fullmatch(document["since"])
    (record,) = document["records"]
    assert record["view_name"] == "good"
    assert record["trigger"] == "cli"
    assert ISO.fullmatch(record["created_at"])
    assert document["summary"]["total_count"] == 2
    assert document["summary"]["p99_duration_ms"] > 0
    assert document["by_view"]["good"] == document["summary"]
    assert json_of("history", "--since", "2999-01-01")["records"] == []


def test_history_of_a_view_that_is_no_more(json_of, conn, installed):
    json_of("refresh", "good")
    conn.execute("DROP MATERIALIZED VIEW good CASCADE")
    assert json_of("history", "good")["summary"]["total_count"] == 1


def test_schema(mvrefresh, json_of):
    assert mvrefresh("schema").stdout.startswith("Schema mvrefresh: not installed")
    before = json_of("schema")
    assert (before["installed"], before["status"]) == (0, "missing")
    applied = json_of("schema", "--apply")
    assert applied["before"] == 0
    assert applied["installed"] == applied["needed"]
    assert applied["status"] == "current"
    assert "current" in mvrefresh("schema").stdout
    assert mvrefresh("schema", "--check").exit_code == 0
    assert mvrefresh("schema", "--apply").exit_code == 0


def test_schema_is_upgraded(mvrefresh, conn, installed):
    conn.execute("DROP FUNCTION mvrefresh.finish_refresh")
    conn.execute("DROP TABLE mvrefresh.schedule")
    conn.execute("DROP FUNCTION mvrefresh.resume_schedule CASCADE")
    conn.execute("DELETE FROM mvrefresh.version WHERE version >= 3")
    assert "outdated: version" in mvrefresh("schema").stdout
    assert mvrefresh("schema", "--check").exit_code == 4
    assert "upgraded from version 2" in mvrefresh("schema", "--apply").stdout
    assert mvrefresh("schema", "--check").exit_code == 0


def test_the_schema_of_sql_is_the_one_that_is_needed(mvrefresh, json_of, conn, call):
    script = call("schema", "--sql", "--schema", "Other").stdout
    assert call("schema", "--sql", "--schema", "Other", "--json").stdout.startswith('{\n  "sql":')
    conn.execute(script)
    assert mvrefresh("schema", "--check", "--schema", "Other").exit_code == 0
    assert json_of("refresh", "good", "--schema", "Other")["success"]


def test_other_schemas(json_of, conn):
    where = ("--schema", "My State", "--metrics-schema", "audit")
    json_of(*where, "schema", "--apply")
    json_of(*where, "refresh", "good")
    assert conn.execute("SELECT count(*) FROM audit.refresh_metrics").fetchone() == (1,)
    assert json_of("status", *where, exit_code=1)["schema"]["schema"] == "My State"
    assert json_of("history", *where)["summary"]["total_count"] == 1


@pytest.mark.parametrize("command", ["list", "plan", "status", "history", "schema"])
def test_options_may_stand_before_the_command(mvrefresh, installed, command):
    before, after = mvrefresh("--json", command), mvrefresh(command, "--json")
    assert before.stdout[:2] == after.stdout[:2] == "{\n"


def test_an_option_before_the_command_outdoes_the_environment(call, dsn):
    assert call("--dsn", dsn, "list", MVREFRESH_DSN="host=/nowhere").exit_code == 0
    assert call("list", "--dsn", dsn, MVREFRESH_DSN="host=/nowhere").exit_code == 0
    assert call("list", MVREFRESH_DSN="host=/nowhere").exit_code == 3


def test_libpq_s_environment_is_the_last_resort(call, conn):
    info = conn.info
    env = {"PGHOST": info.host, "PGPORT": str(info.port), "PGDATABASE": info.dbname}
    assert "good" in call("list", PGUSER=info.user, **env).stdout


def test_verbose(mvrefresh, installed):
    result = mvrefresh("refresh", "good", "--verbose")
    assert re.search(r"INFO +good: succeeded in", result.stderr)
    assert "good: refreshed" in result.stdout


@pytest.mark.parametrize(
    "command", ["", "list", "plan", "refresh", "status", "watch", "history", "schema", "demo"]
)
def test_help(call, command):
    result = call(*command.split(), "--help")
    assert result.exit_code == 0
    assert "--dsn" in result.stdout
    assert "--json" in result.stdout


def test_without_a_command(call):
    result = call()
    assert result.exit_code == 2
    assert result.stdout.startswith("Usage: mvrefresh ")
    assert "which command?" in call("--json").stdout


def test_help_tells_the_exit_codes(call):
    shown = call("--help").stdout
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130 "):
        assert f"\n    {code}" in shown


def test_version(call):
    assert call("--version").stdout == f"mvrefresh {version('mvrefresh')}\n"


@pytest.mark.parametrize("command", ["list", "plan", "status", "history"])
def test_tables_fit_into_80_columns(mvrefresh, conn, installed, command):
    conn.execute("ALTER MATERIALIZED VIEW good RENAME TO mv_entity_hierarchy_stats")
    mvrefresh("refresh")
    shown = mvrefresh(command, COLUMNS="80").stdout
    lines = [line for line in shown.splitlines() if line.lstrip("1 ").startswith("mv_entity")]
    assert lines
    assert max(map(len, lines)) <= 80
    assert all("mv_entity_hierarchy_stats" in line for line in lines)


def test_nothing_to_do(mvrefresh, conn):
    conn.execute("DROP TABLE t CASCADE")
    assert "no materialized view" in mvrefresh("list").stdout
    assert "nothing to refresh" in mvrefresh("plan").stdout
    assert "0 views refreshed" in mvrefresh("refresh", "--local").stdout

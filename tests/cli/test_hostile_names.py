"""What a view is called is text: it is never markup, never a terminal's command, never SQL."""

from __future__ import annotations

import pytest
from psycopg import sql

from mvrefresh.refreshing.view import ViewName

NAMES = [
    "[red]x[/red]",
    "[link=https://example.org]x[/link]",
    "[/]",
    ":boom:",
    'quo"ted',
    "it's",
    "My View",
    "a.b",
    "Ünïcode 視圖 🐘",
    "esc\x1b[31m",
    "two\nlines",
    "right\u202eleft",
    "%s {} \\",
    "--json",
    "x" * 63,
]


@pytest.fixture
def labels(conn, mvrefresh) -> list[str]:
    """One view of each name; their labels."""
    conn.execute("CREATE TABLE t AS SELECT 1 AS n")
    for name in NAMES:
        query = sql.SQL("CREATE MATERIALIZED VIEW {} AS SELECT n FROM t")
        conn.execute(query.format(sql.Identifier(name)))
    assert mvrefresh("schema", "--apply").exit_code == 0
    return [str(ViewName("public", name)) for name in NAMES]


def shown(text: str) -> str:
    """As a person should see it."""
    for char in "\x1b\n\u202e":
        text = text.replace(char, char.encode("unicode_escape").decode())
    return text


@pytest.mark.parametrize(
    "command", ["list", "plan", "refresh", "status", "history", "watch --once"]
)
def test_for_people(labels, mvrefresh, command):
    mvrefresh("refresh")
    result = mvrefresh(*command.split(), COLUMNS="200")
    assert result.exit_code == 0
    assert not {"\x1b", "\u202e"} & set(result.stdout)
    for label in labels:
        assert shown(label) in result.stdout
    assert mvrefresh(*command.split(), COLUMNS="80").exit_code == 0


def test_as_json(labels, json_of):
    assert set(json_of("refresh", "--", *labels)["results"]) == set(labels)
    assert {view["view"] for view in json_of("list")["views"]} == set(labels)
    assert {view["name"] for view in json_of("status")["views"]} == set(NAMES)
    assert {view["view"] for view in json_of("watch", "--once")["views"]} == set(labels)
    assert {step["view"] for step in json_of("plan", "--", *NAMES)["steps"]} == set(labels)
    assert {r["view_name"] for r in json_of("history")["records"]} == set(labels)
    for label in labels:
        assert json_of("history", "--", label)["summary"]["total_count"] == 1


def test_in_the_live_table(labels, mvrefresh):
    result = mvrefresh("refresh", FORCE_COLOR="1", COLUMNS="200", TERM="xterm")
    assert result.exit_code == 0
    for label in labels:
        assert shown(label) in result.stdout
    assert not {"\x1b[31m", "\u202e"} & set(result.stdout)


def test_in_an_error(mvrefresh):
    result = mvrefresh("plan", "[red]\x1b[31mx\nfoo")
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr
    assert "[red]" in result.stderr

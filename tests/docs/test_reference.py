"""The reference is whole: what exists has its place there, and what stands there exists."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, get_args

import pytest
from tests import documents

import mvrefresh
import mvrefresh.testing
from mvrefresh import (
    RefreshPolicy,
    RefreshRecord,
    Schema,
    ServiceStatus,
    Status,
    UsageSource,
    aio,
    errors,
    events,
)
from mvrefresh.postgres import faults, locks, schema
from mvrefresh.service.status import ViewStatus

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = documents.DOCS / "reference"


def documented(page: Path) -> set[str]:
    """The names for which a page has an auto directive."""
    text = page.read_text(encoding="utf-8")
    return set(
        re.findall(r"^\.\. auto(?:class|exception|function|data):: (\w+)$", text, re.MULTILINE)
    )


def error_classes() -> set[str]:
    return {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.MvrefreshError)
    }


def test_every_public_name_is_in_the_reference():
    public = {*mvrefresh.__all__, *mvrefresh.testing.__all__, *aio.__all__}
    assert documented(REFERENCE / "api.md") == public


def test_every_key_of_a_status_is_in_the_reference():
    """That of the service, and that of each view."""
    tables = documents.tables(REFERENCE / "api.md", "The service")
    shown = [{key for row in rows[1:] for key in row[0].split(", ")} for rows in tables]
    assert shown == [set(ServiceStatus.__annotations__), set(ViewStatus.__annotations__)]


def test_every_error_is_in_the_reference():
    page = REFERENCE / "errors.md"
    assert documented(page) == error_classes()
    tree = next(b.text for b in documents.blocks(page) if b.text.startswith("MvrefreshError"))
    assert tree in inspect.cleandoc(errors.__doc__ or "").replace("\n    ", "\n") + "\n"


def sqlstates(text: str) -> list[str]:
    return re.findall(r"\b[0-9A-Z]{5}\b", text)


def test_every_sqlstate_is_in_the_reference():
    shown = {
        state: names
        for states, names in documents.table(
            REFERENCE / "errors.md", "Which SQLSTATE becomes which error"
        )
        for state in sqlstates(states)
    }
    for state, kind in faults._MEANINGS.items():
        assert kind.__name__ in shown.pop(state)
    more_than_the_code_decides = {"21000", faults.UNDEFINED_TABLE}
    ours = {faults.RECORD_REFUSED, faults.ANOTHER_VIEW}
    assert set(shown) == more_than_the_code_decides | ours


def test_what_is_tried_again_is_in_the_reference():
    page = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    section = page.partition("## What is tried again")[2].partition("\n## ")[0]
    assert set(sqlstates(section)) == faults._TRANSIENT


def test_every_event_is_in_the_reference():
    names = {event.__name__ for event in get_args(events.Event)}
    page = REFERENCE / "events.md"
    assert documented(page) == names
    assert {row[0] for row in documents.table(page, "Events")} == names


def test_every_status_is_explained():
    page = documents.DOCS / "explanation/statuses.md"
    rows = documents.table(page, "What a status means")
    said = {"null": None, "true": True, "false": False}
    for status, _, success, truthy, attempts in rows:
        after, _, before = success.partition("; ")
        never_begun = before.partition(" ")[0] or after  # "null if it never began"
        least = 0 if attempts.startswith("0") else 1
        for tried in {least, 1}:
            outcome = mvrefresh.RefreshOutcome("v", Status(status), None, attempts=tried)
            assert outcome.success is said[after if tried else never_begun]
            assert bool(outcome) is (truthy == "yes")
    missing = {status.value for status in Status} - {row[0] for row in rows}
    assert all(f"`{status}`" in page.read_text() for status in missing)


def test_every_setting_of_the_policy_is_explained():
    rows = documents.table(REFERENCE / "policy.md", "Settings")
    assert [(name, default) for name, default, _ in rows] == [
        (field.name, repr(field.default)) for field in dataclasses.fields(RefreshPolicy)
    ]
    arguments = documents.table(REFERENCE / "policy.md", "Arguments of refresh and plan")
    for function in (mvrefresh.plan, mvrefresh.refresh):
        parameters = inspect.signature(function).parameters
        for name, default, _ in arguments:
            assert repr(parameters[name].default) == default


COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'no' ELSE 'yes' END
  FROM pg_attribute
 WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
 ORDER BY attnum
"""


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("mvrefresh.state", "mvrefresh.state"),
        ("mvrefresh.schedule", "mvrefresh.schedule"),
        ("refresh_metrics", "mvrefresh.refresh_metrics"),
        ("mvrefresh.version", "mvrefresh.version"),
    ],
)
def test_tables_are_as_documented(conn, heading, table):
    Schema().apply(conn)
    shown = [tuple(row[:3]) for row in documents.table(REFERENCE / "tables.md", heading)]
    assert shown == conn.execute(COLUMNS, [table]).fetchall()


def test_the_usage_log_and_its_function_are_as_documented(conn):
    Schema().apply(conn)
    UsageSource().create_function(conn)
    log, result = documents.tables(REFERENCE / "tables.md", "The usage refresh log")
    columns = conn.execute(COLUMNS, ["archon_mcp_view_refresh_log"]).fetchall()
    assert [tuple(row[:3]) for row in log[1:]] == columns
    (given,) = conn.execute(
        "SELECT pg_get_function_result('refresh_mcp_usage_views'::regproc)"
    ).fetchone()
    assert f"TABLE({', '.join(f'{name} {kind}' for name, kind, _ in result[1:])})" == given


def test_every_table_is_documented(conn):
    Schema().apply(conn)
    headings = {h.replace("`", "") for h in documents.headings(REFERENCE / "tables.md")}
    relations = """
        SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE nspname = 'mvrefresh' AND relkind = 'r'
        UNION ALL
        SELECT nspname || '.' || proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
         WHERE nspname = 'mvrefresh'"""
    parts = {row[0] for row in documents.table(REFERENCE / "tables.md", "The other functions")}
    found = {name for (name,) in conn.execute(relations)}
    assert parts <= found
    for name in found:
        assert {name, name.removeprefix("mvrefresh.")} & (headings | parts), name


def test_the_function_for_refreshes_from_sql_is_as_documented(conn):
    """Its arguments with their defaults, and the columns of its row."""
    Schema().apply(conn)
    (arguments, result) = conn.execute(
        "SELECT pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc"
        " WHERE proname = 'refresh_view'"
    ).fetchone()
    taken, given = documents.tables(REFERENCE / "tables.md", "mvrefresh.refresh_view")
    described = [
        f"{name} {kind} DEFAULT {default}::{kind}".replace("NULL::text", "NULL")
        if default
        else f"{name} {kind}"
        for name, kind, default, _ in taken[1:]
    ]
    described += [f"OUT {name} {kind}" for name, kind, _ in given[1:]]
    assert ", ".join(described) == arguments
    assert result == "record"


def test_record_and_table_have_the_same_fields():
    shown = {row[0] for row in documents.table(REFERENCE / "tables.md", "refresh_metrics")}
    assert shown == {field.name for field in dataclasses.fields(RefreshRecord)}


def test_lock_keys_are_as_documented():
    (view, install) = documents.table(REFERENCE / "tables.md", "Advisory locks")
    assert f"({locks.SPACE}, oid)" in view[1]
    assert f"({schema._LOCK})" in install[1]

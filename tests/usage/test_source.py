"""The usage roll-ups against a naive oracle."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

import mvrefresh
from mvrefresh import Database, Schema, UsageSource
from mvrefresh.errors import ConfigurationError
from mvrefresh.metrics.store import percentile_cont

ZONES = ["UTC", "Asia/Kathmandu", "America/St_Johns"]


def events():
    return st.lists(
        st.tuples(
            st.integers(0, 60 * 24 * 4),  # minutes ago
            st.sampled_from(["search", "rag", None]),
            st.sampled_from(["a", "b", None]),
            st.booleans(),
            st.one_of(st.none(), st.floats(0, 1e4)),
        ),
        max_size=30,
    )


def oracle(rows, unit, zone):
    """(bucket, category, tool) -> calls, successes, errors, average, p95."""
    groups = defaultdict(list)
    for ts, category, tool, success, duration in rows:
        local = ts.astimezone(ZoneInfo(zone))
        start = local.replace(minute=0, second=0, microsecond=0)
        if unit == "day":
            start = start.replace(hour=0)
        groups[start.astimezone(UTC), category or "", tool or ""].append((success, duration))
    found = {}
    for place, calls in groups.items():
        durations = sorted(d for _, d in calls if d is not None)
        found[place] = (
            len(calls),
            sum(s for s, _ in calls),
            sum(not s for s, _ in calls),
            pytest.approx(sum(durations) / len(durations)) if durations else None,
            pytest.approx(percentile_cont(durations, 0.95)) if durations else None,
        )
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_the_roll_ups_hold_what_adding_up_gives(conn, zone):
    source = UsageSource(time_zone=zone)
    source.create_events(conn)
    source.create(conn)

    @settings(max_examples=20)
    @given(events())
    def agrees(drawn):
        conn.execute("TRUNCATE archon_mcp_usage_events")
        now = datetime.now(UTC)
        rows = [(now - timedelta(minutes=ago), *rest) for ago, *rest in drawn]
        conn.cursor().executemany(
            "INSERT INTO archon_mcp_usage_events (ts, tool_category, tool_name, success,"
            " duration_ms) VALUES (%s, %s, %s, %s, %s)",
            rows,
        )
        for view, unit in zip(source.views, ("hour", "day"), strict=True):
            conn.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")
            found = conn.execute(f"SELECT * FROM {view}").fetchall()
            assert {(row[0].astimezone(UTC), *row[1:3]): tuple(row[3:]) for row in found} == oracle(
                rows, unit, zone
            )

    agrees()


def test_the_window_begins_with_a_whole_bucket(conn):
    """So that a bucket does not shrink event by event before it goes."""
    source = UsageSource(window=timedelta(days=2))
    source.create_events(conn)
    conn.execute(
        "INSERT INTO archon_mcp_usage_events (ts) SELECT date_trunc('day', now(), 'UTC')"
        " - interval '4 days' + g * interval '1 hour' FROM generate_series(0, 24 * 4) g"
    )
    source.create(conn)
    days = conn.execute("SELECT call_count FROM archon_mcp_usage_daily ORDER BY 1").fetchall()
    buckets = conn.execute(
        "SELECT day_bucket, call_count FROM archon_mcp_usage_daily ORDER BY 1"
    ).fetchall()
    assert len(days) == 3
    assert buckets[0][1] == 24
    (oldest,) = conn.execute("SELECT min(hour_bucket) FROM archon_mcp_usage_hourly").fetchone()
    (cut,) = conn.execute("SELECT date_trunc('hour', now() - interval '2 days', 'UTC')").fetchone()
    assert oldest == cut


def test_the_readers_query_and_a_refresh(conn, dsn):
    source = UsageSource()
    source.create_events(conn)
    source.create(conn, with_data=False)
    Schema().apply(conn)
    conn.execute("INSERT INTO archon_mcp_usage_events (tool_category) VALUES ('rag'), ('rag')")
    with Database(dsn) as database:
        plan = mvrefresh.plan(database)
        assert {step.view.clock_functions for step in plan} == {("now",)}
        assert mvrefresh.refresh(database, source.views)
        assert {o.strategy for o in mvrefresh.refresh(database)} == {"concurrent"}
    rows = conn.execute(
        "SELECT hour_bucket, tool_category, sum(call_count) FROM archon_mcp_usage_hourly"
        " WHERE hour_bucket >= now() - interval '24 hours' GROUP BY 1, 2 ORDER BY 1 DESC LIMIT 10"
    ).fetchall()
    assert [row[1:] for row in rows] == [("rag", 2)]


def test_a_hosts_own_names(conn):
    conn.execute(
        'CREATE SCHEMA "S p"; CREATE TABLE "S p"."E;v" ("T s" timestamptz, "C" text, "N" text,'
        ' "O" boolean, "D" numeric)'
    )
    source = UsageSource(
        "E;v",
        schema="S p",
        ts="T s",
        category="C",
        tool="N",
        success="O",
        duration="D",
        hourly_view='h"',
        daily_view="d%s{}",
    )
    source.create(conn)
    conn.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {source.views[1]}")
    source.drop(conn)
    conn.execute(source.ddl().encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": timedelta(0)},
        {"window": timedelta(days=-1)},
        {"time_zone": "Mars/Olympus"},
        {"time_zone": ""},
        {"time_zone": "../../etc/passwd"},
        {"daily_view": "archon_mcp_usage_hourly"},
        {"ts": ""},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        UsageSource(**wrong)


def test_what_is_there_is_not_created_again(conn):
    source = UsageSource()
    source.create_events(conn)
    with pytest.raises(ConfigurationError, match='events" already exists: leave it, or DROP TABLE'):
        source.create_events(conn)
    source.create(conn)
    there = 'relation "archon_mcp_usage_hourly" already exists: drop.connection. first, or leave it'
    with pytest.raises(ConfigurationError, match=there):
        source.create(conn)


def test_a_missing_column_is_named_before_anything_is_touched(conn):
    conn.execute("CREATE TABLE archon_mcp_usage_events (ts timestamp, success boolean)")
    with pytest.raises(ConfigurationError, match="tool_category, tool_name, duration_ms"):
        UsageSource().create(conn)
    conn.execute(
        "ALTER TABLE archon_mcp_usage_events ADD tool_category text, ADD tool_name text,"
        " ADD duration_ms float8"
    )
    with pytest.raises(ConfigurationError, match="timestamptz is needed"):
        UsageSource().create(conn)

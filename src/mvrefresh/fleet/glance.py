"""The statements of one look of `watch`: one pipeline, however many views there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql
from psycopg.rows import class_row, namedtuple_row

from mvrefresh.fleet.going import HELD
from mvrefresh.metrics.store import RefreshRecord
from mvrefresh.postgres.slots import Tick, read_tick

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from psycopg import Cursor

    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.view import MaterializedView

LATEST: Final = 10
"""Records of a first look."""

_MOST: Final = 1000  # records of any other

_STATES = sql.SQL("""
SELECT c.oid::bigint AS oid, c.relispopulated AS populated, s.refresh_no, s.content_as_of,
       s.xmin = c.xmin AS valid
  FROM pg_class c LEFT JOIN {state} s ON s.view = c.oid
 WHERE c.oid = ANY (%s::oid[])
""")
_RECORD = sql.SQL("""
r.id, r.view_name, r.refresh_duration_ms, r.success, r.created_at, r.error_message,
coalesce(r.status, CASE WHEN r.success THEN 'succeeded' ELSE 'failed' END) AS status,
r.strategy, r.reason, r.trigger, r.run_id, r.refresh_no, r.host, r.rows_inserted, r.rows_deleted
""")
_LAST = sql.SQL("""
SELECT l.* FROM unnest(%s::text[]) AS v (label) CROSS JOIN LATERAL (
    SELECT {record} FROM {metrics} r WHERE r.view_name = v.label
     ORDER BY r.created_at DESC, r.id DESC LIMIT 1) l
""")
_NEW = sql.SQL("""
SELECT {record} FROM {metrics} r
 WHERE (%(labels)s::text[] IS NULL OR r.view_name = ANY (%(labels)s))
   AND (%(since)s::timestamptz IS NULL OR r.created_at >= %(since)s)
 ORDER BY r.created_at DESC, r.id DESC LIMIT %(most)s
""")
# Of the latest only: how long it took a year ago is no guide, and so it stays quick.
_USUAL = sql.SQL("""
SELECT v.label, (
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY l.refresh_duration_ms)
             FILTER (WHERE l.success)
      FROM (SELECT r.refresh_duration_ms, r.success
              FROM {metrics} r WHERE r.view_name = v.label
             ORDER BY r.created_at DESC, r.id DESC LIMIT 100) l) AS usual
  FROM unnest(%s::text[]) AS v (label)
""")
_FLEET = b"""
SELECT pg_backend_pid() AS backend, a.name, a.since
  FROM (SELECT) one
  LEFT JOIN (SELECT application_name AS name, min(backend_start) AS since FROM pg_stat_activity
              WHERE datname = current_database() AND application_name LIKE 'mvrefresh service %'
              GROUP BY application_name) a ON true
 ORDER BY a.since, a.name
"""


@dataclass(frozen=True, slots=True)
class Glance:
    """The answers of one pipeline.

    Attributes:
        tick: The clock, the slots, and the fingerprint of the catalog.
        states: Rows with `populated`, `refresh_no`, `content_as_of`, `valid` (null: there is no
            state row; false: others have changed the view since), by oid.
        last: The newest record of each view, by label.
        records: Those of all views, newest first.
        usual: Median milliseconds, by label.
        running: As `going.HELD` has them.
        fleet: Rows with `name`, `since`; None behind a transaction pooler, which names its server
            connections after whoever came last.
    """

    tick: Tick
    states: dict[int, Any]
    last: dict[str, RefreshRecord]
    records: list[RefreshRecord]
    usual: dict[str, float | None]
    running: list[Any]
    fleet: list[Any] | None


def read_glance(
    connection: AnyConnection,
    schema: Schema,
    views: Sequence[MaterializedView],
    *,
    unusual: Sequence[str],
    only_these: bool,
    since: datetime | None,
) -> Glance:
    """Look at the views, at what is going on, and at the clock.

    Args:
        connection: In autocommit.
        schema: The library's tables.
        views: Those that are looked at.
        unusual: Labels of those whose usual duration is wanted, too.
        only_these: Records of these views only, not of all.
        since: Records since then; None: the latest few.
    """
    labels = [view.label for view in views]
    names = {"record": _RECORD, "metrics": schema.metrics_table}
    rows: list[Cursor[Any]] = [connection.cursor(row_factory=namedtuple_row) for _ in range(4)]
    running, states, usual, fleet = rows
    last, records = (connection.cursor(row_factory=class_row(RefreshRecord)) for _ in range(2))
    with connection.pipeline():
        running.execute(HELD)
        states.execute(
            _STATES.format(state=schema.identifier("state")), ([view.oid for view in views],)
        )
        last.execute(_LAST.format(**names), (labels,))
        records.execute(
            _NEW.format(**names),
            {
                "labels": labels if only_these else None,
                "since": since,
                "most": LATEST if since is None else _MOST,
            },
        )
        if unusual:
            usual.execute(_USUAL.format(**names), (list(unusual),))
        fleet.execute(_FLEET)
        tick = read_tick(connection, schema)  # the last: it waits for the answers
    members = fleet.fetchall()
    pooled = members[0].backend != connection.info.backend_pid
    return Glance(
        tick=tick,
        states={row.oid: row for row in states},
        last={record.view_name: record for record in last},
        records=records.fetchall(),
        usual={row.label: row.usual for row in usual} if unusual else {},
        running=running.fetchall(),
        fleet=None if pooled else [member for member in members if member.name],
    )

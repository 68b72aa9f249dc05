"""What the database says of refreshes: history, state, and the locks of those that go on.

History has every outcome; who keeps his records elsewhere leaves a state row alone. One statement,
so that one snapshot answers: a refresh commits both.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from psycopg import sql

from mvrefresh.fleet.cursor import OVERLAP
from mvrefresh.fleet.going import HELD

if TYPE_CHECKING:
    from collections.abc import Collection

    from mvrefresh.postgres.schema import Schema
    from mvrefresh.postgres.wire import Wire

MOST: Final = 10_000
"""Outcomes that are read at a time; of more, the newest."""

# The moment is that of the statement's arrival, before its snapshot: what is not in it, the next
# reads. A state row is taken whose run is not known, however long ago it was: a refresh in a
# transaction of somebody's own may commit long after its time.
_READ = sql.SQL("""
WITH state AS MATERIALIZED (
    SELECT {label_of}(s.view) AS label, s.*
      FROM {state} s JOIN pg_catalog.pg_class c ON c.oid = s.view AND c.xmin = s.xmin
     WHERE s.last_finished_at >= {since}::timestamptz
        OR s.last_run_id <> ALL (coalesce({known}::uuid[], ARRAY[s.last_run_id]))
), record AS MATERIALIZED (
    SELECT r.* FROM {metrics} r
     WHERE r.created_at >= {since}::timestamptz AND isfinite(r.created_at)
     ORDER BY r.created_at DESC, r.id DESC LIMIT {most}
)
SELECT pg_catalog.json_build_object('now', statement_timestamp(), 'going', (
           SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                      'view', {label_of}(h.view), 'pid', h.pid, 'since', h.since,
                      'application', h.application))
             FROM ({held}) h))
 UNION ALL
SELECT pg_catalog.json_build_object(
           'at', r.created_at, 'record_id', r.id, 'run_id', r.run_id, 'view', r.view_name,
           'status', coalesce(r.status, CASE WHEN r.success THEN 'succeeded' ELSE 'failed' END),
           'success', r.success, 'strategy', r.strategy, 'reason', r.reason,
           'duration_ms', r.refresh_duration_ms, 'error_message', r.error_message,
           'trigger', r.trigger, 'host', r.host, 'refresh_no', r.refresh_no,
           'rows_inserted', r.rows_inserted, 'rows_deleted', r.rows_deleted,
           'content_token', s.content_token, 'content_as_of', s.content_as_of)
  FROM record r LEFT JOIN state s ON s.last_run_id = r.run_id AND s.label = r.view_name
 UNION ALL
SELECT pg_catalog.json_build_object(
           'at', s.last_finished_at, 'record_id', NULL, 'run_id', s.last_run_id, 'view', s.label,
           'status', 'succeeded', 'success', true, 'strategy', s.last_strategy, 'reason', NULL,
           'duration_ms', s.last_duration_ms, 'error_message', NULL,
           'trigger', NULL, 'host', NULL, 'refresh_no', s.refresh_no,
           'rows_inserted', NULL, 'rows_deleted', NULL,
           'content_token', s.content_token, 'content_as_of', s.content_as_of)
  FROM state s
 WHERE NOT EXISTS (SELECT FROM record r WHERE r.run_id = s.last_run_id AND r.view_name = s.label)
""")


_JUST_NOW: Final = sql.SQL("(statement_timestamp() - {})").format(sql.Literal(OVERLAP))


class Page(NamedTuple):
    """What one statement read.

    Attributes:
        now: The database's clock.
        rows: Outcomes, oldest first.
        cut: Whether there are more records, older than these.
        going: Refreshes that go on: `view` (null: it was dropped), `pid`, `since`, `application`.
    """

    now: datetime
    rows: list[dict[str, Any]]
    cut: bool
    going: list[dict[str, Any]]


def read(wire: Wire, schema: Schema, since: datetime | None, known: Collection[str] | None) -> Page:
    """Read what was done since a moment.

    Args:
        wire: Whom to ask.
        schema: Whose tables.
        since: None: the overlap before now.
        known: Runs of the state that are known; of others their row is read whenever it was.
            None: all are.
    """
    statement = _READ.format(
        since=_JUST_NOW if since is None else sql.Literal(since.isoformat()),
        known=sql.Literal(None if known is None else list(known)),
        most=sql.Literal(MOST),
        metrics=schema.metrics_table,
        state=schema.identifier("state"),
        label_of=schema.identifier("label_of"),
        held=HELD,
    )
    (clock,), *found = wire.answer(statement.as_bytes(None))
    rows = [orjson.loads(row) for (row,) in found if row is not None]
    rows.sort(key=lambda row: (datetime.fromisoformat(row["at"]), row["record_id"] or 0))
    head = orjson.loads(clock or b"")
    cut = sum(row["record_id"] is not None for row in rows) >= MOST
    return Page(datetime.fromisoformat(head["now"]), rows, cut, head["going"] or [])

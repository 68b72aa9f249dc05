"""The second step of the transaction: the view and its state, now that the lock is ours.

Function `refresh_view` of the schema looks in the same way, without the library; with
`coordination="local"` there is no such function, so the statement stands here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import Connection, sql
from psycopg.rows import namedtuple_row

from mvrefresh.postgres.batch import fill, run_batch
from mvrefresh.postgres.slots import lock_slot
from mvrefresh.postgres.state import ViewState, lock_state
from mvrefresh.refreshing.commission import Commission, Committed
from mvrefresh.refreshing.due import Slot

if TYPE_CHECKING:
    from datetime import datetime


_LOOK = sql.SQL("""
SELECT n.nspname AS schema, c.relname AS name, c.relispopulated AS populated,
       clock_timestamp() AS started, pg_current_snapshot()::text AS snapshot,
       pg_stat_get_xact_tuples_inserted(c.oid) AS inserted,
       pg_stat_get_xact_tuples_deleted(c.oid) AS deleted,
       coalesce((SELECT s.xmin = c.xmin FROM {state} s WHERE s.view = c.oid), false) AS known,
       coalesce((SELECT s.xmin = c.xmin AND c.relispopulated
                        -- every transaction that `since` shows, the content holds; a snapshot
                        -- from beyond our own is of another cluster's restored dump
                        AND pg_snapshot_xmax(s.content_snapshot) >= pg_snapshot_xmax(w.since)
                        AND pg_snapshot_xmax(s.content_snapshot)
                            <= pg_snapshot_xmax(pg_current_snapshot())
                        -- no snapshot knows of a foreign table or of the clock: begun later, read
                        -- later
                        AND s.last_started_at >= {since_at}::timestamptz
                        AND NOT EXISTS (SELECT FROM pg_snapshot_xip(s.content_snapshot) x
                                         WHERE x < pg_snapshot_xmax(w.since)
                                           AND pg_visible_in_snapshot(x, w.since))
                   FROM {state} s, (SELECT {since}::pg_snapshot AS since) w
                  WHERE s.view = c.oid), false) AS holds,
       (SELECT count(*) FROM {state} s JOIN pg_class r ON r.oid = s.view AND r.xmin = s.xmin
         WHERE s.view = ANY ({reads}::oid[])) = cardinality({reads}::oid[]) AS all_known,
       (SELECT CASE WHEN bool_and(s.content_as_of IS NOT NULL) THEN min(s.content_as_of) END
          FROM {state} s WHERE s.view = ANY ({reads}::oid[])) AS oldest_as_of,
       oldest.content_snapshot::text AS oldest_snapshot
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  -- the first by what it shows, not by a clock that may have been set
  LEFT JOIN LATERAL (SELECT s.content_snapshot FROM {state} s
                      WHERE s.view = ANY ({reads}::oid[])
                      ORDER BY pg_snapshot_xmax(s.content_snapshot) NULLS FIRST,
                               (SELECT count(*) FROM pg_snapshot_xip(s.content_snapshot)) DESC
                      LIMIT 1) oldest ON true
 WHERE c.oid = {oid}::oid AND c.relkind = 'm'
""")
_NO_STATE = sql.SQL(
    "(SELECT NULL::oid AS view, NULL::xid AS xmin, NULL::timestamptz AS content_as_of,"
    " NULL::pg_snapshot AS content_snapshot, NULL::timestamptz AS last_started_at WHERE false)"
)


def look_at(
    connection: Connection[Any], order: Commission
) -> tuple[Any, ViewState | None, Slot | None]:
    """The view as it is now (names move; the oid does not), its state and its slot, locked."""
    state = _NO_STATE if order.schema is None else order.schema.identifier("state")
    oid, reads = order.view.oid, sorted(order.view.reads)
    statements = [
        fill(
            _LOOK,
            state=state,
            oid=oid,
            reads=reads,
            since=order.since and order.since.snapshot,
            since_at=order.since and order.since.at,
        )
    ]
    if order.schema is not None:
        statements.insert(0, lock_state(order.schema, oid))
        if order.claim is not None:
            statements.insert(0, lock_slot(order.schema, oid))
    answers = run_batch(connection, statements, rows=namedtuple_row)
    *before, look = (rows[0] if rows else None for rows in answers)
    known = before[-1] if before else None
    slot = before[0] if order.claim is not None and before else None
    return (
        look,
        None if known is None else ViewState(*known),
        None if slot is None else Slot(*slot),
    )


def stands_for(order: Commission, look: Any) -> tuple[datetime | None, str | None]:
    """The moment and the snapshot that the new content will stand for.

    Of a view over other views it is the oldest of theirs: what they do not hold, it cannot. The
    rows of theirs were read before REFRESH reads the views, so they promise too little at most.
    """
    if not order.view.reads:
        return look.started, look.snapshot
    if not look.all_known:
        return None, None
    return look.oldest_as_of, look.oldest_snapshot


_FIND = sql.SQL("""
SELECT s.refresh_no, s.content_token, s.content_as_of, m.rows_inserted, m.rows_deleted,
       coalesce(m.refresh_duration_ms, s.last_duration_ms) AS duration_ms, m.id AS record_id
  FROM {state} s
  LEFT JOIN {metrics} m ON m.run_id = %(run)s AND m.view_name = %(label)s AND m.success
       AND m.created_at > clock_timestamp() - interval '1 day'
 WHERE s.view = %(oid)s::oid AND (m.run_id IS NOT NULL OR s.last_run_id = %(run)s)
""")


def find_committed(connection: Connection[Any], order: Commission) -> Committed | None:
    """What this run has committed for the view already, if it has: its answer may be lost.

    The state row names the run that wrote it last; the history also knows runs before that.
    """
    assert order.schema is not None  # noqa: S101 - nothing is remembered without one
    found: Any = (
        connection.cursor(row_factory=namedtuple_row)
        .execute(
            _FIND.format(
                state=order.schema.identifier("state"), metrics=order.schema.metrics_table
            ),
            {"run": order.run_id, "label": order.view.label, "oid": order.view.oid},
        )
        .fetchone()
    )
    if found is None:
        return None
    return Committed(
        refresh_no=found.refresh_no,
        content_token=found.content_token,
        content_as_of=found.content_as_of,
        content_changed=None,
        rows_inserted=found.rows_inserted,
        rows_deleted=found.rows_deleted,
        duration_ms=found.duration_ms,
        record_id=found.record_id,
    )

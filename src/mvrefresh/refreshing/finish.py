"""The statement between REFRESH and COMMIT: state, history and notification in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from mvrefresh.postgres.batch import fill
from mvrefresh.refreshing.look import stands_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mvrefresh.refreshing.commission import Commission


def before_concurrent(order: Commission) -> Sequence[sql.Composed]:
    """What has to stand before a REFRESH that writes single rows, so that `finish` can name them.

    A cursor keeps the snapshot of now: rows that the refresh deletes are seen by no later one.
    """
    if order.schema is None or order.strategy.name != "concurrent":
        return ()
    touched = order.schema.identifier("keys_touched")
    return (fill(_SEE_THE_GONE, touched=touched, view=order.view.oid),)


def finish(order: Commission, look: Any) -> sql.Composed:
    """Compose it from the order and from what was seen under the lock."""
    if order.schema is None:
        concurrent = order.strategy.name == "concurrent"
        return fill(
            _FINISH_LOCAL,
            oid=order.view.oid,
            started=look.started,
            concurrent=concurrent,
            exact=concurrent and not order.again,
            inserted=look.inserted,
            deleted=look.deleted,
        )
    as_of, snapshot = stands_for(order, look)
    return fill(
        _FINISH,
        finish=order.schema.identifier("finish_refresh"),
        view=order.view.oid,
        label=order.view.label,
        started=look.started,
        as_of=as_of,
        snapshot=snapshot,
        known=look.known,
        inserted=look.inserted,
        deleted=look.deleted,
        strategy=order.strategy.name,
        reason=order.reason,
        trigger=order.trigger,
        run_id=order.run_id,
        host=order.host,
        history=order.history,
        notify=order.notify,
    )


_SEE_THE_GONE = sql.SQL(
    "DECLARE mvrefresh_gone NO SCROLL CURSOR FOR SELECT {touched}({view}::oid, true)"
)
_FINISH = sql.SQL("""
SELECT * FROM {finish}(
    {view}::oid, {label}::text, {started}::timestamptz, {as_of}::timestamptz,
    {snapshot}::pg_snapshot, {known}::boolean, {inserted}::bigint, {deleted}::bigint,
    {strategy}::text, {reason}::text, {trigger}::text, {run_id}::uuid, {host}::text,
    {history}::text, {notify}::boolean)
""")
_FINISH_LOCAL = sql.SQL("""
SELECT NULL::bigint, NULL::uuid,
       CASE WHEN concurrent THEN inserted > 0 OR deleted > 0 ELSE true END,
       inserted, deleted, EXTRACT(epoch FROM clock_timestamp() - as_of)::float8 * 1000,
       NULL::bigint, NULL::text
  FROM (SELECT CASE WHEN tracked
                    THEN pg_stat_get_xact_tuples_inserted(oid) - {inserted} END AS inserted,
               CASE WHEN tracked AND {concurrent}::boolean
                    THEN pg_stat_get_xact_tuples_deleted(oid) - {deleted} END AS deleted,
               {exact}::boolean AS concurrent, {started}::timestamptz AS as_of
          FROM (SELECT {oid}::oid AS oid, current_setting('track_counts')::boolean AS tracked) o) w
""")

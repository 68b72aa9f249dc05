"""Table `schedule`: which slot of each view is to be served next, for the whole fleet.

The row of a view is changed in two ways only: by the transaction of the refresh that serves the
slot, under the view's advisory lock; or afterwards, when it failed or was skipped, and then only
if the slot is still the one that was tried and nobody is at work on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import class_row, tuple_row

from mvrefresh.postgres.batch import brief_transaction, fill
from mvrefresh.refreshing.due import Slot

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from psycopg import Connection

    from mvrefresh.postgres.schema import Schema

_COLUMNS = sql.SQL(
    # 'infinity', as somebody may write to pause a view, is no datetime
    "s.view::bigint, least(s.slot, '9999-12-31') AS slot, s.registered_at, s.last_started_at,"
    " s.failures, s.suspended_at, s.last_error, s.schedule"
)


@dataclass(frozen=True, slots=True)
class Tick:
    """One look at everything that decides what is due: one statement, one round trip.

    Attributes:
        now: The database's clock.
        standby: Whether the server takes no writes.
        snapshot: The transactions that are committed by now, as `pg_snapshot`; empty on a standby.
        fingerprint: Changes with the set of views, their names, what they read and their unique
            indexes; not with a refresh. While it stays, a catalog read before is still right.
        rows: The rows of table `schedule`, by oid.
    """

    now: datetime
    standby: bool
    snapshot: str
    fingerprint: str
    rows: Mapping[int, Slot]


# Sums do not depend on the order of a scan. Built-in rules and indexes are of no interest; those of
# tables are in it, since leaving them out costs a join. A REFRESH touches neither.
_FINGERPRINT = sql.SQL("""
concat_ws(' ',
    (SELECT sum(hashtextextended(
                concat_ws('.', c.oid, c.relnamespace, c.relname, c.relowner), 0))
       FROM pg_class c WHERE c.relkind = 'm'),
    (SELECT sum(hashint8extended(i.indexrelid::bigint * 2 + i.indisvalid::int, 0))
       FROM pg_index i WHERE i.indisunique AND i.indexrelid >= 16384),
    (SELECT sum(r.xmin::text::bigint) FROM pg_rewrite r WHERE r.ev_class >= 16384),
    (SELECT sum(p.xmin::text::bigint) FROM pg_proc p
      WHERE p.oid >= 16384 AND p.prosqlbody IS NOT NULL),
    current_setting('search_path'))
""")
_TICK = sql.SQL("""
SELECT clock_timestamp(), pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_current_snapshot()::text END,
       {fingerprint},
       NULL::bigint, NULL::timestamptz, NULL::timestamptz, NULL::timestamptz, NULL::integer,
       NULL::timestamptz, NULL::text, NULL::text
""")
_AND_ROWS = sql.SQL("""
 UNION ALL
SELECT NULL, NULL, NULL, NULL, {columns} FROM {schedule} s
""")


def read_tick(connection: Connection[Any], schema: Schema | None) -> Tick:
    """Look at the clock, the views and their slots; without a schema there are no rows."""
    query: sql.Composed = _TICK.format(fingerprint=_FINGERPRINT)
    if schema is not None:
        query += _AND_ROWS.format(columns=_COLUMNS, schedule=schema.identifier("schedule"))
    found = connection.cursor(row_factory=tuple_row).execute(query).fetchall()
    now, standby, snapshot, seen = next(row[:4] for row in found if row[0] is not None)
    return Tick(now, standby, snapshot, seen, {row[4]: Slot(*row[4:]) for row in found if row[4]})


def register(
    connection: Connection[Any], schema: Schema, slots: Mapping[int, tuple[datetime, str]]
) -> None:
    """Give views their first slot, unless somebody has; forget views that are gone.

    Args:
        connection: In autocommit.
        schema: Whose table.
        slots: Slot and schedule, by oid.
    """
    table = schema.identifier("schedule")
    with brief_transaction(connection):
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (view, slot, schedule)"
                " SELECT * FROM unnest(%s::oid[], %s::timestamptz[], %s::text[])"
                " ON CONFLICT (view) DO NOTHING"
            ).format(table),
            (list(slots), [s for s, _ in slots.values()], [text for _, text in slots.values()]),
        )
        connection.execute(
            sql.SQL(
                "DELETE FROM {} s WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.view)"
            ).format(table)
        )


_LOCK = sql.SQL("SELECT {columns} FROM {schedule} s WHERE s.view = {oid}::oid FOR NO KEY UPDATE")
_SERVE = sql.SQL(
    "UPDATE {table} SET slot = {following}, last_started_at = {started}, schedule = {schedule}"
    " WHERE view = {oid}::oid"
)


def lock_slot(schema: Schema, oid: int) -> sql.Composed:
    """Read a view's row, as of `Slot`, and keep it as it is until the end of the transaction.

    A statement of its own, after the advisory lock: one that did both would see the row as it was
    before.
    """
    return fill(_LOCK, columns=_COLUMNS, schedule=schema.identifier("schedule"), oid=oid)


def serve(
    schema: Schema, oid: int, *, following: datetime, started: datetime, schedule: str
) -> sql.Composed:
    """Move to the following slot, inside the transaction of the refresh that serves this one."""
    return fill(
        _SERVE,
        table=schema.identifier("schedule"),
        following=following,
        started=started,
        schedule=schedule,
        oid=oid,
    )


def give_up(
    connection: Connection[Any],
    schema: Schema,
    row: Slot,
    *,
    following: datetime,
    started: datetime,
    schedule: str,
    error: str | None,
    suspend_after: int | None,
) -> Slot | None:
    """Move to the following slot although this one was not served: it failed or was skipped.

    Args:
        connection: In autocommit.
        schema: Whose table.
        row: The row as it was tried.
        following: The slot after it.
        started: When it was tried.
        schedule: By which schedule.
        error: What went wrong, which counts as a failure; None for a skip, which does not.
        suspend_after: Failures in a row after which the view is left alone; None: never.

    Returns:
        The row as it is now; None if somebody else has moved it, or is at work on it.
    """
    table = schema.identifier("schedule")
    return (
        connection.cursor(row_factory=class_row(Slot))
        .execute(
            sql.SQL(
                "UPDATE {table} s SET slot = %(following)s, last_started_at = %(started)s,"
                " schedule = %(schedule)s,"
                " failures = s.failures + (%(error)s::text IS NOT NULL)::int,"
                " last_error = coalesce(%(error)s, s.last_error),"
                " suspended_at = CASE WHEN s.failures + 1 >= %(limit)s::int"
                "  AND %(error)s::text IS NOT NULL"
                "  THEN coalesce(s.suspended_at, clock_timestamp()) ELSE s.suspended_at END"
                " WHERE s.view = (SELECT o.view FROM {table} o"
                "  WHERE o.view = %(view)s::oid AND least(o.slot, '9999-12-31') = %(slot)s"
                "  FOR NO KEY UPDATE SKIP LOCKED)"
                " RETURNING {columns}"
            ).format(table=table, columns=_COLUMNS),
            {
                "following": following,
                "started": started,
                "schedule": schedule,
                "error": error,
                "limit": suspend_after,
                "view": row.view,
                "slot": row.slot,
            },
        )
        .fetchone()
    )

"""How fresh every view is, by the database's clock: for those who watch from outside.

One statement, and one message with the transaction around it: who watches asks again and again, and
must cost a server in trouble next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from mvrefresh.errors import ConfigurationError
from mvrefresh.postgres.batch import fill, run_batch
from mvrefresh.postgres.locks import SPACE
from mvrefresh.refreshing.due import Slot, due_at
from mvrefresh.refreshing.schedule import parse_schedule
from mvrefresh.refreshing.view import ViewName

if TYPE_CHECKING:
    from datetime import datetime

    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.postgres.schema import Schema


@dataclass(frozen=True, slots=True)
class Freshness:
    """What the database knows of a view that was refreshed or scheduled. Times in seconds.

    Attributes:
        view: Its label.
        content_age: Since the moment for which the content stands; None where nobody can tell:
            never refreshed, or by somebody else since.
        refreshed_at: When the last refresh of that content ended, as Unix seconds.
        refreshing: Whether a refresh of it runs, in any process.
        interval: Between two scheduled refreshes, the longer of this gap and the next; None where
            the view has no schedule.
        overdue: Since it was due; 0 while it is not, while it is refreshed, or suspended.
        failures: Scheduled runs that failed since the last success.
        suspended: Whether it is left alone by schedules: itself, or for a view that it reads.
    """

    view: str
    content_age: float | None
    refreshed_at: float | None
    refreshing: bool
    interval: float | None
    overdue: float
    failures: int
    suspended: bool


# As `Schedule.slot`, 'infinity' is no datetime. The advisory locks are those of `locks.key`.
_VIEWS = sql.SQL("""
WITH locks AS MATERIALIZED (
    SELECT DISTINCT objid FROM pg_locks
     WHERE locktype = 'advisory' AND classid = {space} AND objsubid = 2 AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
SELECT clock_timestamp(), n.nspname, c.relname,
       extract(epoch FROM clock_timestamp() - s.content_as_of)::float8,
       extract(epoch FROM s.last_finished_at)::float8,
       l.objid IS NOT NULL,
       EXISTS (SELECT FROM {schedule} above
                WHERE above.suspended_at IS NOT NULL
                  AND above.view IN (SELECT {views_read}(c.oid, true))),
       k.view::bigint, least(k.slot, '9999-12-31'), k.registered_at, k.last_started_at,
       k.failures, k.suspended_at, k.last_error, k.schedule
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN {state} s ON s.view = c.oid AND s.xmin = c.xmin
  LEFT JOIN {schedule} k ON k.view = c.oid
  LEFT JOIN locks l ON l.objid = c.oid
 WHERE c.relkind = 'm' AND (s.view IS NOT NULL OR k.view IS NOT NULL)
 ORDER BY n.nspname, c.relname
""")
_LIMIT = sql.SQL(
    "SELECT set_config('statement_timeout', {limit}, true),"
    " set_config('lock_timeout', {limit}, true)"
)


def read_freshness(connection: AnyConnection, schema: Schema, *, limit: float) -> list[Freshness]:
    """Look at all views at once.

    Args:
        connection: In autocommit.
        schema: Where the state is.
        limit: Seconds that the server may take.

    Raises:
        psycopg.Error: As the server said it.
    """
    rows = run_batch(
        connection,
        [
            sql.SQL("BEGIN READ ONLY"),
            fill(_LIMIT, limit=f"{round(limit * 1000)}ms"),
            fill(
                _VIEWS,
                space=SPACE,
                state=schema.identifier("state"),
                schedule=schema.identifier("schedule"),
                views_read=schema.identifier("views_read"),
            ),
            sql.SQL("COMMIT"),
        ],
    )[2]
    return [_freshness(row) for row in rows]


def _freshness(row: Any) -> Freshness:
    now, nspname, relname, age, refreshed_at, refreshing, above_suspended, *slot = row
    interval, overdue = None, 0.0
    scheduled = Slot(*slot) if slot[0] is not None else None
    if scheduled is not None:
        interval, overdue = _by_schedule(scheduled, now)
    suspended = scheduled is not None and (scheduled.suspended_at is not None or above_suspended)
    return Freshness(
        view=str(ViewName(nspname, relname)),
        content_age=age,
        refreshed_at=refreshed_at,
        refreshing=refreshing,
        interval=interval,
        overdue=0.0 if refreshing or suspended else overdue,
        failures=0 if scheduled is None else scheduled.failures,
        suspended=suspended,
    )


def _by_schedule(row: Slot, now: datetime) -> tuple[float | None, float]:
    """The interval, and how long the view has been due."""
    try:
        schedule = parse_schedule(row.schedule)
    except ConfigurationError:  # of a later version of the library, or written by hand
        return None, max(0.0, (now - row.slot).total_seconds())
    following = schedule.after(now, now)
    interval = (schedule.after(following, following) - following).total_seconds()
    if row.last_started_at is not None:  # a cron's nights and weekends
        interval = max(interval, (min(row.slot, following) - row.last_started_at).total_seconds())
    return interval, max(0.0, (now - due_at(row, schedule, now)).total_seconds())

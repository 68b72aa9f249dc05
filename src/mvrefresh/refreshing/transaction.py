"""Promise P1: lock, look, refresh, record and announce a view in one transaction.

Three round trips, each a pipeline, so that nothing waits for us while locks are held::

    1  BEGIN; settings; advisory lock         another process may hold it: we wait here
    2  state row, view, snapshot, clock       statements of their own: they see what the
                                              former holder committed while we waited
    3  REFRESH; finish_refresh(...); COMMIT   state, history and notification with the content

The isolation is READ COMMITTED, said explicitly: under a role's default of REPEATABLE READ the
snapshot of step 1 would be that of the REFRESH, which would rebuild old content and then fail.
The snapshot and the clock are noted before REFRESH takes its own snapshot, which it does before
it waits for the view's lock: the content holds at least every commit that the noted one shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psycopg import Connection, sql
from psycopg.rows import namedtuple_row, tuple_row

from mvrefresh.errors import ViewVanished
from mvrefresh.postgres import locks
from mvrefresh.postgres.faults import POSTGRES_17
from mvrefresh.postgres.state import ViewState, lock_state
from mvrefresh.refreshing.view import ViewName

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.strategies import Strategy
    from mvrefresh.refreshing.view import MaterializedView


class PlanOutdated(Exception):  # noqa: N818 - a signal to the step, not an error
    """The view is not what the plan took it for: look again."""


@dataclass(frozen=True, slots=True)
class Commission:
    """What one transaction is to do, and what its record will say.

    Attributes:
        schema: Where state and history are; None without coordination.
        history: Whether the transaction writes the history itself, and how it takes a failure.
        before_commit: Called with the result before COMMIT; what it raises ends the transaction.
    """

    view: MaterializedView
    strategy: Strategy
    reason: str
    run_id: UUID
    trigger: str
    host: str
    schema: Schema | None
    history: Literal["none", "best_effort", "required"] = "none"
    notify: bool = True
    before_commit: Callable[[Committed, Connection[Any]], None] | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of the transaction; the fields of `RefreshOutcome` of the same names."""

    refresh_no: int | None
    content_token: UUID | None
    content_as_of: datetime
    content_changed: bool | None
    rows_inserted: int | None
    rows_deleted: int | None
    duration_ms: float
    record_id: int | None = None
    record_error: str | None = None


def refresh_in_transaction(
    connection: Connection[Any],
    order: Commission,
    policy: RefreshPolicy,
    *,
    proceed: Callable[[], None] = lambda: None,
) -> Committed:
    """Carry out `order` on an idle autocommit connection, and leave it idle.

    Args:
        connection: Direct, or through a pooler in transaction mode.
        order: What to do.
        policy: Its limits.
        proceed: Called before the refresh itself; what it raises ends the transaction.

    Raises:
        psycopg.Error: As the server said it; everything is rolled back.
        ViewVanished: There is no such view any more.
        PlanOutdated: The view was populated in the meantime: CONCURRENTLY is possible now.
    """
    try:
        _begin(connection, order.view.oid, policy)
        state, look = _look(connection, order)
        if state is not None and state.last_run_id == order.run_id:
            return _already(connection, state)  # our COMMIT arrived, its answer did not
        if look is None:
            raise ViewVanished(order.view.label, "it was dropped")
        if look.populated and not order.view.populated:
            raise PlanOutdated
        proceed()
        return _refresh(connection, order, look)
    finally:
        _end(connection)


def _begin(connection: Connection[Any], oid: int, policy: RefreshPolicy) -> None:
    settings = {
        "lock_timeout": _ms(policy.wait_timeout or 0),
        "statement_timeout": "0",
        # Between two round trips: a host that is suspended there must not keep the lock.
        "idle_in_transaction_session_timeout": "5s",
        # A process that dies in mid-refresh frees the lock in a second, a network in three.
        "client_connection_check_interval": "1s",
        "tcp_keepalives_idle": "2",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "3s",
    }
    if connection.info.server_version >= POSTGRES_17:
        settings["transaction_timeout"] = "0"
    calls = sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, true)").format(name, value) for name, value in settings.items()
    )
    with connection.pipeline():
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        connection.execute(sql.SQL("SELECT {}").format(calls))
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", locks.key(oid))
        # From here on for the view's own lock: whoever waits for that makes readers wait.
        connection.execute(
            "SELECT set_config('lock_timeout', %s, true),"
            " set_config('statement_timeout', %s, true)",
            (_ms(policy.lock_timeout), _ms(policy.refresh_timeout or 0)),
        )


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


_LOOK = b"""
SELECT n.nspname AS schema, c.relname AS name, c.relispopulated AS populated,
       pg_current_snapshot()::text AS snapshot, clock_timestamp() AS as_of,
       pg_stat_get_xact_tuples_inserted(c.oid) AS inserted,
       pg_stat_get_xact_tuples_deleted(c.oid) AS deleted
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = %s::oid AND c.relkind = 'm'
"""


def _look(connection: Connection[Any], order: Commission) -> tuple[ViewState | None, Any]:
    """The state row, locked, and the view as it is now (names move; the oid does not)."""
    with connection.pipeline():
        state = None
        if order.schema is not None:
            state = lock_state(connection, order.schema, order.view.oid)
        look = connection.cursor(row_factory=namedtuple_row).execute(_LOOK, (order.view.oid,))
    return state.fetchone() if state is not None else None, look.fetchone()


def _refresh(connection: Connection[Any], order: Commission, look: Any) -> Committed:
    cursor = connection.cursor(row_factory=tuple_row)
    with connection.pipeline():
        for statement in order.strategy.statements(ViewName(look.schema, look.name)):
            connection.execute(statement)
        cursor.execute(*_finish(order, look))
        if order.before_commit is None:
            connection.execute("COMMIT")
    number, token, changed, inserted, deleted, duration, record_id, record_error = (
        cursor.fetchall()[0]
    )
    committed = Committed(
        refresh_no=number,
        content_token=token,
        content_as_of=look.as_of,
        content_changed=changed,
        rows_inserted=inserted,
        rows_deleted=deleted,
        duration_ms=duration,
        record_id=record_id,
        record_error=record_error,
    )
    if order.before_commit is not None:
        order.before_commit(committed, connection)
        connection.execute("COMMIT")
    return committed


def _finish(order: Commission, look: Any) -> tuple[sql.Composed | bytes, tuple[Any, ...]]:
    """The statement between REFRESH and COMMIT, and its values."""
    if order.schema is None:
        concurrent = order.strategy.name == "concurrent"
        return _FINISH_LOCAL, (
            look.inserted, concurrent, look.deleted, concurrent, look.as_of, order.view.oid,
        )  # fmt: skip
    call = sql.SQL(
        "SELECT * FROM {}(%s::oid, %s::text, %s::timestamptz, %s::pg_snapshot, %s::bigint,"
        " %s::bigint, %s::text, %s::text, %s::text, %s::uuid, %s::text, %s::text, %s::boolean)"
    ).format(order.schema.identifier("finish_refresh"))
    return call, (
        order.view.oid, order.view.label, look.as_of, look.snapshot, look.inserted, look.deleted,
        order.strategy.name, order.reason, order.trigger, order.run_id, order.host,
        order.history, order.notify,
    )  # fmt: skip


_FINISH_LOCAL = b"""
SELECT NULL::bigint, NULL::uuid,
       CASE WHEN concurrent THEN inserted > 0 OR deleted > 0 ELSE true END,
       inserted, deleted, EXTRACT(epoch FROM clock_timestamp() - as_of)::float8 * 1000,
       NULL::bigint, NULL::text
  FROM (SELECT CASE WHEN tracked THEN pg_stat_get_xact_tuples_inserted(oid) - %s END AS inserted,
               CASE WHEN tracked AND %s::boolean
                    THEN pg_stat_get_xact_tuples_deleted(oid) - %s END AS deleted,
               %s::boolean AS concurrent, %s::timestamptz AS as_of
          FROM (SELECT %s::oid AS oid, current_setting('track_counts')::boolean AS tracked) o) w
"""


def _already(connection: Connection[Any], state: ViewState) -> Committed:
    connection.execute("ROLLBACK")
    return Committed(
        refresh_no=state.refresh_no,
        content_token=state.content_token,
        content_as_of=state.content_as_of,
        content_changed=None,
        rows_inserted=None,
        rows_deleted=None,
        duration_ms=state.last_duration_ms,
    )


def _end(connection: Connection[Any]) -> None:
    """Roll back whatever an exception left open; a broken connection has nothing to lose."""
    if connection.closed or connection.broken:
        return
    if connection.info.transaction_status.name != "IDLE":
        try:
            connection.execute("ROLLBACK")
        except Exception:  # noqa: BLE001 - the first error is the one that counts
            connection.close()

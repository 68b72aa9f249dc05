"""Promise P1: lock, look, refresh, record and announce a view in one transaction.

Three messages of several statements each (`run_batch` says why not a pipeline), so that nothing
waits for us while locks are held::

    1  BEGIN; settings; advisory lock         another process may hold it: we wait here
    2  state row, view, snapshot, clock       statements of their own: they see what the
                                              former holder committed while we waited
    3  REFRESH; finish_refresh(...); COMMIT   state, history and notification with the content

The isolation is READ COMMITTED, said explicitly: under a role's default of REPEATABLE READ the
snapshot of step 1 would be that of the REFRESH, which would rebuild old content and then fail.
The snapshot and the clock are noted before REFRESH takes its own snapshot, which it does before
it waits for the view's lock: the content holds at least every commit that the noted one shows.
A view over other views holds no more than they do, so it stands for the oldest of their moments.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg import Connection, sql
from psycopg.pq import TransactionStatus

from mvrefresh.errors import RecordingFailed, ServerReadOnly, ViewVanished
from mvrefresh.postgres import locks
from mvrefresh.postgres.batch import fill, run_batch
from mvrefresh.postgres.faults import POSTGRES_17
from mvrefresh.postgres.slots import serve
from mvrefresh.refreshing.claim import SlotTaken
from mvrefresh.refreshing.commission import Commission, Committed, PlanOutdated
from mvrefresh.refreshing.finish import before_concurrent, finish
from mvrefresh.refreshing.look import find_committed, look_at, stands_for
from mvrefresh.refreshing.view import ViewName

if TYPE_CHECKING:
    from collections.abc import Callable

    from mvrefresh.postgres.state import ViewState
    from mvrefresh.refreshing.policy import RefreshPolicy


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
        ServerReadOnly: The server is a standby.
        ViewVanished: There is no such view any more.
        PlanOutdated: The view was populated in the meantime: CONCURRENTLY is possible now.
        SlotTaken: The slot that was to be served is, or somebody is just doing it.
    """
    if _on_standby(connection):
        raise ServerReadOnly(order.view.label, "the server is a standby")
    try:
        _begin(
            connection,
            order.view.oid,
            policy,
            wait=order.claim is None,
            unhurried=order.unhurried,
        )
        look, state, slot = look_at(connection, order)
        if order.again and order.schema is not None:
            committed = find_committed(connection, order)
            if committed is not None:
                return committed  # our COMMIT arrived, its answer did not
        if look is None:
            raise ViewVanished(order.view.label, "it was dropped")
        if order.claim is not None and order.schema is not None:
            order.claim.take(slot, look.started)
        if state is not None and look.holds:
            return _shared(state)
        if look.populated and not order.view.populated:
            raise PlanOutdated
        proceed()
        return _refresh(connection, order, look)
    finally:
        _end(connection)


def _on_standby(connection: Connection[Any]) -> bool:
    """What the server said last may be from before it was promoted: ask it."""
    if connection.info.parameter_status("in_hot_standby") != "on":
        return False
    return connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def _begin(
    connection: Connection[Any],
    oid: int,
    policy: RefreshPolicy,
    *,
    wait: bool = True,
    unhurried: bool = False,
) -> None:
    """Begin, and take the view's advisory lock; `SlotTaken` if we are not to wait for it."""
    settings = {
        "lock_timeout": _ms(policy.wait_timeout or 0),
        "statement_timeout": "0",
        "quote_all_identifiers": "off",  # REFRESH CONCURRENTLY cannot bear it
        # Between two round trips: a host that is suspended there must not keep the lock.
        "idle_in_transaction_session_timeout": "60s" if unhurried else "5s",
        # A process that dies in mid-refresh frees the lock in a second, a network in three.
        "tcp_keepalives_idle": "2",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "3s",
    }
    if connection.info.server_version >= POSTGRES_17:
        settings["transaction_timeout"] = "0"
    calls = sql.SQL(", ").join(
        [
            _WATCH_CLIENT,
            *(sql.SQL("set_config({}, {}, true)").format(*item) for item in settings.items()),
        ]
    )
    space, key = locks.key(oid)
    answers = run_batch(
        connection,
        [
            sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"),
            sql.SQL("SELECT {}").format(calls),
            fill(_LOCK_WAIT if wait else _LOCK_TRY, space=space, key=key),
            # From here on for the view's own lock: whoever waits for that makes readers wait.
            fill(
                _LIMITS,
                lock=_ms(policy.lock_timeout),
                statement=_ms(policy.refresh_timeout or 0),
            ),
        ],
    )
    if not wait and not answers[2][0][0]:
        raise SlotTaken(busy=True)


_LOCK_WAIT = sql.SQL("SELECT pg_advisory_xact_lock({space}, {key})")
_LOCK_TRY = sql.SQL("SELECT pg_try_advisory_xact_lock({space}, {key})")
_LIMITS = sql.SQL(
    "SELECT set_config('lock_timeout', {lock}, true),"
    " set_config('statement_timeout', {statement}, true)"
)
_WATCH_CLIENT = sql.SQL(
    # Windows cannot watch a socket, and refuses the setting.
    "CASE WHEN version() !~* 'visual c|msvc|mingw|windows'"
    " THEN set_config('client_connection_check_interval', '1s', true) END"
)


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _refresh(connection: Connection[Any], order: Commission, look: Any) -> Committed:
    statements = [
        *before_concurrent(order),
        *order.strategy.statements(ViewName(look.schema, look.name)),
    ]
    finish_at = len(statements)
    statements.append(finish(order, look))
    if order.claim is not None and order.schema is not None:
        statements.append(
            serve(
                order.schema,
                order.view.oid,
                following=order.claim.following,
                started=look.started,
                schedule=str(order.claim.schedule),
            )
        )
    if order.before_commit is None:
        statements.append(sql.Composed([sql.SQL("COMMIT")]))
    (row,) = run_batch(connection, statements)[finish_at]
    number, token, changed, inserted, deleted, duration, record_id, record_error = row
    committed = Committed(
        refresh_no=number,
        content_token=token,
        content_as_of=stands_for(order, look)[0],
        content_changed=changed,
        rows_inserted=inserted,
        rows_deleted=deleted,
        duration_ms=duration,
        record_id=record_id,
        record_error=record_error,
    )
    if order.before_commit is not None:
        order.before_commit(committed, connection)
        if connection.info.transaction_status is not TransactionStatus.INTRANS:
            # COMMIT of a failed transaction rolls back, and says so without an error.
            raise RecordingFailed(f"{order.view.label}: the store broke the refresh's transaction")
        connection.execute("COMMIT")
    return committed


def _shared(state: ViewState) -> Committed:
    """Another refresh, which holds all that this one was asked for."""
    return Committed(
        refresh_no=state.refresh_no,
        content_token=state.content_token,
        content_as_of=state.content_as_of,
        content_changed=None,
        rows_inserted=None,
        rows_deleted=None,
        duration_ms=state.last_duration_ms,
        shared=True,
    )


def find_committed_after_all(
    connection: Connection[Any], order: Commission, policy: RefreshPolicy
) -> Committed | None:
    """As `find_committed`, once the backend that we lost sight of is done: it holds the lock."""
    try:
        _begin(connection, order.view.oid, replace(policy, wait_timeout=10.0))
        return find_committed(connection, order)
    finally:
        _end(connection)


def _end(connection: Connection[Any]) -> None:
    """Roll back whatever an exception left open; a broken connection has nothing to lose."""
    if connection.closed or connection.broken:
        return
    if connection.info.transaction_status.name != "IDLE":
        try:
            connection.execute("ROLLBACK")
        except Exception:  # noqa: BLE001 - the first error is the one that counts
            connection.close()

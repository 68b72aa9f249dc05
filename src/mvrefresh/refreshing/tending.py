"""What may follow a refresh, after its commit: statistics, and pages in the buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.view import MaterializedView


def tend(connection: AnyConnection, view: MaterializedView, policy: RefreshPolicy) -> None:
    """ANALYZE and prewarm the view, as the policy says, waiting for locks as a refresh does.

    Raises:
        psycopg.Error: Either failed; the refresh stands.
    """
    with connection.transaction():
        connection.execute(
            "SELECT set_config('lock_timeout', %s, true),"
            " set_config('statement_timeout', '0', true)",
            (f"{round(policy.lock_timeout * 1000)}ms",),
        )
        if policy.analyze:
            row = connection.execute(
                "SELECT n.nspname, c.relname FROM pg_class c"
                " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s::oid",
                (view.oid,),
            ).fetchone()
            if row is not None:
                connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*row)))
        if policy.prewarm:
            connection.execute("SELECT pg_prewarm(%s::oid::regclass)", (view.oid,))

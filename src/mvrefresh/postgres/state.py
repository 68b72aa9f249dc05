"""The state row of a view: what its content is, and which run made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import class_row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from psycopg import Connection

    from mvrefresh.postgres.schema import Schema


@dataclass(frozen=True, slots=True)
class ViewState:
    """What the database remembers of a view's last refresh.

    Attributes:
        view: Oid.
        refresh_no, content_token: The content's tag; another tag, other content.
        content_as_of: The moment the content stands for, by the database's clock.
        last_duration_ms: Milliseconds.
    """

    view: int
    refresh_no: int
    content_token: UUID
    content_as_of: datetime | None
    last_started_at: datetime
    last_finished_at: datetime
    last_duration_ms: float
    last_strategy: str
    last_run_id: UUID


_SELECT = (
    "SELECT view, refresh_no, content_token, content_as_of, last_started_at,"
    " last_finished_at, last_duration_ms, last_strategy, last_run_id FROM {} WHERE "
)
_LOCK_ONE = sql.SQL(_SELECT + "view = {}::oid FOR NO KEY UPDATE")
_READ_MANY = sql.SQL(_SELECT + "%s::oid[] IS NULL OR view = ANY (%s::oid[])")


def lock_state(schema: Schema, oid: int) -> sql.Composed:
    """Read a view's row, as of `ViewState`, and keep it as it is until the transaction ends.

    A statement of its own, after the advisory lock: one that did both would see the row as it
    was before it waited. `FOR NO KEY UPDATE` reads the newest version and never conflicts with
    plain readers.
    """
    return _LOCK_ONE.format(schema.identifier("state"), sql.Literal(oid))


def read_states(
    connection: Connection[Any], schema: Schema, oids: Sequence[int] | None = None
) -> dict[int, ViewState]:
    """Rows of many views in one round trip, without locking: oid -> state."""
    cursor = connection.cursor(row_factory=class_row(ViewState)).execute(
        _READ_MANY.format(schema.identifier("state")), (oids, oids)
    )
    return {state.view: state for state in cursor}

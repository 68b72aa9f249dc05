"""What the transaction of a refresh is told, and what it gives back. Values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from psycopg import Connection

    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.claim import Claim
    from mvrefresh.refreshing.strategies import Strategy
    from mvrefresh.refreshing.view import MaterializedView


class PlanOutdated(Exception):  # noqa: N818 - a signal to the step, not an error
    """The view is not what the plan took it for: look again."""


@dataclass(frozen=True, slots=True)
class Since:
    """A moment of the database: what is committed by then, and its clock."""

    snapshot: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Commission:
    """What one transaction is to do, and what its record will say.

    Attributes:
        schema: Where state and history are; None without coordination.
        history: Whether the transaction writes the history itself, and how it takes a failure.
        again: A former attempt of this run may have committed without our knowing.
        claim: The slot that is to be served; nothing is done if it is taken.
        unhurried: Somebody else's code runs inside the transaction: a store, a subscriber.
        since: A moment; content that holds all it shows is as good as a new refresh.
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
    again: bool = False
    claim: Claim | None = None
    since: Since | None = None
    unhurried: bool = False
    before_commit: Callable[[Committed, Connection[Any]], None] | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of the transaction; the fields of `RefreshOutcome` of the same names."""

    refresh_no: int | None
    content_token: UUID | None
    content_as_of: datetime | None
    content_changed: bool | None
    rows_inserted: int | None
    rows_deleted: int | None
    duration_ms: float
    shared: bool = False
    record_id: int | None = None
    record_error: str | None = None

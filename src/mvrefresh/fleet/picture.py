"""What one look at a fleet shows: values, as of one moment of the database's clock. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from mvrefresh.metrics.store import RefreshRecord


@dataclass(frozen=True, slots=True)
class RefreshGoingOn:
    """Whoever holds a view's advisory lock.

    Attributes:
        pid: Of the server process.
        since: When its transaction began, or when it was first seen where this role may not know.
        application: What the client calls itself.
    """

    pid: int
    since: datetime
    application: str = ""


@dataclass(frozen=True, slots=True)
class ViewSeen:
    """A view, as one look found it.

    Attributes:
        changed_by_others: Somebody else has refreshed or altered it since the library's last
            refresh: what the library noted is no longer true.
        refresh_no, content_as_of: None where nobody noted it, or others changed the view since.
        schedule: Of whoever served its last slot, as text; None: it is not scheduled.
        due_at: When its next slot is due; None where that cannot be said.
        failures: Scheduled runs that failed since the last success.
        suspended_at: Since when it is left alone, after too many of them.
        suspended_because: Label of the view for whose sake it is left alone: its own, or that of
            one that it reads.
        last_error: What the last failed scheduled run said.
        last: Its newest record.
        usual_duration_ms: Milliseconds; the median of the successes among its latest records.
        running: The refresh that is going on.
    """

    oid: int
    label: str
    populated: bool
    changed_by_others: bool = False
    refresh_no: int | None = None
    content_as_of: datetime | None = None
    schedule: str | None = None
    due_at: datetime | None = None
    failures: int = 0
    suspended_at: datetime | None = None
    suspended_because: str | None = None
    last_error: str | None = None
    last: RefreshRecord | None = None
    usual_duration_ms: float | None = None
    running: RefreshGoingOn | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A live process with a service on this database; `since`: None where it may not be known."""

    host: str
    pid: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Picture:
    """What one look showed.

    Attributes:
        now: The database's clock.
        where: The database, in words.
        standby: Whether the server takes no writes.
        views: Each after what it reads.
        records: What was recorded since the last look, oldest first; at the first look the
            latest few.
        fleet: None where it cannot be known: a transaction pooler stands between.
    """

    now: datetime
    where: str
    standby: bool
    views: tuple[ViewSeen, ...]
    records: tuple[RefreshRecord, ...]
    fleet: tuple[Process, ...] | None


def seconds_between(earlier: datetime | None, later: datetime) -> float | None:
    """Seconds, never below zero: two clocks of one server may differ by a little."""
    return None if earlier is None else max(0.0, (later - earlier).total_seconds())

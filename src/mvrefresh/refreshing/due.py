"""Which views are due, and what a service does about each. Pure: no database, no clock.

Every process of a fleet decides this for itself from the same rows, at the database's clock; the
transaction of the refresh decides again, after its lock, and only that decision counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from mvrefresh.refreshing.schedule import put_off

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mvrefresh.refreshing.schedule import Schedule

CLOCK_SLACK: Final = timedelta(seconds=60)
"""A last start further in the future than this means that the database's clock was set back."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A view's row of table `schedule`: the slot that is to be served next.

    Attributes:
        view: Oid.
        slot: The next slot; not yet put off by jitter.
        registered_at: When the view was first scheduled.
        last_started_at: Start of the last scheduled run, whatever came of it.
        failures: Scheduled runs that failed since the last success.
        suspended_at: Since when the view is left alone, after too many of them.
        last_error: What the last of them said.
        schedule: The schedule of whoever served the last slot, as text.
    """

    view: int
    slot: datetime
    registered_at: datetime
    last_started_at: datetime | None = None
    failures: int = 0
    suspended_at: datetime | None = None
    last_error: str | None = None
    schedule: str = ""

    def resumed(self) -> Slot:
        """The row after a success that served no slot."""
        return replace(self, failures=0, suspended_at=None, last_error=None)


def next_slot(row: Slot, schedule: Schedule, now: datetime) -> datetime:
    """The slot that counts for this schedule, which may not be the one that made the row.

    After a deployment that shortens an interval, the stored slot would be waited for too long;
    after a clock that was wrong for a while, for ever.
    """
    counted_from = row.last_started_at or row.registered_at
    if counted_from > now + CLOCK_SLACK:
        # Put off from now on, it would be put off for ever: now moves on.
        return min(row.slot, now - timedelta(seconds=schedule.jitter))
    if row.slot <= now:
        return row.slot
    if row.last_started_at is None:
        return min(row.slot, schedule.first(counted_from))
    return min(row.slot, schedule.after(counted_from, counted_from))


def due_at(row: Slot, schedule: Schedule, now: datetime) -> datetime:
    """When the view is due: its next slot, put off by the schedule's jitter."""
    return put_off(schedule, row.view, next_slot(row, schedule, now))


def served_slot(row: Slot, schedule: Schedule, now: datetime) -> datetime | None:
    """The slot that a run beginning now serves; None while the view is not due."""
    slot = next_slot(row, schedule, now)
    return slot if put_off(schedule, row.view, slot) <= now else None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with the views of one look at their rows, by oid.

    Attributes:
        ready: Due, and nothing that they read is; the longest overdue first.
        skip: Due, but they read only views, and one of these fails (which one): nothing new is to
            be had.
        suspended: Left alone (because of which view: itself, or one that it reads).
        waiting: Due, but busy, or behind a view that is.
        busy: Being refreshed, as the caller said.
        due_since: Since when each view is due that is, and is not suspended.
        next_due: When the first of the others is due; None when there is none.
    """

    ready: tuple[int, ...] = ()
    skip: Mapping[int, int] = field(default_factory=dict)
    suspended: Mapping[int, int] = field(default_factory=dict)
    waiting: frozenset[int] = frozenset()
    busy: frozenset[int] = frozenset()
    due_since: Mapping[int, datetime] = field(default_factory=dict)
    next_due: datetime | None = None


def decide(
    rows: Mapping[int, Slot],
    schedules: Mapping[int, Schedule],
    upstream: Mapping[int, frozenset[int]],
    now: datetime,
    *,
    ours: Collection[int] | None = None,
    mixed: Collection[int] = (),
    busy: Collection[int] = (),
    held: Mapping[int, datetime] | None = None,
) -> Decision:
    """Decide about every view that has both a row and a schedule.

    Args:
        rows: By oid.
        schedules: By oid.
        upstream: All materialized views that a view reads, at any depth.
        now: The database's clock.
        ours: Views that are cared for, due or not: only their failures count for others, since
            nobody may be there to mend one that left the schedules. By default all of them.
        mixed: Views that read tables as well as views: they are refreshed while a view that they
            read fails, since there may be news all the same.
        busy: Being refreshed, by this process or another.
        held: Not before these moments, however overdue: they spread a crowd.
    """
    dues = {}
    for oid, schedule in schedules.items():
        if oid in rows:
            due = due_at(rows[oid], schedule, now)
            dues[oid] = max(due, held[oid]) if held and oid in held else due
    cared_for = schedules.keys() if ours is None else frozenset(ours)
    suspended: dict[int, int] = {}
    for oid in dues:
        above = sorted(upstream.get(oid, frozenset()) & cared_for)
        reason = _first(rows, (oid, *above), suspended=True)
        if reason is not None:
            suspended[oid] = reason
    due_now = {oid for oid, due in dues.items() if due <= now and oid not in suspended}
    in_the_way = due_now | set(busy)
    ready, waiting, skip = [], set(), {}
    for oid in sorted(due_now, key=lambda oid: (dues[oid], oid)):
        reads = upstream.get(oid, frozenset())
        if oid in busy or reads & in_the_way:
            waiting.add(oid)
        elif (
            oid not in mixed
            and (failing := _first(rows, sorted(reads & cared_for), suspended=False)) is not None
        ):
            skip[oid] = failing
        else:
            ready.append(oid)
    later = [due for oid, due in dues.items() if due > now and oid not in suspended]
    return Decision(
        ready=tuple(ready),
        skip=skip,
        suspended=suspended,
        waiting=frozenset(waiting),
        busy=frozenset(busy),
        due_since={oid: dues[oid] for oid in due_now},
        next_due=min(later, default=None),
    )


def _first(rows: Mapping[int, Slot], oids: Collection[int], *, suspended: bool) -> int | None:
    """The first of `oids` that is suspended, or else that fails."""
    for oid in oids:
        row = rows.get(oid)
        if row is not None and (row.suspended_at is not None if suspended else row.failures > 0):
            return oid
    return None

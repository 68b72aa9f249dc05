"""The wish to serve a view's slot: taken, or found taken, under the lock of its refresh."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mvrefresh.refreshing.due import next_slot, served_slot
from mvrefresh.refreshing.report import Status

if TYPE_CHECKING:
    from datetime import datetime

    from mvrefresh.refreshing.due import Slot
    from mvrefresh.refreshing.report import RefreshOutcome
    from mvrefresh.refreshing.schedule import Schedule


class SlotTaken(Exception):  # noqa: N818 - a signal to whoever asked, not an error
    """Nothing to do: somebody is at work on the view, or has served its slot."""

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy
        super().__init__("somebody is at work on it" if busy else "it is served")


class Claim:
    """One process's try at one slot.

    Args:
        row: The view's row, as it was when the view was found to be due.
        schedule: By which it was.
        now: When that was, on the database's clock.
        suspend_after: Failures in a row after which the view is left alone; None: never.
    """

    def __init__(
        self, row: Slot, schedule: Schedule, now: datetime, *, suspend_after: int | None = None
    ) -> None:
        self.row = row
        self.schedule = schedule
        self.started = now
        self.suspend_after = suspend_after
        self._slot = next_slot(row, schedule, now)
        self.moved = False
        """Whether the slot was moved by us, and will not be found due again at once."""

    def take(self, row: Slot | None, now: datetime) -> None:
        """Decide again, on the row as it is under the lock.

        Raises:
            SlotTaken: The slot is served, the view is suspended, or its row is gone.
        """
        slot = None if row is None else served_slot(row, self.schedule, now)
        if row is None or slot is None or row.suspended_at is not None:
            raise SlotTaken(busy=False)
        self.row, self.started, self._slot = row, now, slot

    @property
    def following(self) -> datetime:
        """The slot that comes after the one that is served."""
        return self.schedule.after(self._slot, self.started)

    def gave_up(self, row: Slot) -> str:
        """Take note of the row as it is after a failure or a skip; words for the record."""
        before, self.row, self.moved = self.row, row, True
        if before.suspended_at is None and self.row.suspended_at is not None:
            return f"suspended after {self.row.failures} failures in a row"
        return ""

    def served_in_memory(self) -> Slot:
        """The row after a success, where there is no table to keep it."""
        return replace(
            self.row, slot=self.following, last_started_at=self.started, failures=0,
            suspended_at=None, last_error=None, schedule=str(self.schedule),
        )  # fmt: skip

    def give_up_in_memory(self, outcome: RefreshOutcome) -> str:
        """As the database does it, where there is no table to keep it."""
        failed = outcome.status is Status.FAILED
        failures = self.row.failures + failed
        enough = failed and self.suspend_after is not None and failures >= self.suspend_after
        return self.gave_up(
            replace(
                self.row,
                slot=self.following,
                last_started_at=self.started,
                failures=failures,
                suspended_at=self.row.suspended_at or (self.started if enough else None),
                last_error=str(outcome.error) if failed else self.row.last_error,
                schedule=str(self.schedule),
            )
        )

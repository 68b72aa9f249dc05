"""Finds what is due and has it refreshed: one look at a time, several views at once.

A turn is one statement over all views (`read_tick`), a pure decision (`decide`), and a thread for
each view that is ready, up to the policy's `jobs`. What is decided here is only a guess: the
transaction of each refresh decides again under its lock, and a loser leaves without a trace.
"""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from mvrefresh.events import RefreshFinished, ViewResumed, ViewSuspended
from mvrefresh.postgres.slots import Tick, read_tick, register
from mvrefresh.refreshing.claim import Claim, SlotTaken
from mvrefresh.refreshing.due import Decision, Slot, decide, due_at
from mvrefresh.refreshing.plan import make_plan
from mvrefresh.refreshing.step import StepRun
from mvrefresh.refreshing.threads import Work, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.plan import Fallback, Method
    from mvrefresh.refreshing.report import RefreshOutcome
    from mvrefresh.refreshing.runner import Runner
    from mvrefresh.refreshing.schedule import Schedule
    from mvrefresh.service.roster import Roll, Roster

logger = logging.getLogger("mvrefresh")

BUSY_ELSEWHERE: Final = 1.0
"""Seconds until a view is tried again that another process is at work on: that one may die."""

STANDBY: Final = 5.0
"""Seconds between looks at a server that takes no writes."""

_LOST: Final = 0.05  # seconds until a view is looked at again whose slot somebody else has moved
_CROWD: Final = 4  # times `jobs`: so many overdue views are no crowd
_SPREAD_MOST: Final = timedelta(seconds=30)
_SPREAD_SHARE: Final = 0.1


class _Ended(NamedTuple):
    """What the thread of one view found.

    Attributes:
        busy: The slot stays as it is, for now: somebody is at work, or it could not be moved.
        fault: The latter: it is tried again after pauses that grow.
        lost: Somebody else has served it.
        following: When it is due again, if we know.
    """

    busy: bool = False
    fault: bool = False
    lost: bool = False
    following: datetime | None = None


class Dispatcher:
    """Dispatches what is due. `turn` is for one thread; the rest is safe from any.

    Args:
        runner: Who refreshes, how, and whom it tells.
        roster: Which views, by which schedules.
        method, fallback: As `plan` takes them.
        suspend_after: Failures in a row after which a view is suspended; None: never.
        once: Each view at most once; for a caller that asks a single time.
        longest: Seconds between two turns at most.
        on_outcome: Told of every outcome, before the events are.
        on_change: Called when a refresh has ended: another turn is worth while.
    """

    def __init__(
        self,
        runner: Runner,
        roster: Roster,
        *,
        method: Method = "auto",
        fallback: Fallback = "regular",
        suspend_after: int | None = None,
        once: bool = False,
        longest: float = 30.0,
        on_outcome: Callable[[RefreshOutcome], None] = lambda _: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._runner = runner
        self._roster = roster
        self._method: Method = method
        self._fallback: Fallback = fallback
        self._suspend_after = suspend_after
        self._once = once
        self._longest = longest
        self._on_outcome = on_outcome
        self._on_change = on_change
        self._schema = runner.schema
        self._rows_here: dict[int, Slot] = {}  # without a schema
        self._in_flight: dict[int, Work[_Ended]] = {}
        self._busy_until: dict[int, float] = {}
        self._held: dict[int, datetime] = {}
        self._done: set[int] = set()
        self._suspended: dict[int, int] = {}
        self._back = not once
        self._looked = self._look_at = 0.0
        self._behind = self._again = False
        self._stuck: dict[int, int] = {}
        self._ended: set[int] = set()
        self.tick: Tick | None = None
        self.decision = Decision()

    @property
    def in_flight(self) -> list[Work[_Ended]]:
        """What is being refreshed."""
        return list(self._in_flight.values())

    @property
    def running(self) -> set[int]:
        """The views that are being refreshed, by oid."""
        return set(self._in_flight)

    @property
    def overdue_since(self) -> dict[int, datetime]:
        """The views that were due at the last look, and that nobody has begun since."""
        begun = {*self._in_flight, *self._ended, *self._busy_until}
        return {oid: at for oid, at in self.decision.due_since.items() if oid not in begun}

    @property
    def rows(self) -> dict[int, Slot]:
        """The rows of the last look, by oid."""
        if self._schema is None:
            return dict(self._rows_here)
        return dict(self.tick.rows) if self.tick is not None else {}

    def lost_sight(self) -> None:
        """There was a time without looks: what became due meanwhile is spread."""
        self._back = True
        self._stuck.clear()
        self._busy_until.clear()
        self.look_again()

    def look_again(self) -> None:
        """Something changed that the last look does not know: the next turn looks."""
        self._again = True

    def turn(self, connection: AnyConnection) -> float:
        """Look, decide, begin what is ready.

        Returns:
            Seconds until the next turn is worth while, if nothing changes before.

        Raises:
            psycopg.Error: The look failed. What was begun goes on.
        """
        self.reap()
        looked = monotonic()
        again, self._again = self._again, False  # before the look: who comes later is not lost
        if not again and looked < self._look_at:
            return self._look_at - looked
        tick = self.tick = read_tick(connection, self._schema)
        if tick.standby:
            self.lost_sight()
            return STANDBY
        roll = self._roster.at(connection, tick.fingerprint)
        if self._register(connection, roll, tick):
            tick = self.tick = read_tick(connection, self._schema)
        rows = self.rows
        schedules = {
            oid: roll.schedule_of(oid, rows.get(oid))
            for oid in roll.schedules
            if oid not in self._done
        }
        self._spread(rows, schedules, tick.now)
        self.decision = decide(
            rows,
            schedules,
            roll.upstream,
            tick.now,
            ours=roll.schedules.keys(),
            mixed=roll.mixed,
            busy={*self._in_flight, *self._busy_until},
            held=self._held,
        )
        self._announce(rows, roll)
        todo = [*self.decision.skip, *self.decision.ready]
        for oid in todo:
            if len(self._in_flight) < self._runner.policy.jobs:
                claim = Claim(
                    rows[oid], schedules[oid], tick.now, suspend_after=self._suspend_after
                )
                self._begin(oid, claim, roll)
        self._looked = looked
        self._behind = bool(self.decision.waiting) or any(o not in self._in_flight for o in todo)
        self._ended.clear()
        self._look_at = self._next_look(tick.now)
        return max(0.0, self._look_at - monotonic())

    # -- parts of a turn -----------------------------------------------------------------------

    def reap(self) -> None:
        """Take note of what has ended."""
        now = monotonic()
        for oid, future in list(self._in_flight.items()):
            if future.done():
                del self._in_flight[oid]
                future.thread.join()
                ended = future.result()
                self._ended.add(oid)
                if ended.busy:  # a fault that stays is not tried without end, nor at full speed
                    self._stuck[oid] = self._stuck.get(oid, 0) + ended.fault
                    pause = BUSY_ELSEWHERE * 2 ** min(self._stuck[oid], 6)
                    self._busy_until[oid] = now + pause
                else:
                    self._stuck.pop(oid, None)
                    if ended.lost and not self._once:
                        self._busy_until[oid] = now + _LOST
                if self._behind or ended.following is None or self.tick is None:
                    self._look_at = 0.0
                else:  # nobody waited for it: all that is new is when it is due again
                    wait = (ended.following - self.tick.now).total_seconds()
                    self._look_at = min(self._look_at, self._looked + wait)
        self._busy_until = {oid: t for oid, t in self._busy_until.items() if t > now}

    def _register(self, connection: AnyConnection, roll: Roll, tick: Tick) -> bool:
        """Give a slot to the views that have none; whether there were any."""
        new = {}
        for oid in roll.schedules.keys() - self.rows.keys():
            schedule = roll.schedule_of(oid, None)
            new[oid] = (schedule.first(tick.now), str(schedule))
        if self._schema is None:
            for gone in self._rows_here.keys() - roll.schedules.keys():
                del self._rows_here[gone]
            for oid, (slot, text) in new.items():
                self._rows_here[oid] = Slot(oid, slot, tick.now, schedule=text)
        elif new:
            register(connection, self._schema, new)
        return bool(new)

    def _spread(self, rows: dict[int, Slot], schedules: dict[int, Schedule], now: datetime) -> None:
        """After a time without looks, do not begin all that is overdue at once."""
        self._held = {oid: moment for oid, moment in self._held.items() if moment > now}
        if not self._back:
            return
        self._back = False
        overdue = [
            oid
            for oid, schedule in schedules.items()
            if oid in rows and due_at(rows[oid], schedule, now) <= now
        ]
        if len(overdue) <= _CROWD * self._runner.policy.jobs:
            return
        for oid in overdue:
            interval = schedules[oid].after(now, now) - now
            most = min(interval * _SPREAD_SHARE, _SPREAD_MOST)
            self._held[oid] = now + most * random.random()  # noqa: S311 - no secret

    def _announce(self, rows: dict[int, Slot], roll: Roll) -> None:
        """Tell of views that are suspended, or are no longer, since the last look."""
        before, self._suspended = self._suspended, dict(self.decision.suspended)
        for oid, because in self._suspended.items():
            if oid not in before and oid in roll.graph and because in roll.graph:
                failing = rows[because]
                self._runner.events.publish(
                    ViewSuspended(
                        roll.graph[oid].label,
                        roll.graph[because].label,
                        failing.failures,
                        failing.last_error or "",
                    )
                )
        for oid in before.keys() - self._suspended.keys():
            if oid in roll.graph:
                self._runner.events.publish(ViewResumed(roll.graph[oid].label))

    def _next_look(self, now: datetime) -> float:
        moments = [self._looked + self._longest, *self._busy_until.values()]
        if self.decision.next_due is not None:
            moments.append(self._looked + (self.decision.next_due - now).total_seconds())
        return min(moments)

    # -- one view ------------------------------------------------------------------------------

    def _begin(self, oid: int, claim: Claim, roll: Roll) -> None:
        because = self.decision.skip.get(oid)
        future = in_thread("mvrefresh-refresh", self._refresh, oid, claim, roll, because)
        self._in_flight[oid] = future
        if self._once:
            self._done.add(oid)
        future.add_done_callback(lambda _: self._on_change())

    def _refresh(self, oid: int, claim: Claim, roll: Roll, because: int | None) -> _Ended:
        """Refresh a view, or skip it because of another."""
        try:
            plan = make_plan(roll.graph, [oid], method=self._method, fallback=self._fallback)
            with self._runner.opened(plan, trigger="schedule") as run:
                step = StepRun(run, plan.steps[0], claim)
                outcome = step() if because is None else step.skip([roll.graph[because].label])
                if not roll.graph[oid].populated:
                    self._roster.expire()  # from now on CONCURRENTLY may be possible
                self._note(claim, outcome)
                self._on_outcome(outcome)
                run.events.publish(RefreshFinished(run.run_id, outcome))
        except SlotTaken as taken:
            return _Ended(busy=taken.busy, lost=not taken.busy)
        except BaseException:
            logger.exception("an unexpected error; the view is tried again")
            return _Ended(busy=True, fault=True)
        if outcome:
            return _Ended(following=claim.following)
        return _Ended(busy=not claim.moved, fault=not claim.moved)

    def _note(self, claim: Claim, outcome: RefreshOutcome) -> None:
        if self._schema is None:
            oid = claim.row.view
            self._rows_here[oid] = claim.served_in_memory() if outcome else claim.row

    def resume(self, oids: set[int]) -> None:
        """Without a schema: these views were refreshed by force, which ends a suspension."""
        for oid in oids & self._rows_here.keys():
            row = self._rows_here[oid]
            self._rows_here[oid] = row.resumed()

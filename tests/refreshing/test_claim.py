"""One slot, one process: the decision under the lock, and a fleet that keeps to it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mvrefresh.refreshing.claim import Claim, SlotTaken
from mvrefresh.refreshing.due import CLOCK_SLACK, Slot, decide
from mvrefresh.refreshing.report import RefreshOutcome, Status
from mvrefresh.refreshing.schedule import Cron, Every

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTELY = Every(seconds=60)


def row_at(slot, **others):
    return Slot(1, slot, NOW - timedelta(days=9), **others)


def outcome(status, error=None):
    return RefreshOutcome("mv", status, uuid4(), attempts=1, error=error)


# -- examples ----------------------------------------------------------------------------------


def test_a_claim_serves_the_row_as_it_is_under_the_lock():
    seen = row_at(NOW)
    claim = Claim(seen, MINUTELY, NOW)
    resumed = replace(seen, failures=2, slot=NOW + SECOND)
    claim.take(resumed, NOW + 3 * SECOND)
    assert claim.row == resumed
    assert claim.started == NOW + 3 * SECOND
    assert claim.following == NOW + 61 * SECOND  # by the rhythm of the slot that is served


@pytest.mark.parametrize(
    "row",
    [
        None,
        row_at(NOW + SECOND, last_started_at=NOW - 59 * SECOND),
        row_at(NOW - SECOND, suspended_at=NOW),
    ],
    ids=["gone", "served", "suspended"],
)
def test_what_is_found_taken_under_the_lock_is_left(row):
    claim = Claim(row_at(NOW - SECOND), MINUTELY, NOW)
    before = claim.row, claim.started, claim.following
    with pytest.raises(SlotTaken) as taken:
        claim.take(row, NOW)
    assert not taken.value.busy
    assert (claim.row, claim.started, claim.following) == before


def test_a_slot_that_is_put_off_is_not_taken_before():
    jittered = Every(seconds=60, jitter=30)
    claim = Claim(row_at(NOW), jittered, NOW)
    with pytest.raises(SlotTaken):
        claim.take(row_at(NOW), NOW)
    claim.take(row_at(NOW), NOW + 30 * SECOND)


def test_the_signal_says_whether_to_ask_again_soon():
    assert str(SlotTaken(busy=True)) == "somebody is at work on it"
    assert str(SlotTaken(busy=False)) == "it is served"


def test_a_claim_that_was_never_taken_moves_on_from_when_it_was_found():
    assert Claim(row_at(NOW - SECOND), MINUTELY, NOW).following == NOW + 59 * SECOND
    assert Claim(row_at(NOW - 600 * SECOND), MINUTELY, NOW).following == NOW + 60 * SECOND


def test_success_in_memory_serves_the_slot_and_forgets_failures():
    row = row_at(NOW, failures=4, suspended_at=NOW, last_error="boom")
    claim = Claim(row, Cron("0 * * * *"), NOW + SECOND)
    assert claim.served_in_memory() == row_at(
        NOW + timedelta(hours=1), last_started_at=NOW + SECOND, schedule="cron 0 * * * * UTC"
    )


def test_failures_in_memory_count_up_to_the_suspension():
    row, words = row_at(NOW), []
    for n in range(1, 5):
        claim = Claim(row, MINUTELY, row.slot, suspend_after=3)
        words.append(claim.give_up_in_memory(outcome(Status.FAILED, ValueError(f"no {n}"))))
        row = claim.row
        assert row.failures == n
        assert row.last_error == f"no {n}"
        assert row.last_started_at == NOW + (n - 1) * 60 * SECOND
        assert row.slot == NOW + n * 60 * SECOND
        assert row.schedule == "every 60 s"
    assert words == ["", "", "suspended after 3 failures in a row", ""]
    assert row.suspended_at == NOW + 120 * SECOND  # of the third, and not of the fourth


def test_without_a_limit_nothing_is_suspended():
    row = row_at(NOW, failures=10**6)
    claim = Claim(row, MINUTELY, NOW)
    assert not claim.give_up_in_memory(outcome(Status.FAILED, ValueError("no")))
    assert claim.row.suspended_at is None


def test_a_skip_in_memory_moves_the_slot_and_counts_nothing():
    row = row_at(NOW, failures=2, last_error="boom")
    claim = Claim(row, MINUTELY, NOW, suspend_after=1)
    assert not claim.give_up_in_memory(outcome(Status.SKIPPED_UPSTREAM, ValueError("upstream")))
    assert claim.row == replace(
        row, slot=NOW + 60 * SECOND, last_started_at=NOW, schedule="every 60 s"
    )


# -- a fleet -----------------------------------------------------------------------------------


@dataclass
class Process:
    """What one process knows: the row of its last look, and the claim that it carries out."""

    row: Slot | None = None
    looked: datetime | None = None
    claim: Claim | None = None
    working: bool = False  # holds the view's lock


@dataclass
class Fleet:
    """The database, reduced to what it serialises: a clock, a row, a lock, what was committed."""

    schedule: Every | Cron
    suspend_after: int | None
    now: datetime = NOW
    holder: Process | None = None
    runs: list[tuple[datetime, datetime]] = field(default_factory=list)  # slot and start
    failed: list[datetime] = field(default_factory=list)  # slots

    def __post_init__(self):
        self.row = Slot(1, self.schedule.first(self.now), self.now, schedule=str(self.schedule))

    def look(self, process):
        process.row, process.looked = self.row, self.now

    def begin(self, process):
        """As a turn and the beginning of the transaction: maybe long after the look."""
        decision = decide({1: process.row}, {1: self.schedule}, {}, process.looked)
        if not decision.ready:
            return
        claim = Claim(process.row, self.schedule, process.looked, suspend_after=self.suspend_after)
        if self.holder is not None:
            return  # pg_try_advisory_xact_lock
        try:
            claim.take(self.row, self.now)
        except SlotTaken:
            return
        self.holder, process.claim, process.working = process, claim, True

    def commit(self, process):
        claim = process.claim
        self.runs.append((claim._slot, claim.started))
        self.row = claim.served_in_memory()
        self.end(process)

    def fail(self, process):
        """The transaction is rolled back, and the slot is given up later: not in one go."""
        self.holder, process.working = None, False

    def give_up(self, process):
        """As the statement does it: unless somebody has moved the slot, or is at work on it."""
        claim = process.claim
        if self.holder is None and claim.row.slot == self.row.slot:
            self.failed.append(claim._slot)
            claim.row = self.row
            claim.give_up_in_memory(outcome(Status.FAILED, ValueError("no")))
            self.row = claim.row
        self.end(process)

    def end(self, process):
        if self.holder is process:
            self.holder = None
        process.claim, process.working = None, False


class FleetMachine(RuleBasedStateMachine):
    """Processes that look, begin, commit, fail and die in any order, however late they wake."""

    @initialize(
        schedule=st.sampled_from(
            [
                Every(seconds=60),
                Every(seconds=60, jitter=20),
                Every(seconds=0.5),
                Cron("*/2 * * * *"),
                Cron("0,1,30 12-14 * * *", "Asia/Kathmandu", jitter=15),
            ]
        ),
        processes=st.integers(1, 4),
        suspend_after=st.none() | st.integers(1, 3),
    )
    def start(self, schedule, processes, suspend_after):
        self.fleet = Fleet(schedule, suspend_after)
        self.processes = [Process() for _ in range(processes)]
        self.set_back = False

    def some(self, number, wanted):
        found = [process for process in self.processes if wanted(process)]
        return found[number % len(found)] if found else None

    @rule(share=st.sampled_from([0, 0.001, 0.05, 0.3, 0.9, 1, 1.5, 40]))
    def time_passes(self, share):
        following = self.fleet.schedule.after(self.fleet.now, self.fleet.now)
        self.fleet.now += (following - self.fleet.now) * share + timedelta(microseconds=1)

    @rule(number=st.integers(0, 9))
    def look(self, number):
        self.fleet.look(self.processes[number % len(self.processes)])

    @rule(number=st.integers(0, 9))
    def begin(self, number):
        process = self.some(number, lambda p: p.row is not None and p.claim is None)
        if process is not None:
            self.fleet.begin(process)

    @precondition(lambda self: self.fleet.holder is not None)
    @rule()
    def commit(self):
        self.fleet.commit(self.fleet.holder)

    @precondition(lambda self: self.fleet.holder is not None)
    @rule()
    def fail(self):
        self.fleet.fail(self.fleet.holder)

    @rule(number=st.integers(0, 9))
    def give_up(self, number):
        process = self.some(number, lambda p: p.claim is not None and not p.working)
        if process is not None:
            self.fleet.give_up(process)

    @rule(number=st.integers(0, 9))
    def crash(self, number):
        """Its transaction is rolled back, what it knew is gone, and another takes its place."""
        place = number % len(self.processes)
        self.fleet.end(self.processes[place])
        self.processes[place] = Process()

    @precondition(lambda self: self.fleet.row.suspended_at is not None)
    @rule()
    def resume(self):
        self.fleet.row = self.fleet.row.resumed()

    @rule(days=st.sampled_from([0.0001, 1, 4000]), ahead=st.booleans())
    def clock_is_set(self, days, ahead):
        """The database's clock; a transaction that runs ends before, for the sake of the model."""
        if self.fleet.holder is None and all(p.claim is None for p in self.processes):
            self.fleet.now += timedelta(days=days if ahead else -days)
            self.set_back = self.set_back or not ahead
            for process in self.processes:
                process.row = None

    @invariant()
    def no_slot_is_served_twice(self):
        slots = [slot for slot, _ in self.fleet.runs]
        if not self.set_back:  # then the same moments come again
            assert slots == sorted(set(slots))
            assert not set(slots) & set(self.fleet.failed)

    @invariant()
    def a_slot_is_served_after_it_came_and_lies_after_the_start_of_the_run_before(self):
        assert all(slot <= start for slot, start in self.fleet.runs)
        if not self.set_back:
            assert all(start < slot for (_, start), (slot, _) in pairwise(self.fleet.runs))

    @precondition(lambda self: self.fleet.row.suspended_at is None)
    @rule(number=st.integers(0, 9))
    def the_one_that_lives_loses_none(self, number):
        """All others are dead; within one interval the survivor serves exactly one slot."""
        fleet, survivor = self.fleet, self.processes[number % len(self.processes)]
        for process in self.processes:
            if process is not survivor:
                fleet.end(process)
                process.row = None
        if survivor.claim is not None:
            (fleet.commit if survivor.working else fleet.give_up)(survivor)
        if fleet.row.suspended_at is not None:
            return
        last = fleet.row.last_started_at or fleet.row.registered_at
        wait = fleet.schedule.after(last, last) + timedelta(seconds=fleet.schedule.jitter)
        # a clock that was ahead costs nothing, one that was a little ahead that little
        if last > fleet.now + CLOCK_SLACK:
            wait = fleet.now
        fleet.now = max(fleet.now, wait)
        before = len(fleet.runs)
        for _ in range(3):
            fleet.look(survivor)
            fleet.begin(survivor)
            if survivor.claim is not None:
                fleet.commit(survivor)
        assert len(fleet.runs) == before + 1


TestFleet = FleetMachine.TestCase

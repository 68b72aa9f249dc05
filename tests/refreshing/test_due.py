"""What is due, and what is done about it: pure, on rows and graphs that hypothesis draws."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from mvrefresh.refreshing.due import (
    CLOCK_SLACK,
    Slot,
    decide,
    due_at,
    next_slot,
    served_slot,
)
from mvrefresh.refreshing.schedule import Cron, Every, put_off

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
JUST_MORE = timedelta(microseconds=1)


def every(seconds, jitter=0.0):
    return Every(seconds=seconds, jitter=jitter)


SCHEDULES = st.sampled_from(
    [
        every(0.5),
        every(60),
        every(60, jitter=30),
        every(3600, jitter=10),
        every(30 * 86_400),
        Cron("*/5 * * * *"),
        Cron("30 2 * * *", "Europe/Berlin", jitter=600),
        Cron("0 0 1 * *", "Australia/Lord_Howe"),
    ]
)
SPANS = st.timedeltas(timedelta(0), timedelta(days=400))


def served(row, schedule, now):
    """The row after a run that began now."""
    slot = served_slot(row, schedule, now)
    assert slot is not None
    following = schedule.after(slot, now)
    return replace(row, slot=following, last_started_at=now, schedule=str(schedule))


def registered(schedule, now=NOW, view=1):
    return Slot(view, schedule.first(now), now, schedule=str(schedule))


# -- one view ----------------------------------------------------------------------------------


@given(SCHEDULES, SPANS, st.integers(1, 99))
def test_a_view_is_due_from_its_due_moment_on_and_not_before(schedule, span, view):
    row = served(registered(schedule, view=view), schedule, NOW + span + 40 * DAY)
    due = due_at(row, schedule, row.last_started_at)
    assert row.slot <= due <= row.slot + timedelta(seconds=schedule.jitter)
    assert due == put_off(schedule, view, row.slot)
    assert served_slot(row, schedule, due - JUST_MORE) is None
    assert served_slot(row, schedule, due) == row.slot
    assert served_slot(row, schedule, due + span) == row.slot


@given(SCHEDULES, SPANS)
def test_a_view_that_never_ran_is_due_at_the_first_slot_of_its_schedule(schedule, span):
    row = registered(schedule)
    assert next_slot(row, schedule, NOW) == schedule.first(NOW)
    assert next_slot(row, schedule, NOW + span) == schedule.first(NOW)


@given(SCHEDULES, SCHEDULES)
def test_a_view_that_never_ran_does_not_wait_for_the_schedule_it_was_registered_by(old, new):
    row = registered(old)
    assert next_slot(row, new, NOW) == min(old.first(NOW), new.first(NOW))


@given(SCHEDULES, SPANS)
def test_a_long_absence_costs_one_run(schedule, span):
    row = served(registered(schedule), schedule, NOW + 40 * DAY)
    back = due_at(row, schedule, row.last_started_at) + span
    row = served(row, schedule, back)
    assert served_slot(row, schedule, back) is None
    assert row.slot > back


@given(SCHEDULES, SPANS.filter(lambda span: span > CLOCK_SLACK), st.integers(1, 99))
def test_a_clock_that_was_ahead_does_not_hold_a_view_back(schedule, span, view):
    """By minutes or by years: what was written meanwhile would be waited for as long."""
    ahead = NOW + 40 * DAY + span
    row = served(registered(schedule, view=view), schedule, ahead)
    corrected = ahead - span
    assert due_at(row, schedule, corrected) <= corrected
    row = served(row, schedule, corrected)
    assert row.last_started_at == corrected
    assert corrected < row.slot <= schedule.after(corrected, corrected)
    assert served_slot(row, schedule, corrected) is None  # once


@given(SCHEDULES, SPANS.filter(lambda span: span > CLOCK_SLACK), st.integers(1, 99))
def test_a_view_registered_by_a_clock_that_was_ahead_is_due(schedule, span, view):
    row = registered(schedule, NOW + span, view)
    assert due_at(row, schedule, NOW) <= NOW


@given(SCHEDULES, st.timedeltas(timedelta(0), CLOCK_SLACK))
def test_a_clock_set_back_by_a_little_brings_no_second_run(schedule, span):
    row = served(registered(schedule), schedule, NOW + 40 * DAY)
    assert served_slot(row, schedule, row.last_started_at - span) is None


@given(SCHEDULES, SCHEDULES, SPANS)
def test_after_a_change_of_schedule_nobody_waits_longer_than_either_says(old, new, span):
    row = served(registered(old), old, NOW + 40 * DAY)
    now = row.last_started_at + span
    last = row.last_started_at
    assert next_slot(row, new, now) <= row.slot
    if now < row.slot:
        assert next_slot(row, new, now) == min(row.slot, new.after(last, last))
    row = served(row, new, max(now, due_at(row, new, now)))
    assert row.slot <= new.after(row.last_started_at, row.last_started_at)


def test_a_shortened_interval_counts_from_the_last_start():
    row = served(registered(every(3600)), every(3600), NOW)
    assert next_slot(row, every(60), NOW + SECOND) == NOW + 60 * SECOND
    assert served_slot(row, every(60), NOW + 59 * SECOND) is None
    assert served_slot(row, every(60), NOW + 60 * SECOND) == NOW + 60 * SECOND
    # that long overdue by now: once, and then by the new rhythm
    row = served(row, every(60), NOW + 1800 * SECOND)
    assert row.slot == NOW + 1860 * SECOND


def test_a_lengthened_interval_begins_with_the_run_that_was_promised():
    row = served(registered(every(60)), every(60), NOW)
    assert served_slot(row, every(3600), NOW + 60 * SECOND) == NOW + 60 * SECOND
    row = served(row, every(3600), NOW + 60 * SECOND)
    assert row.slot == NOW + 60 * SECOND + HOUR


def test_processes_of_two_deployments_take_the_shorter_interval_without_running_twice():
    old, new = every(3600), every(600)
    row, starts, now = served(registered(old), old, NOW), [], NOW
    while now < NOW + 2 * HOUR:
        for schedule in (old, new):
            if served_slot(row, schedule, now) is not None:
                row = served(row, schedule, now)
                starts.append((now - NOW) // (60 * SECOND))
        now += SECOND
    assert starts == list(range(10, 120, 10))


def test_the_slack_is_counted_from_the_last_start():
    row = served(registered(every(3600)), every(3600), NOW)
    assert served_slot(row, every(3600), NOW - CLOCK_SLACK) is None
    assert served_slot(row, every(3600), NOW - CLOCK_SLACK - JUST_MORE) is not None


def test_a_success_that_served_no_slot_forgets_the_failures_alone():
    row = Slot(1, NOW, NOW, NOW, 3, NOW, "boom", "every 60 s")
    assert row.resumed() == Slot(1, NOW, NOW, NOW, 0, None, None, "every 60 s")


# -- all views ---------------------------------------------------------------------------------


def above(direct, oid):
    """Naive: all that a view reads, at any depth."""
    return frozenset(direct[oid]).union(*(above(direct, read) for read in direct[oid]))


@st.composite
def fleets(draw):
    """Rows, schedules, all upstream views, who is busy and who is held; some lack a part."""
    n = draw(st.integers(1, 10))
    oids = draw(st.permutations(range(1, n + 1)))
    direct = {
        oid: [oids[j] for j in range(i) if draw(st.booleans()) and draw(st.booleans())]
        for i, oid in enumerate(oids)
    }
    flags = st.sampled_from([False, False, False, True])
    rows = {
        oid: Slot(
            oid,
            NOW + draw(st.integers(-3, 2)) * SECOND,
            NOW - DAY,
            failures=draw(st.sampled_from([0, 0, 0, 1])),
            suspended_at=NOW if draw(flags) else None,
        )
        for oid in oids
        if not draw(flags)
    }
    schedules = {oid: draw(st.sampled_from([every(1e6), Cron("0 0 1 1 *")])) for oid in oids
                 if not draw(flags)}  # fmt: skip
    upstream = {oid: above(direct, oid) for oid in schedules}
    busy = {oid for oid in oids if draw(flags)}
    held = {oid: NOW + draw(st.integers(-2, 2)) * SECOND for oid in oids if draw(flags)}
    # rows that count from the start of the last run
    rows = {
        oid: replace(row, last_started_at=NOW - DAY) if draw(st.booleans()) else row
        for oid, row in rows.items()
    }
    return rows, schedules, upstream, busy, held


def decided(fleet):
    rows, schedules, upstream, busy, held = fleet
    return decide(rows, schedules, upstream, NOW, busy=busy, held=held)


def due_moment(fleet, oid):
    rows, schedules, _, _, held = fleet
    due = due_at(rows[oid], schedules[oid], NOW)
    return max(due, held[oid]) if oid in held else due


@given(fleets())
def test_a_view_is_ready_only_when_nothing_that_it_reads_is_due_or_busy(fleet):
    _, _, upstream, busy, _ = fleet
    decision = decided(fleet)
    for oid in decision.ready:
        assert oid not in busy
        assert not upstream[oid] & {*decision.ready, *decision.due_since, *busy}
        assert not upstream[oid] & {*decision.skip, *decision.suspended}


@given(fleets())
def test_every_view_that_is_due_is_in_exactly_one_place(fleet):
    rows, schedules, upstream, busy, _ = fleet
    decision = decided(fleet)
    cared_for = rows.keys() & schedules.keys()

    def troubled(oid):
        ours = (oid, *(upstream[oid] & schedules.keys()))
        return [r for r in ours if r in rows and rows[r].suspended_at is not None]

    assert decision.suspended.keys() == {oid for oid in cared_for if troubled(oid)}
    assert all(because in troubled(oid) for oid, because in decision.suspended.items())
    due = {o for o in cared_for if due_moment(fleet, o) <= NOW and not troubled(o)}
    assert decision.due_since == {oid: due_moment(fleet, oid) for oid in due}
    parts = [*decision.ready, *decision.skip, *decision.waiting]
    assert sorted(parts) == sorted(due)
    assert decision.waiting == {o for o in due if o in busy or upstream[o] & (due | busy)}
    assert decision.busy == busy
    for oid in due - decision.waiting:
        ours = upstream[oid] & schedules.keys()
        failing = [r for r in sorted(ours) if r in rows and rows[r].failures]
        assert decision.skip.get(oid) == (failing[0] if failing else None)


@given(fleets())
def test_the_longest_overdue_comes_first(fleet):
    moments = [due_moment(fleet, oid) for oid in decided(fleet).ready]
    assert moments == sorted(moments)


@given(fleets())
def test_the_next_look_is_worth_while_when_the_next_view_is_due(fleet):
    rows, schedules, *_ = fleet
    decision = decided(fleet)
    later = {due_moment(fleet, oid) for oid in rows.keys() & schedules.keys()
             if oid not in decision.suspended}  # fmt: skip
    assert decision.next_due == min((due for due in later if due > NOW), default=None)


@given(fleets())
def test_where_nobody_is_busy_something_that_is_due_goes_on(fleet):
    rows, schedules, upstream, _, held = fleet
    decision = decide(rows, schedules, upstream, NOW, held=held)
    assert bool(decision.ready or decision.skip) is bool(decision.due_since)


@given(fleets())
def test_done_one_by_one_every_due_view_is_done_after_all_that_it_reads(fleet):
    """Refreshed, or skipped because of what failed: and nothing is left over."""
    rows, schedules, upstream, _, held = fleet
    rows, order, before = dict(rows), [], None
    while True:
        decision = decide(rows, schedules, upstream, NOW, held=held)
        assert not set(order) & decision.due_since.keys()
        begun = [*decision.skip, *decision.ready][:1]
        if not begun:
            break
        before = before or set(decision.due_since)
        order += begun
        (oid,) = begun
        failures = 0 if oid in decision.ready else rows[oid].failures
        rows[oid] = replace(served(rows[oid], schedules[oid], NOW), failures=failures)
    assert not decision.waiting
    assert set(order) == (before or set())
    for place, oid in enumerate(order):
        assert not upstream[oid] & set(order[place:])


def chain(*flaws):
    """Views 1, 2, 3...: each reads all before it, and all are due; flaws of rows by oid."""
    rows = {n: Slot(n, NOW, NOW, **flaw) for n, flaw in enumerate(flaws, 1)}
    upstream = {n: frozenset(range(1, n)) for n in rows}
    return rows, dict.fromkeys(rows, every(60)), upstream


def chain_later(rows, *oids):
    """The same, but these are not due."""
    return {
        n: replace(row, slot=NOW + 30 * SECOND, last_started_at=NOW - 30 * SECOND)
        if n in oids
        else row
        for n, row in rows.items()
    }


def test_a_chain_is_done_from_its_beginning():
    rows, schedules, upstream = chain({}, {}, {})
    decision = decide(rows, schedules, upstream, NOW)
    assert decision.ready == (1,)
    assert decision.waiting == {2, 3}
    decision = decide(chain_later(rows, 1), schedules, upstream, NOW)
    assert (decision.ready, decision.waiting) == ((2,), {3})
    assert decision.next_due == NOW + 30 * SECOND


def test_a_failure_skips_all_that_read_it_at_any_depth():
    rows, schedules, upstream = chain({"failures": 1}, {}, {}, {})
    for done in ([1], [1, 2], [1, 2, 3]):
        decision = decide(chain_later(rows, *done), schedules, upstream, NOW)
        assert decision.skip == {done[-1] + 1: 1}
        assert not decision.ready
    # once the failing view is due again it is tried before anybody is skipped for it
    decision = decide(rows, schedules, upstream, NOW)
    assert (decision.ready, decision.skip, decision.waiting) == ((1,), {}, {2, 3, 4})


def test_a_failing_view_that_nobody_cares_for_stops_nobody():
    rows, schedules, upstream = chain({"failures": 2, "suspended_at": NOW}, {})
    del schedules[1], upstream[1]
    assert decide(rows, schedules, upstream, NOW).ready == (2,)


def test_one_that_is_cared_for_counts_also_where_it_is_not_asked_about():
    rows, schedules, upstream = chain({"failures": 2}, {})
    del schedules[1]
    assert decide(rows, schedules, upstream, NOW, ours=[1, 2]).skip == {2: 1}


def test_a_view_that_reads_tables_too_is_not_skipped():
    rows, schedules, upstream = chain({"failures": 2}, {})
    rows = chain_later(rows, 1)
    assert decide(rows, schedules, upstream, NOW).skip == {2: 1}
    assert decide(rows, schedules, upstream, NOW, mixed=[2]).ready == (2,)


def test_a_suspended_view_suspends_all_that_read_it_and_no_others():
    rows, schedules, upstream = chain({}, {"suspended_at": NOW}, {}, {})
    rows[9], schedules[9], upstream[9] = Slot(9, NOW, NOW), every(60), frozenset()
    decision = decide(rows, schedules, upstream, NOW)
    assert decision.suspended == {2: 2, 3: 2, 4: 2}
    assert decision.ready == (1, 9)
    assert decision.due_since.keys() == {1, 9}
    assert decision.next_due is None


def test_who_is_busy_waits_and_so_does_all_that_reads_it():
    rows, schedules, upstream = chain({}, {}, {})
    rows[9], schedules[9], upstream[9] = Slot(9, NOW, NOW), every(60), frozenset()
    decision = decide(chain_later(rows, 1), schedules, upstream, NOW, busy=[1])
    assert decision.ready == (9,)  # 1 is not due and yet in the way
    assert decision.waiting == {2, 3}
    decision = decide(rows, schedules, upstream, NOW, busy=[9])
    assert (decision.ready, decision.waiting) == ((1,), {2, 3, 9})


def test_who_is_held_is_not_due_before():
    rows, schedules, upstream = chain({}, {})
    held = {1: NOW + 5 * SECOND}
    decision = decide(rows, schedules, upstream, NOW, held=held)
    assert decision.ready == (2,)  # what it reads is not due: refreshed as it is
    assert decision.next_due == NOW + 5 * SECOND
    decision = decide(rows, schedules, upstream, NOW + 5 * SECOND, held=held)
    assert decision.ready == (1,)
    assert decision.due_since == {1: NOW + 5 * SECOND, 2: NOW}


def test_the_order_is_by_due_moment_and_then_by_oid():
    rows = {n: Slot(n, NOW - lag * SECOND, NOW) for n, lag in ((8, 0), (3, 2), (2, 1), (1, 0))}
    decision = decide(rows, dict.fromkeys(rows, every(60)), {}, NOW)
    assert decision.ready == (3, 2, 1, 8)  # and not as a set gives them: 8 before 1


@pytest.mark.parametrize("missing", ["row", "schedule"])
def test_a_view_without_row_or_schedule_is_left_out(missing):
    rows, schedules, upstream = chain({}, {})
    del (rows if missing == "row" else schedules)[1]
    decision = decide(rows, schedules, upstream, NOW)
    assert decision.ready == (2,)


def test_of_nothing_comes_nothing():
    assert not decide({}, {}, {}, NOW).ready
    assert decide({}, {}, {}, NOW).next_due is None

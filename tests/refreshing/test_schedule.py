"""Slots of a schedule: pure. Cron against an oracle that walks the clocks minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, strategies as st

from mvrefresh.errors import ConfigurationError
from mvrefresh.refreshing.schedule import Cron, Every, Schedule, parse_schedule, put_off

NOW = datetime(2025, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MOMENTS = st.datetimes(
    datetime(2000, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001
)  # fmt: skip

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half an hour off
    "America/Havana",  # changes at midnight: the gap is the beginning of a day
    "Africa/Cairo",  # the same, and back at midnight: a day ends twice
    "Africa/Casablanca",  # goes back for Ramadan
    "Asia/Kathmandu",  # 5:45, no change
    "Australia/Lord_Howe",  # changes by half an hour
    "Antarctica/Troll",  # changes by two
]


def seconds(count):
    return timedelta(seconds=count)


@cache
def changes(zone):
    """The moments of 2024 and 2025 at which the zone's offset changes; a plain one if none."""
    hours = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=30 * n) for n in range(2 * 17544)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    found = [later for (_, before), (later, after) in pairwise(zip(hours, offsets, strict=True))
             if before != after]  # fmt: skip
    return found or [datetime(2024, 2, 29, 12, tzinfo=UTC)]


# -- drawing -----------------------------------------------------------------------------------


@st.composite
def everies(draw):
    interval = draw(st.floats(0.1, 366 * 86_400))
    return Every(seconds=interval, jitter=draw(st.just(0.0) | st.floats(0, interval / 2)))


@st.composite
def fields(draw, least, most):
    """A field as text, and the numbers it means."""
    everything = range(least, most + 1)
    kind = draw(st.sampled_from(["*", "*", "*/", "list", "range", "range/"]))
    if kind == "*":
        return "*", set(everything)
    step = draw(st.integers(1, most))
    if kind == "*/":
        return f"*/{step}", set(everything[::step])
    if kind == "list":
        numbers = draw(st.lists(st.sampled_from(everything), min_size=1, max_size=4))
        return ",".join(map(str, numbers)), set(numbers)
    low, high = sorted([draw(st.sampled_from(everything)), draw(st.sampled_from(everything))])
    if kind == "range" or low == high:  # a single number with a step means another thing
        return f"{low}-{high}", set(range(low, high + 1))
    return f"{low}-{high}/{step}", set(range(low, high + 1, step))


@st.composite
def crons(draw):
    """An expression, and what it means: does it run on a clock that shows this?"""
    (minute, minutes), (hour, hours) = draw(fields(0, 59)), draw(fields(0, 23))
    # Mostly all days, so that something happens in the window that is walked.
    (day, days) = draw(st.just(("*", set(range(1, 32)))) | fields(1, 31))
    (weekday, weekdays) = draw(st.just(("*", set(range(7)))) | fields(0, 6))
    either = not (day.startswith("*") or weekday.startswith("*"))

    def matches(wall):
        fits = [wall.day in days, wall.isoweekday() % 7 in weekdays]
        right_day = any(fits) if either else all(fits)
        return right_day and wall.hour in hours and wall.minute in minutes

    running = minute.startswith("*") or hour.startswith("*")
    return f"{minute} {hour} {day} * {weekday}", matches, running


def walk(matches, running, zone, begin, end):
    """The oracle: what a clock on the wall shows in every minute, and in those that it skips."""
    minute, shown = begin, None
    while minute < end:
        local = minute.astimezone(ZoneInfo(zone))
        wall = local.replace(tzinfo=None, fold=0)
        skipped = []
        if shown is not None and not running:
            gap = (wall - shown) // MINUTE
            skipped = [shown + MINUTE * n for n in range(1, gap)]
        if any(map(matches, skipped)) or (matches(wall) and (running or not local.fold)):
            yield minute
        minute, shown = minute + MINUTE, wall


def slots(cron, begin, end):
    slot = cron.next(begin)
    while slot < end:
        yield slot
        slot = cron.next(slot)


# -- writing and reading -----------------------------------------------------------------------


@given(everies())
def test_every_reads_back_as_it_was_written(every):
    assert parse_schedule(str(every)) == every


@given(crons(), st.sampled_from(ZONES), st.just(0.0) | st.floats(0, 86_400))
def test_cron_reads_back_as_it_was_written(drawn, zone, jitter):
    cron = Cron(drawn[0], zone, jitter=jitter)
    assert parse_schedule(str(cron)) == cron


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Every(), "every 300 s"),
        (Every(seconds=0.5, jitter=0.25), "every 0.5 s jitter 0.25 s"),
        (Cron("*/15 * * * *"), "cron */15 * * * * UTC"),
        (
            Cron(" 0  2 * *\tMON-FRI ", "Europe/Berlin", jitter=60),
            "cron 0 2 * * MON-FRI Europe/Berlin jitter 60 s",
        ),
        (Cron("30 0 2 L * *"), "cron 30 0 2 L * * UTC"),
    ],
)
def test_schedules_are_written_so(schedule, text):
    assert str(schedule) == text
    assert str(parse_schedule(text)) == text
    assert isinstance(schedule, Schedule)


@pytest.mark.parametrize("number", [0, -1, 0.099, 366 * 86_400 + 1, float("nan"), float("inf")])
def test_an_interval_out_of_bounds_is_refused(number):
    with pytest.raises(ConfigurationError, match="366 days"):
        Every(seconds=number)


@pytest.mark.parametrize("number", [-0.1, 5.1, float("nan"), float("inf")])
def test_jitter_of_more_than_half_an_interval_is_refused(number):
    with pytest.raises(ConfigurationError, match="jitter"):
        Every(seconds=10, jitter=number)


def test_jitter_of_more_than_a_day_is_refused():
    with pytest.raises(ConfigurationError, match="86400 seconds"):
        Cron("* * * * *", jitter=86_401)


@pytest.mark.parametrize(
    "expression",
    ["", "*", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *",
     "* * * * 8", "*/0 * * * *", "5-1 * * * *", "a * * * *", "@daily", "0 0 31 2 *",
     "0 0 30 2 *", "0 0 * 2 MON#6"],
)  # fmt: skip
def test_what_is_no_cron_expression_is_refused_with_an_example(expression):
    with pytest.raises(ConfigurationError, match=r"cron expression.*\*/15 \* \* \* \*"):
        Cron(expression)


@pytest.mark.parametrize(
    "zone", ["", " ", "Nowhere/There", "Europe", "../UTC", "/etc/localtime", "a\0b", "UTC "]
)
def test_what_is_no_zone_is_refused(zone):
    with pytest.raises(ConfigurationError, match="time zone"):
        Cron("* * * * *", zone)


@pytest.mark.parametrize(
    "text",
    ["", "every", "every 5", "every 5 m", "every x s", "every 0 s", "every -5 s", "every nan s",
     "every 10 s jitter 6 s", "every 10 s jitter s", " every 5 s", "every 5 s ", "every 5 s\n",
     "cron", "cron * * * * *", "cron * * * * * Mars/Olympus", "cron 61 * * * * UTC",
     "cron * * * * * UTC jitter x s", "cron * * * * * UTC jitter -1 s", "hourly", "EVERY 5 s"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(ConfigurationError, match="is not a schedule"):
        parse_schedule(text)


# -- every -------------------------------------------------------------------------------------


@given(everies(), MOMENTS, st.floats(0, 1000))
@example(Every(seconds=10), NOW, 0.0)
@example(Every(seconds=10), NOW, 0.1)
@example(Every(seconds=10, jitter=5), NOW, 0.6)
def test_the_next_slot_is_later_than_slot_and_start_by_an_interval_at_most(every, slot, share):
    started = slot + seconds(min(every.seconds * share, 1e9))
    following = every.after(slot, started)
    assert following > slot
    assert following > started
    assert following <= started + seconds(every.seconds)
    assert following >= slot + seconds(every.seconds)


@given(everies(), MOMENTS, st.lists(st.floats(0, 0.0999), min_size=20, max_size=60), st.booleans())
def test_the_rhythm_is_kept_by_runs_that_begin_a_little_late(every, begin, lateness, jittered):
    slot = begin
    for late in lateness:
        due = put_off(every, 7, slot) if jittered else slot
        slot = every.after(slot, due + seconds(every.seconds * late))
    assert abs(slot - (begin + len(lateness) * seconds(every.seconds))) < MINUTE / 60_000


@given(everies(), MOMENTS, st.floats(0.11, 50))
def test_a_run_that_begins_late_begins_a_new_rhythm(every, slot, share):
    started = slot + seconds(min(every.seconds * share, 1e9) + every.jitter)
    assume(started > slot + seconds(every.seconds * 0.105 + every.jitter))
    assert every.after(slot, started) == started + seconds(every.seconds)


def test_missed_runs_coalesce_into_one():
    every, slot = Every(seconds=60), NOW
    back = slot + timedelta(days=3, seconds=17)
    assert every.after(slot, back) == back + MINUTE


def test_the_first_slot_of_an_interval_is_at_once():
    assert Every(seconds=3600).first(NOW) == NOW


# -- cron --------------------------------------------------------------------------------------


@given(crons(), st.sampled_from(ZONES), st.data())
def test_cron_finds_what_the_oracle_finds_over_every_change_of_clocks(drawn, zone, data):
    expression, matches, running = drawn
    change = data.draw(st.sampled_from(changes(zone)))
    begin = change - data.draw(st.integers(0, 1500)) * MINUTE
    end = change + timedelta(hours=30)
    expected = [m for m in walk(matches, running, zone, begin - 5 * MINUTE, end) if m > begin]
    found = list(slots(Cron(expression, zone), begin, end))
    assert found == expected
    assert all(slot.tzinfo is UTC for slot in found)


@given(crons(), st.sampled_from(ZONES), st.data())
def test_from_any_moment_on_the_next_slot_is_the_oracles(drawn, zone, data):
    expression, matches, running = drawn
    change = data.draw(st.sampled_from(changes(zone)))
    moment = change + data.draw(st.timedeltas(timedelta(hours=-4), timedelta(hours=4)))
    first = change - timedelta(hours=4, minutes=5)
    later = walk(matches, running, zone, first, change + timedelta(hours=9))
    expected = next((slot for slot in later if slot > moment), None)
    found = Cron(expression, zone).next(moment)
    assert found == expected or (expected is None and found >= change + timedelta(hours=9))


@given(crons(), st.sampled_from(ZONES), MOMENTS, MOMENTS)
def test_slots_of_cron_follow_slot_and_start(drawn, zone, slot, started):
    cron = Cron(drawn[0], zone)
    following = cron.after(slot, started)
    assert following > max(slot, started)
    assert following == cron.next(max(slot, started))
    assert cron.first(started) == cron.next(started) > started


def local(zone, *moments):
    return [m.astimezone(ZoneInfo(zone)).strftime("%d %H:%M:%S %z") for m in moments]


def after(cron, moment, count):
    found = []
    for _ in range(count):
        moment = cron.next(moment)
        found.append(moment)
    return local(cron.timezone, *found)


SPRING = datetime(2025, 3, 29, 12, tzinfo=UTC)  # Berlin: 02:00 is 03:00 on the 30th
AUTUMN = datetime(2025, 10, 25, 12, tzinfo=UTC)  # Berlin: 03:00 is 02:00 again on the 26th
ISLAND_SPRING = datetime(2024, 10, 5, 6, tzinfo=UTC)  # Lord Howe: 02:00 is 02:30 on the 6th
ISLAND_AUTUMN = datetime(2024, 4, 6, 6, tzinfo=UTC)  # Lord Howe: 02:00 is 01:30 again on the 7th


@pytest.mark.parametrize(
    ("expression", "zone", "begin", "expected"),
    [
        # what is skipped runs right after, once
        ("30 2 * * *", "Europe/Berlin", SPRING, ["30 03:00:00 +0200", "31 02:30:00 +0200"]),
        ("*/9 30 2 * * *", "Europe/Berlin", SPRING, ["30 03:00:00 +0200", "31 02:30:00 +0200"]),
        ("20 30 2 * * *", "Europe/Berlin", SPRING, ["30 03:00:00 +0200", "31 02:30:20 +0200"]),
        ("0,30 2,3 * * *", "Europe/Berlin", SPRING, ["30 03:00:00 +0200", "30 03:30:00 +0200"]),
        ("15 2 * * *", "Australia/Lord_Howe", ISLAND_SPRING,
         ["06 02:30:00 +1100", "07 02:15:00 +1100"]),
        # what is repeated runs once
        ("30 2 * * *", "Europe/Berlin", AUTUMN, ["26 02:30:00 +0200", "27 02:30:00 +0100"]),
        ("0 30 2 * * *", "Europe/Berlin", AUTUMN, ["26 02:30:00 +0200", "27 02:30:00 +0100"]),
        ("45 1 * * *", "Australia/Lord_Howe", ISLAND_AUTUMN,
         ["07 01:45:00 +1100", "08 01:45:00 +1030"]),
        # a rhythm goes by the clock that runs on
        ("*/30 2 * * *", "Europe/Berlin", SPRING, ["31 02:00:00 +0200", "31 02:30:00 +0200"]),
        ("0 */2 * * *", "Europe/Berlin", datetime(2025, 10, 25, 23, tzinfo=UTC),
         ["26 02:00:00 +0200", "26 02:00:00 +0100", "26 04:00:00 +0100"]),
        ("*/20 3 * * *", "Australia/Lord_Howe", ISLAND_SPRING,
         ["06 03:00:00 +1100", "06 03:20:00 +1100"]),
        ("*/20 1 * * *", "Australia/Lord_Howe", ISLAND_AUTUMN,
         ["07 01:00:00 +1100", "07 01:20:00 +1100", "07 01:40:00 +1100", "07 01:40:00 +1030",
          "08 01:00:00 +1030"]),
    ],
)  # fmt: skip
def test_cron_over_a_change_of_clocks(expression, zone, begin, expected):
    assert after(Cron(expression, zone), begin, len(expected)) == expected


def test_expressions_of_six_fields_begin_with_seconds():
    cron = Cron("*/20 59 23 * * *", "Asia/Kathmandu")
    assert after(cron, NOW, 4) == [
        "01 23:59:00 +0545", "01 23:59:20 +0545", "01 23:59:40 +0545", "02 23:59:00 +0545",
    ]  # fmt: skip


def test_a_leap_day_is_waited_for():
    assert Cron("0 0 29 2 *").next(NOW) == datetime(2028, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize("late", [timedelta(0), timedelta(microseconds=1), MINUTE, 59 * MINUTE])
def test_missed_slots_of_cron_coalesce_into_one(late):
    assert Cron("0 * * * *").after(NOW - timedelta(days=9), NOW + late) == NOW + 60 * MINUTE


# -- jitter ------------------------------------------------------------------------------------


@given(everies(), st.integers(1, 2**32), MOMENTS)
def test_a_slot_is_put_off_by_less_than_the_jitter_and_by_the_same_everywhere(every, view, slot):
    due = put_off(every, view, slot)
    assert timedelta(0) <= due - slot <= seconds(every.jitter)
    elsewhere = slot.astimezone(ZoneInfo("Asia/Kathmandu"))  # as a server may show it
    assert put_off(every, view, elsewhere) == due


def test_jitter_is_spread_over_the_whole_of_it():
    every = Every(seconds=100, jitter=50)
    shares = [(put_off(every, view, NOW) - NOW) / seconds(50) for view in range(1, 2001)]
    tenths = [sum(int(share * 10) == tenth for share in shares) for tenth in range(10)]
    assert min(tenths) > 140  # of 200
    assert max(shares) < 1
    assert len(set(shares)) == 2000


def test_jitter_differs_from_slot_to_slot():
    every = Every(seconds=100, jitter=50)
    found = {put_off(every, 1, NOW + n * MINUTE) - n * MINUTE for n in range(100)}
    assert len(found) == 100


def test_without_jitter_nothing_is_put_off():
    assert put_off(Cron("* * * * *"), 1, NOW) is NOW

"""When a view is to be refreshed: every so often, or by a cron expression. Pure values.

A schedule names *slots*, moments on the database's clock. A slot is served once in the whole
fleet; several that were missed coalesce into one. All moments here are timezone-aware.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from hashlib import blake2b
from heapq import merge
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PUNCTUAL: Final = 0.1  # share of an interval by which a start may be late and keep the rhythm
_SHORTEST: Final = 0.1  # seconds
_LONGEST: Final = 366 * 86_400.0  # seconds


@runtime_checkable
class Schedule(Protocol):
    """Says which slot comes next. `str()` of it can be read back by `parse_schedule`."""

    @property
    def jitter(self) -> float:
        """Seconds by which a slot is put off at most: differently for every view and slot."""
        ...

    def first(self, now: datetime) -> datetime:
        """The first slot of a view that was never scheduled."""
        ...

    def after(self, slot: datetime, started: datetime) -> datetime:
        """The slot after the one that a run served; later than both moments.

        Args:
            slot: The slot that was served.
            started: When the run for it began.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """At a fixed interval, counted from the start of the last run.

    A start that is a little late (a tenth of the interval) keeps the rhythm, so that a fleet
    does not drift by its own latency; a later one starts a new rhythm.

    Attributes:
        seconds: The interval, from 0.1 seconds to 366 days.
        jitter: Seconds; at most half the interval.

    Raises:
        ConfigurationError: They are out of bounds.
    """

    seconds: float = 300.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not _SHORTEST <= self.seconds <= _LONGEST:
            raise ConfigurationError(
                f"Every(seconds={self.seconds!r}) is not between {_SHORTEST} s and 366 days"
            )
        _check_jitter(self.jitter, self.seconds / 2)

    def __str__(self) -> str:
        return f"every {_number(self.seconds)} s{_jittered(self.jitter)}"

    def first(self, now: datetime) -> datetime:
        """At once."""
        return now

    def after(self, slot: datetime, started: datetime) -> datetime:
        """One interval later."""
        late = (started - slot).total_seconds()
        punctual = 0 <= late <= self.seconds * _PUNCTUAL + self.jitter
        return (slot if punctual else max(slot, started)) + timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Cron:
    """By a cron expression, in a time zone.

    Daylight saving is taken as Debian's cron takes it: what falls into the skipped hour runs
    right after it, what falls into the repeated hour runs once; expressions with a `*` in minutes
    or hours go by the clock that runs on.

    Attributes:
        expression: Five fields, or six with seconds first.
        timezone: A name of the IANA database, as "Europe/Berlin".
        jitter: Seconds.

    Raises:
        ConfigurationError: The expression or the zone cannot be read, or no day matches.
    """

    expression: str
    timezone: str = "UTC"
    jitter: float = 0.0

    def __post_init__(self) -> None:
        _check_jitter(self.jitter, 86_400)
        try:
            zone = ZoneInfo(self.timezone)
        except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
            raise ConfigurationError(f"{self.timezone!r} is no time zone: {error}") from None
        except KeyError:
            raise ConfigurationError(
                f"there is no time zone {self.timezone!r} (write one as Europe/Berlin; where the "
                "system has no zones, install tzdata)"
            ) from None
        try:
            next(CronSim(self.expression, datetime(2024, 1, 1, tzinfo=zone)))
        except (CronSimError, StopIteration) as error:
            raise ConfigurationError(
                f"{self.expression!r} is not a cron expression: {str(error) or 'no day matches'} "
                "(write minute hour day month weekday, as */15 * * * *)"
            ) from None

    def __str__(self) -> str:
        return f"cron {' '.join(self.expression.split())} {self.timezone}{_jittered(self.jitter)}"

    def first(self, now: datetime) -> datetime:
        """The next one: what was missed before anybody scheduled it was not missed."""
        return self.next(now)

    def after(self, slot: datetime, started: datetime) -> datetime:
        """The first that is later than both."""
        return self.next(max(slot, started))

    def next(self, moment: datetime) -> datetime:
        """The first slot later than `moment`, in UTC."""
        return _next_slot(self.expression, self.timezone, moment)


@lru_cache(maxsize=4096)  # a service asks the same for each of its views at every look
def _next_slot(expression: str, timezone_name: str, moment: datetime) -> datetime:
    """The first slot later than `moment`, in UTC.

    CronSim is given clocks without a zone. With one it walks by whole hours, and loses slots where
    an offset changes by half of one (Australia/Lord_Howe); and it knows no fixed time of day in
    expressions of six fields.
    """
    zone = ZoneInfo(timezone_name)
    minute, hour = expression.split()[-5:-3]
    running = minute.startswith("*") or hour.startswith("*")
    slots = (_by_running_clock if running else _by_fixed_time)(expression, zone, moment)
    return next(slot for slot in slots if slot > moment)


def _by_fixed_time(expression: str, zone: ZoneInfo, moment: datetime) -> Iterator[datetime]:
    for wall in CronSim(expression, moment.astimezone(zone).replace(tzinfo=None)):
        yield _when_it_is(wall, zone)


def _by_running_clock(expression: str, zone: ZoneInfo, moment: datetime) -> Iterator[datetime]:
    """What a clock of each offset finds, in order, as far as the offset is the zone's just then."""
    ahead = (moment + timedelta(days=days) for days in range(0, 371, 14))
    offsets = {day.astimezone(zone).utcoffset() or timedelta() for day in ahead}
    for found in merge(*(_by_offset(expression, timezone(o), moment) for o in offsets)):
        if found.astimezone(zone).utcoffset() == found.utcoffset():
            yield found.astimezone(UTC)


def _by_offset(expression: str, offset: timezone, moment: datetime) -> Iterator[datetime]:
    for wall in CronSim(expression, moment.astimezone(offset).replace(tzinfo=None)):
        yield wall.replace(tzinfo=offset)


def _when_it_is(wall: datetime, zone: ZoneInfo) -> datetime:
    """When clocks show this for the first time; where they skip it, when they have skipped."""
    while True:
        found = wall.replace(tzinfo=zone).astimezone(UTC)
        if found.astimezone(zone).replace(tzinfo=None) == wall:
            return found
        wall = wall.replace(second=0) + timedelta(minutes=1)


def _check_jitter(jitter: float, most: float) -> None:
    if not 0 <= jitter <= most:
        raise ConfigurationError(f"jitter={jitter!r} is not between 0 and {most:g} seconds")


def _jittered(jitter: float) -> str:
    return f" jitter {_number(jitter)} s" if jitter else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def put_off(schedule: Schedule, view: int, slot: datetime) -> datetime:
    """The moment at which a slot is due: the same in every process, another for every view."""
    if not schedule.jitter:
        return slot
    name = f"{view} {slot.astimezone(UTC).isoformat()}".encode()
    share = int.from_bytes(blake2b(name, digest_size=6).digest(), "big") / (1 << 48)
    return slot + timedelta(seconds=schedule.jitter * share)


_EVERY = re.compile(r"every (\S+) s(?: jitter (\S+) s)?")
_CRON = re.compile(r"cron (.+?) (\S+?)(?: jitter (\S+) s)?")


def parse_schedule(text: str) -> Schedule:
    """Read what `str(schedule)` wrote: "every 300 s", "cron */15 * * * * UTC jitter 20 s".

    Raises:
        ConfigurationError: It is neither.
    """
    try:
        if match := _EVERY.fullmatch(text):
            return Every(seconds=float(match[1]), jitter=float(match[2] or 0))
        if match := _CRON.fullmatch(text):
            return Cron(match[1], match[2], jitter=float(match[3] or 0))
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is not a schedule: {error}") from None
    raise ConfigurationError(f"{text!r} is not a schedule: write every 300 s, or cron ... UTC")

"""What is new in a picture: refreshes that began or ended, views suspended or resumed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mvrefresh.cli.tables import STYLES
from mvrefresh.cli.wording import duration, moment, number, plural, rows_written
from mvrefresh.fleet.picture import seconds_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from mvrefresh.fleet.picture import Picture, RefreshGoingOn, ViewSeen
    from mvrefresh.metrics.store import RefreshRecord


_LONG: Final = 10.0  # seconds from which on it is said how long a refresh has gone on

_PATIENCE: Final = timedelta(seconds=3)
"""A failure is recorded after the refresh, in a transaction of its own: it may come later."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened, in words; not yet made harmless for a terminal."""

    when: datetime
    view: str
    words: str
    style: str = ""

    def __str__(self) -> str:
        return f"{moment(self.when)}  {self.view}: {self.words}"


@dataclass(slots=True)
class _Told:
    """A refresh whose beginning was told.

    Attributes:
        recorded: Its record has been told, too.
        gone: Since when no look has found it any more.
    """

    refresh: RefreshGoingOn
    recorded: bool = False
    gone: datetime | None = None


class Changes:
    """Compares each picture with the one before it."""

    def __init__(self) -> None:
        self._first = True
        self._told: dict[int, _Told] = {}
        self._suspended: set[int] = set()

    def of(self, picture: Picture) -> list[Change]:
        """What is new, in the order in which it happened.

        Of the first picture it is what goes on, and what is suspended; not its records.
        """
        found: list[Change] = []
        if not self._first:
            found += map(record_change, picture.records)
        self._first = False
        for view in picture.views:
            found += self._refresh_of(view, picture)
            found += self._suspension_of(view, picture.now)
        return sorted(found, key=lambda change: change.when)

    def _refresh_of(self, view: ViewSeen, picture: Picture) -> Iterator[Change]:
        told, now = self._told.get(view.oid), view.running
        for record in picture.records:
            if told and record.view_name == view.label and record.created_at:
                told.recorded |= record.created_at >= told.refresh.since
        if now is not None and (told is None or now != told.refresh):
            self._told[view.oid] = _Told(now)
            yield Change(now.since, view.label, _begun(view, now, picture.now))
        elif now is None and told is not None:
            told.gone = told.gone or picture.now
            if told.recorded:
                del self._told[view.oid]
            elif picture.now - told.gone >= _PATIENCE:
                del self._told[view.oid]
                yield Change(picture.now, view.label, "no longer refreshing, nothing on record")

    def _suspension_of(self, view: ViewSeen, now: datetime) -> Iterator[Change]:
        if view.suspended_at is not None and view.oid not in self._suspended:
            self._suspended.add(view.oid)
            yield Change(view.suspended_at, view.label, trouble(view), STYLES["failed"])
        elif view.suspended_at is None and view.oid in self._suspended:
            self._suspended.remove(view.oid)
            yield Change(now, view.label, "resumed", STYLES["succeeded"])


def _begun(view: ViewSeen, refresh: RefreshGoingOn, now: datetime) -> str:
    hints = []
    elapsed = seconds_between(refresh.since, now) or 0
    if elapsed >= _LONG:
        hints.append(f"for {duration(elapsed * 1000)} already")
    if view.usual_duration_ms is not None:
        hints.append(f"usually {duration(view.usual_duration_ms)}")
    return "refreshing" + (f" ({', '.join(hints)})" if hints else "")


def trouble(view: ViewSeen) -> str:
    """How often a view's scheduled refresh failed, and why; empty where it does not."""
    if not view.failures and view.suspended_at is None:
        return ""
    failures = plural(view.failures, "failure")
    words = f"{failures} since the last success"
    if view.suspended_at is not None:
        words = f"suspended after {failures}" if view.failures else "suspended"
    error = " ".join((view.last_error or "").split()).removeprefix(f"{view.label}: ")
    return f"{words}: {error}" if error else words


def record_change(record: RefreshRecord) -> Change:
    """What came of a refresh, by its record."""
    assert record.created_at is not None  # noqa: S101 - it comes from a store
    words = record.status.replace("_", " ")
    if record.success:
        words = f"refreshed in {duration(record.refresh_duration_ms)}"
        hints = [hint for hint in (record.strategy, _rows(record)) if hint]
        words += f" ({', '.join(hints)})" if hints else ""
    elif record.error_message:
        said = " ".join(record.error_message.split()).removeprefix(f"{record.view_name}: ")
        words += f": {said}"
    return Change(record.created_at, record.view_name, words, STYLES.get(record.status, ""))


def _rows(record: RefreshRecord) -> str:
    if record.rows_inserted is None:
        return ""
    if record.strategy == "regular":  # it writes them all
        return f"{number(record.rows_inserted)} rows"
    return f"{rows_written(record.rows_inserted, record.rows_deleted)} rows"

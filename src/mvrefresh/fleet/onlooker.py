"""Looks at a fleet again and again, for `watch`; writes nothing."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from mvrefresh.errors import ConfigurationError, UnknownView
from mvrefresh.fleet.glance import Glance, read_glance
from mvrefresh.fleet.picture import Picture, Process, RefreshGoingOn, ViewSeen
from mvrefresh.postgres.catalog import naming_the_kind, read_catalog
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.refreshing.due import decide, due_at
from mvrefresh.refreshing.graph import ViewGraph
from mvrefresh.refreshing.schedule import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from mvrefresh.metrics.store import RefreshRecord
    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.refreshing.schedule import Schedule
    from mvrefresh.refreshing.view import MaterializedView

_OVERLAP: Final = timedelta(seconds=15)  # a record shows at its commit, later than its time
_ATTEMPTS: Final = 3  # to find a catalog that does not change while it is read


class Onlooker:
    """Remembers the catalog and which records it has seen, so that a look costs little.

    It needs no more than to read the library's tables.

    Args:
        database: Where.
        wanted: Names of views; none: all.
    """

    def __init__(self, database: Database, wanted: Sequence[str] = ()) -> None:
        self._database = database
        self._wanted = tuple(wanted)
        self._fingerprint: str | None = None
        self._graph = ViewGraph(())
        self._views: list[MaterializedView] = []
        self._upstream: dict[int, frozenset[int]] = {}
        self._usual: dict[str, float | None] = {}
        self._began: dict[tuple[int, int], datetime] = {}  # of refreshes, by oid and pid
        self._since: datetime | None = None  # the last look
        self._seen: set[int | None] = set()  # its records
        self._oldest: datetime | None = None  # record of the first look

    @property
    def graph(self) -> ViewGraph:
        """All views of the database, as of the last look."""
        return self._graph

    def look(self) -> Picture:
        """What there is to see now.

        Raises:
            SchemaMissing: The library's tables are not there, or of another version.
            UnknownView: At the first look: no view has a wanted name.
            DatabaseUnavailable: The database is not there, or went away.
        """
        with self._database.dedicated() as connection, unavailable_when_lost():
            if self._fingerprint is None:
                place = self._database.schema
                if place.version(connection) != place.latest:
                    place.check(connection)  # says what is wrong
            glance = self._read(connection)
            for _ in range(_ATTEMPTS):
                if glance.tick.fingerprint == self._fingerprint:
                    break
                self._read_views(connection)
                self._fingerprint = glance.tick.fingerprint
                glance = self._read(connection)
            info = connection.info
            where = f"{info.dbname} at {info.host}:{info.port}"
        now = glance.tick.now
        return Picture(
            now=now,
            where=where,
            standby=glance.tick.standby,
            views=self._views_of(glance),
            records=self._new_among(glance.records, now),
            fleet=None if glance.fleet is None else tuple(_processes(glance.fleet)),
        )

    def _read(self, connection: AnyConnection) -> Glance:
        unusual = [view.label for view in self._views if view.label not in self._usual]
        glance = read_glance(
            connection,
            self._database.schema,
            self._views,
            unusual=unusual,
            only_these=bool(self._wanted),
            since=self._since and self._since - _OVERLAP,
        )
        self._usual |= glance.usual
        return glance

    def _read_views(self, connection: AnyConnection) -> None:
        self._graph = graph = read_catalog(connection)
        self._upstream = {view.oid: frozenset(graph.upstream([view.oid])) for view in graph}
        if not self._wanted:
            self._views = list(graph)
            return
        oids = []
        for wanted in self._wanted:
            if self._fingerprint is None:
                with naming_the_kind(connection):
                    oids.append(graph.find(wanted).oid)
            else:
                with suppress(UnknownView):  # dropped since; it may come back
                    oids.append(graph.find(wanted).oid)
        self._views = graph.order(oids)

    def _views_of(self, glance: Glance) -> tuple[ViewSeen, ...]:
        now, slots = glance.tick.now, glance.tick.rows
        schedules = {oid: s for oid, slot in slots.items() if (s := _schedule(slot.schedule))}
        running = self._going_on(glance.running, now)
        suspended = decide(slots, schedules, self._upstream, now, busy=running).suspended
        seen = []
        for view in self._views:
            if (state := glance.states.get(view.oid)) is None:
                continue  # dropped a moment ago
            slot, schedule = slots.get(view.oid), schedules.get(view.oid)
            because = suspended.get(view.oid)
            due = None
            if slot is not None and schedule is not None and because is None:
                due = due_at(slot, schedule, now)
            seen.append(
                ViewSeen(
                    view.oid,
                    view.label,
                    populated=state.populated,
                    changed_by_others=state.valid is False,
                    refresh_no=state.refresh_no if state.valid else None,
                    content_as_of=state.content_as_of if state.valid else None,
                    schedule=slot.schedule if slot else None,
                    due_at=due,
                    failures=slot.failures if slot else 0,
                    suspended_at=slot.suspended_at if slot else None,
                    suspended_because=None if because is None else self._label(because),
                    last_error=slot.last_error if slot else None,
                    last=glance.last.get(view.label),
                    usual_duration_ms=self._usual.get(view.label),
                    running=running.get(view.oid),
                )
            )
        return tuple(seen)

    def _label(self, oid: int) -> str:
        return self._graph[oid].label if oid in self._graph else f"a view with the oid {oid}"

    def _going_on(self, rows: Iterable[Any], now: datetime) -> dict[int, RefreshGoingOn]:
        """By oid; where a role may not know when another's transaction began, since first seen."""
        before = self._began
        self._began = {
            (row.view, row.pid): row.since or before.get((row.view, row.pid), now) for row in rows
        }
        return {
            row.view: RefreshGoingOn(row.pid, self._began[row.view, row.pid], row.application)
            for row in rows
        }

    def _new_among(
        self, records: Sequence[RefreshRecord], now: datetime
    ) -> tuple[RefreshRecord, ...]:
        """Those that no look has seen yet, oldest first."""
        if self._since is None and records:
            self._oldest = records[-1].created_at
        new = [
            record
            for record in reversed(records)
            if record.id not in self._seen
            and (
                self._oldest is None
                or record.created_at is None
                or record.created_at >= self._oldest
            )
        ]
        self._seen = {record.id for record in records}
        self._since = now
        for record in new:
            self._usual.pop(record.view_name, None)  # ask again
        return tuple(new)


def _schedule(text: str) -> Schedule | None:
    try:
        return parse_schedule(text)
    except ConfigurationError:  # of a later version of the library
        return None


def _processes(rows: Iterable[Any]) -> Iterable[Process]:
    for row in rows:
        host, _, pid = row.name.removeprefix("mvrefresh service ").rpartition(":")
        if pid.isdecimal():
            yield Process(host, int(pid), row.since)

"""Which views a service cares for, and by which schedule: names made oids, kept up to date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from mvrefresh.errors import ConfigurationError, MvrefreshError, UnknownView
from mvrefresh.postgres.catalog import naming_the_kind, read_catalog
from mvrefresh.postgres.slots import read_tick
from mvrefresh.refreshing.schedule import Every, Schedule, parse_schedule

if TYPE_CHECKING:
    from psycopg import Connection

    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.due import Slot
    from mvrefresh.refreshing.graph import ViewGraph
    from mvrefresh.refreshing.plan import ViewLike


@dataclass(frozen=True, slots=True)
class Roll:
    """The roster as the catalog stood at one moment.

    Attributes:
        graph: All views of the database.
        schedules: By oid, of the views that are cared for; None: as the view's row says.
        upstream: All that each of them reads, at any depth.
        order: Of the views that are cared for, each after all that it reads.
        mixed: Views that read tables, not only views.
        unknown: Names that are of no view now, or of several.
        fingerprint: Of the catalog; see `Tick`.
    """

    graph: ViewGraph
    schedules: Mapping[int, Schedule | None]
    upstream: Mapping[int, frozenset[int]]
    order: tuple[int, ...]
    mixed: frozenset[int]
    unknown: tuple[str, ...]
    fingerprint: str

    def labels(self) -> tuple[str, ...]:
        """The views that are cared for, in the order in which they are refreshed."""
        return tuple(self.graph[oid].label for oid in self.order)

    def schedule_of(self, oid: int, row: Slot | None) -> Schedule:
        """The schedule of a view; where none was given that of its row, or the default."""
        given = self.schedules[oid]
        if given is not None:
            return given
        return Every() if row is None or not row.schedule else parse_schedule(row.schedule)


class Roster:
    """Keeps a roll that is as new as the catalog. Any thread may ask.

    Args:
        views: Names; None: every view of the database, also those that come later.
        schedule: One for all, or one a view; None: as the database says.

    Raises:
        ConfigurationError: They cannot be meant.
    """

    def __init__(
        self,
        views: Iterable[ViewLike] | None,
        schedule: Schedule | Mapping[str, Schedule] | None,
    ) -> None:
        check_names(views)
        self._views = None if views is None else tuple(views)
        self._one: Schedule | None = None
        self._by_name: Mapping[str, Schedule] | None = None
        if isinstance(schedule, Mapping):
            self._by_name = dict(schedule)
            for name, each in schedule.items():
                _check(each, f"schedule[{name!r}]")
            if self._views is not None:
                _check_both(self._views, self._by_name)
        elif schedule is not None:
            _check(schedule, "schedule")
            self._one = schedule
        self._roll: Roll | None = None
        self._stale = False
        self._lock = Lock()

    @property
    def roll(self) -> Roll | None:
        """The last one; None before the first."""
        return self._roll

    @property
    def interval_seconds(self) -> float | None:
        """The interval, where all views have the same one."""
        every = {self._one} if self._by_name is None else set(self._by_name.values())
        (one, *others) = every or {None}
        return one.seconds if not others and isinstance(one, Every) else None

    @property
    def names(self) -> list[str] | None:
        """The views: as the roll has them, or as they were given; None: all, and no roll yet."""
        if self._roll is not None:
            return list(self._roll.labels())
        given = self._views if self._by_name is None else self._by_name
        return None if given is None else [str(name) for name in given]

    def expire(self) -> None:
        """Read the catalog again the next time, whatever its fingerprint."""
        self._stale = True

    def check(self, connection: Connection[Any], schema: Schema | None) -> None:
        """See at once what would never work.

        Raises:
            SchemaMissing: The library's tables are needed, and are not there.
            UnknownView: A name is that of no materialized view.
        """
        if schema is not None:
            schema.check(connection)
        self.at(connection, read_tick(connection, None).fingerprint, strict=True)

    def at(self, connection: Connection[Any], fingerprint: str, *, strict: bool = False) -> Roll:
        """The roll as of a fingerprint; the catalog is read only where it has changed.

        Raises:
            UnknownView: With `strict`, a name is that of no materialized view.
        """
        with self._lock:
            roll = self._roll
            if roll is None or self._stale or strict or roll.fingerprint != fingerprint:
                self._stale = False
                graph = read_catalog(connection)
                with naming_the_kind(connection):
                    roll = self._roll = self._call(graph, fingerprint, strict=strict)
            return roll

    def _call(self, graph: ViewGraph, fingerprint: str, *, strict: bool) -> Roll:
        schedules: dict[int, Schedule | None] = {}
        unknown = []
        for name, schedule in self._wanted(graph):
            try:
                schedules[graph.find(name).oid] = schedule
            except UnknownView:
                if strict:
                    raise
                unknown.append(str(name))
        return Roll(
            graph,
            schedules,
            {oid: frozenset(graph.upstream([oid])) for oid in schedules},
            _order(graph, schedules),
            frozenset(oid for oid in schedules if graph[oid].base_tables),
            tuple(unknown),
            fingerprint,
        )

    def _wanted(self, graph: ViewGraph) -> Iterable[tuple[ViewLike, Schedule | None]]:
        if self._by_name is not None:
            return list(self._by_name.items())
        views = graph.views if self._views is None else self._views
        return [(view, self._one) for view in views]

    def forget_parent(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = Lock()


def check_names(views: object) -> None:
    """See that they are names, in something that is gone through once.

    Raises:
        ConfigurationError: They are one name, or a schedule in the place of names.
    """
    if isinstance(views, str | bytes):
        raise ConfigurationError(f"views={views!r} is one name: pass a list, [{views!r}]")
    if isinstance(views, Schedule | Mapping):
        raise ConfigurationError(
            f"views={views!r:.200} is a schedule: pass it by name, schedule={views!r:.200}"
        )
    if views is not None and not isinstance(views, Iterable):
        raise ConfigurationError(f'views={views!r:.200} is no list of names: pass ["mv"]')


def _order(graph: ViewGraph, oids: Iterable[int]) -> tuple[int, ...]:
    """By what reads what; by name where views read each other in a circle, which has none."""
    chosen = set(oids)
    try:
        return tuple(view.oid for view in graph.order(chosen))
    except MvrefreshError:
        return tuple(view.oid for view in graph.views if view.oid in chosen)


def _check(schedule: object, what: str) -> None:
    if not isinstance(schedule, Schedule):
        raise ConfigurationError(
            f"{what}={schedule!r} is no schedule: write Every(seconds=300) or Cron('*/15 * * * *')"
        )


def _check_both(views: tuple[ViewLike, ...], by_name: Mapping[str, Schedule]) -> None:
    different = {str(view) for view in views} ^ set(by_name)
    if different:
        raise ConfigurationError(
            f"views= and schedule= do not name the same views ({', '.join(sorted(different))}): "
            "leave views= out, the schedules name them"
        )

"""All that `status` looks at: catalog, state, history and health, together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from mvrefresh.cli.wording import plural
from mvrefresh.errors import DatabaseUnavailable
from mvrefresh.metrics.postgres import PostgresMetricsStore
from mvrefresh.postgres.catalog import read_catalog
from mvrefresh.postgres.slots import read_tick
from mvrefresh.postgres.state import ViewState, read_states
from mvrefresh.refreshing.due import decide
from mvrefresh.refreshing.schedule import Every

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mvrefresh.metrics.store import RefreshRecord
    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.postgres.health import DatabaseHealth
    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.due import Slot
    from mvrefresh.refreshing.graph import ViewGraph
    from mvrefresh.refreshing.view import MaterializedView


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """The library's tables: which version is there (0: none), which is needed."""

    place: Schema
    installed: int

    @property
    def needed(self) -> int:
        """By this library."""
        return self.place.latest

    @property
    def status(self) -> str:
        """`current`, `missing`, `outdated` or `too_new`."""
        if self.installed == self.needed:
            return "current"
        if self.installed == 0:
            return "missing"
        return "outdated" if self.installed < self.needed else "too_new"

    @property
    def words(self) -> str:
        """The same for people."""
        if self.status == "current":
            return f"version {self.installed}, current"
        if self.status == "missing":
            return "not installed (`mvrefresh schema --apply` does it)"
        status = self.status.replace("_", " ")
        return f"version {self.installed}, {status}: version {self.needed} is needed"


@dataclass(frozen=True, slots=True)
class Sight:
    """All that `status` looks at, as of one moment (`now`, by the database's clock).

    Attributes:
        states: By oid, of the views that the library was the last to refresh.
        changed_by_others: Oids of those that it was not: somebody else has refreshed or altered
            them since, and their state rows speak of content that is gone.
        last: The newest record of each view, by label.
        slots: What the schedules know of a view, by oid.
        suspended: Views that schedules leave alone, and because of which: itself, or one it reads.
    """

    health: DatabaseHealth
    where: str
    now: datetime
    schema: SchemaVersion
    graph: ViewGraph
    states: dict[int, ViewState]
    changed_by_others: frozenset[int]
    last: dict[str, RefreshRecord]
    slots: Mapping[int, Slot]
    suspended: Mapping[int, int]

    def age_seconds(self, view: MaterializedView) -> float | None:
        """How old a view's content is; None where nobody noted it."""
        state = self.states.get(view.oid)
        if state is None or state.content_as_of is None or not view.populated:
            return None
        return max(0.0, (self.now - state.content_as_of).total_seconds())

    def problems(self) -> list[str]:
        """What is not as it should be, in words."""
        found = []
        if self.health.status != "healthy":
            found.append(f"the database is {self.health.status}: {self.health.detail}")
        if self.schema.status != "current":
            found.append(f"the library's tables: {self.schema.words}")
        for view in self.graph:
            if not view.populated:
                found.append(f"{view.label} is not populated: whoever reads it gets an error")
            if not view.permitted:
                found.append(f"{view.label} may not be refreshed by this role")
            if view.oid in self.suspended:
                found.append(self._suspension_of(view))
            record = self.last.get(view.label)
            if record is not None and record.success is False:
                why = " ".join((record.error_message or view.label).split())
                found.append(f"last refresh {record.status}: {why}")
        return found

    def suspended_because(self, view: MaterializedView) -> str | None:
        """The view for whose sake schedules leave one alone; None: they do not."""
        because = self.suspended.get(view.oid)
        return None if because is None else self.graph[because].label

    def _suspension_of(self, view: MaterializedView) -> str:
        failures = self.slots[self.suspended[view.oid]].failures
        why = f", since {self.suspended_because(view)} failed {plural(failures, 'time')}"
        return f"{view.label} is suspended{why if failures else ''}"


def look(database: Database) -> Sight:
    """Read all there is to see.

    Raises:
        DatabaseUnavailable: The database cannot be reached.
    """
    with database.dedicated() as connection:
        graph = read_catalog(connection)
        schema = SchemaVersion(database.schema, database.schema.version(connection))
        usable = schema.status == "current"
        states = read_states(connection, database.schema) if usable else {}
        others = _changed_by_others(connection, database.schema) if usable else frozenset()
        states = {oid: state for oid, state in states.items() if oid not in others}
        slots = read_tick(connection, database.schema).rows if usable else {}
        clock = connection.execute("SELECT clock_timestamp()").fetchone()
        info = connection.info
        where = f"{info.dbname} at {info.host}:{info.port}"
    metrics = PostgresMetricsStore(database)
    last = {}
    for view in graph if usable else ():
        for record in metrics.recent(1, view_name=view.label):
            last[view.label] = record
    if clock is None:
        raise DatabaseUnavailable("the database did not tell the time")
    upstream = {view.oid: frozenset(graph.upstream([view.oid])) for view in graph}
    known = {oid: slot for oid, slot in slots.items() if oid in graph}
    # Whether a view is suspended is the same by every schedule.
    suspended = decide(known, dict.fromkeys(known, Every()), upstream, clock[0]).suspended
    return Sight(
        health=database.health(),
        where=where,
        now=clock[0],
        schema=schema,
        graph=graph,
        states=states,
        changed_by_others=others,
        last=last,
        slots=known,
        suspended=suspended,
    )


# Whoever writes a view's row of pg_class without the library leaves the state row behind.
_OTHERS = sql.SQL(
    "SELECT s.view::bigint FROM {} s JOIN pg_class c ON c.oid = s.view AND c.xmin <> s.xmin"
)


def _changed_by_others(connection: AnyConnection, schema: Schema) -> frozenset[int]:
    rows = connection.execute(_OTHERS.format(schema.identifier("state")))
    return frozenset(oid for (oid,) in rows)

"""Hourly and daily roll-ups of a table of events, over a window that moves with the clock.

The views, the table of events for those who have none, and the function that refreshes the views
from SQL: three things, each with its DDL.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from psycopg import sql

from mvrefresh.errors import ConfigurationError
from mvrefresh.postgres import definition
from mvrefresh.postgres.definition import Definition
from mvrefresh.postgres.schema import Schema, one_at_a_time
from mvrefresh.refreshing.view import ViewName
from mvrefresh.usage import function

if TYPE_CHECKING:
    from psycopg import Connection

_ROLL_UP = sql.SQL("""
CREATE MATERIALIZED VIEW {view} AS
SELECT date_trunc({unit}, {ts}, {zone}) AS {bucket},
       coalesce({category}::text, '') AS tool_category,
       coalesce({tool}::text, '') AS tool_name,
       count(*) AS call_count,
       count(*) FILTER (WHERE {success}) AS success_count,
       count(*) FILTER (WHERE NOT {success}) AS error_count,
       -- by numeric: a sum of floats depends on the order of its rows, and would make buckets
       -- that nobody touched differ in their last bit from one refresh to the next
       avg({duration}::numeric)::float8 AS avg_duration_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY {duration}) AS p95_duration_ms
  FROM {events}
 -- the window begins with a whole bucket: a bucket is there with all its events or not at all
 WHERE {ts} >= date_trunc({unit}, now() - {window}, {zone})
 GROUP BY 1, 2, 3
{data}
""")

_EVENTS = sql.SQL("""
CREATE TABLE {events} (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    {ts}          timestamptz NOT NULL DEFAULT now(),
    {category}    text,
    {tool}        text,
    {success}     boolean NOT NULL DEFAULT true,
    {duration}    double precision
)
""")
_EVENTS_INDEX = sql.SQL("CREATE INDEX ON {events} ({ts})")


@dataclass(frozen=True, slots=True)
class UsageSource:
    """A table of events, and its hourly and daily roll-ups.

    Each view has a row per bucket, category and tool: `hour_bucket` (or `day_bucket`),
    `tool_category`, `tool_name`, `call_count`, `success_count`, `error_count`, `avg_duration_ms`,
    `p95_duration_ms` (milliseconds, over events with a duration), with a unique index on the
    first three. A category or name that is NULL counts as ''; an event whose success is NULL
    counts as a call and neither as success nor as error.

    Rows leave the window without any write, so a view is never up to date for ever.

    Args:
        events: The table, as SQL reads a name; with `schema`, exactly this name.
        schema: The table's schema.
        hourly_view: Name of the first view.
        daily_view: Name of the second.
        view_schema: Where the views go; the table's schema by default.
        window: How far back the roll-ups reach; the oldest bucket is a whole one.
        time_zone: Zone in which buckets begin, as IANA names it.
        ts: Column of the moment, timestamptz.
        category: Column of the category.
        tool: Column of the tool's name.
        success: Column of the success, boolean.
        duration: Column of the duration, milliseconds.
        refresh_function: Name of the function that refreshes both views; in the views' schema.
        refresh_log: Name of the table in which that function logs; in the views' schema.

    Raises:
        ConfigurationError: A name, the window or the zone cannot be meant.
    """

    events: str = "archon_mcp_usage_events"
    schema: str | None = None
    hourly_view: str = "archon_mcp_usage_hourly"
    daily_view: str = "archon_mcp_usage_daily"
    view_schema: str | None = None
    window: timedelta = timedelta(days=180)
    time_zone: str = "UTC"
    ts: str = "ts"
    category: str = "tool_category"
    tool: str = "tool_name"
    success: str = "success"
    duration: str = "duration_ms"
    refresh_function: str = "refresh_mcp_usage_views"
    refresh_log: str = "archon_mcp_view_refresh_log"

    def __post_init__(self) -> None:
        definition.table_name(self.events, self.schema)
        columns = ("ts", "category", "tool", "success", "duration")
        views = ("hourly_view", "daily_view", "view_schema")
        refreshing = ("refresh_function", "refresh_log")
        names = {what: getattr(self, what) for what in (*columns, *views, *refreshing)}
        definition.check_names(names)
        if self.hourly_view == self.daily_view:
            raise ConfigurationError("the two views need two names")
        if self.log in (self.base_table, *self.views):
            raise ConfigurationError(f"refresh_log={self.refresh_log!r} is a name of another thing")
        if self.window <= timedelta(0):
            raise ConfigurationError(f"window={self.window} is not a positive length of time")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ConfigurationError(
                f"time_zone={self.time_zone!r} is not a zone of the IANA database"
            ) from error

    @property
    def base_table(self) -> ViewName:
        """The table of the events."""
        return definition.table_name(self.events, self.schema)

    @property
    def views(self) -> tuple[ViewName, ViewName]:
        """The hourly and the daily view."""
        return self._beside(self.hourly_view), self._beside(self.daily_view)

    @property
    def function(self) -> ViewName:
        """The function that refreshes both views."""
        return self._beside(self.refresh_function)

    @property
    def log(self) -> ViewName:
        """The table in which that function logs."""
        return self._beside(self.refresh_log)

    def _beside(self, name: str) -> ViewName:
        return ViewName(self.view_schema or self.base_table.schema, name)

    def _names(self) -> dict[str, sql.Composable]:
        columns = ("ts", "category", "tool", "success", "duration")
        return {
            "events": definition.identifier(self.base_table),
            **{what: sql.Identifier(getattr(self, what)) for what in columns},
        }

    def statements(self, *, with_data: bool = True) -> list[sql.Composed]:
        """The DDL of the two views and their indexes."""
        found = []
        for view, unit in zip(self.views, ("hour", "day"), strict=True):
            bucket = f"{unit}_bucket"
            text = _ROLL_UP.format(
                view=definition.identifier(view),
                unit=sql.Literal(unit),
                bucket=sql.Identifier(bucket),
                zone=sql.Literal(self.time_zone),
                window=sql.SQL("interval {}").format(
                    sql.Literal(f"{self.window.total_seconds():f} seconds")
                ),
                data=sql.SQL("" if with_data else "WITH NO DATA"),
                **self._names(),
            )
            keys = (bucket, "tool_category", "tool_name")
            found.append(Definition(view, text, (definition.unique_index(view, *keys),)))
        return definition.statements(found)

    def events_statements(self) -> list[sql.Composed]:
        """The DDL of a table of events, for those who have none yet."""
        return [_EVENTS.format(**self._names()), _EVENTS_INDEX.format(**self._names())]

    def ddl(self, connection: Connection[Any] | None = None, *, with_data: bool = True) -> str:
        """The DDL of the views as one SQL script, for a migration of the host's own."""
        return definition.script(self.statements(with_data=with_data), connection)

    def events_ddl(self, connection: Connection[Any] | None = None) -> str:
        """The DDL of the table of events as one SQL script."""
        return definition.script(self.events_statements(), connection)

    def function_statements(self, schema: Schema | None = None) -> list[sql.Composed]:
        """The DDL of the log and of the function that refreshes the views. It may run again.

        Args:
            schema: Where the library's own functions are; `Database.schema`, or the default one.
        """
        return function.statements(self.function, self.log, self.views, schema or Schema())

    def function_ddl(
        self, connection: Connection[Any] | None = None, *, schema: Schema | None = None
    ) -> str:
        """The DDL of log and function as one SQL script; without the library's it fails."""
        return definition.script(self.function_statements(schema), connection)

    def create_function(self, connection: Connection[Any], *, schema: Schema | None = None) -> None:
        """Create the function that refreshes the views, and its log; or bring both up to date.

        In one transaction, safe against others doing the same.
        A log of these columns is kept. A function of this name without arguments that returns the
        same is replaced: its owner, grants and jobs stay.

        Raises:
            SchemaMissing: The library's schema is not installed. Nothing was touched.
            ConfigurationError: Something else has one of the names. Nothing was touched.
        """
        with one_at_a_time(connection):
            function.require(connection, self.function, self.log, schema or Schema())
            definition.create(connection, self.function_statements(schema))

    def drop_function(self, connection: Connection[Any]) -> None:
        """Drop the function if it is there; its log stays."""
        definition.create(connection, [function.removal(self.function)])

    def create_events(self, connection: Connection[Any]) -> None:
        """Create the table of events, with an index on its moment.

        Raises:
            ConfigurationError: There is something of its name. Nothing was touched.
        """
        there = "leave it, or DROP TABLE first, with all that reads it"
        definition.create(connection, self.events_statements(), if_there=there)

    def create(self, connection: Connection[Any], *, with_data: bool = True) -> None:
        """Create the views, both or none.

        Raises:
            ConfigurationError: Table or column is missing, or a view of that name is there already.
                Nothing was touched.
        """
        definition.require_columns(
            connection,
            self.base_table,
            {
                self.ts: "timestamptz",
                self.category: None,
                self.tool: None,
                self.success: "bool",
                self.duration: None,
            },
        )
        definition.create(connection, self.statements(with_data=with_data))

    def drop(self, connection: Connection[Any]) -> None:
        """Drop the views that are there; the events stay, and the function."""
        definition.drop(connection, self.views)

"""The three views over a host's LTREE table: ancestors, counts, figures."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from mvrefresh.errors import ConfigurationError
from mvrefresh.postgres import definition
from mvrefresh.postgres.definition import Definition
from mvrefresh.refreshing.view import ViewName

if TYPE_CHECKING:
    from psycopg import Connection


@dataclass(frozen=True, slots=True)
class HierarchySource:
    """A table with an LTREE path, and the three materialized views over it.

    - `mv_entity_ancestors`: a row an entity: `entity_id`, `entity_path`, `entity_name`,
      `ancestor_ids`, `ancestor_paths`, `ancestor_names` (root first, without itself; empty for a
      root), `depth`.
    - `mv_descendant_counts`: a row an entity: `entity_id`, `entity_path`, `entity_type`, `depth`,
      `direct_children`, `descendant_count`, `leaf_descendants`, `height` (levels below it).
    - `mv_entity_hierarchy_stats`: a row per `depth` and `entity_type`: `entity_count`,
      `leaf_count`, `average_fan_out` (over entities with children; null without any),
      `largest_fan_out`. It reads `mv_descendant_counts` and is refreshed after it.

    `depth` and `height` count levels of the path (a root has depth 0). Where a path has gaps (an
    entity in between does not exist), the parent is the nearest entity above. An entity without
    a path has no depth and no relatives, and is in no figure of the third view. Paths should be
    unique; entities that share one are each counted, and share their descendants.

    Args:
        table: The entities, as SQL reads a name (`entities`, `app.entities`, `"My Table"`);
            with `schema`, exactly this name.
        schema: The table's schema; by default "public", or the one in `table`.
        id: Column of the key: any type that can be compared (int, uuid, text).
        path: Column of type ltree. An index helps none of the three builds.
        parent: Column of the parent's id, if there is one: counts are faster by it. A parent
            whose path is not shorter than the child's is ignored.
        name: Column of the name; None: the id serves.
        entity_type: Column of the type; None: all are of type ''. NULL counts as ''.
        view_schema: Where the views go; the table's schema by default.
        ancestors_view: Name of the first view.
        counts_view: Name of the second.
        stats_view: Name of the third.
        ltree_schema: Where extension ltree lives; `create` finds out by itself.

    Raises:
        ConfigurationError: A name is none that PostgreSQL would take as it is.
    """

    table: str = "entities"
    schema: str | None = None
    id: str = "id"
    path: str = "path"
    parent: str | None = None
    name: str | None = "name"
    entity_type: str | None = "entity_type"
    view_schema: str | None = None
    ancestors_view: str = "mv_entity_ancestors"
    counts_view: str = "mv_descendant_counts"
    stats_view: str = "mv_entity_hierarchy_stats"
    ltree_schema: str = "public"

    def __post_init__(self) -> None:
        definition.table_name(self.table, self.schema)
        names = ("id", "path", "parent", "name", "entity_type", "view_schema", "ltree_schema")
        views = ("ancestors_view", "counts_view", "stats_view")
        definition.check_names({what: getattr(self, what) for what in (*names, *views)})
        if len({getattr(self, view) for view in views}) != len(views):
            raise ConfigurationError("the three views need three names")

    @property
    def base_table(self) -> ViewName:
        """The table of the entities."""
        return definition.table_name(self.table, self.schema)

    @property
    def views(self) -> tuple[ViewName, ViewName, ViewName]:
        """The views, each after what it reads."""
        schema = self.view_schema or self.base_table.schema
        return (
            ViewName(schema, self.ancestors_view),
            ViewName(schema, self.counts_view),
            ViewName(schema, self.stats_view),
        )

    def statements(
        self, *, with_data: bool = True, ltree_schema: str | None = None
    ) -> list[sql.Composed]:
        """The DDL, in order: each view and its indexes."""
        ancestors, counts, stats = self.views
        way = "path" if self.parent is None else "parent"
        names = self._names(with_data=with_data, ltree_schema=ltree_schema)
        return definition.statements(
            (
                Definition(
                    ancestors,
                    _text(f"entity_ancestors_by_{way}").format(
                        view=definition.identifier(ancestors), **names
                    ),
                    (definition.unique_index(ancestors, "entity_id"),),
                ),
                Definition(
                    counts,
                    _text(f"descendant_counts_by_{way}").format(
                        view=definition.identifier(counts), **names
                    ),
                    (definition.unique_index(counts, "entity_id"),),
                ),
                Definition(
                    stats,
                    _text("hierarchy_stats").format(
                        view=definition.identifier(stats),
                        counts=definition.identifier(counts),
                        data=names["data"],
                    ),
                    (definition.unique_index(stats, "depth", "entity_type"),),
                ),
            )
        )

    def names(self, *, ltree_schema: str | None = None) -> dict[str, sql.Composable]:
        """Table, columns and types as statements use them; the table is `e` there."""
        return self._names(with_data=True, ltree_schema=ltree_schema)

    def _names(self, *, with_data: bool, ltree_schema: str | None) -> dict[str, sql.Composable]:
        def column(alias: str, name: str | None) -> sql.Composable:
            return sql.Identifier(alias, name if name is not None else self.id)

        no_type = sql.SQL("''::text")
        return {
            "table": definition.identifier(self.base_table),
            "ltree": sql.Identifier(ltree_schema or self.ltree_schema),
            "id": sql.Identifier(self.id),
            "path": sql.Identifier(self.path),
            "parent": sql.Identifier(self.parent or self.id),
            "entity_name": column("e", self.name),
            "type": no_type
            if self.entity_type is None
            else sql.SQL("coalesce({}::text, '')").format(column("e", self.entity_type)),
            "data": sql.SQL("" if with_data else "WITH NO DATA"),
        }

    def ddl(self, connection: Connection[Any] | None = None, *, with_data: bool = True) -> str:
        """The DDL as one SQL script, for a migration of the host's own."""
        return definition.script(self.statements(with_data=with_data), connection)

    def create(self, connection: Connection[Any], *, with_data: bool = True) -> None:
        """Create the views, all or none.

        Raises:
            ConfigurationError: Extension, table or column is missing, or a view of that name is
                there already. Nothing was touched.
        """
        row = (
            connection.cursor(row_factory=tuple_row)
            .execute(
                "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
                " WHERE e.extname = 'ltree'"
            )
            .fetchone()
        )
        if row is None:
            raise ConfigurationError("extension ltree is missing: CREATE EXTENSION ltree")
        columns = dict.fromkeys((self.id, self.parent, self.name, self.entity_type), None)
        definition.require_columns(
            connection,
            self.base_table,
            {name: None for name in columns if name is not None} | {self.path: "ltree"},
        )
        definition.create(connection, self.statements(with_data=with_data, ltree_schema=row[0]))

    def drop(self, connection: Connection[Any]) -> None:
        """Drop the views that are there."""
        definition.drop(connection, self.views)


def _text(name: str) -> sql.SQL:
    text = files("mvrefresh.hierarchy.sql").joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return sql.SQL(text.strip())

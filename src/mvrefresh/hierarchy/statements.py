"""The statements that read a hierarchy, each composed once, and how ids stand in them."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from psycopg import sql

from mvrefresh.postgres import definition

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from mvrefresh.hierarchy.source import HierarchySource
    from mvrefresh.postgres.schema import Schema

_SMALLEST_LABEL_CHARACTER: Final = {True: "-", False: "0"}  # from PostgreSQL 16, and before
_POSTGRES_16: Final = 16_00_00
_BIGINT: Final = -(2**63), 2**63 - 1
_NEAREST: Final = {True: "v.ancestor_ids[cardinality(v.ancestor_ids)]", False: "NULL::text"}

# How ids stand in a statement. A list as psycopg writes it takes a tenth of the whole read; one of
# integers has a type by their size besides, and each type is another statement to prepare.
LIST: Final = "%s"
_INTEGERS: Final = "%s::bigint[]"
_UUIDS: Final = "%b"
_AS_THE_SERVER_GUESSES: Final = 10  # ids in an array that is a parameter


class Statements:
    """Those of the folder `sql/read`, with the names of a source in them.

    Args:
        schema: The library's own tables.
        source: The host's.
        tracked: Whether the library's tables tell which content a view has.
    """

    def __init__(self, schema: Schema, source: HierarchySource, *, tracked: bool) -> None:
        self._schema = schema
        self._source = source
        self._tracked = tracked
        self._texts: dict[tuple[str, str, int], str] = {}

    def text(self, name: str, placeholder: str, connection: psycopg.Connection[Any]) -> str:
        """A statement, written once: to compose it takes longer than to send it."""
        version = connection.pgconn.server_version
        key = name, placeholder, version
        text = self._texts.get(key)
        if text is None:
            text = self._compose(name, placeholder, version).as_string(connection)
            self._texts[key] = text
        return text

    def _compose(self, name: str, placeholder: str, version: int) -> sql.Composed:
        source = self._source
        ancestors, counts, _ = source.views
        file = files("mvrefresh.hierarchy.sql.read").joinpath(f"{name}.sql")
        text = file.read_text(encoding="utf-8").replace(LIST, placeholder)
        parts: dict[str, sql.Composable] = {
            **source.names(),
            "ancestor_name": sql.Identifier("a", source.name or source.id),
            "ancestors": definition.identifier(ancestors),
            "counts": definition.identifier(counts),
            "tag": self.tag(1 if name == "counts" else 0),
            "nearest": sql.SQL(_NEAREST[source.parent is not None]),
            "least": sql.Literal(_SMALLEST_LABEL_CHARACTER[version >= _POSTGRES_16]),
        }
        if name != "everything":  # which takes no parameters, and so no sign of one for one
            parts = {key: _doubled(part) for key, part in parts.items()}
        return sql.SQL(text).format(**parts)

    def tag(self, view: int) -> sql.Composed:
        """What reads the tag of one of the views (by its place)."""
        if not self._tracked:
            return sql.Composed([_NO_TAG])
        file = files("mvrefresh.hierarchy.sql.read").joinpath("tag.sql")
        name = definition.identifier(self._source.views[view]).as_string(None)
        return sql.SQL(file.read_text(encoding="utf-8")).format(
            state=self._schema.identifier("state"), view_name=sql.Literal(name)
        )


_NO_TAG = sql.SQL(
    "SELECT NULL::bigint AS refresh_no, NULL::uuid AS content_token,"
    " NULL::timestamptz AS content_as_of, NULL::float8 AS age WHERE false"
)


def _doubled(part: sql.Composable) -> sql.SQL:
    """As it is written where a per cent sign begins a parameter: names may hold one."""
    return sql.SQL(part.as_string(None).replace("%", "%%"))


def sent(ids: Sequence[Any]) -> tuple[str, tuple[Any]]:
    """Ids as they stand in a statement, and as they are sent.

    Fewer than the server guesses are made as many: a plan for just those few would seem so much
    cheaper to it than the one it has that it would plan anew each time, which takes three times as
    long as to read one. An id that comes twice is looked up once.
    """
    if 0 < len(ids) < _AS_THE_SERVER_GUESSES:
        ids = [*ids, *[ids[0]] * (_AS_THE_SERVER_GUESSES - len(ids))]
    types = set(map(type, ids))
    if types == {int} and _BIGINT[0] <= min(ids) and max(ids) <= _BIGINT[1]:
        return _INTEGERS, ("{" + ",".join(map(str, ids)) + "}",)
    return _UUIDS if types == {UUID} else LIST, (list(ids),)

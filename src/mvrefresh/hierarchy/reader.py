"""Reads a hierarchy from PostgreSQL: values and the tag of their view in one statement."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import psycopg
from psycopg import pq, sql
from psycopg.adapt import Transformer
from psycopg.rows import tuple_row

from mvrefresh.cache.buffer import residency, warm
from mvrefresh.cache.tier import NO_LINE, Line, Loaded, Tag
from mvrefresh.errors import ConfigurationError
from mvrefresh.hierarchy.node import Chain, HierarchyCounts, HierarchyNode, chain_of, node_of
from mvrefresh.hierarchy.residence import Load
from mvrefresh.hierarchy.resident import ResidentHierarchy
from mvrefresh.hierarchy.statements import LIST, Statements, sent
from mvrefresh.postgres import definition
from mvrefresh.postgres.faults import message_of, unavailable_when_lost
from mvrefresh.postgres.tags import Asked, answer, question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from mvrefresh.cache.buffer import BufferMeter
    from mvrefresh.hierarchy.source import HierarchySource
    from mvrefresh.postgres.database import Database

KEY: Final = "entity_id"
"""The column of the keys of its views."""

_METERED: Final = {"ancestors": 0, "counts": 1}  # the reads of a view, and its place
_FAMILIES: Final = 20_000  # chains of ancestors that are kept for the reads to come, or a few more

_HOW_MANY: Final = sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT %s) v")
_FETCH: Final = b"FETCH 5000 FROM mvrefresh"

Lineage = tuple[HierarchyNode, Chain]
"""An entity, and its ancestors from the root down."""


class Way(NamedTuple):
    """To the views on another server, for rows of one content.

    Attributes:
        lend: Lends a connection.
        tag: Of the content.
    """

    lend: Callable[[], AbstractContextManager[psycopg.Connection[Any]]]
    tag: Tag | None


class OtherContent(Exception):  # noqa: N818 - what was found
    """The rows there are of another content.

    Attributes:
        tag: Of that one.
    """

    def __init__(self, tag: Tag | None) -> None:
        super().__init__(tag)
        self.tag = tag


class HierarchyReader:
    """Reads ancestors, counts and subtrees. Any thread may ask.

    Args:
        database: Where the views and the table are.
        source: Their names.
        tracked: Whether the library's tables tell which content a view has.
        meter: Of the buffers through which the views are read.
    """

    def __init__(
        self,
        database: Database,
        source: HierarchySource,
        *,
        tracked: bool,
        meter: BufferMeter,
    ) -> None:
        self._database = database
        self._source = source
        self._tracked = tracked
        self._meter = meter
        self._views = [definition.identifier(view).as_string(None) for view in source.views]
        self._statements = Statements(database.schema, source, tracked=tracked)
        self._ancestors: tuple[Tag | None, dict[Any, Chain]] = None, {}

    # -- from the views ------------------------------------------------------------------------

    # These take another way than that to the database, and raise `OtherContent` there.

    def ancestors(self, ids: Sequence[Any], way: Way | None = None) -> Loaded[Any, Chain]:
        """The ancestors of entities, from the view."""
        rows, asked = self._read("ancestors", ids, way)
        tag, moment = _told(rows, asked, way)
        return Loaded(_chains(rows, self.known_of(tag)), tag, moment)

    def lineages(self, ids: Sequence[Any], way: Way | None = None) -> Loaded[Any, Lineage]:
        """Entities and their ancestors, from the view."""
        rows, asked = self._read("ancestors", ids, way)
        tag, moment = _told(rows, asked, way)
        above = _chains(rows, self.known_of(tag))
        values = {row[3]: (node_of(row[3:6]), above[row[3]]) for row in rows if row[3] is not None}
        return Loaded(values, tag, moment)

    def known_of(self, tag: Tag | None) -> dict[Any, Chain]:
        """The ancestors that were met in this content before, by the last of them.

        It saves building them, and most of the memory: without, each entity has its own.
        """
        known_under, known = self._ancestors
        if tag is None or tag != known_under or len(known) > _FAMILIES:
            known = {}
            if tag is not None:
                self._ancestors = tag, known
        return known

    def counts(self, ids: Sequence[Any], way: Way | None = None) -> Loaded[Any, HierarchyCounts]:
        """What lies below entities, from the view."""
        rows, asked = self._read("counts", ids, way)
        tag, moment = _told(rows, asked, way)
        values = {row[3]: HierarchyCounts(*row[4:]) for row in rows if row[3] is not None}
        return Loaded(values, tag, moment)

    def current(self, view: int, known: Tag | None) -> tuple[Line, float | None]:
        """The content of one of the source's views, and the moment it stands for.

        Args:
            view: By its place.
            known: The tag of what is held.
        """
        if not self._tracked:
            return NO_LINE, None
        asked = (Asked(self._views[view], KEY, known),)
        with self._database.reader() as connection, self._explained(()):
            began = monotonic()
            cursor = connection.cursor(row_factory=tuple_row)
            cursor.execute(question(self._database.schema, asked, they_exist=True))
            ((_, line, age),) = answer(asked, cursor)
        return line, _moment(age, began)

    def everything(
        self, limit: int, keep: int, go_on: Callable[[], bool], way: Way | None = None
    ) -> Load:
        """The whole ancestors view.

        Args:
            limit: Entities at most: of more nothing is read.
            keep: Answers that the hierarchy keeps.
            go_on: Asked now and then whether to.
            way: Another than that to the database.
        """
        lend = self._database.dedicated if way is None else way.lend
        with unavailable_when_lost(), lend() as connection:
            cursor = connection.cursor(row_factory=tuple_row)
            if way is not None:
                rows = cursor.execute(
                    self._statements.tag(0)
                ).fetchall()  # or all is read for nothing
                _told([(number, token, age) for number, token, _, age in rows], 0.0, way)
            view = definition.identifier(self._source.views[0])
            counted = cursor.execute(_HOW_MANY.format(view), (limit + 1,)).fetchone()
            if counted is None or counted[0] > limit:
                return Load(None, self.current(0, None)[0].tag, None)
            tags: list[list[str | None]] = []
            asked = monotonic()
            with connection.transaction():
                query = self._statements.text("everything", LIST, connection)
                cursor.execute(f"DECLARE mvrefresh NO SCROLL CURSOR FOR {query}")
                hierarchy = ResidentHierarchy(
                    _chunks(connection, tags, go_on),
                    by_parent=self._source.parent is not None,
                    capacity=keep,
                )
        if len(tags) != 1:
            return Load(None, None, None)
        number, token, age = tags[0]
        moment = None if age is None else _moment(float(age), asked)
        hierarchy.tag = Tag(int(number or 0), UUID(token))
        return Load(hierarchy, hierarchy.tag, moment)

    # -- from the table ------------------------------------------------------------------------

    def live_ancestors(self, ids: Sequence[Any]) -> dict[Any, Chain]:
        """As `ancestors`, from the table itself: true now, and dearer."""
        return {entity: above for entity, (_, above) in self.live_lineages(ids).items()}

    def live_lineages(self, ids: Sequence[Any]) -> dict[Any, Lineage]:
        """As `lineages`, from the table itself: true now, and dearer."""
        return {row[0]: _lineage(row) for row in self._read("live_ancestors", ids)[0]}

    def live_counts(self, ids: Sequence[Any]) -> dict[Any, HierarchyCounts]:
        """As `counts`, from the table itself."""
        return {row[0]: HierarchyCounts(*row[1:]) for row in self._read("live_counts", ids)[0]}

    def subtree(
        self, entity: Any, *, depth: int | None, limit: int | None, after: HierarchyNode | None
    ) -> Loaded[Any, tuple[HierarchyNode, ...]]:
        """The entities below one, in the order of their paths; under the entity's own key."""
        rows, asked = self._read(
            "descendants",
            {
                "id": entity,
                "depth": depth,
                "limit": limit,
                "after_path": None if after is None else after.path,
                "after_id": entity if after is None else after.id,
            },
        )
        nodes = tuple(HierarchyNode(*row[3:6]) for row in rows if row[3] is not None)
        # What the server took for the key ("2" for 2) is another one to us, as it is in memory.
        there = bool(rows) and rows[0][6] == entity
        return Loaded({entity: nodes} if there else {}, *_told(rows, asked))

    # -- how -----------------------------------------------------------------------------------

    def _read(
        self, name: str, what: Sequence[Any] | dict[str, Any], way: Way | None = None
    ) -> tuple[list[tuple[Any, ...]], float]:
        """The rows, and when they were asked for."""
        values: Any
        placeholder, values = (LIST, what) if isinstance(what, dict) else sent(what)
        with (self._database.reader if way is None else way.lend)() as connection:
            query = self._statements.text(name, placeholder, connection)
            cursor = connection.cursor(row_factory=tuple_row, binary=True)
            view = _METERED.get(name)
            asked = monotonic()
            with self._explained(what):
                if view is None:
                    return cursor.execute(query, values).fetchall(), asked
                with self._meter.metered(connection, self._views[view]):
                    return cursor.execute(query, values).fetchall(), asked

    def warm(self) -> int | None:
        """Read the views into PostgreSQL's buffers; blocks read, None without pg_prewarm."""
        with self._database.reader() as connection, self._explained(()):
            return warm(connection, self._views)

    def residency(self) -> float | None:
        """The share of the views that is in the buffers; None without pg_buffercache."""
        with self._database.reader() as connection, self._explained(()):
            return residency(connection, self._views)

    @contextmanager
    def _explained(self, what: object) -> Iterator[None]:
        """What the server says no to, in words that say what to do."""
        try:
            yield
        except (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError) as no:
            raise ConfigurationError(self._why(no, what)) from no
        except UnicodeError as no:
            raise ConfigurationError(f"{what!r:.200} holds text that is no Unicode") from no

    def _why(self, error: psycopg.Error, what: object) -> str:
        said = message_of(error)
        if isinstance(error, psycopg.errors.UndefinedTable):
            return (
                f"{said}: create the views with HierarchySource(...).create, and the library's "
                "tables with `mvrefresh schema --apply`"
            )
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return (
                f"{said}: the role needs USAGE on the schemas, and SELECT on the table, its views, "
                "and the library's table state"
            )
        if isinstance(error, psycopg.errors.UndefinedColumn):
            return f"{said}: name the table's columns as HierarchySource(...) asks"
        if isinstance(error, psycopg.errors.SyntaxError):
            return f"after= has a malformed path: {what!r:.200} ({said})"
        if "ltree" in said:
            schema = self._source.ltree_schema
            return (
                f"{said}: column {self._source.path} has to be of type ltree, and the extension in "
                f"schema {schema}; else say HierarchySource(ltree_schema=...)"
            )
        ids, place = what, ""
        if isinstance(what, dict):
            ids = what["id"]
            if what["after_path"] is not None:
                place = f", or after= is no place of this table: {what['after_path']!r:.200}"
        kind = f"these ids are not of the type of column {self._source.id}: {ids!r:.200}"
        return f"{kind}{place} ({said})"


def _lineage(row: tuple[Any, ...]) -> Lineage:
    entity, path, name, ids, paths, names = row
    return node_of((entity, path, name)), tuple(map(node_of, zip(ids, paths, names, strict=True)))


def _chains(rows: Iterable[tuple[Any, ...]], known: dict[Any, Chain]) -> dict[Any, Chain]:
    """Ancestors by id, of one content: who has the same last ancestor has all the same.

    Args:
        rows: With an entity's id in the fourth place, and its ancestors in the last three.
        known: Such ancestors by the last of them; it is added to.
    """
    found: dict[Any, Chain] = {}
    for _, _, _, entity, _, _, ids, paths, names in rows:
        if entity is None:
            continue  # the row that brings the tag alone
        if not ids:
            found[entity] = ()
            continue
        chain = known.get(ids[-1])
        found[entity] = chain_of(ids, paths, names, known) if chain is None else chain
    return found


def _chunks(
    connection: psycopg.Connection[Any], tags: list[list[str | None]], go_on: Callable[[], bool]
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows, many at a time; that of the tag, which has no path, is taken out.

    Fetched by a call that waits in libpq for all of an answer. A cursor would wait for each packet
    of it, and come back to Python in between: beside a busy thread, each time for its turn.
    """
    while go_on():
        result = connection.pgconn.exec_params(_FETCH, None, result_format=pq.Format.BINARY)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
        if not result.ntuples:
            return
        loader = Transformer(connection)
        loader.set_pgresult(result)
        chunk: list[tuple[Any, ...]] = loader.load_rows(0, result.ntuples, tuple)
        if chunk[-1][1] is None:
            tags += [row[4] for row in chunk if row[4] is not None]
            chunk = [row for row in chunk if row[4] is None]
        yield chunk


def _told(
    rows: list[tuple[Any, ...]], asked: float, way: Way | None = None
) -> tuple[Tag | None, float | None]:
    """The tag, and the moment, that came with the rows; another server's clock tells none.

    Raises:
        OtherContent: The rows are not those for which somebody has gone another way.
    """
    tag = moment = None
    for number, token, age, *_ in rows:
        if token is not None:
            tag, moment = Tag(number, token), _moment(age, asked)
            break
    if way is None:
        return tag, moment
    if tag != way.tag:
        raise OtherContent(tag)
    return tag, None


def _moment(age: float | None, asked: float) -> float | None:
    """So long before the question on our own clock, which nobody can set: rather too old."""
    return None if age is None else asked - age

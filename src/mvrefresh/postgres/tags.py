"""The question which contents of views are current, and what the answer says.

One statement for any number of views. Its columns are text, so that a cursor and libpq's own
protocol read them alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import orjson
from psycopg import sql

from mvrefresh.cache.tier import NO_LINE, Change, Line, Tag, line_of
from mvrefresh.postgres.sql import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mvrefresh.postgres.schema import Schema

_OF_TEXT: Final = {"uuid": UUID}
_EXISTS: Final = "v.name::pg_catalog.regclass"
_MAY_EXIST: Final = "pg_catalog.to_regclass(v.name)"


class Asked(NamedTuple):
    """One view that is asked for.

    Attributes:
        view: As SQL reads its name.
        key: The column of its keys.
        known: The tag that is known; how the content came about is left out where it is current.
    """

    view: str
    key: str
    known: Tag | None


class Told(NamedTuple):
    """The answer of one view.

    Attributes:
        place: Of the view among those that were asked for.
        line: Its content; `NO_LINE` where nobody can tell.
        age: Seconds since the moment for which the content stands; None if unknown.
    """

    place: int
    line: Line
    age: float | None


def question(schema: Schema, asked: Sequence[Asked], *, they_exist: bool = False) -> sql.Composed:
    """The statement, for one view or more.

    Args:
        schema: Where the state is.
        asked: The views.
        they_exist: The statement fails if one of them does not; else nobody can tell its content.
    """
    views = [
        sql.SQL("({}, {}, {}::uuid)").format(
            sql.Literal(place),
            sql.Literal(each.view),
            sql.Literal(None if each.known is None else each.known.content_token),
        )
        for place, each in enumerate(asked)
    ]
    return sql.SQL(text("tags")).format(
        views=sql.SQL(", ").join(views),
        oid=sql.SQL(_EXISTS if they_exist else _MAY_EXIST),
        state=schema.identifier("state"),
    )


def answer(asked: Sequence[Asked], rows: Iterable[Sequence[Any]]) -> Iterator[Told]:
    """What the rows say; texts, or bytes of them."""
    for place, number, token, age, epoch, changes in rows:
        where = int(place)
        line = NO_LINE
        if number is not None:
            line = line_of(
                Tag(int(number), _uuid(token)),
                None if epoch is None else _uuid(epoch),
                () if changes is None else _changes(changes, asked[where].key),
            )
        yield Told(where, line, None if age is None else float(age))


def _uuid(value: str | bytes) -> UUID:
    return UUID(value if isinstance(value, str) else value.decode())


def _changes(document: str | bytes, key: str) -> Iterator[Change]:
    """The links of a chain, as far as their keys are those of this column."""
    for link in orjson.loads(document):
        if link["column"] != key:
            return
        of = _OF_TEXT.get(link["type"])
        keys = link["keys"] if of is None else map(of, link["keys"])
        number = link["n"]
        before, after = Tag(number - 1, UUID(link["p"])), Tag(number, UUID(link["t"]))
        yield Change(before, after, frozenset(keys))

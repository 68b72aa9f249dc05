"""How a view's content is renewed: the statements, one object a way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mvrefresh.refreshing.view import MaterializedView, ViewName

_CONCURRENTLY = sql.SQL("REFRESH MATERIALIZED VIEW CONCURRENTLY {}")
_REGULAR = sql.SQL("REFRESH MATERIALIZED VIEW {}")


class Strategy(Protocol):
    """One way to renew a view. `mvrefresh.testing.StrategyContract` is its suite."""

    name: str
    """What plans, reports and history call it."""

    def obstacle(self, view: MaterializedView) -> str | None:
        """Why this way is impossible for the view, in words; None when it is possible."""
        ...

    def statements(self, name: ViewName) -> Sequence[sql.Composed]:
        """What to run, in order, inside one transaction that already holds the view's lock."""
        ...


class Concurrent:
    """REFRESH CONCURRENTLY: readers go on, only the rows that differ are written."""

    name = "concurrent"

    def obstacle(self, view: MaterializedView) -> str | None:
        """It needs a populated view and a usable unique index."""
        return view.concurrently_obstacle

    def statements(self, name: ViewName) -> Sequence[sql.Composed]:
        """One statement."""
        return (_CONCURRENTLY.format(sql.Identifier(name.schema, name.name)),)


class Regular:
    """REFRESH: a new heap in place of the old one; readers wait from its start to the commit."""

    name = "regular"

    def obstacle(self, view: MaterializedView) -> str | None:  # noqa: ARG002
        """There is none: any materialized view can be rebuilt."""
        return None

    def statements(self, name: ViewName) -> Sequence[sql.Composed]:
        """One statement."""
        return (_REGULAR.format(sql.Identifier(name.schema, name.name)),)


STRATEGIES: dict[str, Strategy] = {s.name: s for s in (Concurrent(), Regular())}
"""By name."""

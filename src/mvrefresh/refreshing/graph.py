"""Which materialized view reads which: order, dependants, look-up by name. Pure."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from mvrefresh.errors import (
    AmbiguousView,
    ConfigurationError,
    MvrefreshError,
    UnknownView,
)
from mvrefresh.refreshing.view import MaterializedView, ViewName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class ViewGraph:
    """All materialized views of a database, and what reads what.

    Args:
        views: The views, each with the oids it reads.
        search_path: Schemas of the session's search path, first match wins.
    """

    def __init__(
        self,
        views: Iterable[MaterializedView],
        *,
        search_path: Sequence[str] = ("public",),
    ) -> None:
        self._views = {view.oid: view for view in views}
        self._search_path = tuple(search_path)
        self._by_name = {view.name: view for view in self._views.values()}
        self._readers: dict[int, set[int]] = defaultdict(set)
        for view in self._views.values():
            for read in view.reads:
                self._readers[read].add(view.oid)

    def __iter__(self) -> Iterator[MaterializedView]:
        return iter(self.order(self._views))

    def __len__(self) -> int:
        return len(self._views)

    @property
    def views(self) -> list[MaterializedView]:
        """All of them by name: an order that there is even where they read each other."""
        return sorted(self._views.values(), key=lambda view: view.name)

    def __contains__(self, oid: object) -> bool:
        return oid in self._views

    def __getitem__(self, oid: int) -> MaterializedView:
        return self._views[oid]

    def order(self, oids: Iterable[int]) -> list[MaterializedView]:
        """The given views, each after all that it reads; ties by name, so runs are repeatable.

        Raises:
            MvrefreshError: The views read each other in a circle (CREATE OR REPLACE of a plain
                view between them can bring that about).
        """
        chosen = set(oids)
        involved = chosen | self.upstream(chosen)

        def by_name(oid: int) -> ViewName:
            return self._views[oid].name

        sorter = TopologicalSorter(
            {
                oid: sorted(self._views[oid].reads & involved, key=by_name)
                for oid in sorted(involved, key=by_name)
            }
        )
        try:
            sorter.prepare()
        except CycleError as error:
            names = " -> ".join(str(by_name(oid)) for oid in error.args[1])
            raise MvrefreshError(
                f"these views read each other in a circle: {names}. Mend the plain view that "
                "closes it"
            ) from error
        ordered: list[MaterializedView] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=by_name)
            ordered.extend(self._views[oid] for oid in ready if oid in chosen)
            sorter.done(*ready)
        return ordered

    def upstream(self, oids: Iterable[int]) -> set[int]:
        """Oids of every view that the given ones read, at any depth."""
        reached: set[int] = set()
        open_ = list(oids)
        while open_:
            for read in self._views[open_.pop()].reads:
                if read in self._views and read not in reached:
                    reached.add(read)
                    open_.append(read)
        return reached

    def dependants(self, oids: Iterable[int]) -> set[int]:
        """Oids of all views that read one of the given ones, at any depth, without these."""
        given = set(oids)
        found: set[int] = set()
        open_ = list(given)
        while open_:
            for reader in self._readers[open_.pop()]:
                if reader not in found:
                    found.add(reader)
                    open_.append(reader)
        return found - given

    def find(self, wanted: str | ViewName | MaterializedView | int) -> MaterializedView:
        """The view that is meant.

        A string is first taken exactly (`MyView`, `app.MyView`), then as SQL would read it
        (folded, quotes honoured). Without a schema, the search path decides; off the path, a
        name that only one schema has is taken.

        Raises:
            UnknownView: There is none; AmbiguousView: several schemas have one.
            ConfigurationError: It is not a name at all.
        """
        if isinstance(wanted, MaterializedView):
            wanted = wanted.oid
        if isinstance(wanted, int):
            if wanted in self._views:
                return self._views[wanted]
            raise UnknownView(f"no materialized view has the oid {wanted}")
        if isinstance(wanted, ViewName):
            if wanted in self._by_name:
                return self._by_name[wanted]
            raise UnknownView(
                f"there is no materialized view {wanted} in this database",
                readings=[(wanted.schema, wanted.name)],
            )
        if not wanted.strip() or "\0" in wanted or _has_surrogates(wanted):
            raise ConfigurationError(f"{wanted!r} is not a view name")
        readings = self._readings(wanted)
        for schema, name in readings:
            if (view := self._lookup(schema, name)) is not None:
                return view
        if len(readings) == 1:
            ViewName.parse(wanted)  # says what is wrong with it, if it is no name at all
        raise UnknownView(
            f"there is no materialized view {wanted!r} in this database", readings=readings
        )

    @staticmethod
    def _readings(text: str) -> list[tuple[str | None, str]]:
        """The ways a string may be read, the most literal first."""
        exact: list[tuple[str | None, str]] = [(None, text)]
        schema, dot, name = text.partition(".")
        if dot and schema and name:
            exact.append((schema, name))
        with suppress(ConfigurationError):
            exact.append(ViewName.parse(text))
        return exact

    def _lookup(self, schema: str | None, name: str) -> MaterializedView | None:
        if schema is not None:
            return self._by_name.get(ViewName(schema, name))
        for on_path in self._search_path:
            if (view := self._by_name.get(ViewName(on_path, name))) is not None:
                return view
        elsewhere = [view for view in self._views.values() if view.name.name == name]
        if len(elsewhere) > 1:
            names = ", ".join(sorted(view.label for view in elsewhere))
            raise AmbiguousView(f"several materialized views are called {name!r}: {names}")
        return elsewhere[0] if elsewhere else None


def _has_surrogates(text: str) -> bool:
    """Whether it holds what no UTF-8 text can (as bytes of a command line may become)."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)

"""A whole hierarchy in memory, at a few bytes an entity: every look-up is a hit.

**Columns, in the order of the paths.** In that order everything below an entity follows it without
a gap, so that a subtree is a range of rows, and a path needs no more than the part of it that the
entity above does not have. What is kept of an entity is its id, its name, its place in a dict by id
and a few numbers in arrays: nothing that the cyclic collector would have to walk.

**Answers are built when they are first asked for**, and kept: brothers and sisters share one tuple
of ancestors, and all who are below an entity share its node. They are given up together when there
are too many of them, which costs the next look-ups a microsecond or two each.

**Rows that have changed since are forgotten**, one by one (`forget`): what is asked of them is
missing, and so is every subtree. All else is as it was: a row of the view names all that is above
an entity, so that where the row has not changed, nothing above it has.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import accumulate, islice
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from mvrefresh.cache.memory import Record
from mvrefresh.cache.tier import MISSING, Missing
from mvrefresh.hierarchy.node import Chain, HierarchyNode

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Sequence

    from mvrefresh.cache.tier import Tag

NOBODY: Final = -1
_BITE: Final = 10_000  # entries


class ResidentHierarchy:
    """All entities of one content of the ancestors view. Any thread may ask.

    Args:
        chunks: Rows (id, path, name, id of the parent), many at a time, ordered by path and id;
            those without a path come last.
        by_parent: Whether ancestors are found by the parents' ids; else by the paths, and that
            column does not count.
        capacity: Answers that are kept at most.

    Attributes:
        tag: Of the content; set by who has read it.
        entries: Records of the ancestors by id, of those that were asked for lately; read as those
            of `MemoryTier`. Who has the same parent has the same record.

    Raises:
        ValueError: An id stands twice.
    """

    __slots__ = (
        "_above", "_by_parent", "_capacity", "_ends", "_families", "_gone", "_ids",
        "_label_begins", "_labels", "_lock", "_names", "_places", "_roots", "_twins", "_under",
        "_with_path", "entries", "tag",
    )  # fmt: skip

    def __init__(
        self,
        chunks: Iterable[Sequence[tuple[Any, ...]]],
        *,
        by_parent: bool = False,
        capacity: int = 100_000,
    ) -> None:
        self.tag: Tag | None = None
        self._gone: set[Any] = set()
        self._lock = Lock()  # of what is kept of answers, against `forget`
        self.entries: dict[Any, Record[Chain]] = {}
        self._capacity = capacity
        self._roots: Record[Chain] = Record(())
        self._families: dict[int, Record[Chain]] = {}  # by the row of the parent
        self._by_parent = by_parent
        self._ids: list[Any] = []
        self._names: list[Any] = []
        self._places: dict[Any, int] = {}  # the row of each id
        self._labels = bytearray()  # of each entity what its path has beyond that above it
        self._label_begins = array("I", [0])  # where they begin, and the last one ends
        self._under = array("i")  # the row of the nearest entity above, by the path
        self._ends = array("i")  # the row after the last one below
        self._twins: dict[int, int] = {}  # rows with the same path as the row before them
        self._with_path = 0
        parents: list[Any] = []
        scan = self._scan()
        next(scan)
        places = self._places
        for rows in chunks:
            self._ids += [row[0] for row in rows]
            rows_of = range(len(self._ids) - len(rows), len(self._ids))
            places.update(zip((row[0] for row in rows), rows_of, strict=True))
            self._names += [row[2] for row in rows]
            if by_parent:
                parents += [row[3] for row in rows]
            scan.send([row[1] for row in rows])
        scan.close()
        if len(places) != len(self._ids):
            raise ValueError("an id stands twice in the view")
        self._above = self._under
        if by_parent:
            self._above = array("i", (self._places.get(each, NOBODY) for each in parents))

    def _scan(self) -> Generator[None, list[str | None], None]:
        """Takes in the paths, many at a time: who is above whom, and where each subtree ends."""
        under, ends, twins, label_begins = self._under, self._ends, self._twins, self._label_begins
        # Those above the current row: their rows, and their paths with a dot at the end.
        rows, prefixes = [NOBODY], [""]
        above, prefix, last, row, pathless = NOBODY, "", None, 0, 0
        try:
            while True:
                paths = yield
                labels = []
                ends.extend(range(row + 1, row + len(paths) + 1))
                for path in paths:
                    if path is None:  # neither above nor below anybody
                        under.append(NOBODY)
                        labels.append("")
                        row += 1
                        pathless += 1
                        continue
                    while not path.startswith(prefix):
                        ends[above] = row
                        del rows[-1], prefixes[-1]
                        above, prefix = rows[-1], prefixes[-1]
                    if path == last:
                        twins[row] = row - 1
                    under.append(above)
                    labels.append(path[len(prefix) :])
                    above, prefix, last = row, path + ".", path
                    rows.append(above)
                    prefixes.append(prefix)
                    row += 1
                self._with_path = row - pathless
                encoded = [label.encode() for label in labels]
                self._labels += b"".join(encoded)
                begin = label_begins.pop()
                label_begins.extend(accumulate(map(len, encoded), initial=begin))
        finally:
            for each in rows[1:]:
                ends[each] = self._with_path
            for each in reversed(twins):  # they share what is below the last of them
                ends[each - 1] = ends[each]

    def __len__(self) -> int:
        return len(self._places)

    def after_fork(self) -> None:
        """In a forked child: nobody is in the middle of anything."""
        self._lock = Lock()

    @property
    def gaps(self) -> int:
        """How many rows were forgotten."""
        return len(self._gone)

    def forget(self, keys: Collection[Any], tag: Tag) -> None:
        """Hold the rest under another tag.

        Args:
            keys: Of the rows that differ, be they here or not.
            tag: The other tag.
        """
        with self._lock:
            self._gone.update(keys)  # first: a subtree is none from here on
            for key in keys:
                self._places.pop(key, None)
                self.entries.pop(key, None)
        self.tag = tag  # last: who reads it first, and then a row, gets a row of it, or none

    # -- answers -------------------------------------------------------------------------------

    def ancestors(self, entity_id: Any) -> Chain | Missing:
        """Those above an entity, from the root down; kept for the next time."""
        row = self._places.get(entity_id)
        if row is None:
            return MISSING
        above = self._above[row]
        record = self._roots if above == NOBODY else self._family(above)
        with self._lock:
            if entity_id not in self._places:  # it was forgotten meanwhile
                return MISSING
            if len(self.entries) >= self._capacity:
                self.entries.clear()
                self._families.clear()
            self.entries[self._ids[row]] = record
        return record.value

    def ancestors_many(self, ids: Sequence[Any]) -> dict[Any, Chain]:
        """The ancestors of those that exist."""
        entries = self.entries
        try:
            return {each: entries[each].value for each in ids}
        except KeyError:
            found = ((each, self.ancestors(each)) for each in ids)
            return {each: chain for each, chain in found if chain is not MISSING}

    def node(self, entity_id: Any) -> HierarchyNode | Missing:
        """An entity in its place."""
        row = self._places.get(entity_id)
        return MISSING if row is None else self._node(row)

    def descendants(
        self,
        entity_id: Any,
        *,
        max_depth: int | None = None,
        limit: int | None = None,
        after: HierarchyNode | None = None,
    ) -> Chain | Missing:
        """Those below an entity, as the resolver's method of this name gives them."""
        top = self._places.get(entity_id)
        if top is None or self.gaps:
            return MISSING
        first = top + 1
        while first in self._twins:
            first += 1
        if after is not None:
            first = max(first, self._row_after(after))
        below = self._below(top, first, max_depth)
        return tuple(islice(below, limit))

    # -- how -----------------------------------------------------------------------------------

    def _family(self, parent: int) -> Record[Chain]:
        """The ancestors of those whose parent is in this row."""
        families, missing = self._families, []
        row, record = parent, self._roots
        while row != NOBODY:
            known = families.get(row)
            if known is not None:
                record = known
                break
            missing.append(row)
            # Who is below one of several with the same path is below all of them.
            twin = None if self._by_parent else self._twins.get(row)
            row = self._above[row] if twin is None else twin
        for row in reversed(missing):
            chain = record.value
            path = self._path(row) if self._by_parent else self._path_after(chain, row)
            node = HierarchyNode(self._ids[row], path, self._names[row])
            record = families[row] = Record((*chain, node))
        return record

    def _path_after(self, above: Chain, row: int) -> str | None:
        """The path of a row, where that of the entity above is at hand."""
        if row in self._twins:
            return above[-1].path
        return f"{above[-1].path}.{self._label(row)}" if above else self._label(row)

    def _node(self, row: int) -> HierarchyNode:
        return HierarchyNode(self._ids[row], self._path(row), self._names[row])

    def _path(self, row: int) -> str | None:
        if row >= self._with_path:
            return None
        labels = []
        while row != NOBODY:
            labels.append(self._label(row))
            row = self._under[row]
        return ".".join(reversed(labels))

    def _label(self, row: int) -> str:
        begin, end = self._label_begins[row], self._label_begins[row + 1]
        return self._labels[begin:end].decode()

    def _below(self, top: int, first: int, max_depth: int | None) -> Iterator[HierarchyNode]:
        """The rows from `first` on that are below `top`, and not too far."""
        end, ends = self._ends[top], self._ends
        # Of each above: until which row, what paths below it begin with, levels below the top.
        above = [(end, f"{self._path(top)}.", 0)]
        for row in self._between(top, first):
            above.append((ends[row], f"{self._path(row)}.", self._level(above[-1][2], row)))
        row = first
        while row < end:
            while row >= above[-1][0]:
                above.pop()
            _, prefix, level = above[-1]
            level = self._level(level, row)
            if max_depth is not None and level > max_depth:
                row = ends[row]
                continue
            path = prefix + self._label(row)
            yield HierarchyNode(self._ids[row], path, self._names[row])
            row += 1
            if row not in self._twins:  # else what is below follows the last of them
                above.append((ends[row - 1], path + ".", level))

    def _between(self, top: int, row: int) -> list[int]:
        """The rows above `row` and below `top`, from the top down."""
        found = []
        if row < self._ends[top]:
            row = self._under[row]
            while row > top and self._path(row) != self._path(top):
                found.append(row)
                row = self._under[row]
        return found[::-1]

    def _level(self, above: int, row: int) -> int:
        """Levels below the top: more than one more where somebody in between does not exist."""
        return above + 1 + self._label(row).count(".")

    def _row_after(self, node: HierarchyNode) -> int:
        """The first row after a node, which need not exist any more."""
        row = self._places.get(node.id)
        if row is not None and self._path(row) == node.path:
            return row + 1
        return bisect_right(range(self._with_path), _order(node.path, node.id), key=self._order)

    def _order(self, row: int) -> tuple[list[bytes], Any]:
        return _order(self._path(row), self._ids[row])

    def take_apart(self) -> None:
        """Free it bit by bit, so that other threads go on between; nobody may read it any more."""
        for column in (self._ids, self._names):
            while column:
                del column[-_BITE:]
        for table in (self._places, self._families, self.entries):
            while table:
                for _ in range(min(_BITE, len(table))):
                    table.popitem()


def _order(path: str | None, entity_id: Any) -> tuple[list[bytes], Any]:
    """As PostgreSQL orders them: label by label, each by its bytes."""
    return [label.encode() for label in (path or "").split(".")], entity_id

"""What a hierarchy answers with: immutable values, shared by everybody who asks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mvrefresh.cache.tier import Tag

V = TypeVar("V")


class HierarchyNode(NamedTuple):
    """One entity in its place.

    Attributes:
        id: The key, of the type that its column has.
        path: The LTREE path, as text: labels with dots between them. None: it has no place.
        name: The name; where the source has no column for it, the id.
    """

    id: Any
    path: str | None
    name: Any

    @property
    def depth(self) -> int | None:
        """Levels above it by the path; 0 for a root, None without a path."""
        return None if self.path is None else self.path.count(".")

    @property
    def label(self) -> str | None:
        """The last part of the path; None without one."""
        return None if self.path is None else self.path.rpartition(".")[2]


Chain: TypeAlias = tuple[HierarchyNode, ...]
"""The ancestors of an entity, from the root down."""

# `HierarchyNode._make`, without a call of Python's own for each.
node_of: Final[Callable[[tuple[Any, Any, Any]], HierarchyNode]] = partial(
    tuple.__new__, HierarchyNode
)


def base_of(ids: Sequence[Any], known: dict[Any, Chain]) -> tuple[int, Chain]:
    """How many of these ancestors, from the root down, are known in this content; and they.

    Args:
        ids: Theirs.
        known: Ancestors by the last of them, who has all the same.
    """
    for count in range(len(ids), 0, -1):
        chain = known.get(ids[count - 1])
        if chain is not None:
            return count, chain
    return 0, ()


def grown(
    base: Chain,
    ids: Iterable[Any],
    paths: Iterable[Any],
    names: Iterable[Any],
    known: dict[Any, Chain],
) -> Chain:
    """Ancestors, and more of them below; each stage is known from now on."""
    chain = base
    for node in map(node_of, zip(ids, paths, names, strict=True)):
        chain = known[node[0]] = (*chain, node)
    return chain


def chain_of(
    ids: Sequence[Any], paths: Sequence[Any], names: Sequence[Any], known: dict[Any, Chain]
) -> Chain:
    """Ancestors of one content, built on the lowest one that is known; `known` is added to."""
    count, base = base_of(ids, known)
    return grown(base, ids[count:], paths[count:], names[count:], known)


class HierarchyCounts(NamedTuple):
    """How much lies below an entity.

    Attributes:
        direct_children: Entities right below it.
        descendant_count: All below it, at any depth.
        leaf_descendants: Those of them that have nobody below.
        height: Levels below it; 0 for a leaf.
        depth: Levels above it; None without a path.
        entity_type: As the source says; '' without one.
    """

    direct_children: int
    descendant_count: int
    leaf_descendants: int
    height: int
    depth: int | None
    entity_type: str


class Answer(NamedTuple, Generic[V]):
    """An answer that says where it is from.

    Attributes:
        value: What was asked for.
        tier: "l1", "l2", "l4" (the materialized view), or "source" (the table itself).
        tag: Of the view's content that it was read from; None of the table.
        age_seconds: Since the moment that it stands for; 0 of the table, None when unknown.
    """

    value: V
    tier: str
    tag: Tag | None
    age_seconds: float | None

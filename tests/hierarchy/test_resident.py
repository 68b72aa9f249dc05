"""A hierarchy in memory against what looking at every pair of paths gives."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from mvrefresh.cache.tier import MISSING, Tag
from mvrefresh.hierarchy.node import HierarchyNode
from mvrefresh.hierarchy.resident import ResidentHierarchy

TAG = Tag(7, UUID(int=7))
LABELS = ["a", "b", "B", "0", "_", "a0", "a_", "aa", "Z", "é", "-"]


def order(path):
    """As PostgreSQL orders paths: label by label, each by its bytes."""
    return [label.encode() for label in path.split(".")]


class Tree:
    """Rows as the database gives them, and the definition pair by pair."""

    def __init__(self, paths, without):
        self.nodes = [HierarchyNode(key, path, f"n{key}") for key, path in enumerate(paths, 1)]
        self.nodes.sort(key=lambda node: (order(node.path), node.id))
        self.without = [HierarchyNode(1000 + n, None, "nowhere") for n in range(without)]
        self.by_id = {node.id: node for node in self.nodes}

    def chunks(self, size, parent_of=lambda _: None):
        rows = [(n.id, n.path, n.name, parent_of(n)) for n in (*self.nodes, *self.without)]
        return [rows[begin : begin + size] for begin in range(0, len(rows), size)]

    def ancestors(self, node):
        above = [n for n in self.nodes if node.path.startswith(n.path + ".")]
        return tuple(sorted(above, key=lambda n: (n.depth, n.id)))

    def descendants(self, node, depth=None):
        below = [n for n in self.nodes if n.path.startswith(node.path + ".")]
        return tuple(n for n in below if depth is None or n.depth - node.depth <= depth)


@st.composite
def trees(draw):
    """With gaps, with entities that share a path, and with some that have none."""
    path = st.lists(st.sampled_from(LABELS), min_size=1, max_size=5).map(".".join)
    return Tree(draw(st.lists(path, max_size=25)), draw(st.integers(0, 2)))


@given(trees(), st.integers(1, 7), st.sampled_from([1, 3, 100]))
def test_everybody_is_in_their_place(tree, size, capacity):
    resident = ResidentHierarchy(tree.chunks(size), capacity=capacity)
    assert len(resident) == len(tree.nodes) + len(tree.without)
    expected = {node.id: tree.ancestors(node) for node in tree.nodes}
    assert resident.ancestors_many(list(expected)) == expected
    for node in tree.nodes:
        assert resident.ancestors(node.id) == expected[node.id]
        assert resident.entries[node.id].value == expected[node.id]
        assert resident.node(node.id) == node
        assert len(resident.entries) <= capacity
    for node in tree.without:
        assert resident.node(node.id) == node
        assert resident.ancestors(node.id) == resident.descendants(node.id) == ()


@given(trees(), st.integers(1, 7), st.none() | st.integers(1, 3))
def test_a_subtree_is_a_range(tree, size, depth):
    resident = ResidentHierarchy(tree.chunks(size))
    for node in tree.nodes:
        below = resident.descendants(node.id, max_depth=depth)
        assert below == tree.descendants(node, depth)


@given(trees(), st.integers(1, 4), st.none() | st.integers(1, 3), st.data())
def test_pages_join(tree, limit, depth, data):
    """Also where the last entity of a page is gone when the next one is asked for."""
    resident = ResidentHierarchy(tree.chunks(5))
    for node in tree.nodes:
        pages, after = [], None
        while page := resident.descendants(node.id, max_depth=depth, limit=limit, after=after):
            pages += page
            after = page[-1]
            if data.draw(st.booleans()):
                after = HierarchyNode(after.id + 0.5, after.path, "gone")
        assert tuple(pages) == tree.descendants(node, depth)


@given(trees(), st.data())
def test_by_parents_the_paths_do_not_count_for_ancestors(tree, data):
    """Parents come in any order; they have no circles, which the view has cut."""
    parents = {}
    for place, node in enumerate(tree.nodes):
        above = st.none() | st.sampled_from(tree.nodes[:place]) if place else st.none()
        parents[node.id] = getattr(data.draw(above), "id", None)
    resident = ResidentHierarchy(tree.chunks(4, lambda n: parents.get(n.id)), by_parent=True)
    for node in tree.nodes:
        chain, parent = [], parents[node.id]
        while parent is not None:
            chain.append(tree.by_id[parent])
            parent = parents[parent]
        assert resident.ancestors(node.id) == tuple(reversed(chain))


def test_brothers_and_sisters_share_their_ancestors():
    rows = [(1, "a", "A", None), (2, "a.b", "B", None), (3, "a.c", "C", None)]
    resident = ResidentHierarchy([rows])
    assert resident.ancestors(2) is resident.ancestors(3)


def test_a_thousand_levels():
    rows = [(n, ".".join("x" * (n + 1)), f"n{n}", None) for n in range(1200)]
    resident = ResidentHierarchy([rows])
    assert [node.id for node in resident.ancestors(1199)] == list(range(1199))
    assert len(resident.descendants(0)) == 1199


def test_nobody():
    resident = ResidentHierarchy([])
    assert resident.ancestors(1) is MISSING
    assert resident.node(1) is MISSING
    assert resident.descendants(1) is MISSING
    assert resident.ancestors_many([1, 2]) == {}


def test_an_id_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        ResidentHierarchy([[(1, "a", "A", None), (1, "b", "B", None)]])


@given(trees(), st.data())
def test_what_is_forgotten_is_missing_and_the_rest_as_before(tree, data):
    resident = ResidentHierarchy(tree.chunks(5))
    everybody = [*tree.by_id, *(node.id for node in tree.without)]
    asked = data.draw(st.sets(st.sampled_from(everybody))) if everybody else set()
    for key in asked:
        resident.ancestors(key)
    gone = data.draw(st.sets(st.sampled_from(everybody))) if everybody else set()
    resident.forget([*gone, "nobody"], TAG)
    assert resident.tag == TAG
    assert resident.gaps == len(gone) + 1
    assert len(resident) == len(everybody) - len(gone)
    assert not gone & resident.entries.keys()
    for key in everybody:
        if key in gone:
            assert resident.ancestors(key) is resident.node(key) is MISSING
            assert resident.ancestors_many([key]) == {}
        else:
            assert resident.node(key) is not MISSING
            node = resident.node(key)
            expected = () if node.path is None else tree.ancestors(node)
            assert resident.ancestors(key) == expected
        assert resident.descendants(key) is MISSING  # nobody knows what is below by now


def test_an_answer_that_is_being_built_is_not_kept_when_its_row_is_forgotten():
    resident = ResidentHierarchy([[(1, "a", "A", None), (2, "a.b", "B", None)]])

    class Overtaken(ResidentHierarchy):
        __slots__ = ()

        def _family(self, parent):
            self.forget([2], TAG)
            return super()._family(parent)

    resident.__class__ = Overtaken
    assert resident.ancestors(2) is MISSING
    assert resident.entries == {}

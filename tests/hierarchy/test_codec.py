"""What is written comes back, and what was not written is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from mvrefresh.cache.tier import Tag
from mvrefresh.hierarchy.codec import ChainCodec, CountsCodec, NodeCodec
from mvrefresh.hierarchy.node import HierarchyCounts, HierarchyNode

TAG = Tag(1, UUID(int=1))
LABELS = st.text("abz0_é-", min_size=1, max_size=4)
NAMES = st.none() | st.text(max_size=8) | st.integers(-(2**53), 2**53)
IDS = {
    "integers": st.integers(-(2**63), 2**63 - 1),
    "texts": st.text(max_size=9),
    "uuids": st.uuids(),
}


@st.composite
def chains(draw, *, prefixes):
    ids = draw(st.lists(IDS[draw(st.sampled_from(list(IDS)))], max_size=8, unique=True))
    path, nodes = [], []
    for each in ids:
        path = [*(path if prefixes else []), *draw(st.lists(LABELS, min_size=1, max_size=2))]
        nodes.append(HierarchyNode(each, ".".join(path), draw(NAMES)))
    return tuple(nodes)


def codec():
    known = {}
    return ChainCodec(lambda _: known)


@given(chains(prefixes=True) | chains(prefixes=False))
def test_ancestors_come_back(chain):
    data = codec().encode(chain)
    assert codec().decode(data, TAG) == chain
    warm = codec()
    assert warm.decode(data, TAG) == chain
    assert warm.decode(data, TAG) is warm.decode(data, TAG)


def test_twins_and_entities_without_a_path_come_back():
    for paths in (["a", "a.b", "a.b"], [None], ["a", None, "b"]):
        chain = tuple(HierarchyNode(n, path, "x") for n, path in enumerate(paths))
        assert codec().decode(codec().encode(chain), TAG) == chain


def test_a_long_id_comes_back():
    chain = (HierarchyNode("x" * 2**16, "a", "A"),)
    assert codec().decode(codec().encode(chain), TAG) == chain


def test_those_above_are_shared_with_what_is_known():
    nodes = [HierarchyNode(n, ".".join(f"l{k}" for k in range(n + 1)), f"{n}") for n in range(4)]
    data = codec().encode(tuple(nodes))
    for count in range(5):
        known = {node.id: tuple(nodes[: place + 1]) for place, node in enumerate(nodes[:count])}
        before = dict(known)
        chain = ChainCodec(lambda _, known=known: known).decode(data, TAG)
        assert chain == tuple(nodes)
        assert all(mine is theirs for mine, theirs in zip(chain, nodes[:count], strict=False))
        assert all(known[key] is value for key, value in before.items())
        assert known.keys() == {0, 1, 2, 3}


def test_it_is_small():
    nodes = [
        HierarchyNode(n, ".".join(f"l{k}" for k in range(n)), f"name {n}") for n in range(1, 9)
    ]
    assert len(codec().encode(tuple(nodes))) < 170


@pytest.mark.parametrize(
    "chain",
    [
        (HierarchyNode(1, "a", "A"), HierarchyNode("x", "a.b", "B")),
        (HierarchyNode(2**70, "a", "A"),),
        (HierarchyNode(1.5, "a", "A"),),
        (HierarchyNode(b"x", "a", "A"),),
        (HierarchyNode("\ud800", "a", "A"),),
        (HierarchyNode(1, "a", datetime.now(UTC)),),
        (HierarchyNode(1, "a", b"bytes"),),
        (HierarchyNode(1, "a", float("nan")),),
    ],
)
def test_what_cannot_come_back_is_not_written(chain):
    assert codec().encode(chain) is None


@given(st.binary(max_size=60))
def test_what_nobody_wrote_is_a_value_error_or_a_chain(data):
    try:
        found = codec().decode(data, TAG)
    except (ValueError, TypeError, IndexError, KeyError):
        return
    assert isinstance(found, tuple)


@given(IDS["integers"] | IDS["texts"] | IDS["uuids"], st.none() | LABELS, NAMES)
def test_nodes_come_back(entity, path, name):
    node = HierarchyNode(entity, path, name)
    data = NodeCodec().encode(node)
    if data is None:  # JSON has no such number
        assert isinstance(entity, int)
    else:
        assert NodeCodec().decode(data, TAG) == node


def test_counts_come_back():
    for counts in (HierarchyCounts(1, 2, 3, 4, 5, "x"), HierarchyCounts(0, 0, 0, 0, None, "")):
        assert CountsCodec().decode(CountsCodec().encode(counts), TAG) == counts
    with pytest.raises(ValueError, match="fields"):
        CountsCodec().decode(b'["a", 1, 2, 3, 4, "x"]', TAG)

"""Order and dependants, on graphs that hypothesis draws."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mvrefresh import MaterializedView, MvrefreshError, ViewName
from mvrefresh.errors import AmbiguousView, ConfigurationError, UnknownView
from mvrefresh.refreshing.graph import ViewGraph


def view(oid, *reads, schema="public", name=None):
    return MaterializedView(oid, ViewName(schema, name or f"v{oid}"), reads=frozenset(reads))


@st.composite
def graphs(draw):
    """Views 0..n, each of which reads some of those before it; oids shuffled."""
    n = draw(st.integers(1, 12))
    oids = draw(st.permutations(range(n)))
    return [
        view(oids[i], *(oids[j] for j in range(i) if draw(st.booleans()) and draw(st.booleans())))
        for i in range(n)
    ]


def below(views, oid):
    """Naive: all that `oid` reads, at any depth."""
    direct = next(v for v in views if v.oid == oid).reads
    return set(direct).union(*(below(views, read) for read in direct))


@given(graphs(), st.data())
def test_every_view_stands_after_all_it_reads_even_through_views_left_out(views, data):
    chosen = data.draw(st.sets(st.sampled_from([v.oid for v in views])))
    order = [v.oid for v in ViewGraph(views).order(chosen)]
    assert sorted(order) == sorted(chosen)
    for place, oid in enumerate(order):
        assert not below(views, oid) & set(order[place:])


@given(graphs())
def test_the_order_does_not_depend_on_how_the_catalog_was_listed(views):
    assert list(ViewGraph(views)) == list(ViewGraph(reversed(views)))


@given(graphs(), st.data())
def test_dependants_are_all_who_read_it_at_any_depth(views, data):
    asked = data.draw(st.sets(st.sampled_from([v.oid for v in views])))
    expected = {v.oid for v in views if below(views, v.oid) & asked} - asked
    assert ViewGraph(views).dependants(asked) == expected


def test_a_circle_is_named():
    with pytest.raises(MvrefreshError, match=r"circle: (v1 -> v2 -> v1|v2 -> v1 -> v2)"):
        list(ViewGraph([view(1, 2), view(2, 1)]))


class TestFind:
    graph = ViewGraph(
        [
            view(1, name="mv"),
            view(2, name="MV"),
            view(3, schema="app", name="only"),
            view(4, schema="a", name="twice"),
            view(5, schema="b", name="twice"),
            view(6, name="a.twice"),
            view(7, name='we"ird'),
        ],
        search_path=["public", "x"],
    )

    @pytest.mark.parametrize(
        ("wanted", "oid"),
        [
            ("mv", 1),
            ("MV", 2),
            ("Mv", 1),
            ('"MV"', 2),
            ("public.MV", 2),
            ("only", 3),
            ("app.only", 3),
            ("a.twice", 6),  # exactly that name, before schema and name
            ("b.twice", 5),
            ('we"ird', 7),
            ('"we""ird"', 7),
            (ViewName("b", "twice"), 5),
            (4, 4),
        ],
    )
    def test_finds(self, wanted, oid):
        assert self.graph.find(wanted).oid == oid

    def test_finds_a_view_of_an_older_catalog_by_its_oid(self):
        assert self.graph.find(view(1, name="renamed")).name.name == "mv"

    def test_says_when_a_name_could_mean_two(self):
        with pytest.raises(AmbiguousView, match=r"a\.twice, b\.twice"):
            self.graph.find("twice")

    @pytest.mark.parametrize("wanted", ["nope", "app.mv", 99, ViewName("app", "mv")])
    def test_says_when_there_is_none(self, wanted):
        with pytest.raises(UnknownView, match=r"mvrefresh list"):
            self.graph.find(wanted)

    @pytest.mark.parametrize("wanted", ["", "  ", "x; DROP", 'a"b"c', "é" * 32])
    def test_says_when_it_is_no_name(self, wanted):
        with pytest.raises(ConfigurationError):
            self.graph.find(wanted)

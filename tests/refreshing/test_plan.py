"""What would be done, and why: pure."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from tests.refreshing.test_graph import below, graphs

from mvrefresh import MaterializedView, UniqueIndex, ViewName
from mvrefresh.errors import ConfigurationError, UnknownView
from mvrefresh.refreshing.graph import ViewGraph
from mvrefresh.refreshing.plan import make_plan

INDEX = (UniqueIndex("ix", ("id",)),)


def graph(**facts):
    return ViewGraph([MaterializedView(1, ViewName("public", "mv"), **facts)])


@pytest.mark.parametrize(
    ("facts", "wish", "strategy", "words"),
    [
        ({"unique_indexes": INDEX}, {}, "concurrent", "ix (id)"),
        ({"unique_indexes": INDEX}, {"method": "regular"}, "regular", "asked for"),
        ({}, {}, "regular", "no unique index; readers wait"),
        ({}, {"method": "concurrent"}, "regular", "no unique index; readers wait"),
        ({}, {"fallback": "never"}, None, "ruled out"),
        ({"unique_indexes": INDEX, "populated": False}, {}, "regular", "not populated"),
        ({"populated": False}, {"fallback": "never"}, "regular", "no readers to block"),
    ],
)
def test_the_strategy_follows_from_what_the_view_can(facts, wish, strategy, words):
    (step,) = make_plan(graph(**facts), **wish)
    assert step.strategy == strategy
    assert words in step.reason
    assert step.blocks_readers == (strategy == "regular" and facts.get("populated", True))


@given(graphs(), st.data())
def test_waves_run_what_does_not_read_each_other_together(views, data):
    chosen = data.draw(st.sets(st.sampled_from([v.oid for v in views])))
    cascade = data.draw(st.booleans())
    plan = make_plan(ViewGraph(views), chosen, cascade=cascade)
    expected = set(chosen)
    if cascade:
        expected |= {v.oid for v in views if below(views, v.oid) & chosen}
    assert {step.view.oid for step in plan} == expected
    seen = set()
    for wave in plan.waves:
        oids = {step.view.oid for step in wave}
        for step in wave:
            assert step.after <= seen
            assert not step.view.reads & oids
            assert step.cascaded == (step.view.oid not in chosen)
        seen |= oids
    assert seen == expected


def test_a_view_counts_once_however_often_it_is_named():
    assert len(make_plan(graph(), ["mv", "public.mv", 1])) == 1


def test_no_views_is_an_empty_plan():
    plan = make_plan(graph(), [])
    assert (len(plan), plan.waves) == (0, ())


@pytest.mark.parametrize(
    ("views", "wish", "error"),
    [
        (["nope"], {}, UnknownView),
        ("mv", {}, ConfigurationError),
        (None, {"method": "quick"}, ConfigurationError),
        (None, {"fallback": "maybe"}, ConfigurationError),
    ],
)
def test_what_cannot_be_meant_is_refused(views, wish, error):
    with pytest.raises(error):
        make_plan(graph(), views, **wish)

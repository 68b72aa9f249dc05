"""Names and capabilities of a view: pure."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mvrefresh import MaterializedView, UniqueIndex, ViewName
from mvrefresh.errors import ConfigurationError

IDENTIFIER = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=15
)


@given(schema=IDENTIFIER, name=IDENTIFIER)
def test_a_label_reads_back_as_the_name_it_stands_for(schema, name):
    view = ViewName(schema, name)
    read_schema, read_name = ViewName.parse(str(view))
    assert (read_schema or "public", read_name) == (schema, name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mv", (None, "mv")),
        ("App.MV", ("app", "mv")),
        ('"App"."M.V"', ("App", "M.V")),
        (' app . "x""y" ', ("app", 'x"y')),
    ],
)
def test_names_are_read_as_sql_would(text, expected):
    assert ViewName.parse(text) == expected


@pytest.mark.parametrize("text", ["", " ", "a.b.c", "a.", ".a", 'a"', '"a', '""', "a b", "x" * 64])
def test_what_is_no_name_is_refused(text):
    with pytest.raises(ConfigurationError):
        ViewName.parse(text)


def test_public_is_left_out_of_a_label():
    assert str(ViewName("public", "mv")) == "mv"
    assert str(ViewName("App", "mv")) == '"App".mv'


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"valid": False}, "invalid"),
        ({"partial": True}, "partial"),
        ({"expression": True}, "expression"),
        ({"immediate": False}, "deferrable"),
        ({"btree": False}, "btree"),
    ],
)
def test_an_index_that_nearly_does_is_named_with_its_flaw(flaw, words):
    index = UniqueIndex("ix", ("a",), **flaw)
    view = MaterializedView(1, ViewName("public", "mv"), unique_indexes=(index,))
    assert view.usable_index is None
    assert "ix" in view.concurrently_obstacle
    assert words in view.concurrently_obstacle


def test_one_good_index_is_enough():
    bad, good = UniqueIndex("bad", ("a",), partial=True), UniqueIndex("good", ("a", "b"))
    view = MaterializedView(1, ViewName("public", "mv"), unique_indexes=(bad, good))
    assert view.usable_index is good
    assert view.concurrently_obstacle is None


def test_a_view_that_is_not_populated_cannot_be_refreshed_concurrently():
    view = MaterializedView(
        1, ViewName("public", "mv"), populated=False, unique_indexes=(UniqueIndex("i", ("a",)),)
    )
    assert "populated" in view.concurrently_obstacle

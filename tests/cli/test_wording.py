from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from mvrefresh.cli import wording


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (None, "-"),
        (0, "0.0 ms"),
        (3.21, "3.2 ms"),
        (9.96, "10 ms"),
        (213.4, "213 ms"),
        (999.7, "1.00 s"),
        (1250, "1.25 s"),
        (9_996, "10.0 s"),
        (12_520, "12.5 s"),
        (59_960, "1 min 00 s"),
        (125_000, "2 min 05 s"),
        (3_599_700, "1 h 00 min"),
        (3_720_000, "1 h 02 min"),
        (90_000_000, "25 h 00 min"),
    ],
)
def test_durations(milliseconds, said):
    assert wording.duration(milliseconds) == said


@given(st.floats(0, 1e10))
def test_a_duration_is_never_rounded_into_the_next_unit(milliseconds):
    said = wording.duration(milliseconds)
    assert not said.startswith(("1000 ", "60.0 "))
    assert " 60 " not in said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (0.4, "just now"),
        (12.2, "12 s ago"),
        (59.7, "1 min ago"),
        (200, "3 min ago"),
        (3_599, "1 h ago"),
        (7_300, "2 h ago"),
        (90_000, "25 h ago"),
        (432_000, "5 d ago"),
    ],
)
def test_ages(seconds, said):
    assert wording.age(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (8192, "8 kB"),
        (1_048_575, "1.0 MB"),
        (1_500_000, "1.4 MB"),
        (2**40, "1.0 TB"),
    ],
)
def test_sizes(count, said):
    assert wording.size(count) == said


def test_counts():
    assert wording.number(5296) == "5,296"
    assert wording.number(None) == "-"
    assert wording.plural(1, "view") == "1 view"
    assert wording.plural(0, "view") == "0 views"
    assert wording.rows_written(12, 3) == "+12 -3"
    assert wording.rows_written(12, None) == "+12"
    assert wording.rows_written(None, None) == "-"


@given(st.text(st.characters(exclude_categories=())))
def test_text_from_elsewhere_cannot_steer_a_terminal(text):
    said = wording.one_line(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") for char in said)
    assert wording.one_line("a\x1b[31m\nb\u202e") == r"a\x1b[31m\nb\u202e"


def test_moments():
    when = datetime(2024, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2)))
    assert wording.iso(when) == "2024-02-03T02:05:06Z"
    assert wording.moment(when) == "2024-02-03 02:05:06"
    now = datetime.now(UTC)
    assert wording.moment(now) == now.strftime("%m-%d %H:%M:%S")

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from mvrefresh.cli.options import Limit, Since, View


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("5s", 5), ("500ms", 0.5), ("2m", 120), ("2min", 120), ("1.5 h", 5400)],
)
def test_time_limits(text, seconds):
    assert Limit().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "nan", "inf", "5 weeks", "0", "0.0001", "99999999"]
)
def test_no_time_limits(text):
    with pytest.raises(click.BadParameter):
        Limit().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "ago"), [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("2w", 1209600)]
)
def test_since_an_age(text, ago):
    expected = datetime.now(UTC) - timedelta(seconds=ago)
    assert abs(Since().convert(text, None, None) - expected) < timedelta(seconds=5)


def test_since_a_moment():
    day = datetime(2025, 1, 31, tzinfo=UTC)
    assert Since().convert("2025-01-31", None, None) == day
    assert Since().convert("2025-01-31T10:30Z", None, None) == day.replace(hour=10, minute=30)
    assert Since().convert("2025-01-31T10:30+02:00", None, None) == day.replace(hour=8, minute=30)


@pytest.mark.parametrize("text", ["", "yesterday", "24", "-3h", "2025-13-01", "99999999999w"])
def test_since_nonsense(text):
    with pytest.raises(click.BadParameter):
        Since().convert(text, None, None)


@pytest.mark.parametrize("text", ["a\0b", "a\udcff"])
def test_no_view_is_called_so(text):
    with pytest.raises(click.BadParameter):
        View().convert(text, None, None)

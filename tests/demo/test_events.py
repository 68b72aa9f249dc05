from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from mvrefresh.demo.events import COUNT, SPAN, TOOLS, usage_events

NOW = datetime(2025, 1, 13, 10, 30, tzinfo=UTC)


def test_the_same_seed_the_same_events():
    assert list(usage_events(NOW, count=500)) == list(usage_events(NOW, count=500))
    assert list(usage_events(NOW, count=5, seed=1)) != list(usage_events(NOW, count=5, seed=2))


def test_span():
    events = list(usage_events(NOW, count=5000))
    assert len(events) == 5000
    assert all(NOW - SPAN <= event.ts <= NOW for event in events)
    old = sum(event.ts < NOW - timedelta(days=180) for event in events)
    assert 0.05 < old / len(events) < 0.15
    assert COUNT == 100_000


def test_a_short_span_at_any_hour():
    night = NOW.replace(hour=3)
    events = list(usage_events(night, count=100, span=timedelta(hours=1)))
    assert all(timedelta() <= night - event.ts <= timedelta(hours=1) for event in events)


def test_like_people_at_work():
    events = list(usage_events(NOW, count=5000))
    known = {(tool.category, tool.name) for tool in TOOLS}
    assert {(event.tool_category, event.tool_name) for event in events} == known
    assert all(event.duration_ms > 0 for event in events)
    assert 0.95 < sum(event.success for event in events) / len(events) < 1
    day = sum(9 <= event.ts.hour < 17 for event in events)
    assert day > len(events) / 2
    assert any(one.ts != other.ts for one, other in pairwise(events))

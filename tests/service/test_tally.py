"""What a service has done, as it is counted."""

from __future__ import annotations

from time import sleep
from uuid import uuid4

import pytest
from hypothesis import given, strategies as st

from mvrefresh.refreshing.report import RefreshOutcome, Status
from mvrefresh.refreshing.threads import in_thread
from mvrefresh.service.tally import Tally


@st.composite
def outcomes(draw):
    return RefreshOutcome(
        "mv",
        draw(st.sampled_from(Status)),
        uuid4(),
        duration_ms=draw(st.floats(0, 1e6)),
        attempts=draw(st.integers(0, 2)),
        shared=draw(st.booleans()),
    )


@given(st.lists(outcomes(), max_size=20))
def test_what_was_tried_here_is_counted_and_nothing_else(outcomes):
    tally = Tally()
    for outcome in outcomes:
        tally.count(outcome)
    tried = [o for o in outcomes if not o.shared and o.success is not None]
    figures = tally.sum()
    assert figures.total_refreshes == len(tried)
    assert figures.successful_refreshes == sum(o.status is Status.SUCCEEDED for o in tried)
    assert figures.failed_refreshes == len(tried) - figures.successful_refreshes
    if tried:
        mean = sum(o.duration_ms for o in tried) / len(tried)
        assert figures.average_duration_ms == pytest.approx(mean, abs=0.00051)
        assert figures.average_duration_ms == round(figures.average_duration_ms, 3)
    else:
        assert figures.average_duration_ms is None


def test_the_uptime_runs():
    tally = Tally()
    before = tally.sum().uptime_seconds
    sleep(0.01)
    assert 0 <= before < before + 0.01 <= tally.sum().uptime_seconds


class Slow(float):
    """A duration that takes its time to be added: long enough for another thread to add its own."""

    __slots__ = ()

    def __radd__(self, other):
        sleep(0.002)
        return float(other) + float(self)


def test_threads_lose_no_count():
    tally = Tally()
    outcome = RefreshOutcome("mv", Status.SUCCEEDED, uuid4(), duration_ms=Slow(2.0), attempts=1)

    def count():
        for _ in range(10):
            tally.count(outcome)

    for work in [in_thread("mvrefresh-test", count) for _ in range(4)]:
        work.result(60)
    assert tally.sum().successful_refreshes == 40
    assert tally.sum().average_duration_ms == 2.0

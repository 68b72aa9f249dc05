"""How a service is, as a value."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mvrefresh.service.health import (
    Check,
    ServiceHealth,
    database_check,
    pool_check,
    views_check,
)

STATUSES = ["healthy", "degraded", "unhealthy"]


@given(st.lists(st.sampled_from(STATUSES), max_size=5))
def test_a_service_is_as_well_as_the_worst_of_its_checks(statuses):
    health = ServiceHealth({str(n): Check(status) for n, status in enumerate(statuses)})
    assert health.status == max(statuses, key=STATUSES.index, default="healthy")


def test_the_detail_is_all_that_is_wrong_in_words():
    health = ServiceHealth(
        {
            "service": Check(),
            "pool": Check("degraded", "the pool is full"),
            "overdue": Check("degraded", "overdue: mv"),
        },
        17.0,
    )
    assert health.detail == "the pool is full; overdue: mv"
    assert health.checked_at == 17.0


def test_nothing_checked_is_nothing_wrong():
    assert (ServiceHealth().status, ServiceHealth().detail) == ("healthy", "")
    assert ServiceHealth().checked_at is None


@pytest.mark.parametrize(
    ("error", "silent", "expected"),
    [
        (None, 0.0, Check()),
        (None, 90.0, Check()),
        (None, 90.1, Check("unhealthy", "the database has not answered for 90 s")),
        ("refused", 0.0, Check("unhealthy", "the database does not answer: refused")),
        ("", 0.0, Check("unhealthy", "the database does not answer: ")),
    ],
)
def test_a_database_may_be_silent_for_three_intervals(error, silent, expected):
    assert database_check(error, silent, 30.0) == expected


@pytest.mark.parametrize(
    ("use", "status"),
    [
        (None, "healthy"),
        ((0, 0), "healthy"),
        ((0, 10), "healthy"),
        ((7, 10), "healthy"),
        ((8, 10), "degraded"),
        ((10, 10), "degraded"),
        ((3, 4), "healthy"),
    ],
)
def test_a_pool_is_warned_of_from_four_fifths_on(use, status):
    check = pool_check(use)
    assert check.status == status
    if status == "degraded":
        assert check.detail == f"{use[0]} of {use[1]} connections of the pool are in use"


def test_views_in_trouble_are_named_in_order():
    assert views_check("overdue", ["b", "a"]) == Check("degraded", "overdue: a, b")
    assert views_check("overdue", []) == Check()

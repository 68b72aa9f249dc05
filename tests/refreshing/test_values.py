"""Reports, policies and events: pure."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from mvrefresh import EventBus, RefreshOutcome, RefreshPolicy, RefreshReport, Status
from mvrefresh.errors import ConfigurationError, DefinitionFailed, UpstreamFailed
from mvrefresh.events import HealthChanged, RefreshFinished

RUN = uuid4()


def outcome(view, status=Status.SUCCEEDED, **kwargs):
    return RefreshOutcome(view=view, status=status, run_id=RUN, **kwargs)


def report(*outcomes):
    return RefreshReport(RUN, outcomes, datetime.now(UTC), 1.0)


@pytest.mark.parametrize(
    ("status", "success", "truth"),
    [
        (Status.SUCCEEDED, True, True),
        (Status.FAILED, False, False),
        (Status.CANCELLED, False, False),
        (Status.SKIPPED_UNCHANGED, None, True),
        (Status.SKIPPED_UPSTREAM, None, False),
    ],
)
def test_a_status_means_one_thing(status, success, truth):
    assert outcome("v", status, attempts=1).success is success
    assert bool(outcome("v", status, attempts=1)) is truth


def test_what_was_cancelled_before_it_began_did_not_fail():
    assert outcome("v", Status.CANCELLED, attempts=0).success is None


def test_a_report_gives_results_and_failures_in_the_plans_order():
    failed = outcome("b", Status.FAILED, error=DefinitionFailed("b", "boom"))
    good = report(outcome("a"), outcome("c"))
    bad = report(outcome("c"), failed, outcome("a"))
    assert good
    assert not bad
    assert list(bad.results.items()) == [("c", True), ("b", False), ("a", True)]
    assert bad.failed_views == ["b"]
    assert bad["b"] is failed
    with pytest.raises(KeyError):
        bad["x"]


def test_failures_are_raised_on_demand():
    first, second = DefinitionFailed("a", "boom"), UpstreamFailed("b", "a was not refreshed")
    report(outcome("c")).raise_for_failures()
    with pytest.raises(DefinitionFailed, match="boom"):
        report(outcome("a", Status.FAILED, error=first)).raise_for_failures()
    with pytest.raises(ExceptionGroup, match="2 views") as caught:
        report(
            outcome("a", Status.FAILED, error=first),
            outcome("b", Status.SKIPPED_UPSTREAM, error=second),
        ).raise_for_failures()
    assert caught.value.exceptions == (first, second)


@pytest.mark.parametrize(
    "wrong",
    [
        {"jobs": 0},
        {"attempts": 0},
        {"lock_timeout": 0},
        {"retry_timeout": -1},
        {"backoff_initial": 0},
        {"backoff_max": 0},
        {"wait_timeout": 0},
        {"refresh_timeout": -1},
        {"metrics_policy": "sometimes"},
        {"coordination": "global"},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_its_name(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        RefreshPolicy(**wrong)


@pytest.mark.parametrize(
    ("after", "detail", "line"),
    [
        ("healthy", "", "the service is healthy"),
        ("degraded", "suspended: mv", "the service is degraded: suspended: mv"),
    ],
)
def test_a_change_of_health_is_logged_with_its_reason_if_there_is_one(after, detail, line, caplog):
    with caplog.at_level(logging.INFO, "mvrefresh"):
        EventBus().publish(HealthChanged("unhealthy", after, detail))
    assert caplog.messages == [line]


def test_a_callback_that_raises_costs_nobody_else_the_event(caplog):
    bus, heard = EventBus(), []
    event = RefreshFinished(RUN, outcome("v"))

    def broken(_):
        raise RuntimeError("dashboard down")

    with caplog.at_level(logging.ERROR, "mvrefresh"), bus.subscribe(broken):
        with bus.subscribe(heard.append):
            bus.publish(event)
        bus.publish(event)
    bus.publish(event)
    assert heard == [event]
    assert [r.levelname for r in caplog.records if "subscriber" in r.getMessage()] == ["ERROR"] * 2

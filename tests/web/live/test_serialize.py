"""Whatever is to be sent, JSON goes out: exact for what is known, an error for the rest."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from uuid import UUID, uuid4

import numpy as np
import pydantic
import pytest
from hypothesis import given, strategies as st

from mvrefresh import events
from mvrefresh.errors import DefinitionFailed
from mvrefresh.refreshing.report import FinalMetrics, RefreshOutcome, RefreshReport, Status
from mvrefresh.web.serialize import safe_serialize_message

RUN = UUID("00000000-0000-0000-0000-000000000001")
LAST = datetime.max.replace(tzinfo=timezone(timedelta(hours=-2)))
NOON = datetime(2025, 1, 13, 12, tzinfo=timezone(timedelta(hours=2)))


def sent(message):
    return json.loads(safe_serialize_message(message), parse_constant=pytest.fail)


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    when: datetime


class Model(pydantic.BaseModel):
    amount: Decimal
    when: datetime


Pair = namedtuple("Pair", "one two")  # noqa: PYI024 - the old kind, too


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (RUN, str(RUN)),
        (NOON, "2025-01-13T10:00:00Z"),
        (NOON.replace(tzinfo=None), "2025-01-13T12:00:00Z"),
        (LAST, "9999-12-31T23:59:59.999999-02:00"),
        (date(2025, 1, 13), "2025-01-13"),
        (timedelta(minutes=1.5), 90.0),
        (Decimal("0.10"), "0.10"),
        (Decimal("NaN"), "NaN"),
        (math.nan, None),
        (-math.inf, None),
        (Colour.RED, "red"),
        (Point(1, NOON), {"x": 1, "when": "2025-01-13T10:00:00Z"}),
        (Model(amount="1.50", when=NOON), {"amount": "1.50", "when": "2025-01-13T10:00:00Z"}),
        (Pair(1, Colour.RED), {"one": 1, "two": "red"}),
        ({1, 2}, [1, 2]),
        (frozenset(), []),
        (deque([1]), [1]),
        (b"\xff\x00", "/wA="),
        (PurePosixPath("/tmp/x"), "/tmp/x"),  # noqa: S108 - no file
        (ValueError("no"), {"type": "ValueError", "message": "no", "sqlstate": None}),
        (OrderedDict(a={RUN: NOON}), {"a": {str(RUN): "2025-01-13T10:00:00Z"}}),
        (np.float64(1.5), 1.5),
        (np.array([[1, 2], [3, 4]]).T, [[1, 3], [2, 4]]),
        (np.array(["a"]), ["a"]),
        (np.int64(7), 7),
        (np.bool_(True), True),  # noqa: FBT003 - the value
    ],
)  # fmt: skip
def test_each_value_has_its_form(value, expected):
    assert sent({"value": value}) == {"value": expected}


OUTCOME = RefreshOutcome(
    "mv", Status.FAILED, RUN, error=DefinitionFailed("mv", "division by zero", sqlstate="22012")
)
EVENTS = [
    events.RefreshStarted(RUN, "mv", "regular", "why"),
    events.RefreshRetried(RUN, "mv", 1, ValueError("no")),
    events.RefreshFellBack(RUN, "mv", "why"),
    events.RefreshFinished(RUN, OUTCOME),
    events.RecordLost(RUN, "mv", ValueError("no")),
    events.RunFinished(RUN, RefreshReport(RUN, (OUTCOME,), NOON, 1.0)),
    events.ServiceStarted(("mv",)),
    events.ServiceStopped(FinalMetrics()),
    events.ViewSuspended("mv", "mv", 5, "no"),
    events.ViewResumed("mv"),
    events.HealthChanged("healthy", "degraded", "why"),
    events.TierDegraded("l2_cache", "why"),
    events.TierRecovered("l2_cache"),
    events.ValuePoisoned("l2_cache", "key", "why"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_in_its_envelope(event):
    message = sent(event)
    assert message.keys() == {"id", "event", "at", "data"}
    assert message["event"] == type(event).__name__
    assert datetime.fromisoformat(message["at"]).tzinfo == UTC


def test_a_failure_says_why():
    data = sent(events.RefreshFinished(RUN, OUTCOME))["data"]
    assert (data["run_id"], data["view"], data["status"]) == (str(RUN), "mv", "failed")
    assert data["success"] is False
    assert data["error"]["type"] == "DefinitionFailed"
    assert data["error"]["sqlstate"] == "22012"
    assert "division by zero" in data["error"]["message"]


class Hostile:
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    @property
    def sqlstate(self):
        raise RuntimeError("no state")


class BadModel(pydantic.BaseModel):
    def model_dump(self, **_):
        raise HostileError


def cycle():
    value = []
    value.append(value)
    return value


def cyclic_point():
    point = Point(1, NOON)
    point.x = {"again": point}
    return point


@pytest.mark.parametrize(
    "value",
    [
        object(), Hostile(), Hostile, int, BadModel(), cycle(), cyclic_point(), "\ud800",
        {"\udfff": 1}, 2**64, 1j, iter([]), lambda: None, {Hostile(): 1}, type("\u00e9", (), {})(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_no_form_is_an_error_message(value):
    message = sent({"event": "Mine", "data": value})
    assert message.keys() == {"id", "event", "at", "data"}
    assert message["event"] == "MessageFailed"
    assert message["data"]["event"] == "dict"
    assert message["data"]["error"].keys() == {"type", "message", "sqlstate"}


def test_an_event_that_cannot_be_told_is_named():
    message = sent(events.RefreshStarted(RUN, "mv", "\ud800", "why"))
    assert message["event"] == "MessageFailed"
    assert message["data"]["event"] == "RefreshStarted"


def test_a_hostile_error_is_told_without_its_words():
    message = sent(events.RefreshRetried(RUN, "mv", 1, HostileError()))
    assert message["event"] == "RefreshRetried"
    assert message["data"]["error"] == {"type": "HostileError", "message": "", "sqlstate": None}


@dataclass(frozen=True)
class Box:
    value: object


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
    | st.uuids() | st.decimals() | st.datetimes(timezones=st.none() | st.timezones())
    | st.timedeltas() | st.dates() | st.complex_numbers() | st.builds(Hostile)
    | st.builds(ValueError, st.text(st.characters())) | st.builds(HostileError)
    | st.sampled_from(Status) | st.frozensets(st.integers() | st.text())
    | st.floats().map(np.float64) | st.lists(st.floats()).map(np.array)
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.uuids(), inner)
        | st.builds(Box, inner)
        | inner.map(lambda value: (value, uuid4()))
    ),
    max_leaves=20,
)


@given(VALUES)
def test_nothing_is_raised_and_it_is_always_json(value):
    sent(value)
    message = sent(events.RefreshRetried(RUN, value, value, value))
    assert message.keys() == {"id", "event", "at", "data"}
    assert message["event"] in {"RefreshRetried", "MessageFailed"}

"""Refreshes that go on elsewhere are told once each, and this process's own never."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from mvrefresh import RefreshOutcome, Status
from mvrefresh.events import RefreshFinished, RefreshStarted
from mvrefresh.fleet.going import GoingOn

NOW = datetime(2025, 1, 13, 10, 30, tzinfo=UTC)
RUN = UUID(int=1)
BEGIN = RefreshStarted(RUN, "mv", "regular", "")
END = RefreshFinished(RUN, RefreshOutcome("mv", Status.SUCCEEDED, RUN))


def row(view="mv", pid=1, since="2025-01-13T10:29:59+00:00"):
    return {"view": view, "pid": pid, "since": since, "application": "other"}


@pytest.fixture
def going():
    return GoingOn()


def told(going, *rows, pids=()):
    return [news.data["pid"] for news in going.new_among(rows, NOW, pids)]


def test_each_is_told_once(going):
    assert told(going, row()) == [1]
    assert told(going, row(), row("other", 2)) == [2]
    assert told(going, row("other", 2)) == []
    assert told(going, row(since="2025-01-13T10:31:00+00:00")) == [1]


def test_what_is_told(going):
    (news,) = going.new_among([row()], NOW)
    assert (news.event, news.at, news.key) == ("RefreshGoingOn", NOW, None)
    assert news.data["since"] == datetime(2025, 1, 13, 10, 29, 59, tzinfo=UTC)
    (unknown,) = going.new_among([row(since=None)], NOW)
    assert unknown.data["since"] is None


def test_one_of_this_process_is_never_told(going):
    going.hear(BEGIN)
    assert told(going, row()) == []
    going.hear(END)
    assert told(going, row()) == []  # the look had begun before the end
    assert told(going, row(pid=7), pids={7}) == []  # not heard yet, and by the backend known


def test_one_that_waits_here_does_not_make_another_new(going):
    assert told(going, row()) == [1]
    going.hear(BEGIN)
    assert told(going, row()) == []
    going.hear(END)
    assert told(going, row()) == []
    assert told(going, row()) == []


def test_a_view_that_was_dropped_has_no_name_to_tell(going):
    assert told(going, row(view=None)) == []

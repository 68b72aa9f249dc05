"""Who waits for whom, where many ask for the same long call."""

from __future__ import annotations

import asyncio
import gc
import os
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Event

import pytest
from tests.web.conftest import PATIENCE

from mvrefresh.errors import Stopping
from mvrefresh.refreshing.threads import current_crew
from mvrefresh.web.waiting import InTurn, on_a_thread, within


class Work:
    """A call that takes until it is let go on."""

    def __init__(self):
        self.begun, self.go_on, self.calls = Event(), Event(), 0

    def __call__(self):
        self.calls += 1
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        return self.calls


@pytest.fixture
def work():
    return Work()


def test_a_crowd_shares_the_next_call(work):
    turns = InTurn("test", work)
    first = turns.ask()
    assert work.begun.wait(PATIENCE)
    crowd = [turns.ask() for _ in range(20)]
    assert not any(future.done() for future in crowd)
    work.go_on.set()
    assert first.result(PATIENCE) == 1
    assert {future.result(PATIENCE) for future in crowd} == {2}
    assert turns.ask().result(PATIENCE) == 3


def test_what_raises_is_had_by_those_who_wait_for_it_alone():
    errors = [ValueError("one"), None]

    def raising():
        error = errors.pop(0)
        if error is not None:
            raise error

    turns = InTurn("test", raising)
    with pytest.raises(ValueError, match="one"):
        turns.ask().result(PATIENCE)
    assert turns.ask().result(PATIENCE) is None


def test_who_has_left_hears_of_no_error_and_nobody_logs_one(caplog):
    async def leave():
        future = Future()
        waiting = asyncio.ensure_future(within(future, None))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        future.set_exception(ValueError("late"))
        await asyncio.sleep(0)  # until it has come to the loop

    asyncio.run(leave())
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_who_no_longer_waits_costs_no_call(work):
    turns = InTurn("test", work)
    first = turns.ask()
    assert work.begun.wait(PATIENCE)
    assert turns.ask().cancel()
    work.go_on.set()
    assert first.result(PATIENCE) == 1
    turns.close()
    assert work.calls == 1


def test_the_end_ends_what_runs_and_what_would_be_next(work):
    cancelled = []

    def cancel(seconds):
        cancelled.append(seconds)
        work.go_on.set()
        return True

    turns = InTurn("test", work, cancel)
    first = turns.ask()
    assert work.begun.wait(PATIENCE)
    following = turns.ask()
    turns.close()
    assert cancelled
    assert first.result(0) == 1
    with pytest.raises(Stopping):
        following.result(0)
    assert work.calls == 1
    assert turns.ask().result(PATIENCE) == 2


def test_a_server_that_does_not_answer_is_hung_up_on(work):
    crews = []

    def sever(crew):
        crews.append(crew)
        work.go_on.set()

    turns = InTurn("test", lambda: (current_crew(), work()), lambda _: False, sever)
    first = turns.ask()
    assert work.begun.wait(PATIENCE)
    turns.close()
    assert first.result(0) == (crews[0], 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_begins_anew(work):
    turns = InTurn("test", work)
    turns.ask()
    assert work.begun.wait(PATIENCE)
    if (child := os.fork()) == 0:
        work.go_on.set()
        os._exit(0 if turns.ask().result(PATIENCE) == 2 else 1)
    work.go_on.set()
    assert os.waitpid(child, 0)[1] == 0
    assert turns.ask().result(PATIENCE) == 2


def test_what_cannot_be_ended_is_not_waited_for(work):
    turns = InTurn("test", work)
    first = turns.ask()
    assert work.begun.wait(PATIENCE)
    closing = on_a_thread("closing", turns.close)
    assert wait([closing], PATIENCE).done
    assert not first.done()
    work.go_on.set()
    assert first.result(PATIENCE) == 1

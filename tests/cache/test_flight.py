"""Many who want the same thing at the same time: one of them loads it."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from mvrefresh.cache.flight import Flights

CROWD = 64
PATIENCE = 20


class Gate:
    """A load that lasts until it is let go, and counts how often it was begun."""

    def __init__(self, outcome=None) -> None:
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.outcome = outcome
        self.count = 0

    def __call__(self):
        self.count += 1
        self.begun.release()
        assert self.let_go.wait(PATIENCE)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pool():
    with ThreadPoolExecutor(CROWD) as pool:
        yield pool


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def waiting(flights, key="key"):
    """How many wait for the flight of that key."""
    return len(flights._flights[key].landed._cond._waiters)


def gather(pool, flights, load, count=CROWD):
    """So many who ask for the same; all but the first of them wait."""
    futures = [pool.submit(flights.load, "key", load) for _ in range(count)]
    assert load.begun.acquire(timeout=PATIENCE)
    wait_until(lambda: waiting(flights) == count - 1)
    return futures


@pytest.mark.parametrize("value", ["value", None, ()])
def test_a_crowd_makes_one_load(pool, value):
    flights, gate = Flights(), Gate(value)
    futures = gather(pool, flights, gate)
    gate.let_go.set()
    assert all(future.result(PATIENCE) is value for future in futures)
    assert gate.count == 1
    assert flights._flights == {}


def test_a_failing_load_is_one_load_and_an_error_for_each(pool):
    flights, error = Flights(), ValueError("no such table")
    gate = Gate(error)
    futures = gather(pool, flights, gate)
    began = time.monotonic()
    gate.let_go.set()
    assert all(future.exception(PATIENCE) is error for future in futures)
    assert gate.count == 1
    assert time.monotonic() - began < 2
    assert flights._flights == {}


def test_after_a_failure_the_next_one_loads():
    flights = Flights()
    with pytest.raises(ZeroDivisionError):
        flights.load("key", lambda: 1 / 0)
    assert flights.load("key", lambda: 2) == 2


def test_other_keys_do_not_wait(pool):
    flights, gate = Flights(), Gate("slow")
    (slow,) = gather(pool, flights, gate, 1)
    assert flights.load("other", lambda: "quick") == "quick"
    gate.let_go.set()
    assert slow.result(PATIENCE) == "slow"


def test_nothing_is_remembered():
    flights, numbers = Flights(), iter(range(3))
    assert [flights.load("key", lambda: next(numbers)) for _ in range(3)] == [0, 1, 2]


def test_an_old_flight_is_not_joined(pool):
    clock = Clock()
    flights, old, new = Flights(oldest=1.0, clock=clock), Gate("old"), Gate("new")
    (first,) = gather(pool, flights, old, 1)
    clock.now = 1.0
    joined = pool.submit(flights.load, "key", new)
    wait_until(lambda: waiting(flights) == 1)
    clock.now = 1.01
    second = pool.submit(flights.load, "key", new)
    assert new.begun.acquire(timeout=PATIENCE)
    third = pool.submit(flights.load, "key", Gate("never"))
    wait_until(lambda: waiting(flights) == 1)
    old.let_go.set()
    assert (first.result(PATIENCE), joined.result(PATIENCE)) == ("old", "old")
    assert "key" in flights._flights  # the old one's end does not end the new one
    new.let_go.set()
    assert (second.result(PATIENCE), third.result(PATIENCE)) == ("new", "new")
    assert flights._flights == {}


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_an_interrupt_is_for_the_thread_that_it_met(pool, interrupt):
    """Those who waited are free, and one of them loads for the others."""
    flights, gate = Flights(), Gate(interrupt)
    first = pool.submit(flights.load, "key", gate)
    assert gate.begun.acquire(timeout=PATIENCE)
    again = Gate("value")
    others = [pool.submit(flights.load, "key", again) for _ in range(8)]
    wait_until(lambda: waiting(flights) == 8)
    gate.let_go.set()
    assert first.exception(PATIENCE) is interrupt
    assert again.begun.acquire(timeout=PATIENCE)
    wait_until(lambda: waiting(flights) == 7)
    again.let_go.set()
    assert [future.result(PATIENCE) for future in others] == ["value"] * 8
    assert again.count == 1
    assert flights._flights == {}


def test_an_error_leaves_no_cycle_behind(pool):
    """Or else the frames of a failed load, and all they hold, would wait for the collector."""

    class Held:
        pass

    def fail():
        held.append(weakref.ref(mine := Held()))
        gate()
        raise AssertionError(mine)

    flights, gate, held = Flights(), Gate(ValueError()), []
    gc.disable()
    try:
        futures = [pool.submit(flights.load, "key", fail) for _ in range(4)]
        assert gate.begun.acquire(timeout=PATIENCE)
        wait_until(lambda: waiting(flights) == 3)
        gate.let_go.set()
        for future in futures:
            assert isinstance(future.exception(PATIENCE), ValueError)
        del future, futures
        gate.outcome = None
        pool.shutdown()
        assert held[0]() is None
    finally:
        gc.enable()

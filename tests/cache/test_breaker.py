"""Who fails is kept away from, and asked again by one."""

from __future__ import annotations

from hypothesis import given, strategies as st

from mvrefresh.cache.breaker import Breaker


class World:
    def __init__(self):
        self.now = 0.0
        self.breaker = Breaker(3, pause=1.0, longest=8.0, clock=lambda: self.now)

    def fail(self, times=1):
        return [self.breaker.may_try() and self.breaker.failed() for _ in range(times)]


def test_it_opens_at_the_third_failure_in_a_row():
    world = World()
    assert world.fail(2) == [False, False]
    assert not world.breaker.succeeded()
    assert world.fail(3) == [False, False, True]
    assert world.breaker.is_open
    assert world.breaker.degraded_since is not None
    assert not world.breaker.may_try()
    assert world.breaker.errors == 5


def test_after_the_pause_one_may_try():
    world = World()
    world.fail(3)
    world.now = 0.99
    assert not world.breaker.may_try()
    world.now = 1.0
    assert world.breaker.may_try()
    assert not world.breaker.may_try()
    assert world.breaker.succeeded()
    assert world.breaker.may_try()
    assert world.breaker.degraded_since is None


def test_each_probe_that_fails_doubles_the_pause():
    world = World()
    world.fail(3)
    pauses = []
    for _ in range(6):
        began = world.now
        while not world.breaker.may_try():
            world.now += 0.5
        pauses.append(world.now - began)
        assert not world.breaker.failed()
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_a_probe_that_was_broken_off_says_nothing_and_another_may():
    world = World()
    world.fail(3)
    world.now = 1.0
    assert world.breaker.may_try()
    world.breaker.gave_up()
    assert world.breaker.may_try()
    assert not world.breaker.failed()
    world.now = 2.99
    assert not world.breaker.may_try()
    assert world.breaker.errors == 4


def test_those_that_were_under_way_do_not_prolong_it():
    world = World()
    trying = [world.breaker.may_try() for _ in range(10)]
    assert all(trying)
    for _ in trying:
        world.breaker.failed()
    world.now = 1.0
    assert world.breaker.may_try()


def test_a_fork_takes_no_probe_along():
    world = World()
    world.fail(3)
    world.now = 1.0
    assert world.breaker.may_try()
    world.breaker.after_fork()
    assert world.breaker.may_try()


@given(st.lists(st.sampled_from(["good", "bad", "later"]), max_size=60))
def test_it_is_open_as_long_as_it_should_be(what_happens):
    world, in_a_row = World(), 0
    for each in what_happens:
        if each == "later":
            world.now += 1.0
        elif world.breaker.may_try():
            if each == "good":
                world.breaker.succeeded()
                in_a_row = 0
                assert not world.breaker.is_open
            else:
                world.breaker.failed()
                in_a_row += 1
        else:
            assert in_a_row >= 3
        assert world.breaker.is_open is (in_a_row >= 3)

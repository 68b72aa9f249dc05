"""Read-through: what is kept, under which tag, and what is only handed on."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mvrefresh.cache.content import Content
from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.tier import MISSING, NO_LINE, Loaded, Tag, line_of
from mvrefresh.cache.tiered import TieredCache

PATIENCE = 20
MOMENT = 1000.0  # seconds of a monotonic clock


def tag_of(number):
    return Tag(number, UUID(int=number))


class World:
    """A view of a few keys, whose values tell the refresh that they are from.

    Attributes:
        tracked: Whether tags can be told.
        seen: The refresh that reads see, as from a replica; None: the newest.
        before, after: Called in a load, before and after it reads.
    """

    def __init__(self, keys=(1, 2, 3), *, together=True) -> None:
        self.now = 0.0
        self.keys = set(keys)
        self.number = 1
        self.tracked = True
        self.seen = None
        self.loads = []
        self.looks = 0
        self.before = self.after = lambda: None
        self.memory = MemoryTier(100)
        self.content = Content(self.ask)
        self.cache = TieredCache(
            self.memory,
            self.load,
            self.content,
            negative_ttl=5,
            clock=lambda: self.now,
            together=together,
        )

    def load(self, keys):
        self.loads.append(list(keys))
        self.before()
        number = self.number if self.seen is None else self.seen
        values = {key: (key, number) for key in keys if key in self.keys}
        loaded = Loaded(
            values,
            tag_of(number) if self.tracked else None,
            MOMENT + number,
        )
        self.after()
        return loaded

    def current(self, _known):
        self.looks += 1
        number = self.number
        if not self.tracked:
            return NO_LINE, None
        return line_of(tag_of(number)), MOMENT + number

    def ask(self, known):
        return self.current(known)  # which a test may replace

    def refresh(self):
        self.number += 1


@pytest.fixture
def world():
    return World()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as pool:
        yield pool


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_first_read_finds_out_the_tag_and_is_kept(world):
    assert world.content.as_of is None
    assert world.cache.get(1) == (1, 1)
    assert world.cache.get(1) == (1, 1)
    assert (world.loads, world.looks) == ([[1]], 1)
    assert world.memory.tag == tag_of(1)
    assert world.content.as_of == MOMENT + 1


def test_reads_under_the_known_tag_ask_for_nothing_else(world):
    for key in (1, 2, 3):
        world.cache.get(key)
    assert (world.loads, world.looks) == ([[1], [2], [3]], 1)


def test_a_newer_tag_is_adopted_when_it_was_asked_for(world):
    world.cache.get_many([1, 2])
    world.refresh()
    assert world.cache.get(1) == (1, 1)  # nobody has told
    assert world.cache.get(3) == (3, 2)
    assert world.looks == 2
    assert world.memory.tag == tag_of(2)
    assert {key: record.value for key, record in world.memory.entries.items()} == {3: (3, 2)}
    assert world.content.as_of == MOMENT + 2


def test_an_old_snapshot_is_handed_on_and_not_kept(world):
    world.cache.get(1)
    world.refresh()
    world.content.look()
    world.seen = 1
    assert world.cache.get(2) == (2, 1)
    assert world.cache.get_many([3]) == {3: (3, 1)}
    assert world.cache.get(9) is MISSING
    assert world.memory.tag == tag_of(2)
    assert world.memory.entries == {}
    assert world.content.as_of == MOMENT + 2
    world.seen = None
    world.keys.add(9)
    assert world.cache.get(9) == (9, 2)  # what an old snapshot lacks may be there now


def test_a_tag_that_comes_back_as_another_is_told_by_its_token(world):
    """After a failover the numbers may repeat."""
    world.cache.get(1)
    world.current = lambda _: (line_of(Tag(1, UUID(int=99))), MOMENT)
    world.content.look()
    assert world.memory.entries == {}


def test_values_without_a_tag_are_never_kept(world):
    world.tracked = False
    for _ in range(2):
        assert world.cache.get(1) == (1, 1)
        assert world.cache.get_many([1, 2]) == {1: (1, 1), 2: (2, 1)}
        assert world.cache.get(9) is MISSING
    assert world.memory.entries == {}
    assert world.loads == [[1], [1, 2], [9]] * 2
    assert world.looks == 0  # it was not known, and is not to be known
    world.keys.add(9)
    assert world.cache.get(9) == (9, 1)


def test_a_view_that_is_tracked_no_more_ends_what_is_held(world):
    world.cache.get_many([1, 2])
    world.tracked = False
    assert world.cache.get(3) == (3, 1)
    assert world.memory.tag is None
    assert world.memory.entries == {}
    assert world.content.as_of is None


def test_what_does_not_exist_is_remembered_for_its_time(world):
    assert world.cache.get(9) is MISSING
    world.now = 4.99
    assert world.cache.get(9) is MISSING
    assert world.cache.get_many([9, 1]) == {1: (1, 1)}
    assert world.loads == [[9], [1]]
    world.now = 5.0
    world.keys.add(9)
    assert world.cache.get(9) == (9, 1)


def test_what_does_not_exist_is_remembered_under_its_tag(world):
    assert world.cache.get_many([8, 9]) == {}
    assert world.cache.get(9) is MISSING
    assert world.loads == [[8, 9]]
    world.keys.add(9)
    world.refresh()
    world.content.look()
    assert world.cache.get(9) == (9, 2)
    assert world.cache.get(8) is MISSING
    assert world.loads == [[8, 9], [9], [8]]


def test_discarded_keys_are_read_again_those_that_do_not_exist_too(world):
    world.cache.get_many([1, 2, 9])
    world.keys.add(9)
    world.cache.discard(key for key in (1, 9))
    assert world.cache.get_many([1, 2, 9]) == {1: (1, 1), 2: (2, 1), 9: (9, 1)}
    assert world.loads == [[1, 2, 9], [1, 9]]


@pytest.mark.parametrize("ask", ["get", "get_many"])
def test_no_stale_store_when_the_tag_changes_after_the_load(world, ask):
    world.content.look()

    def refreshed_by_ourselves():
        world.after = lambda: None
        world.refresh()
        world.content.look()

    world.after = refreshed_by_ourselves
    if ask == "get":
        assert world.cache.get(1) == (1, 1)
        assert world.cache.get(1) == (1, 2)
    else:
        assert world.cache.get_many([1, 9]) == {1: (1, 1)}
        world.keys.add(9)
        assert world.cache.get_many([1, 9]) == {1: (1, 2), 9: (9, 2)}


def test_no_stale_store_when_the_tag_changes_between_look_and_store(world):
    """The load's tag is right when it is compared, and wrong when the value would be kept."""
    world.content.look()

    class Interposed(MemoryTier):
        def put_many(self, values, tag, passing=()):
            world.refresh()
            world.content.look()
            super().put_many(values, tag, passing)

    world.memory = world.cache.memory = Interposed(100)
    world.content.look()
    assert world.cache.get(1) == (1, 1)
    assert world.cache.get(9) is MISSING
    assert world.memory.entries == {}
    assert world.content.as_of == MOMENT + 3
    assert not world.cache._known_missing(9)


@pytest.mark.parametrize("ask", ["get", "get_many"])
def test_a_load_that_raises_leaves_no_trace(world, ask):
    world.content.look()

    def fail():
        raise ConnectionError("away")

    world.before = fail
    for number in range(2):
        with pytest.raises(ConnectionError, match="away"):
            world.cache.get(1) if ask == "get" else world.cache.get_many([1, 9])
        assert len(world.loads) == number + 1
    assert world.memory.entries == {}
    assert world.cache._flights._flights == {}
    world.before = lambda: None
    assert world.cache.get(1) == (1, 1)
    world.keys.add(9)
    assert world.cache.get(9) == (9, 1)
    stats = world.memory.stats()
    assert stats.hits + stats.misses == (4 if ask == "get" else 6)


def test_a_look_that_raises_changes_nothing(world):
    world.cache.get(1)
    known = world.memory.tag, world.content.as_of
    world.current = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        world.content.look()
    assert (world.memory.tag, world.content.as_of) == known
    assert world.cache.get(1) == (1, 1)


def test_the_moment_goes_on_under_the_same_tag(world):
    """A refresh that changed nothing keeps the tag; an older answer does not turn it back."""
    world.cache.get(1)
    later = MOMENT + 3600
    world.current = lambda _: (line_of(tag_of(1)), later)
    world.content.look()
    assert world.content.as_of == later
    assert list(world.memory.entries) == [1]
    world.cache.get(2)
    assert world.content.as_of == later


def test_the_tag_may_be_set_from_outside(world):
    """As one does who is told of it, or who is blind."""
    world.cache.get(1)
    world.content.tell(world.content.ask(), NO_LINE, None)
    assert world.content.as_of is None
    assert world.memory.entries == {}
    world.content.tell(world.content.ask(), line_of(tag_of(1)), None)
    assert world.cache.get(2) == (2, 1)
    assert world.cache.get(9) is MISSING
    assert world.cache.get(9) is MISSING
    assert world.loads == [[1], [2], [9]]
    assert world.looks == 1
    assert world.content.as_of == MOMENT + 1


def test_keys_of_a_batch_are_loaded_once_and_together(world):
    world.cache.get(2)
    assert world.cache.get_many(iter([3, 2, 3, 1])) == {1: (1, 1), 2: (2, 1), 3: (3, 1)}
    assert world.loads == [[2], [3, 1]]
    assert world.cache.get_many([]) == {}


def test_a_crowd_makes_one_load(world, pool):
    """Those too who come when it has just ended, having missed before."""
    world.content.look()
    for number in range(30):
        world.memory.discard([1])
        barrier = threading.Barrier(64)

        def ask(barrier=barrier):
            barrier.wait(PATIENCE)
            return world.cache.get(1)

        world.before = lambda: time.sleep(0.001)
        futures = [pool.submit(ask) for _ in range(64)]
        assert {future.result(PATIENCE) for future in futures} == {(1, 1)}
        assert len(world.loads) == number + 1


@pytest.mark.parametrize("key", [1, 9])
def test_who_missed_before_a_load_ended_does_not_load_again(world, key):
    world.content.look()
    load = world.cache._flights.load

    def late(flight, work):
        world.cache._flights.load = load
        world.cache.get(key)  # of another thread, between our look-up and our flight
        return load(flight, work)

    class Flights:
        load = staticmethod(late)

    world.cache._flights = Flights()
    assert world.cache.get(key) == ((1, 1) if key == 1 else MISSING)
    assert world.loads == [[key]]


def test_a_crowd_that_finds_another_tag_asks_for_it_once(pool):
    world = World(together=False)  # 64 loads at a time
    world.content.look()
    world.refresh()
    world.keys = set(range(64))
    barrier = threading.Barrier(64)
    world.after = lambda: barrier.wait(PATIENCE)
    current = world.current
    world.current = lambda known: (time.sleep(0.1), current(known))[1]  # they all stand before it
    futures = [pool.submit(world.cache.get, key) for key in range(64)]
    assert {future.result(PATIENCE) for future in futures} == {(key, 2) for key in range(64)}
    assert world.looks == 2
    assert len(world.memory) == 64


def test_who_comes_after_a_change_does_not_join_a_load_from_before(world, pool):
    """Even if the new dict lies where the old one lay."""
    world.content.look()
    old_address = id(world.memory.entries)
    read, go_on = threading.Event(), threading.Event()

    def hold():
        if len(world.loads) == 1:
            read.set()
            assert go_on.wait(PATIENCE)

    world.after = hold
    before = pool.submit(world.cache.get, 1)
    assert read.wait(PATIENCE)
    for _ in range(1000):
        world.refresh()
        world.content.look()
        if id(world.memory.entries) == old_address:
            break
    after = pool.submit(world.cache.get, 1)
    try:
        assert after.result(5) == (1, world.number)
    finally:
        go_on.set()
    assert before.result(PATIENCE) == (1, 1)
    assert world.cache.get(1) == (1, world.number)


def test_looks_are_one_after_the_other(world, pool):
    """An answer that was given first does not overtake one that was given later."""
    world.content.look()
    began, go_on = threading.Event(), threading.Event()
    current = world.current

    def slow(known):
        answer = current(known)
        if not began.is_set():
            began.set()
            assert go_on.wait(PATIENCE)
        return answer

    world.current = slow
    first = pool.submit(world.content.look)
    assert began.wait(PATIENCE)
    world.refresh()
    second = pool.submit(world.content.look)
    time.sleep(0.05)
    assert not second.done()
    go_on.set()
    first.result(PATIENCE)
    second.result(PATIENCE)
    assert world.memory.tag == tag_of(2)


class AgainstAModel(RuleBasedStateMachine):
    """Refreshes of our own and of others, replicas, time: what may be answered, and kept."""

    @initialize()
    def begin(self):
        self.world = World(range(6))
        self.known = 0
        self.asked = 0

    def _expect(self, key, value):
        """It is of the known content, or of the one that a load sees."""
        world = self.world
        seen = world.number if world.seen is None else world.seen
        if value is MISSING:
            assert key not in world.keys or world.now < self.hidden_until
        else:
            assert value in {(key, self.known), (key, seen)}
            assert key in world.keys or value == (key, self.known)

    hidden_until = -1.0

    def _learn(self):
        """The tag is known that the memory has, and it is not from before the one that was."""
        tag = self.world.memory.tag
        if tag is not None:
            assert self.known <= tag.refresh_no <= self.world.number
            self.known = tag.refresh_no

    @rule(key=st.integers(0, 8))
    def get(self, key):
        value = self.world.cache.get(key)
        self.asked += 1
        self._expect(key, value)
        self._learn()

    @rule(keys=st.lists(st.integers(0, 8), max_size=5))
    def get_many(self, keys):
        found = self.world.cache.get_many(keys)
        self.asked += len(set(keys))
        for key in keys:
            self._expect(key, found.get(key, MISSING))
        self._learn()

    @rule(own=st.booleans())
    def refresh(self, own):
        self.world.refresh()
        if own:
            self.world.content.look()
            assert self.world.memory.tag in {tag_of(self.world.number), None}
            self._learn()

    @rule(behind=st.integers(0, 3))
    def reads_see(self, behind):
        self.world.seen = max(1, self.world.number - behind) if behind else None

    @rule(tracked=st.booleans())
    def track(self, tracked):
        self.world.tracked = tracked

    @rule(keys=st.lists(st.integers(0, 8), max_size=3))
    def discard(self, keys):
        self.world.cache.discard(keys)
        values = self.world.memory.entries
        assert not values.keys() & set(keys)

    @rule(key=st.integers(6, 8))
    def appears(self, key):
        """Without a refresh, as in the table below the view: for a while it may be unknown."""
        self.world.keys.add(key)
        self.hidden_until = self.world.now + 5

    @rule(seconds=st.sampled_from([1, 5]))
    def time_passes(self, seconds):
        self.world.now += seconds

    @invariant()
    def what_is_kept_is_of_the_tag(self):
        tag = self.world.memory.tag
        for key, record in self.world.memory.entries.items():
            assert record.value == (key, tag.refresh_no)

    @invariant()
    def every_look_up_was_counted(self):
        stats = self.world.memory.stats()
        assert stats.hits + stats.misses == self.asked


TestAgainstAModel = AgainstAModel.TestCase

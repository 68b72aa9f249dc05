"""Which content is current, and for how long that is believed."""

from __future__ import annotations

import os
import threading
from uuid import UUID

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mvrefresh.cache.content import Content
from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.tier import MISSING, Change, Loaded, Tag, line_of
from mvrefresh.cache.tiered import TieredCache

LEASE = 2.5


def tag_of(number):
    return Tag(number, UUID(int=number))


class World:
    """A view whose values are the number of the refresh that they are from."""

    def __init__(self):
        self.now = 0.0
        self.number = 1
        self.away = False
        self.asked = 0
        self.content = Content(self.current, lease=LEASE, clock=lambda: self.now)
        self.memory = MemoryTier(100)
        self.cache = TieredCache(self.memory, self.load, self.content)

    def current(self, _known):
        self.asked += 1
        if self.away:
            raise ConnectionError
        return line_of(tag_of(self.number)), None

    def load(self, keys):
        if self.away:
            raise ConnectionError
        return Loaded(dict.fromkeys(keys, self.number), tag_of(self.number))


@pytest.fixture
def world():
    world = World()
    world.content.look()
    world.memory.put_many({"a": 1}, tag_of(1))
    return world


def test_when_the_lease_ends_nothing_is_answered(world):
    world.now = LEASE
    assert world.content.sweep() == LEASE
    assert world.content.blind
    assert world.content.tag is None
    assert world.memory.get("a") is MISSING


def test_until_then_all_is(world):
    world.now = LEASE - 0.1
    assert world.content.sweep() == pytest.approx(0.1)
    assert world.memory.get("a") == 1


def test_the_same_tag_brings_back_what_was_parked(world):
    world.now = LEASE
    world.content.sweep()
    world.content.look()
    assert not world.content.blind
    assert world.memory.get("a") == 1


def test_another_drops_it_for_good(world):
    world.now = LEASE
    world.content.sweep()
    world.number = 2
    world.content.look()
    assert world.memory.get("a") is MISSING
    world.content.tell(world.content.ask(), line_of(tag_of(1)), None)
    assert world.memory.get("a") is MISSING


def test_a_look_up_ends_blindness_by_one_question(world):
    world.now = LEASE
    world.content.sweep()
    asked = world.asked
    assert world.cache.get("a") == 1
    assert world.cache.get_many(["a", "b"]) == {"a": 1, "b": 1}
    assert world.asked == asked + 1


def test_a_batch_ends_it_too(world):
    world.now = LEASE
    world.content.sweep()
    assert world.cache.get_many(["a"]) == {"a": 1}
    assert not world.content.blind


def test_without_the_database_a_blind_look_up_fails(world):
    world.now = LEASE
    world.content.sweep()
    world.away = True
    with pytest.raises(ConnectionError):
        world.cache.get("a")
    assert world.content.blind
    world.away = False
    assert world.cache.get("a") == 1


def test_the_lease_counts_from_the_question(world):
    question = world.content.ask()
    world.now = 2.0  # the answer took so long
    world.content.tell(question, line_of(tag_of(1)), None)
    world.now = LEASE
    world.content.sweep()
    assert world.content.blind


def test_an_answer_that_was_overtaken_says_nothing(world):
    early, late = world.content.ask(), world.content.ask()
    world.content.tell(late, line_of(tag_of(2)), None)
    world.content.tell(early, line_of(tag_of(1)), None)
    assert world.content.tag == tag_of(2)


def test_without_a_lease_it_is_never_blind():
    content = Content(lambda _: (line_of(tag_of(1)), None))
    content.look()
    assert content.sweep() is None
    assert content.tag == tag_of(1)


def test_values_that_are_parked_can_be_discarded(world):
    world.now = LEASE
    world.content.sweep()
    world.memory.discard(["a"])
    world.content.look()
    assert world.memory.get("a") is MISSING


def test_what_was_parked_too_long_has_expired(world):
    memory = MemoryTier(10, 1.0, clock=lambda: world.now)
    memory.retag(tag_of(1))
    memory.put_many({"a": 1}, tag_of(1))
    memory.retag(None, park=True)
    world.now += 1
    memory.retag(tag_of(1))
    assert memory.get("a") is MISSING


def change(before, after, *keys):
    return Change(tag_of(before), tag_of(after), frozenset(keys))


def told(world, number, *changes):
    line = line_of(tag_of(number), tag_of(1).content_token, changes)
    world.content.tell(world.content.ask(), line, None)


def test_what_is_known_not_to_differ_is_held_on(world):
    world.memory.put_many({"b": 1}, tag_of(1))
    told(world, 2, change(1, 2, "a"))
    assert world.content.tag == tag_of(2)
    assert world.memory.get_many(["a", "b"]) == {"b": 1}


def test_over_several_refreshes_all_their_keys_go(world):
    world.memory.put_many({"b": 1, "c": 1}, tag_of(1))
    told(world, 4, change(3, 4, "a"), change(2, 3, "c"), change(1, 2, "a"))
    assert world.memory.get_many(["a", "b", "c"]) == {"b": 1}


@pytest.mark.parametrize(
    "changes",
    [
        [change(3, 4, "x"), change(1, 2, "x")],  # a gap
        [change(3, 4, "x"), change(2, 3, "x")],  # it does not reach back far enough
        [change(2, 3, "x"), change(1, 2, "x")],  # nor to the present
        [],
    ],
)
def test_with_a_gap_all_of_it_goes(world, changes):
    told(world, 4, *changes)
    assert world.content.tag == tag_of(4)
    assert world.memory.get("a") is MISSING


def test_what_was_put_aside_comes_back_without_what_has_changed_meanwhile(world):
    world.memory.put_many({"b": 1}, tag_of(1))
    world.now = LEASE
    world.content.sweep()
    assert world.memory.get_many(["a", "b"]) == {}
    told(world, 3, change(2, 3, "a"), change(1, 2, "c"))
    assert world.memory.get_many(["a", "b"]) == {"b": 1}
    assert world.memory.tag == tag_of(3)


def test_the_question_says_what_is_held_also_while_blind(world):
    assert world.content.ask().known == tag_of(1)
    world.now = LEASE
    world.content.sweep()
    assert world.content.ask().known == tag_of(1)
    told(world, 2)
    assert world.content.ask().known == tag_of(2)


def test_after_blindness_the_line_is_known_as_before(world):
    told(world, 2, change(1, 2, "a"))
    world.now = LEASE
    world.content.sweep()
    told(world, 2)  # by who was told that 2 is known here
    assert world.content.line.changed_since(tag_of(1)) == {"a"}


def test_what_was_read_of_an_earlier_content_is_published_but_for_what_changed(world):
    held = []
    told(world, 2, change(1, 2, "a"))
    assert world.content.publish(tag_of(1), lambda *those: held.append(those))
    assert held == [(tag_of(2), {"a"})]


def test_who_comes_after_a_change_does_not_join_a_load_from_before(world):
    began, go_on = threading.Event(), threading.Event()
    load = world.cache._load

    def slow(keys):
        loaded = load(keys)
        began.set()
        assert go_on.wait(20)
        return loaded

    world.cache._load = slow
    answers = []
    first = threading.Thread(target=lambda: answers.append(world.cache.get("b")))
    first.start()
    assert began.wait(20)
    world.cache._load = load
    world.number = 2
    told(world, 2, change(1, 2, "b"))
    assert world.cache.get("b") == 2
    go_on.set()
    first.join()
    assert answers == [1]
    assert world.cache.get("b") == 2


def test_what_is_not_of_the_content_ends_with_it(world):
    """As an entity that is too new for the view, and may be gone when the next one comes."""
    loaded = Loaded({"new": 1, "b": 1}, tag_of(1), passing={"new"})
    world.cache._load = lambda _: loaded
    world.cache.get_many(["new", "b"])
    assert world.memory.get_many(["new", "b"]) == {"new": 1, "b": 1}
    told(world, 2, change(1, 2, "x"))
    assert world.memory.get_many(["new", "b"]) == {"b": 1}


def test_nothing_is_published_under_a_tag_that_is_over(world):
    held = []
    assert world.content.publish(tag_of(1), lambda tag, keys: held.append((tag, keys)))
    assert not world.content.publish(tag_of(2), lambda *_: held.append(2))
    assert not world.content.publish(None, lambda *_: held.append(3))
    assert held == [(tag_of(1), ())]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_blind_and_no_lock_is_held_there(world):
    gate, done = threading.Event(), threading.Event()

    def hold():
        with world.content._changing, world.memory._lock, world.cache._lock:
            gate.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    gate.wait(20)
    child = os.fork()
    if not child:
        wrong = 1
        try:
            blind = world.content.blind and world.memory.get("a") is MISSING
            wrong = 0 if blind and world.cache.get("a") == 1 else 2
        finally:
            os._exit(wrong)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert world.memory.get("a") == 1


class ByRow(World):
    """As `World`, but of each key the value is the number of the refresh that changed it last."""

    def __init__(self):
        super().__init__()
        self.contents = {1: dict.fromkeys("abc", 1)}
        self.changes = []  # the last first

    def refresh(self, keys, *, known):
        before, self.number = self.number, self.number + 1
        changed = dict.fromkeys(keys, self.number)
        self.contents[self.number] = self.contents[before] | changed
        self.changes = [change(before, self.number, *keys), *self.changes][:3] if known else []

    def current(self, known):
        line, moment = super().current(known)
        changes = () if known == line.tag else self.changes
        return line_of(line.tag, tag_of(1).content_token, changes), moment

    def load(self, keys):
        loaded = super().load(keys)
        content = self.contents[self.number]
        return Loaded({key: content[key] for key in keys}, loaded.tag)


class Bounded(RuleBasedStateMachine):
    """Whatever happens, no answer was over for longer than the lease."""

    def __init__(self):
        super().__init__()
        self.world = ByRow()
        self.ended = {}  # the moments at which values were replaced

    def check(self, key, answer):
        over = self.ended.get((key, answer))
        assert over is None or self.world.now - over <= LEASE + 0.05

    @rule(keys=st.sets(st.sampled_from("abc"), min_size=1), known=st.integers(0, 4))
    def refreshed_elsewhere(self, keys, known):
        for key in keys:
            self.ended[key, self.world.contents[self.world.number][key]] = self.world.now
        self.world.refresh(keys, known=known > 0)

    @rule(key=st.sampled_from("abc"))
    def get(self, key):
        try:
            self.check(key, self.world.cache.get(key))
        except ConnectionError:
            assert self.world.away

    @rule()
    def get_many(self):
        try:
            for key, value in self.world.cache.get_many("abc").items():
                self.check(key, value)
        except ConnectionError:
            assert self.world.away

    @rule(away=st.booleans())
    def the_database_is(self, away):
        self.world.away = away

    @rule()
    def watched(self):
        if not self.world.away:
            self.world.content.look()

    @rule(steps=st.integers(1, 60))
    def time_passes(self, steps):
        for _ in range(steps):
            self.world.now += 0.05
            self.world.content.sweep()

    @invariant()
    def what_is_held_is_of_the_tag(self):
        tag = self.world.memory.tag
        assert tag == self.world.content.tag
        for key, record in self.world.memory.entries.items():
            assert record.value == self.world.contents[tag.refresh_no][key]


TestBounded = Bounded.TestCase
TestBounded.settings = settings(max_examples=100, stateful_step_count=40)


def test_who_is_blind_says_so_once_and_when_it_is_over():
    said, now = [], [0.0]
    content = Content(
        lambda _: (line_of(tag_of(1)), None),
        lease=LEASE,
        went_blind=lambda: said.append("blind"),
        saw_again=lambda: said.append("seeing"),
        clock=lambda: now[0],
    )
    content.look()
    assert said == []
    now[0] = LEASE
    content.sweep()
    content.sweep()
    content.look()
    content.look()
    assert said == ["blind", "seeing"]


def test_one_that_does_not_ask_reads_each_time_until_it_is_told():
    now, asked = [0.0], []

    def current(_known):
        asked.append(now[0])
        return line_of(tag_of(1)), None

    content = Content(current, lease=LEASE, ask=False, clock=lambda: now[0])
    memory, loads = MemoryTier(9), []

    def load(keys):
        loads.append(list(keys))
        return Loaded(dict.fromkeys(keys, 1), tag_of(1))

    cache = TieredCache(memory, load, content)
    assert cache.get("a") == cache.get("a") == 1
    assert (len(asked), len(loads)) == (1, 1)  # at first nobody is blind
    now[0] = LEASE
    content.sweep()
    assert cache.get("a") == cache.get("a") == 1
    assert cache.get_many(["a"]) == {"a": 1}
    assert (len(asked), len(loads)) == (1, 4)
    content.tell(content.ask(), line_of(tag_of(1)), None)
    assert cache.get("a") == 1
    assert len(loads) == 4


def test_strict_look_ups_see_for_themselves_that_the_lease_is_over():
    now = [0.0]
    content = Content(
        lambda _: (line_of(tag_of(1)), None), lease=LEASE, strict=True, clock=lambda: now[0]
    )
    cache = TieredCache(
        MemoryTier(9), lambda keys: Loaded(dict.fromkeys(keys, 1), tag_of(1)), content
    )
    cache.get("a")
    blinded = []
    content._went_blind = lambda: blinded.append(now[0])
    for ask in (lambda: cache.get("a"), lambda: cache.get_many(["a"])):
        now[0] += LEASE
        ask()
        assert blinded[-1] == now[0]
        assert not content.blind

"""L1 against a plain model of it, and what only an implementation can get wrong."""

from __future__ import annotations

import threading
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mvrefresh.cache.memory import _SLACK, MemoryTier
from mvrefresh.cache.tier import MISSING, Tag
from mvrefresh.errors import ConfigurationError
from mvrefresh.testing import TierContract

TAGS = [Tag(number, UUID(int=number)) for number in range(4)]
KEYS = st.integers(0, 12)


class Clock:
    """Stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestMemoryTier(TierContract):
    @pytest.fixture
    def tier(self):
        return MemoryTier(100)


class TestWithTimeToLive(TierContract):
    @pytest.fixture
    def tier(self):
        return MemoryTier(100, ttl=60)


class AgainstAModel(RuleBasedStateMachine):
    """The model: a dict of what was put, with its end. Which entry is evicted is not modelled."""

    @initialize(capacity=st.integers(1, 10), ttl=st.sampled_from([None, 1.0, 5.0]))
    def begin(self, capacity, ttl):
        self.clock = Clock()
        self.ttl = ttl
        self.tier = MemoryTier(capacity, ttl, clock=self.clock)
        self.tag = None
        self.model = {}
        self.passing = set()
        self.retag(TAGS[0])
        self.asked = self.found = self.number = 0

    @rule(tag=st.sampled_from([None, *TAGS]), again=st.integers(0, 3))
    def retag_at_times(self, tag, again):
        self.retag(self.tag if again else tag)

    @rule(
        before=st.sampled_from(TAGS),
        tag=st.sampled_from(TAGS),
        keys=st.lists(KEYS, max_size=4),
        other=st.booleans(),
    )
    def advance(self, before, tag, keys, other):
        before = before if other or self.tag is None else self.tag
        entries = self.tier.entries
        self.tier.advance(before, tag, keys)
        if before == self.tag:
            assert self.tier.entries is entries
            now = self.clock.now
            self.model = {
                key: pair
                for key, pair in self.model.items()
                if key not in {*keys, *self.passing} and pair[1] > now
            }
        else:
            self.model.clear()
        self.passing = set()
        self.tag = tag

    @rule(keys=st.lists(KEYS, max_size=3, unique=True))
    def put_what_passes(self, keys):
        self._put(keys, self.tag, keys)

    def retag(self, tag):
        before = self.tier.entries
        self.tier.retag(tag)
        if tag != self.tag:
            self.model.clear()
            self.passing = set()
            assert self.tier.entries is not before
        else:
            assert self.tier.entries is before
        self.tag = tag

    def _put(self, keys, tag, passing=()):
        values = {}
        for key in keys:
            self.number += 1
            values[key] = self.number
        self.tier.put_many(values, tag, passing)
        if tag is None or tag != self.tag:
            return
        self.passing |= set(passing)
        end = float("inf") if self.ttl is None else self.clock.now + self.ttl
        self.model |= {key: (value, end) for key, value in values.items()}
        # Just as many have gone as have no room, and not the one that came last.
        gone = self.model.keys() - self.tier.entries.keys()
        assert len(gone) == max(0, len(self.model) - self.tier.capacity)
        assert not values or keys[-1] not in gone
        for key in gone:
            del self.model[key]

    @rule(keys=st.lists(KEYS, max_size=15, unique=True))
    def put(self, keys):
        self._put(keys, self.tag)

    @rule(keys=st.lists(KEYS, max_size=3, unique=True), tag=st.sampled_from([None, *TAGS]))
    def put_under_any_tag(self, keys, tag):
        self._put(keys, tag)

    @rule(key=KEYS)
    def get(self, key):
        value, _ = self.model.get(key, (MISSING, 0))
        assert self.tier.get(key) == value
        self.asked += 1
        self.found += value is not MISSING

    @rule(keys=st.lists(KEYS, max_size=6))
    def get_many(self, keys):
        expected = {key: self.model[key][0] for key in keys if key in self.model}
        assert self.tier.get_many(keys) == expected
        self.asked += len(keys)
        self.found += sum(key in self.model for key in keys)

    @rule(keys=st.lists(KEYS, max_size=4))
    def all_of(self, keys):
        found = self.tier.all_of(keys)
        if all(key in self.model for key in keys):
            assert found == [self.model[key][0] for key in keys]
            self.asked += len(keys)
            self.found += len(keys)
        else:
            assert found is None

    @rule(keys=st.lists(KEYS, max_size=4))
    def discard(self, keys):
        self.tier.discard(iter(keys))
        for key in keys:
            self.model.pop(key, None)

    @rule(seconds=st.sampled_from([0.25, 1.0, 4.75]))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @rule()
    def sweep(self):
        now = self.clock.now
        self.model = {key: pair for key, pair in self.model.items() if pair[1] > now}
        wait = self.tier.sweep()
        if not self.model:
            assert wait == self.ttl  # of what comes from now on
        elif self.ttl is None:
            assert wait is None
        else:
            assert wait == min(end for _, end in self.model.values()) - now

    @invariant()
    def the_same_is_there(self):
        assert {k: r.value for k, r in self.tier.entries.items()} == {
            key: value for key, (value, _) in self.model.items()
        }
        assert len(self.tier) == self.tier.stats().size == len(self.model) <= self.tier.capacity
        assert self.tier.tag == self.tag

    @invariant()
    def every_look_up_was_counted(self):
        stats = self.tier.stats()
        assert (stats.hits, stats.misses) == (self.found, self.asked - self.found)

    @invariant()
    def every_entry_is_queued_once(self):
        check_the_queues(self.tier)


def check_the_queues(tier):
    entries = tier.entries
    queued = [(record.key, record) for record in (*tier._small, *tier._main)]
    assert sum(entries.get(key) is record for key, record in queued) == len(entries)
    assert len(queued) <= 2 * len(entries) + _SLACK
    born = [(record.key, record) for record in tier._born]
    alive = sum(entries.get(key) is record for key, record in born)
    assert alive == (0 if tier._ttl is None else len(entries))
    assert len(born) <= 2 * len(entries) + _SLACK
    assert len(tier._gone_small) <= tier.capacity
    assert len(tier._gone_main) <= tier.capacity
    assert not entries.keys() & {*tier._gone_small, *tier._gone_main}
    assert 0 <= tier._small_room <= 0.5 * tier.capacity


TestAgainstAModel = AgainstAModel.TestCase


def a_tier(capacity=100, ttl=None, tag=TAGS[1], **settings):
    tier = MemoryTier(capacity, ttl, **settings)
    tier.retag(tag)
    return tier


@pytest.mark.parametrize("ttl", [None, 3600.0])
@pytest.mark.parametrize("deed", ["replace", "discard", "discard at last", "evict", "retag"])
def test_queues_stay_bounded(ttl, deed):
    tier = a_tier(ttl=ttl)
    for number in range(5000):
        tier.put_many({number % (5000 if deed == "evict" else 50): number}, tier.tag)
        if deed == "discard":
            tier.discard([number % 50])
        elif deed == "retag":
            tier.retag(TAGS[number % 2])
        check_the_queues(tier)
    if deed == "discard at last":
        tier.put_many({number: number for number in range(100)}, tier.tag)
        tier.discard(range(100))
        check_the_queues(tier)


def test_a_sweep_frees_the_values_too():
    clock = Clock()
    tier = a_tier(1000, ttl=10, clock=clock)
    tier.put_many({number: number for number in range(1000)}, tier.tag)
    clock.now += 9
    tier.put_many({1: "again"}, tier.tag)
    assert tier.sweep() == 1
    clock.now += 1
    assert tier.sweep() == 9
    assert list(tier.entries) == [1]
    check_the_queues(tier)


def test_a_sweep_waits_for_what_is_there():
    clock = Clock()
    tier = a_tier(ttl=10, clock=clock)
    tier.put_many({"a": 1}, tier.tag)
    clock.now += 4
    tier.put_many({"b": 1}, tier.tag)
    tier.discard(["a"])
    assert tier.sweep() == 10
    tier.discard(["b"])
    assert tier.sweep() == 10  # what comes from now on


def test_what_was_asked_for_again_outlives_a_scan():
    tier = a_tier()
    tier.put_many({number: number for number in range(50)}, tier.tag)
    assert tier.get_many(range(50)) == {number: number for number in range(50)}
    for number in range(1000, 6000):
        tier.put_many({number: number}, tier.tag)
    assert len(tier) == 100
    assert len(tier.get_many(range(50))) == 50


def test_a_batch_that_is_all_there_counts_for_eviction_too():
    tier = a_tier()
    tier.put_many({number: number for number in range(60)}, tier.tag)
    assert tier.all_of(range(50)) == list(range(50))
    for number in range(1000, 6000):
        tier.put_many({number: number}, tier.tag)
    assert tier.all_of(range(50)) == list(range(50))


def test_what_comes_back_soon_is_kept_for_longer():
    """A key that was evicted and is put again passes by the small queue."""
    tier = a_tier()
    tier.put_many({number: number for number in range(101)}, tier.tag)
    assert 0 not in tier.entries
    tier.put_many({0: 0}, tier.tag)
    for number in range(1000, 1110):
        tier.put_many({number: number}, tier.tag)
    assert 0 in tier.entries


def test_a_reader_of_the_old_dict_keeps_what_it_found():
    tier = a_tier(ttl=5)
    tier.put_many({"a": 1}, tier.tag)
    entries, record = tier.entries, tier.entries["a"]
    tier.put_many({"a": 2}, tier.tag)
    assert (record.value, entries["a"].value) == (1, 2)
    tier.discard(["a"])
    tier.retag(TAGS[2])
    assert record.value == 1
    assert tier.entries is not entries


def test_each_dict_has_a_number_of_its_own():
    tier, seen, addresses = a_tier(), set(), set()
    for number in range(1000):
        tier.retag(TAGS[number % 2])
        seen.add(tier.generation)
        addresses.add(id(tier.entries))
    assert len(seen) == 1000
    assert len(addresses) < 1000  # which is why


def test_discard_runs_no_code_of_others_under_its_lock():
    tier = a_tier()
    tier.put_many({"a": 1, "b": 2}, tier.tag)

    def keys():
        for key in "ab":
            thread = threading.Thread(target=lambda: tier.put_many({"c": 3}, tier.tag))
            thread.start()
            thread.join(10)
            assert not thread.is_alive()
            yield key

    tier.discard(keys())
    assert list(tier.entries) == ["c"]


def test_counters_are_exact_among_threads():
    """Each kind of look-up from several threads, which change at every chance."""
    tier = a_tier()
    tier.put_many({number: number for number in range(10)}, tier.tag)
    rounds, present, mixed = 20_000, list(range(10)), [1, 99, 1]

    def look_up():
        for number in range(rounds):
            tier.get(number % 20)
            tier.get_many(mixed)
            tier.all_of(present)

    threads = [threading.Thread(target=look_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = tier.stats()
    assert stats.hits == 4 * rounds * (10 + 2) + 4 * rounds // 2
    assert stats.misses == 4 * rounds + 4 * rounds // 2


@pytest.mark.parametrize("parameters", [(0,), (-1,), (1, 0), (1, -1.0)])
def test_what_cannot_be_meant_is_refused(parameters):
    with pytest.raises(ConfigurationError):
        MemoryTier(*parameters)


def test_before_the_first_look_up_there_is_no_rate():
    assert MemoryTier().stats().hit_rate is None
    assert repr(MISSING) == "MISSING"
    assert not MISSING

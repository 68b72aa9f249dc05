"""Caches of the host's choice as L1."""

from __future__ import annotations

from uuid import UUID

import cachetools
import pytest

from mvrefresh.cache.chosen import ChosenTier
from mvrefresh.cache.content import Content
from mvrefresh.cache.tier import MISSING, Loaded, Tag, line_of
from mvrefresh.cache.tiered import TieredCache
from mvrefresh.errors import ConfigurationError
from mvrefresh.testing import TierContract

TAG = Tag(1, UUID(int=1))
KINDS = [
    cachetools.LRUCache,
    cachetools.LFUCache,
    cachetools.FIFOCache,
    cachetools.RRCache,
    lambda room: cachetools.TTLCache(room, 600),
]


class TestAsATier(TierContract):
    @pytest.fixture(params=KINDS)
    def tier(self, request):
        return ChosenTier(lambda: request.param(100))


@pytest.fixture
def tier():
    tier = ChosenTier(lambda: cachetools.LRUCache(2))
    tier.retag(TAG)
    return tier


def test_the_cache_decides_who_leaves(tier):
    tier.put_many({"a": 1, "b": 2}, TAG)
    assert tier.get("a") == 1
    tier.put_many({"c": 3}, TAG)
    assert tier.get_many(["a", "b", "c"]) == {"a": 1, "c": 3}


def test_a_batch_is_all_or_nothing(tier):
    tier.put_many({"a": 1, "b": 2}, TAG)
    assert tier.all_of(["b", "a"]) == [2, 1]
    assert tier.all_of(["a", "z"]) is None
    assert tier.stats().hits == 2


def test_what_is_parked_comes_back(tier):
    tier.put_many({"a": 1, "b": 2}, TAG)
    tier.retag(None, park=True)
    assert tier.get("a") is MISSING
    tier.discard(["b"])
    tier.retag(TAG)
    assert tier.get_many(["a", "b"]) == {"a": 1}


def test_what_is_over_is_swept():
    now = 0.0
    tier = ChosenTier(lambda: cachetools.TTLCache(9, 1.0, timer=lambda: now))
    tier.retag(TAG)
    tier.put_many({"a": 1}, TAG)
    now = 1.0
    assert tier.sweep() is None
    assert tier.stats().size == 0


def test_under_a_tiered_cache(tier):
    cache = TieredCache(
        tier,
        lambda keys: Loaded(dict.fromkeys(keys, 7), TAG),
        Content(lambda _: (line_of(TAG), None)),
    )
    assert cache.get("x") == 7
    assert tier.entries["x"].value == 7
    tier.after_fork()
    assert len(tier.entries) == 1
    assert tier.entries.get("y") is None


def test_what_is_no_cache_is_refused():
    with pytest.raises(ConfigurationError, match="dict"):
        ChosenTier(dict)


@pytest.mark.parametrize("way", ["retag", "advance", "park"])
def test_where_no_other_can_be_made_the_one_that_is_there_is_cleared(tier, way, caplog):
    tier.put_many({"a": 1}, TAG)
    other = Tag(8, UUID(int=8))
    tier._make = lambda: 1 / 0
    if way == "advance":
        tier.advance(other, Tag(9, UUID(int=9)), [])
    else:
        tier.retag(other, park=way == "park")
    assert tier.get("a") is MISSING
    assert "cache= failed" in caplog.text
    tier.retag(TAG)
    assert tier.get("a") is MISSING
    tier.put_many({"a": 2}, TAG)
    assert tier.get("a") == 2

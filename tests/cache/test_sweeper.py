"""The thread that ends what has lived long enough."""

from __future__ import annotations

import gc
import threading

from tests.refreshing.test_transaction import wait_until

from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.sweeper import Sweeper
from mvrefresh.cache.tier import Tag


def a_tier(ttl=0.01):
    from uuid import uuid4

    tier, tag = MemoryTier(10, ttl), Tag(1, uuid4())
    tier.retag(tag)
    tier.put_many({1: "one"}, tag)
    return tier


def sweepers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "mvrefresh-sweeper"]


def test_what_is_over_goes_and_so_does_the_thread():
    sweeper, before = Sweeper(), len(sweepers())
    tiers = [a_tier(), a_tier()]
    for tier in tiers:
        sweeper.add(tier)
    assert len(sweepers()) == before + 1
    wait_until(lambda: not any(len(tier) for tier in tiers))
    for tier in tiers:
        sweeper.remove(tier)
    assert len(sweepers()) == before


def test_a_tier_that_nobody_holds_any_more_is_not_kept():
    sweeper = Sweeper()
    kept = a_tier(3600)
    sweeper.add(kept)
    sweeper.add(a_tier(3600))
    wait_until(lambda: gc.collect() >= 0 and len(sweeper._tiers) == 1, 10)
    sweeper.remove(kept)


def test_one_can_be_added_after_the_last_was_removed():
    sweeper = Sweeper()
    for _ in range(3):
        tier = a_tier()
        sweeper.add(tier)
        wait_until(lambda tier=tier: not len(tier))
        sweeper.remove(tier)

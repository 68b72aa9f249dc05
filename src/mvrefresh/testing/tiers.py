"""What every tier of the cache does: a suite for tiers of a host's own.

A tier is one when it passes::

    class TestMyTier(TierContract):
        @pytest.fixture
        def tier(self):
            return MyTier(...)

Keys are short texts, values are integers or None. The suite puts 100 at most.
"""
# ruff: noqa: S101, PLR2004 - contract suites are tests

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from mvrefresh.cache.tier import MISSING, Tag, Tier

TAG = Tag(7, UUID(int=7))
OTHERS = (
    pytest.param(Tag(8, UUID(int=8)), id="the next"),
    pytest.param(Tag(6, UUID(int=6)), id="one with a lower number"),
    pytest.param(Tag(7, UUID(int=8)), id="the same number, another token"),
    pytest.param(Tag(8, UUID(int=7)), id="another number, the same token"),
)


class TierContract:
    """What every tier does. Subclasses give an empty one without a tag by the fixture `tier`."""

    @pytest.fixture
    def tier(self) -> Tier[str, int | None]:
        """An empty tier with room for 100 entries, to be given by the subclass."""
        raise NotImplementedError

    def test_without_a_tag_it_keeps_nothing(self, tier: Tier[str, int | None]) -> None:
        """Nobody could tell when it ends."""
        assert tier.tag is None
        tier.put_many({"a": 1}, TAG)
        assert tier.get("a") is MISSING
        assert tier.get_many(["a"]) == {}

    def test_what_is_kept_is_found(self, tier: Tier[str, int | None]) -> None:
        """By one key and by many; None and 0 are values."""
        tier.retag(TAG)
        assert tier.tag == TAG
        tier.put_many({"a": 1, "b": None, "c": 0}, TAG)
        assert [tier.get(key) for key in "abcd"] == [1, None, 0, MISSING]
        assert tier.get_many(["a", "b", "c", "d"]) == {"a": 1, "b": None, "c": 0}
        assert tier.get_many([]) == {}
        tier.put_many({}, TAG)
        tier.put_many({"a": 2}, TAG)
        assert tier.get("a") == 2

    @pytest.mark.parametrize("other", OTHERS)
    def test_what_was_read_under_another_tag_is_not_kept(
        self, tier: Tier[str, int | None], other: Tag
    ) -> None:
        """Be it older or newer; nor does it take away what is there."""
        tier.retag(TAG)
        tier.put_many({"a": 1}, TAG)
        tier.put_many({"a": 2, "b": 2}, other)
        assert tier.get_many(["a", "b"]) == {"a": 1}
        assert tier.tag == TAG

    @pytest.mark.parametrize("other", [*OTHERS, pytest.param(None, id="none")])
    def test_another_tag_ends_all_of_them(
        self, tier: Tier[str, int | None], other: Tag | None
    ) -> None:
        """At once, and for good if it is not the old one again."""
        tier.retag(TAG)
        tier.put_many({"a": 1, "b": 2}, TAG)
        tier.retag(other)
        assert tier.tag == other
        assert tier.get("a") is MISSING
        assert tier.get_many(["a", "b"]) == {}
        tier.put_many({"a": 1}, TAG)
        assert tier.get("a") is MISSING

    def test_the_same_tag_again_changes_nothing(self, tier: Tier[str, int | None]) -> None:
        """An equal one, not only the very same."""
        tier.retag(TAG)
        tier.put_many({"a": 1, "b": 2}, TAG)
        tier.retag(Tag(7, UUID(int=7)))
        assert tier.get_many(["a", "b"]) == {"a": 1, "b": 2}

    def test_a_tag_that_is_known_to_differ_in_few_keys_keeps_the_others(
        self, tier: Tier[str, int | None]
    ) -> None:
        """What was read under the earlier one is not kept any more, though it may be as good."""
        tier.retag(TAG)
        tier.put_many({"a": 1, "b": 2, "c": None}, TAG)
        after = Tag(8, UUID(int=8))
        tier.advance(TAG, after, ["b", "nobody"])
        assert tier.tag == after
        assert tier.get_many(["a", "b", "c"]) == {"a": 1, "c": None}
        assert tier.get("b") is MISSING
        tier.put_many({"b": 2}, TAG)
        assert tier.get("b") is MISSING
        tier.put_many({"b": 3}, after)
        assert [tier.get(key) for key in "abc"] == [1, 3, None]
        tier.advance(after, Tag(9, UUID(int=9)), ["a"])
        assert tier.get_many(["a", "b", "c"]) == {"b": 3, "c": None}

    @pytest.mark.parametrize("before", OTHERS)
    def test_what_is_of_another_than_the_earlier_tag_is_gone(
        self, tier: Tier[str, int | None], before: Tag
    ) -> None:
        """Nobody knows in what it differs."""
        tier.retag(TAG)
        tier.put_many({"a": 1, "b": 2}, TAG)
        after = Tag(10, UUID(int=10))
        tier.advance(before, after, ["b"])
        assert tier.tag == after
        assert tier.get_many(["a", "b"]) == {}
        tier.put_many({"a": 3}, after)
        assert tier.get("a") == 3

    def test_discarded_keys_are_gone(self, tier: Tier[str, int | None]) -> None:
        """The others stay; what is not there may be discarded too, and all may be kept again."""
        tier.retag(TAG)
        tier.put_many({"a": 1, "b": 2, "c": 3}, TAG)
        tier.discard(["a", "c", "nobody"])
        assert tier.get_many(["a", "b", "c"]) == {"b": 2}
        tier.put_many({"a": 4}, TAG)
        assert tier.get("a") == 4

    def test_every_look_up_is_counted(self, tier: Tier[str, int | None]) -> None:
        """As a hit or as a miss; one of many keys is as many look-ups, each key by itself."""
        tier.retag(TAG)
        tier.put_many({"a": 1, "b": None}, TAG)
        for key in "abcab":
            tier.get(key)
        tier.get_many(["a", "b", "c", "d", "a", "c"])
        stats = tier.stats()
        assert (stats.hits, stats.misses) == (4 + 3, 1 + 3)
        assert stats.hit_rate == pytest.approx(100 * 7 / 11)
        assert stats.size in (2, None)
        assert (stats.errors, stats.degraded_since) == (0, None)
        tier.retag(None)
        tier.discard(["a"])
        assert (tier.stats().hits, tier.stats().misses) == (7, 4)

    def test_a_value_is_that_of_its_tag_whatever_threads_do(
        self, tier: Tier[str, int | None]
    ) -> None:
        """Values of a tag are its number: none is found when another is current."""
        tags = [Tag(number, uuid4()) for number in range(50)]

        def write(tag: Tag) -> None:
            tier.put_many({str(key): tag.refresh_no for key in range(20)}, tag)

        def read(number: int) -> list[int | None]:
            """What is found of tags that are over when it is asked."""
            over = tier.tag.refresh_no if tier.tag is not None else 0
            found = tier.get_many([str(key) for key in range(20)]).values()
            one = tier.get(str(number % 20))
            values = [*found, *([] if one is MISSING else [one])]
            return [value for value in values if value is None or value < over]

        with ThreadPoolExecutor(8) as pool:
            reads = []
            for tag in tags:
                tier.retag(tag)
                late = tags[max(0, tag.refresh_no - 1)]
                for each in (tag, late, tag):
                    pool.submit(write, each)
                reads += [pool.submit(read, number) for number in range(10)]
            assert [stale for each in reads for stale in each.result()] == []
        assert tier.stats().hits + tier.stats().misses == 500 * 21

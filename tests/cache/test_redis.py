"""L2 on a real Redis: a tier like others, and one that may fail."""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import closing
from uuid import UUID, uuid4

import orjson
import pytest
import redis
from tests.conftest import required
from tests.servers import RedisServer

from mvrefresh.cache.breaker import Breaker
from mvrefresh.cache.redis import Link, RedisTier, connect
from mvrefresh.cache.tier import MISSING, Line, Tag, line_of
from mvrefresh.errors import ConfigurationError
from mvrefresh.events import TierDegraded, TierRecovered, ValuePoisoned
from mvrefresh.testing import TierContract

TAG = Tag(7, UUID(int=7))


class Json:
    """Anything that JSON has."""

    def encode(self, value):
        return None if isinstance(value, bytes) else orjson.dumps(value)

    def decode(self, data, tag):
        return orjson.loads(data)


@pytest.fixture
def client(redis_url):
    with closing(connect(redis_url)) as client:
        yield client


@pytest.fixture
def events():
    return []


@pytest.fixture
def tier(client, events):
    tier = RedisTier(Link(client, tell=events.append), f"test:{secrets.token_hex(4)}", Json())
    tier.retag(TAG)
    return tier


class TestAsATier(TierContract):
    @pytest.fixture
    def tier(self, client):
        return RedisTier(Link(client), f"test:{secrets.token_hex(4)}", Json())


def test_another_process_finds_what_one_has_written(tier, client):
    other = RedisTier(Link(client), tier._space, Json())
    other.retag(TAG)
    tier.put_many({"a": 1}, TAG)
    assert other.get("a") == 1


def test_a_slow_writer_brings_nothing_back(tier):
    tier.put_many({"a": "old"}, TAG)
    new = Tag(8, uuid4())
    tier.retag(new)
    tier.keep(line_of(TAG), {"a": "old"})
    assert tier.get("a") is MISSING
    tier.put_many({"a": "new"}, new)
    tier.keep(line_of(TAG), {"a": "old"})
    assert tier.get("a") == "new"


@pytest.mark.parametrize("kind", ["tier", "alike"])
def test_nor_along_a_line_where_he_writes_over_what_is_new(request, events, kind):
    tier = request.getfixturevalue(kind)
    before = tier._line
    tier.put_many({"a": "old", "b": "same", "c": "same"}, TAG)
    new = Tag(8, uuid4())
    tier.advance(TAG, new, ["a"])
    tier.put_many({"a": "new"}, new)
    for _ in range(2):  # the second time they are met
        assert tier.get_many("abc") == {"a": "new", "b": "same", "c": "same"}
    tier.keep(before, {"a": "old", "b": "same"})
    assert tier.get_many("abc") == {"b": "same", "c": "same"}
    tier.put_many({"a": "newer"}, new)
    assert tier.get("a") == "newer"
    assert tier.under(before, "ab") == {"b": "same"}  # who is behind does not take it for his
    assert events == []


def test_what_has_changed_is_not_even_read(tier, client):
    """Its parts may be shared: of ancestors, those of all who are below them."""
    read = []

    class Reads(Json):
        def decode(self, data, tag):
            read.append(orjson.loads(data))
            return read[-1]

    tier.put_many({"a": "old", "b": "same"}, TAG)
    reader = RedisTier(Link(client), tier._space, Reads(), alike=True)
    reader.retag(TAG)
    reader.advance(TAG, Tag(8, uuid4()), ["a"])
    assert reader.get_many("ab") == {"b": "same"}
    assert read == ["same"]


def test_a_value_of_an_unknown_content_of_the_line_is_a_miss_and_no_poison(tier, events):
    """As of one that is not known here yet, or longer ago than is kept."""
    tier.put_many({"a": 1}, TAG)
    unknown = Line(Tag(9, uuid4()), TAG.content_token, {})
    assert tier.under(unknown, ["a"]) == {}
    assert events == []
    tier.keep(unknown, {"a": 2})
    assert tier.get("a") is MISSING
    assert tier.under(unknown, ["a"]) == {"a": 2}


def test_two_databases_may_have_the_same_number_and_the_same_space(tier, client):
    other = RedisTier(Link(client), tier._space, Json())
    other.retag(Tag(7, UUID(int=7 << 90)))
    other.put_many({"a": "theirs"}, other.tag)
    assert tier.get("a") is MISSING


def test_ids_that_look_alike_are_apart(tier):
    tier.put_many({1: "number", "1": "text", UUID(int=1): "uuid"}, TAG)
    found = tier.get_many([1, "1", UUID(int=1), 1.0, (1,)])
    assert found == {1: "number", "1": "text", UUID(int=1): "uuid"}


def test_entries_expire_and_not_all_at_once(client):
    tier = RedisTier(Link(client), f"test:{secrets.token_hex(4)}", Json(), ttl=100)
    tier.retag(TAG)
    tier.put_many({str(n): n for n in range(50)}, TAG)
    lifetimes = [client.pttl(name) for name in client.scan_iter(f"{tier._space}:*")]
    assert len(lifetimes) == 50
    assert 89_000 < min(lifetimes) < max(lifetimes) <= 110_000
    assert max(lifetimes) - min(lifetimes) > 1_000


def test_what_cannot_be_written_is_left_out(tier):
    tier.put_many({"a": b"bytes", "b": 1}, TAG)
    assert tier.get_many(["a", "b"]) == {"b": 1}


@pytest.mark.parametrize("damage", ["other", "short", "empty", "flipped", "kind"])
def test_a_poisoned_value_is_a_miss_and_an_event(tier, client, events, damage):
    tier.put_many({"a": [1, 2], "b": 2}, TAG)
    (name,) = [name for name in client.scan_iter(f"{tier._space}:*") if name.endswith(b"a")]
    value = client.get(name)
    if damage == "kind":
        client.delete(name)
        client.lpush(name, "a list")
    else:
        flipped = bytes([value[0], value[1] ^ 1, *value[2:]])
        client.set(
            name, {"other": b"hello", "short": value[:-1], "empty": b"", "flipped": flipped}[damage]
        )
    assert tier.get_many(["a", "b"]) == {"b": 2}
    if damage != "kind":  # to MGET it is a key that is not there
        (event,) = events
        assert isinstance(event, ValuePoisoned)
        assert event.key == name.decode()
        assert tier.stats().errors == 1
    client.delete(name)
    tier.put_many({"a": [3]}, TAG)
    assert tier.get("a") == [3]


@pytest.fixture
def alike(client, events):
    tier = RedisTier(
        Link(client, tell=events.append), f"test:{secrets.token_hex(4)}", Json(), alike=True
    )
    tier.retag(TAG)
    return tier


@pytest.mark.parametrize("kind", ["tier", "alike"])
def test_the_value_of_another_key_is_poison(request, client, events, kind):
    tier = request.getfixturevalue(kind)
    keys = [1, "1", 12]
    tier.put_many({1: "one", "1": "text", 12: "twelve"}, TAG)
    here, elsewhere = line_of(TAG), line_of(Tag(8, uuid4()))
    tier.keep(elsewhere, dict.fromkeys(keys, "later"))
    assert len(tier.get_many(keys)) == 3  # what it has met it still checks
    one, text, twelve, later = (
        client.get(tier._start(line) + each)
        for line, each in ((here, b"i1"), (here, b"s1"), (here, b"i12"), (elsewhere, b"i12"))
    )
    for place, foreign in ((b"i1", twelve), (b"s1", one), (b"i12", later)):
        client.set(tier._start(here) + place, foreign)
    assert tier.get_many(keys) == {}
    assert [event.key for event in events] == [
        (tier._start(here) + each).decode() for each in (b"i1", b"s1", b"i12")
    ]
    client.set(tier._start(here) + b"s1", text)
    assert tier.get_many(keys) == {"1": "text"}
    stats = tier.stats()
    assert (stats.hits, stats.misses, stats.errors) == (4, 5, 5)


def test_equal_values_are_one_and_each_is_counted(alike):
    alike.put_many({key: ["same"] for key in range(5)} | {5: ["other"]}, TAG)
    first = alike.get_many([0, 1, 2])
    again = alike.get_many([3, 4, 4, 5, 6])
    assert again == {3: ["same"], 4: ["same"], 5: ["other"]}
    assert first[0] is first[1] is again[4]
    assert (alike.stats().hits, alike.stats().misses) == (7, 1)


def test_under_another_tag_nothing_is_known_by_its_bytes(alike):
    alike.put_many({1: ["same"]}, TAG)
    old = alike.get(1)
    for number in range(8, 20):  # more contents than are remembered
        line = line_of(Tag(number, TAG.content_token))
        alike.keep(line, {1: ["same"]})
        assert alike.under(line, [1]) == {1: old}
        assert alike.under(line, [1])[1] is not old
    assert len(alike._met) <= 4


def test_only_so_many_values_are_known_by_their_bytes(alike, monkeypatch):
    monkeypatch.setattr("mvrefresh.cache.redis._ALIKE", 10)
    alike.put_many({key: [key] for key in range(30)}, TAG)
    for key in range(30):
        assert alike.get(key) == [key]
        assert len(alike._met[TAG]) <= 11


def test_an_id_that_is_no_unicode_is_a_miss(tier):
    tier.put_many({"\ud800": 1}, TAG)
    assert tier.get_many(["\ud800", "a"]) == {"\ud800": 1}
    assert not tier._link.breaker.errors


def test_whatever_a_codec_raises_is_poison_and_no_exception(client, events):
    class Raises(Json):
        def decode(self, data, tag):
            raise AttributeError("a number has no replace()")

    tier = RedisTier(Link(client, tell=events.append), f"test:{secrets.token_hex(4)}", Raises())
    tier.retag(TAG)
    tier.put_many({"a": 1}, TAG)
    assert tier.get("a") is MISSING
    assert [type(event) for event in events] == [ValuePoisoned]


def test_a_client_that_decodes_is_refused(redis_url):
    with closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        with pytest.raises(ConfigurationError, match="bytes"):
            Link(client)


def test_without_a_redis_it_is_tried_three_times_and_then_left_alone(events):
    with closing(redis.Redis(port=1, retry=None)) as client:
        link = Link(client, tell=events.append)
        tier = RedisTier(link, "test", Json())
        tier.retag(TAG)
        for _ in range(10):
            assert tier.get("a") is MISSING
            tier.put_many({"a": 1}, TAG)
            tier.discard(["a"])
        assert link.breaker.errors == 3
        assert [type(event) for event in events] == [TierDegraded]
        stats = tier.stats()
        assert (stats.misses, stats.errors) == (10, 3)
        assert stats.degraded_since is not None


@pytest.fixture
def own_redis():
    with required():
        server = RedisServer().__enter__()
    try:
        yield server
    finally:
        server.__exit__(None, None, None)


def test_a_redis_that_hangs_is_left_and_taken_again(own_redis, events):
    now = 0.0
    with closing(connect(own_redis.url)) as client:
        link = Link(client, Breaker(3, pause=1.0, clock=lambda: now), events.append)
        tier = RedisTier(link, "test", Json())
        tier.retag(TAG)
        tier.put_many({"a": 1}, TAG)
        assert tier.get("a") == 1
        (pid,) = {client.info("server")["process_id"]}
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            for _ in range(3):
                assert tier.get("a") is MISSING
            slow = time.monotonic() - began
            assert link.breaker.is_open
            began = time.monotonic()
            for _ in range(1000):
                assert tier.get("a") is MISSING
            assert time.monotonic() - began < slow
        finally:
            os.kill(pid, signal.SIGCONT)
        assert tier.get("a") is MISSING
        now = 1.0
        assert tier.get("a") == 1
        assert [type(event) for event in events] == [TierDegraded, TierRecovered]


def test_a_redis_that_was_flushed_is_empty(own_redis):
    with closing(connect(own_redis.url)) as client:
        tier = RedisTier(Link(client), "test", Json())
        tier.retag(TAG)
        tier.put_many({"a": 1}, TAG)
        client.flushall()
        assert tier.get("a") is MISSING
        tier.put_many({"a": 2}, TAG)
        assert tier.get("a") == 2


def test_who_has_waited_in_vain_does_not_wait_again_to_write(tier, monkeypatch):
    asked = []

    def away(names):
        asked.append("read")
        raise redis.TimeoutError

    monkeypatch.setattr(tier._link.client, "mget", away)
    monkeypatch.setattr(tier._link.client, "pipeline", lambda **_: asked.append("write"))
    assert tier.get_many(["a"]) == {}
    tier.put_many({"a": 1}, TAG)
    assert asked == ["read"]
    monkeypatch.undo()
    assert tier.get_many(["a"]) == {}  # it is there again
    tier.put_many({"a": 1}, TAG)
    assert tier.get("a") == 1

"""Resolvers of several processes that share what they have read, in a real Redis."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, closing

import pytest
import redis
from hypothesis import given, settings
from tests.hierarchy.test_resolver import TREE, Changes, Oracle, fill, trees

from mvrefresh import Database, EventBus, HierarchySource, OptimizedHierarchyResolver, Schema
from mvrefresh.cache.redis import connect
from mvrefresh.errors import ConfigurationError
from mvrefresh.events import TierDegraded, ValuePoisoned

KEYS = list(TREE)


@pytest.fixture
def prefix():
    return f"test{secrets.token_hex(4)}"


@pytest.fixture
def make(dsn, conn, redis_url, prefix):
    """Makes resolvers, each with a database of its own, as in processes of their own."""
    Schema().apply(conn)
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);"
        "CREATE INDEX ON entities (path)"
    )
    fill(conn, TREE)
    HierarchySource().create(conn)
    with ExitStack() as stack:

        def one(**given):
            database = stack.enter_context(Database(dsn))
            given = {"redis": redis_url, "redis_prefix": prefix, "resident": 0} | given
            return stack.enter_context(OptimizedHierarchyResolver(database, **given))

        yield one


@pytest.fixture
def first(make):
    """One that has read everything."""
    resolver = make()
    resolver.refresh_all_materialized_views()
    resolver.ancestors_many(KEYS)
    resolver.nodes_many(KEYS)
    resolver.counts_many(KEYS)
    return resolver


def figures(resolver, tier):
    return resolver.cache_metrics()[tier]


def test_what_one_has_read_another_finds(first, make):
    oracle, second = Oracle(TREE), make()
    second.look_again()  # it knows now which content is current
    for key in KEYS:
        assert second.ancestors(key) == oracle.ancestors(key)
        assert second.node(key) == oracle.nodes[key]
        assert second.counts(key) == first.counts(key)
    assert figures(second, "l4_cache")["hits"] == 0
    assert figures(second, "l2_cache")["hits"] == 3 * len(KEYS)
    assert figures(second, "l2_cache")["hit_rate"] == 100.0
    for key in KEYS:
        second.ancestors(key)
    assert figures(second, "l2_cache")["hits"] == 3 * len(KEYS)


def test_a_batch_is_one_question(first, make):
    second = make()
    second.look_again()
    assert second.ancestors_many([*KEYS, 99]) == first.ancestors_many(KEYS)
    assert figures(second, "l2_cache")["hits"] == len(KEYS)
    assert figures(second, "l2_cache")["misses"] == 1


def test_it_says_so_where_it_is_from(first, make):
    second = make()
    second.look_again()
    answer = second.look_up(4)
    assert (answer.tier, answer.value) == ("l2", Oracle(TREE).ancestors(4))
    assert answer.tag == second._tiers.tree.tag


def test_while_it_does_not_know_what_is_current_it_does_not_look_there(first, make):
    second = make(watch=False)
    assert second.ancestors(4) == first.ancestors(4)
    assert figures(second, "l2_cache") == figures(second, "l2_cache") | {"hits": 0, "misses": 0}


def test_after_a_refresh_of_few_rows_the_others_are_found_by_all(first, make, conn):
    """Also by a process that begins only then."""
    oracle = Oracle(TREE | {4: ("a.b.c.d", "renamed")})
    conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 4")
    first.refresh_all_materialized_views()
    for reads in (2, 0):  # the second finds what the first had to read
        resolver = make()
        resolver.look_again()
        for key in KEYS:
            assert resolver.ancestors(key) == oracle.ancestors(key)
            assert resolver.node(key) == oracle.nodes[key]
            assert resolver.counts(key) == first.counts(key)
        assert figures(resolver, "l4_cache")["hits"] == reads


def test_after_a_refresh_nothing_of_the_earlier_content_is_found(first, make, conn):
    second = make()
    second.look_again()
    changes = Changes(second._tiers.tree)
    conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 2")
    first.refresh_all_materialized_views()
    changes.wait()
    assert [node.name for node in second.ancestors(3)] == ["A", "renamed"]
    assert [node.name for node in first.ancestors(3)] == ["A", "renamed"]
    hits = figures(first, "l2_cache")["hits"] + figures(second, "l2_cache")["hits"]
    assert hits == 1  # who came second


def test_a_refresh_that_changed_nothing_leaves_it_all(first, make):
    first.refresh_all_materialized_views()
    second = make()
    second.look_again()
    second.ancestors_many(KEYS)
    assert figures(second, "l2_cache")["hits"] == len(KEYS)


def test_a_poisoned_value_is_read_again_and_told_of(first, make, redis_url, prefix):
    heard, events = [], EventBus()
    with closing(connect(redis_url)) as client:
        for name in client.scan_iter(f"{prefix}:*"):
            client.set(name, b"\x01poison")
    second = make(events=events)
    second.look_again()
    with events.subscribe(heard.append):
        assert second.ancestors_many(KEYS) == first.ancestors_many(KEYS)
    assert {type(event) for event in heard} == {ValuePoisoned}
    assert figures(second, "l2_cache")["errors"] == len(KEYS)
    third = make()
    third.look_again()
    assert third.ancestors_many(KEYS) == first.ancestors_many(KEYS)
    assert figures(third, "l2_cache")["errors"] == 0


def test_without_redis_it_answers_as_well(make):
    heard, events = [], EventBus()
    with closing(redis.Redis(port=1, retry=None)) as client:
        resolver = make(redis=client, events=events)
        resolver.refresh_all_materialized_views()
        resolver.look_again()
        with events.subscribe(heard.append):
            for key in KEYS:
                assert resolver.ancestors(key) == Oracle(TREE).ancestors(key)
        assert [type(event) for event in heard] == [TierDegraded]
        assert figures(resolver, "l2_cache")["degraded_since"] is not None


def test_a_hosts_client_stays_open_and_has_to_return_bytes(make, redis_url):
    with closing(redis.Redis.from_url(redis_url)) as client:
        make(redis=client).close()
        assert client.ping()
    with closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        with pytest.raises(ConfigurationError, match="bytes"):
            make(redis=client)


def test_any_tree(first, make, conn):
    @settings(max_examples=10)
    @given(trees())
    def agrees(tree):
        fill(conn, tree)
        first.refresh_all_materialized_views()
        first.ancestors_many(tree)
        first.nodes_many(tree)
        oracle, second = Oracle(tree), make(watch=False)
        with second:
            second.look_again()
            for key in tree:
                assert second.ancestors(key) == oracle.ancestors(key)
                assert second.node(key) == oracle.nodes[key]
            assert figures(second, "l4_cache")["hits"] == 0

    agrees()

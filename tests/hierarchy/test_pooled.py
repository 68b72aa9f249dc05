"""Look-ups and refreshes all by a pooler in transaction mode, but for the listener where it may."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from tests.conftest import required
from tests.hierarchy.test_resolver import TREE, Changes, Oracle, fill
from tests.pooler import PgBouncer

import mvrefresh
from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, Schema
from mvrefresh.hierarchy.node import HierarchyCounts


@pytest.fixture
def pooled(dsn, conn):
    Schema().apply(conn)
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);"
        "CREATE INDEX ON entities (path)"
    )
    fill(conn, TREE)
    HierarchySource().create(conn)
    with ExitStack() as stack:
        with required():
            bouncer = stack.enter_context(PgBouncer(dsn))
        yield bouncer.pooled()


KINDS = {
    "bounded": {"resident": 0},
    "resident": {"resident": 10_000},
    "shared": {"resident": 0, "redis": True},
}


@pytest.fixture
def make(pooled, dsn, redis_url):
    """Makes resolvers of databases of their own, as processes would have them."""
    with ExitStack() as stack:

        def made(kind, **given):
            database = stack.enter_context(Database(pooled, prepare_threshold=None, **given))
            settings = dict(KINDS[kind])
            if "redis" in settings:
                settings |= {"redis": redis_url, "redis_prefix": dsn}
            return stack.enter_context(OptimizedHierarchyResolver(database, **settings))

        yield made


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_right_before_and_after_refreshes_of_others(
    make, pooled, dsn, conn, kind, listening
):
    one = make(kind, **({"listen_dsn": dsn} if listening else {}))
    other = make(kind)
    other.refresh_all_materialized_views().raise_for_failures()
    changes = Changes(one._tiers.tree)
    if kind == "resident":
        assert one.preload()
    tree = dict(TREE)
    for number in range(3):
        tree[4] = ("a.b.c.d", f"name {number}")  # few rows
        tree[1] = ("a", "A" if number < 2 else "renamed")  # all that are below
        conn.execute("UPDATE entities SET name = %s WHERE id = 4", (tree[4][1],))
        conn.execute("UPDATE entities SET name = %s WHERE id = 1", (tree[1][1],))
        other.refresh_all_materialized_views().raise_for_failures()
        tag = other._tiers.tree.tag
        while changes.wait() != tag:
            pass
        oracle = Oracle(tree)
        for resolver in (one, other):
            for key in tree:
                assert resolver.ancestors(key) == oracle.ancestors(key)
                assert resolver.node(key) == oracle.nodes[key]
                assert resolver.descendants(key) == oracle.descendants(key)
            assert resolver.counts(1) == HierarchyCounts(4, 7, 5, 3, 0, "x")
    state = one.cache_metrics()["l1_cache"]["watch"]
    assert state == ("listening" if listening else "polling")


def test_a_scheduled_refresh_is_seen_too(make, pooled):
    one = make("bounded")
    changes = Changes(one._tiers.tree)
    with Database(pooled, prepare_threshold=None) as database:
        report = mvrefresh.refresh_due(database, schedule=mvrefresh.Every(seconds=3600))
    assert report
    assert changes.wait().content_token == report["mv_entity_ancestors"].content_token

"""OptimizedHierarchyResolver against what looking at every pair of paths gives."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import ExitStack

import cachetools
import psycopg
import pytest
from hypothesis import given, settings, strategies as st
from psycopg.conninfo import make_conninfo

import mvrefresh
from mvrefresh import (
    Database,
    EventBus,
    HierarchySource,
    OptimizedHierarchyResolver,
    Schema,
    errors,
)
from mvrefresh.events import TierDegraded, TierRecovered
from mvrefresh.hierarchy.node import HierarchyCounts, HierarchyNode

TREE = {
    1: ("a", "A"),
    2: ("a.b", "B"),
    3: ("a.b.c", "C"),
    4: ("a.b.c.d", "D"),
    5: ("a.bb", "BB"),
    6: ("z", "Z"),
    7: ("a.b0", "B0"),
    8: ("a.b_", "B_"),
    9: ("a.b.x.gap", "below a gap"),
}


@pytest.fixture
def table(conn):
    Schema().apply(conn)
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);"
        "CREATE INDEX ON entities USING gist (path); CREATE INDEX ON entities (path)"
    )
    return fill(conn, TREE)


def fill(conn, tree):
    conn.execute("TRUNCATE entities")
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO entities VALUES (%s, %s, %s, 'x')",
            [(key, path, name) for key, (path, name) in tree.items()],
        )
    return tree


@pytest.fixture
def make(dsn, conn, table):
    """Makes resolvers over views that are there."""
    HierarchySource().create(conn)
    with Database(dsn) as database, ExitStack() as stack:
        yield lambda **given: stack.enter_context(OptimizedHierarchyResolver(database, **given))


@pytest.fixture
def bounded(make):
    resolver = make(resident=0)
    resolver.refresh_all_materialized_views()
    return resolver


@pytest.fixture
def overtaken(make, dsn, conn):
    """It holds the ancestors of entity 3, and does not hear of the refresh that changed them."""
    resolver = make(resident=0, watch=False)
    resolver.refresh_all_materialized_views()
    resolver.ancestors(3)
    conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 2")
    with Database(dsn) as other:
        mvrefresh.refresh(other)
    return resolver


KINDS = {
    "bounded": {"resident": 0},
    "resident": {"resident": 10_000},
    "chosen": {"cache": cachetools.LRUCache},
    "strict": {"resident": 10_000, "strict": True},
}


@pytest.fixture(params=KINDS)
def resolver(request, make):
    resolver = make(**KINDS[request.param])
    resolver.refresh_all_materialized_views()
    assert resolver.preload() is (request.param in {"resident", "strict"})
    return resolver


class Changes:
    """Hears of every content that comes to be current."""

    def __init__(self, content):
        self._tags = queue.Queue()
        self._content = content
        content.follow(self)
        self._tags.get()  # the one that is

    def retag(self, tag, *, park=False):
        if not park:
            self._tags.put(tag)

    def advance(self, before, tag, keys):
        self._tags.put(tag)

    def discard(self, keys):
        pass

    def after_fork(self):
        pass

    def wait(self):
        return self._tags.get(timeout=20)


def refresh(resolver):
    # Not whether it is there now: a machine that stands still for seconds ends the lease.
    wanted = not resolver._tiers.residence._closed
    resolver.refresh_all_materialized_views()
    assert resolver.preload() is wanted


class Oracle:
    """By the definition, pair by pair."""

    def __init__(self, tree):
        self.nodes = {key: HierarchyNode(key, path, name) for key, (path, name) in tree.items()}

    def ancestors(self, key):
        path = self.nodes[key].path
        above = [n for n in self.nodes.values() if path.startswith(n.path + ".")]
        return tuple(sorted(above, key=lambda n: n.depth))

    def descendants(self, key, depth=None):
        top = self.nodes[key]
        below = [n for n in self.nodes.values() if n.path.startswith(top.path + ".")]
        kept = [n for n in below if depth is None or n.depth - top.depth <= depth]
        return tuple(sorted(kept, key=lambda n: n.path.split(".")))


def test_ancestors_descendants_and_paths(resolver):
    oracle = Oracle(TREE)
    for key in TREE:
        for _ in range(2):  # from the view, and from memory
            assert resolver.ancestors(key) == oracle.ancestors(key)
            assert resolver.descendants(key) == oracle.descendants(key)
        assert resolver.path(key) == TREE[key][0]
        assert resolver.node(key).name == TREE[key][1]
        for other in TREE:
            above = other in {n.id for n in oracle.ancestors(key)}
            assert resolver.is_ancestor(other, key) is above


def test_children_and_depth(resolver):
    assert [n.id for n in resolver.children(1)] == [2, 7, 8, 5]
    assert [n.id for n in resolver.descendants(1, max_depth=2)] == [2, 3, 7, 8, 5]


def test_pages_join_without_gap_or_repetition(resolver):
    for size in range(1, 9):
        page, pages = None, []
        while found := resolver.descendants(1, limit=size, after=page):
            pages.extend(found)
            page = found[-1]
        assert tuple(pages) == Oracle(TREE).descendants(1)


def test_pages_go_on_between_entities_that_share_a_path(resolver, conn):
    conn.execute("INSERT INTO entities VALUES (20, 'a.b.c', 'twin', 'x')")
    refresh(resolver)
    first = resolver.descendants(2, limit=1)
    second = resolver.descendants(2, limit=1, after=first[-1])
    assert {first[0].id, second[0].id} == {3, 20}


def test_counts(resolver):
    assert resolver.counts(1) == HierarchyCounts(4, 7, 5, 3, 0, "x")
    assert resolver.counts_many([6, 99]) == {6: HierarchyCounts(0, 0, 0, 0, 0, "x")}


def test_the_lowest_common_ancestor(resolver):
    assert resolver.lowest_common_ancestor([4, 9]).id == 2
    assert resolver.lowest_common_ancestor([4, 5, 7]).id == 1
    assert resolver.lowest_common_ancestor([3, 4]).id == 3
    assert resolver.lowest_common_ancestor([4, 6]) is None
    assert resolver.lowest_common_ancestor([4]).id == 4
    with pytest.raises(errors.ConfigurationError):
        resolver.lowest_common_ancestor([])
    with pytest.raises(errors.UnknownEntity):
        resolver.lowest_common_ancestor([4, 99])


def test_many_at_once_are_one_read(bounded):
    resolver = bounded
    before = resolver.cache_metrics()["l4_cache"]
    found = resolver.ancestors_many([4, 3, 99, 4])
    assert found == {key: Oracle(TREE).ancestors(key) for key in (4, 3)}
    after = resolver.cache_metrics()["l4_cache"]
    assert after["hits"] - before["hits"] == 2
    assert resolver.ancestors_many([4, 3]) == found
    assert resolver.cache_metrics()["l4_cache"] == after


class TestFreshness:
    def test_a_refresh_by_the_resolver_is_seen_at_once(self, resolver, conn):
        assert [n.name for n in resolver.ancestors(3)] == ["A", "B"]
        conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 2")
        assert [n.name for n in resolver.ancestors(3)] == ["A", "B"]
        assert resolver.refresh_materialized_view("mv_entity_ancestors")
        assert [n.name for n in resolver.ancestors(3)] == ["A", "renamed"]

    def test_a_refresh_that_changed_nothing_leaves_every_entry(self, resolver):
        for key in TREE:
            resolver.ancestors(key)
        size = resolver.cache_metrics()["l1_cache"]["size"]
        assert size >= len(TREE)
        resolver.refresh_all_materialized_views()
        assert resolver.cache_metrics()["l1_cache"]["size"] == size

    def test_a_refresh_by_others_is_heard_of(self, resolver, dsn, conn):
        resolver.ancestors(3)
        changes = Changes(resolver._tiers.tree)
        conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 2")
        with Database(dsn) as other:
            mvrefresh.refresh(other)
        changes.wait()
        assert [n.name for n in resolver.ancestors(3)] == ["A", "renamed"]

    def test_a_refresh_by_others_is_seen_at_the_next_miss(self, overtaken):
        overtaken.ancestors(4)
        assert [n.name for n in overtaken.ancestors(3)] == ["A", "renamed"]

    def test_without_a_watch_a_look_up_asks_when_the_lease_is_over(self, overtaken):
        assert [n.name for n in overtaken.ancestors(3)] == ["A", "B"]
        overtaken._tiers.tree._until = 0.0
        overtaken._tiers.tree.sweep()
        assert [n.name for n in overtaken.ancestors(3)] == ["A", "renamed"]

    def test_after_a_refresh_that_nobody_recorded_nothing_is_kept(self, resolver, conn):
        changes = Changes(resolver._tiers.tree)
        conn.execute("REFRESH MATERIALIZED VIEW mv_entity_ancestors")
        assert changes.wait() is None  # at the next second: nobody notifies of it
        resolver.ancestors(3)
        conn.execute(
            "UPDATE entities SET name = 'again' WHERE id = 2;"
            "REFRESH MATERIALIZED VIEW mv_entity_ancestors"
        )
        assert [n.name for n in resolver.ancestors(3)] == ["A", "again"]

    def test_a_refresh_from_sql_is_heard_of(self, resolver, conn):
        resolver.ancestors(3)
        changes = Changes(resolver._tiers.tree)
        conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 2")
        conn.execute("CALL mvrefresh.refresh_views()")
        changes.wait()
        assert [n.name for n in resolver.ancestors(3)] == ["A", "renamed"]

    def test_after_a_view_is_written_anew_nothing_is_kept_until_the_next_refresh(
        self, bounded, conn
    ):
        changes = Changes(bounded._tiers.tree)
        conn.execute("VACUUM FULL mv_entity_ancestors")
        assert changes.wait() is None
        for tier in ("l4", "l1"):
            bounded.ancestors(3)
            assert bounded.look_up(3).tier == tier
            bounded.refresh_all_materialized_views()

    def test_a_new_entity_is_found_in_the_table(self, resolver, conn):
        with pytest.raises(errors.UnknownEntity):
            resolver.ancestors(30)
        conn.execute("INSERT INTO entities VALUES (31, 'a.b.new', 'N', 'x')")
        assert [n.id for n in resolver.ancestors(31)] == [1, 2]
        assert resolver.counts(31) == HierarchyCounts(0, 0, 0, 0, 2, "x")
        assert resolver.look_up(31).tier == "l1"

    def test_max_staleness_reads_through_to_the_table(self, resolver, conn):
        resolver.ancestors(3)
        conn.execute("UPDATE entities SET name = 'live' WHERE id = 2")
        assert [n.name for n in resolver.ancestors(3, 3600)] == ["A", "B"]
        assert [n.name for n in resolver.ancestors(3, 0.0)] == ["A", "live"]
        conn.execute("DELETE FROM entities WHERE id = 7")
        assert resolver.counts(1, 3600).direct_children == 4
        assert resolver.counts(1, 0.0) == HierarchyCounts(3, 6, 4, 3, 0, "x")
        with pytest.raises(errors.UnknownEntity):
            resolver.ancestors(7, 0.0)

    def test_or_refuses(self, dsn, resolver):
        with (
            Database(dsn) as database,
            OptimizedHierarchyResolver(database, stale="raise") as strict,
        ):
            assert strict.preload() is True
            assert strict.ancestors(3, 3600)
            with pytest.raises(errors.ContentTooOld, match="max_staleness"):
                strict.ancestors(3, 0.0)

    def test_an_answer_can_say_where_it_is_from(self, bounded, conn):
        resolver = bounded
        answer = resolver.look_up(4)
        assert (answer.tier, answer.value) == ("l4", Oracle(TREE).ancestors(4))
        resolver.ancestors(4)
        again = resolver.look_up(4)
        assert (again.tier, again.tag) == ("l1", answer.tag)
        assert min(answer.age_seconds, again.age_seconds) >= 0
        conn.execute("INSERT INTO entities VALUES (31, 'a.b.new', 'N', 'x')")
        assert resolver.look_up(31)[1:] == ("source", None, 0.0)


def test_without_the_views_it_says_what_to_do(dsn, conn, table):
    with Database(dsn) as database, OptimizedHierarchyResolver(database) as resolver:
        with pytest.raises(errors.ConfigurationError, match="create"):
            resolver.ancestors(1)


def test_without_the_librarys_tables_it_answers_and_keeps_nothing(new_dsn):
    dsn = new_dsn()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);"
            "INSERT INTO entities VALUES (1, 'a', 'A', 'x'), (2, 'a.b', 'B', 'x')"
        )
        HierarchySource().create(conn)
    policy = mvrefresh.RefreshPolicy(coordination="local")
    with Database(dsn) as database, OptimizedHierarchyResolver(database, policy=policy) as resolver:
        assert [n.id for n in resolver.ancestors(2)] == [1]
        assert resolver.cache_metrics()["l1_cache"]["size"] == 0


def test_sixty_four_threads_that_miss_one_key_make_one_load(resolver):
    gate, answers = threading.Barrier(64), []

    def ask():
        gate.wait()
        answers.append(resolver.ancestors(4))

    workers = [threading.Thread(target=ask) for _ in range(64)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(answers) == {Oracle(TREE).ancestors(4)}
    figures = resolver.cache_metrics()
    assert figures["l4_cache"]["hits"] <= 4  # one, unless some came after it had landed
    assert figures["l1_cache"]["hits"] + figures["l1_cache"]["misses"] == 64


def test_from_within_a_callback_of_its_own_refresh(dsn, conn, table):
    HierarchySource().create(conn)
    seen = []

    class Store(mvrefresh.InMemoryMetricsStore):
        def record(self, record, *, connection=None):
            seen.append(resolver.ancestors(3))
            return super().record(record, connection=connection)

    with Database(dsn) as database:
        resolver = OptimizedHierarchyResolver(database, metrics=Store())
        with resolver:
            assert resolver.refresh_all_materialized_views()
    assert [[n.id for n in answer] for answer in seen] == [[1, 2]] * 3


@st.composite
def trees(draw):
    labels = st.sampled_from(["a", "b", "B", "0", "_", "a0", "a_", "aa", "Z"])
    paths = draw(st.lists(st.lists(labels, min_size=1, max_size=5).map(".".join), unique=True,
                          min_size=1, max_size=25))  # fmt: skip
    return {key: (path, f"n{key}") for key, path in enumerate(paths, 1)}


def test_any_tree(resolver, conn):
    @settings(max_examples=12)
    @given(trees(), st.integers(1, 4))
    def agrees(tree, depth):
        fill(conn, tree)
        refresh(resolver)
        oracle = Oracle(tree)
        for key in tree:
            assert resolver.ancestors(key) == oracle.ancestors(key)
            assert resolver.ancestors(key, 0.0) == oracle.ancestors(key)
            assert resolver.descendants(key) == oracle.descendants(key)
            assert resolver.descendants(key, max_depth=depth) == oracle.descendants(key, depth)
            assert resolver.counts(key, 0.0) == resolver.counts(key)

    agrees()


class TestBuffers:
    def test_reads_are_metered_in_blocks(self, dsn, resolver):
        with Database(dsn) as database:
            metered = OptimizedHierarchyResolver(database, meter_every=1, resident=0)
            with metered:
                for key in TREE:
                    metered.ancestors(key)
                    metered.counts(key)
                figures = metered.cache_metrics()["l3_cache"]
        assert figures["hits"] >= 2 * len(TREE)  # an index and a heap block, or more, each
        assert figures["misses"] == 0  # they were written a moment ago

    def test_the_first_of_many_reads_is_not_metered(self, resolver):
        resolver.ancestors(4)
        assert resolver.cache_metrics()["l3_cache"]["hits"] == 0

    def test_warm_and_residency(self, resolver, conn):
        assert resolver.warm() is None
        assert resolver.residency() is None
        try:
            conn.execute("CREATE EXTENSION pg_prewarm; CREATE EXTENSION pg_buffercache")
        except psycopg.Error as error:
            pytest.skip(f"the server does not bring them: {error}")
        assert resolver.warm() >= 6
        assert resolver.residency() > 0.9

    def test_a_negative_rate_is_refused(self, dsn):
        with Database(dsn) as database, pytest.raises(errors.ConfigurationError):
            OptimizedHierarchyResolver(database, meter_every=-1)


def test_a_role_without_its_rights_is_told_which(dsn, conn, resolver):
    conn.execute("DROP ROLE IF EXISTS mvr_reader; CREATE ROLE mvr_reader LOGIN")
    try:
        poor = make_conninfo(dsn, user="mvr_reader")
        with (
            Database(poor) as database,
            OptimizedHierarchyResolver(database, watch=False) as other,
            pytest.raises(errors.ConfigurationError, match="SELECT on the table"),
        ):
            other.ancestors(1)
    finally:
        conn.execute("DROP ROLE mvr_reader")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_begins_blind_and_watches_for_itself(resolver):
    expected = resolver.ancestors(4)
    watch = resolver._database.watch
    child = os.fork()
    if not child:
        wrong = 1
        try:
            blind = resolver._tiers.tree.blind and watch.state == "off"
            answered = resolver.ancestors(4) == expected
            wrong = 0 if blind and answered and watch.state != "off" else 2
        finally:
            os._exit(wrong)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert resolver.ancestors(4) == expected


def test_blindness_is_told_and_counted(make):
    told, events = queue.Queue(), EventBus()
    resolver = make(events=events)
    resolver.refresh_all_materialized_views()
    resolver._tiers.watch.remove(resolver._tiers.tree)  # as if it heard nothing any more
    resolver.ancestors(3)
    with events.subscribe(told.put):
        resolver._tiers.tree._until = 0.0
        resolver._tiers.tree.sweep()
        assert resolver.cache_metrics()["l1_cache"]["blind"] is True
        assert resolver.ancestors(3) == Oracle(TREE).ancestors(3)
        heard = [told.get(timeout=20), told.get(timeout=20)]
    assert resolver.cache_metrics()["l1_cache"]["blind"] is False
    assert heard == [TierDegraded("l1_cache", heard[0].why), TierRecovered("l1_cache")]
    assert "mv_entity_ancestors" in heard[0].why


@pytest.mark.parametrize(
    "wrong", [{"stale": "x"}, {"blind": "x"}, {"blind": "bypass", "watch": False}, {"resident": -1}]
)
def test_settings_that_cannot_be_meant(make, wrong):
    with pytest.raises(errors.ConfigurationError):
        make(**wrong)

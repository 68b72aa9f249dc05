"""A refresh that changed few rows: those alone are read again, and no answer is of before."""

from __future__ import annotations

import threading
from random import Random

import cachetools
import pytest

import mvrefresh
from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, Schema, errors
from mvrefresh.hierarchy.node import HierarchyCounts, HierarchyNode

PATIENCE = 20

KINDS = {
    "bounded": {"resident": 0},
    "resident": {"resident": 10_000},
    "by parent": {"resident": 10_000},
    "chosen": {"cache": cachetools.LRUCache},
    "strict": {"resident": 0, "strict": True},
    "shared": {"resident": 0, "redis": True},
}


class Tree:
    """Entities in a table, and what looking at every pair of their paths gives."""

    def __init__(self, conn, random):
        self._conn = conn
        self._random = random
        self._next = 1
        self.rows = {}  # id: (path, name)
        for _ in range(60):
            self.insert()

    def path(self):
        label = f"l{self._random.randrange(12)}"
        if not self.rows or self._random.random() < 0.1:
            return label
        return f"{self._random.choice([path for path, _ in self.rows.values()])}.{label}"

    def insert(self):
        key, self._next = self._next, self._next + 1
        path = self.path()
        if path not in {path for path, _ in self.rows.values()}:
            self.put(key, path, f"n{key}")

    def delete(self):
        key = self._random.choice(list(self.rows))
        del self.rows[key]
        self._conn.execute("DELETE FROM entities WHERE id = %s", (key,))

    def rename(self):
        key = self._random.choice(list(self.rows))
        self.put(key, self.rows[key][0], f"m{self._random.randrange(1000)}")

    def move(self):
        key = self._random.choice(list(self.rows))
        path = self.path()
        if path not in {path for path, _ in self.rows.values()}:
            self.put(key, path, self.rows[key][1])

    def put(self, key, path, name):
        self.rows[key] = (path, name)
        self._conn.execute(
            "INSERT INTO entities VALUES (%s, %s, %s, 'x', NULL) ON CONFLICT (id) DO UPDATE"
            " SET path = EXCLUDED.path, name = EXCLUDED.name",
            (key, path, name),
        )

    def settle(self):
        """Name the parents; then the rows are what a refresh sees."""
        self._conn.execute(
            "UPDATE entities e SET parent_id = p.id FROM (SELECT c.id AS child, (SELECT a.id FROM"
            " entities a WHERE c.path <@ a.path AND a.path <> c.path ORDER BY nlevel(a.path) DESC"
            " LIMIT 1) AS id FROM entities c) p"
            " WHERE e.id = p.child AND e.parent_id IS DISTINCT FROM p.id"
        )

    @property
    def nodes(self):
        return {key: HierarchyNode(key, path, name) for key, (path, name) in self.rows.items()}

    def ancestors(self, node, nodes):
        above = [n for n in nodes.values() if node.path.startswith(n.path + ".")]
        return tuple(sorted(above, key=lambda n: n.depth))

    def descendants(self, node, nodes):
        below = [n for n in nodes.values() if n.path.startswith(node.path + ".")]
        return tuple(sorted(below, key=lambda n: [label.encode() for label in n.path.split(".")]))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def source(kind):
    return HierarchySource(parent="parent_id" if kind == "by parent" else None)


@pytest.fixture
def table(conn, source):
    Schema().apply(conn)
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text,"
        " parent_id int); CREATE INDEX ON entities (path)"
    )
    source.create(conn)


@pytest.fixture
def resolver(dsn, table, source, kind, request):
    given = dict(KINDS[kind])
    if given.pop("redis", False):
        given |= {"redis": request.getfixturevalue("redis_url"), "redis_prefix": dsn}
    with (
        Database(dsn) as database,
        OptimizedHierarchyResolver(database, source, watch=False, **given) as resolver,
    ):
        yield resolver


@pytest.fixture
def elsewhere(dsn, source):
    """A refresh by another process, as it were; the resolver asks then what is current."""
    with Database(dsn) as database:
        yield lambda: mvrefresh.refresh(database, source.views).raise_for_failures()


def reads(resolver):
    return resolver.cache_metrics()["l4_cache"]


@pytest.mark.parametrize("seed", range(2))
def test_whatever_changes_every_answer_is_of_the_present(resolver, conn, elsewhere, kind, seed):
    random = Random(seed)  # noqa: S311
    tree = Tree(conn, random)
    tree.settle()
    elsewhere()
    resolver.look_again()
    assert resolver.preload() is (kind in {"resident", "by parent"})
    for round_ in range(6):
        keys = list(range(1, tree._next + 3))
        random.shuffle(keys)
        nodes = tree.nodes
        for key in keys:
            if key not in nodes:
                with pytest.raises(errors.UnknownEntity):
                    resolver.ancestors(key)
                continue
            expected = tree.ancestors(nodes[key], nodes)
            assert resolver.ancestors(key) == resolver.ancestors(key) == expected
            assert resolver.node(key) == nodes[key]
            below = tree.descendants(nodes[key], nodes)
            assert resolver.descendants(key) == below
            assert resolver.counts(key).descendant_count == len(below)
        assert resolver.ancestors_many(keys).keys() == nodes.keys()
        for _ in range(random.randrange(1, 4)):
            random.choice([tree.insert, tree.delete, tree.rename, tree.move])()
        if random.random() < 0.3:
            # Too new for the view, and gone before it comes: no row of the view says so.
            passing = 1000 + round_
            tree.put(passing, "passing", "by")
            assert resolver.ancestors(passing) == ()
            assert resolver.node(passing).name == "by"
            assert resolver.counts(passing).descendant_count == 0
            del tree.rows[passing]
            conn.execute("DELETE FROM entities WHERE id = %s", (passing,))
        tree.settle()
        elsewhere()
        resolver.look_again()


def a_line(conn, elsewhere, resolver, kind, length=50):
    """One below the other, and as many beside."""
    conn.execute(
        "INSERT INTO entities SELECT n, ('r.g' || n %% 5 || '.e' || n)::ltree, 'n' || n, 'x', NULL"
        " FROM generate_series(1, %s::int) n",
        (length,),
    )
    elsewhere()
    resolver.look_again()
    assert resolver.preload() is (kind in {"resident", "by parent"})
    resolver._tiers.residence._mended_until = float("inf")  # gaps stay until a test says so
    for key in range(1, length + 1):
        resolver.ancestors(key)
        resolver.node(key)
        resolver.counts(key)


def test_what_has_not_changed_is_not_read_again(resolver, conn, elsewhere, kind):
    a_line(conn, elsewhere, resolver, kind)
    conn.execute("UPDATE entities SET name = 'changed' WHERE id IN (7, 8)")
    elsewhere()
    resolver.look_again()
    before = reads(resolver)
    for key in range(1, 51):
        assert resolver.node(key).name == ("changed" if key in (7, 8) else f"n{key}")
        resolver.ancestors(key)
        resolver.counts(key)
    after = reads(resolver)
    # One read an entity brings its node and its ancestors; the view of counts has no names.
    assert after["hits"] - before["hits"] == 2
    assert after["misses"] == before["misses"]


def test_nor_what_was_put_aside(resolver, conn, elsewhere, kind):
    a_line(conn, elsewhere, resolver, kind)
    for content in (resolver._tiers.tree, resolver._tiers.tally):
        content._until = 0.0
        content.sweep()
        assert content.blind
    for name in ("once", "twice"):
        conn.execute("UPDATE entities SET name = %s WHERE id = 7", (name,))
        elsewhere()
    before = reads(resolver)
    for key in range(1, 51):
        assert resolver.node(key).name == ("twice" if key == 7 else f"n{key}")
        resolver.ancestors(key)
        assert resolver.counts(key) == HierarchyCounts(0, 0, 0, 0, 2, "x")
    # Where the hierarchy is resident, the look-up that ends the blindness has gone past it.
    past = kind in {"resident", "by parent"}
    assert reads(resolver)["hits"] - before["hits"] == 1 + past
    assert resolver.cache_metrics()["l1_cache"]["blind"] is False


def resident_of(resolver):
    return resolver._tiers.residence.current


def test_what_is_named_is_let_go_before_the_tag_moves(resolver, conn, elsewhere, kind):
    a_line(conn, elsewhere, resolver, kind)
    tag = resolver._tiers.tree.tag
    before = reads(resolver)["hits"]
    resolver._tiers.tree.discard({7, "nobody"})
    assert resolver._tiers.tree.tag == tag
    for key in range(1, 51):
        assert resolver.node(key).name == f"n{key}"
        assert resolver.ancestors(key) == ()
    again = 0 if kind == "shared" else 1  # there it is found in Redis, under the same tag
    assert reads(resolver)["hits"] - before == again


@pytest.mark.parametrize("kind", ["resident"], indirect=True)
class TestResident:
    def test_with_gaps_it_stays_and_is_mended_when_a_subtree_is_asked_for(
        self, resolver, conn, elsewhere, kind
    ):
        a_line(conn, elsewhere, resolver, kind, 1000)
        there, loads = resident_of(resolver), resolver._tiers.residence.loads
        conn.execute("UPDATE entities SET name = 'changed' WHERE id = 7")
        elsewhere()
        resolver.look_again()
        assert resident_of(resolver) is there
        assert resolver.cache_metrics()["l1_cache"]["resident"] == 999
        assert resolver.ancestors(7) == ()
        assert resolver._tiers.residence.loads == loads
        conn.execute("INSERT INTO entities VALUES (2000, 'r', 'root', 'x')")
        elsewhere()  # everybody has an ancestor now
        resolver.look_again()
        assert [node.name for node in resolver.ancestors(7)] == ["root"]

    def test_when_much_is_missing_it_is_loaded_again(self, resolver, conn, elsewhere, kind):
        a_line(conn, elsewhere, resolver, kind, 1000)
        residence = resolver._tiers.residence
        there = residence.current
        moved = threading.Event()
        at_hand, residence.moved_in = residence.moved_in, lambda: (at_hand(), moved.set())
        residence._mended_until = 0.0
        conn.execute("UPDATE entities SET name = 'changed' WHERE id <= 21")
        elsewhere()
        resolver.look_again()
        assert moved.wait(PATIENCE)
        assert residence.current is not there
        assert residence.current.gaps == 0
        assert resolver.node(21).name == "changed"
        assert resolver._entries is residence.current.entries

    def test_a_subtree_is_of_the_present_while_there_are_gaps_and_after(
        self, resolver, conn, elsewhere, kind
    ):
        a_line(conn, elsewhere, resolver, kind)
        conn.execute("INSERT INTO entities VALUES (1000, 'r', 'root', 'x')")
        elsewhere()
        resolver.look_again()
        assert resolver.preload()
        residence = resolver._tiers.residence
        assert len(resolver.descendants(1000)) == 50
        residence._mended_until = float("inf")  # for now it is not to be loaded
        conn.execute("DELETE FROM entities WHERE id = 7")
        elsewhere()
        resolver.look_again()
        assert residence.current.gaps
        assert len(resolver.descendants(1000)) == 49
        moved = threading.Event()
        at_hand, residence.moved_in = residence.moved_in, lambda: (at_hand(), moved.set())
        residence._mended_until = 0.0
        assert len(resolver.descendants(1000, limit=10)) == 10
        assert moved.wait(PATIENCE)
        assert residence.current.gaps == 0
        assert len(resolver.descendants(1000)) == 49

    def test_one_that_is_loaded_while_few_rows_change_is_kept(
        self, resolver, conn, elsewhere, kind
    ):
        a_line(conn, elsewhere, resolver, kind)
        residence = resolver._tiers.residence
        load, loads = residence._load, []

        def overtaken(go_on):
            found = load(go_on)
            if not loads:
                conn.execute("UPDATE entities SET name = 'meanwhile' WHERE id = 7")
                elsewhere()
                resolver.look_again()
            loads.append(found.tag)
            return found

        residence._load = overtaken
        residence.retag(None)
        residence.retag(resolver._tiers.tree.tag)
        assert residence.wait(PATIENCE)
        assert len(loads) == 1
        assert residence.current.tag == resolver._tiers.tree.tag != loads[0]
        assert resolver.node(7).name == "meanwhile"
        assert resolver.node(8).name == "n8"

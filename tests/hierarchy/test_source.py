"""The three views against a naive oracle, on forests that hypothesis grows, moves and thins."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given, settings, strategies as st
from psycopg.errors import DuplicateTable

import mvrefresh
from mvrefresh import Database, HierarchySource, Schema, ViewName
from mvrefresh.errors import ConfigurationError

KEYS = {
    "int": ("bigint", lambda n: n),
    "uuid": ("uuid", lambda n: UUID(int=n * 7919)),
    "text": ("text", lambda n: f"é'{n}\""),
}


@dataclass(frozen=True)
class Entity:
    key: object
    path: tuple[str, ...] | None
    name: str | None
    type: str | None
    parent: object = None


LABELS = st.sampled_from(["a", "b", "ab", "A", "a0", "a_", "z9", "_", "x" * 40])


@st.composite
def forests(draw, key):
    """Entities with distinct paths: several roots, gaps, and now and then no path at all.

    Each grows out of one before it, so that many have siblings, and siblings children; more than
    one label at a time is a gap.
    """
    paths = []
    for _ in range(draw(st.integers(0, 25))):
        above = draw(st.sampled_from([(), *paths]))
        longest = draw(st.sampled_from([1, 1, 1, 2, 3]))
        path = (*above, *draw(st.lists(LABELS, min_size=1, max_size=longest)))
        if path not in paths:
            paths.append(path)
    numbers = draw(st.permutations(range(1, len(paths) + 1)))
    keys = {path: key(n) for path, n in zip(paths, numbers, strict=True)}
    entities = []
    for path in paths:
        above = [path[:k] for k in range(len(path) - 1, 0, -1) if path[:k] in keys]
        entities.append(
            Entity(
                keys[path],
                path,
                draw(st.sampled_from(["x", "Ünï", "", None])),
                draw(st.sampled_from(["country", "city", None])),
                keys[above[0]] if above else None,
            )
        )
    if draw(st.booleans()):
        entities.append(Entity(key(900), None, "nowhere", "city"))
    return entities


class Oracle:
    """What the views should hold, by looking at every pair of entities."""

    def __init__(self, entities):
        self.entities = entities

    def above(self, e):
        """Root first."""
        found = [a for a in self.entities if self._is_above(a, e)]
        return sorted(found, key=lambda a: len(a.path))

    def below(self, e):
        return [d for d in self.entities if self._is_above(e, d)]

    @staticmethod
    def _is_above(a, e):
        if a.path is None or e.path is None:
            return False
        return len(a.path) < len(e.path) and e.path[: len(a.path)] == a.path

    def ancestors(self):
        return {
            e.key: (
                [a.key for a in self.above(e)],
                [".".join(a.path) for a in self.above(e)],
                [a.name for a in self.above(e)],
                None if e.path is None else len(e.path) - 1,
            )
            for e in self.entities
        }

    def counts(self):
        found = {}
        for e in self.entities:
            below = self.below(e)
            children = [d for d in below if self.above(d)[-1] is e]
            leaves = [d for d in below if not self.below(d)]
            depth = None if e.path is None else len(e.path) - 1
            height = max((len(d.path) - len(e.path) for d in below), default=0)
            found[e.key] = (e.type or "", depth, len(children), len(below), len(leaves), height)
        return found

    def stats(self):
        groups = defaultdict(list)
        for type_, depth, children, *_ in self.counts().values():
            if depth is not None:
                groups[depth, type_].append(children)
        return {
            place: (
                len(fans),
                sum(fan == 0 for fan in fans),
                sum(fans) / sum(fan > 0 for fan in fans) if any(fans) else None,
                max(fans),
            )
            for place, fans in groups.items()
        }


def content(conn):
    """What the views hold, in the oracle's shapes."""
    ancestors = conn.execute(
        "SELECT entity_id, ancestor_ids, ancestor_paths, ancestor_names, depth"
        " FROM mv_entity_ancestors"
    ).fetchall()
    counts = conn.execute(
        "SELECT entity_id, entity_type, depth, direct_children, descendant_count,"
        " leaf_descendants, height FROM mv_descendant_counts"
    ).fetchall()
    stats = conn.execute(
        "SELECT depth, entity_type, entity_count, leaf_count, average_fan_out, largest_fan_out"
        " FROM mv_entity_hierarchy_stats"
    ).fetchall()
    assert len(ancestors) == len({row[0] for row in ancestors})
    assert len(counts) == len({row[0] for row in counts})
    return (
        {row[0]: tuple(row[1:]) for row in ancestors},
        {row[0]: tuple(row[1:]) for row in counts},
        {row[:2]: tuple(row[2:]) for row in stats},
    )


def expected(entities):
    oracle = Oracle(entities)
    stats = {
        place: (n, leaves, None if fan is None else pytest.approx(fan), most)
        for place, (n, leaves, fan, most) in oracle.stats().items()
    }
    return oracle.ancestors(), oracle.counts(), stats


def fill(conn, entities):
    conn.execute("TRUNCATE entities")
    conn.cursor().executemany(
        "INSERT INTO entities (id, parent_id, path, name, entity_type) VALUES (%s, %s, %s, %s, %s)",
        [
            (e.key, e.parent, None if e.path is None else ".".join(e.path), e.name, e.type)
            for e in entities
        ],
    )


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("parent", [None, "parent_id"], ids=["by_path", "by_parent"])
def test_the_views_hold_what_looking_at_every_pair_gives(conn, dsn, kind, parent):
    """At creation, and after a concurrent refresh over whatever was there before."""
    type_, key = KEYS[kind]
    conn.execute(
        f"CREATE TABLE entities (id {type_} PRIMARY KEY, parent_id {type_}, path ltree UNIQUE,"
        " name text, entity_type text)"
    )
    source = HierarchySource(parent=parent)
    source.create(conn)

    @settings(max_examples=25)
    @given(forests(key))
    def agrees(entities):
        fill(conn, entities)
        for view in source.views:
            conn.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")
        assert content(conn) == expected(entities)

    agrees()
    before = content(conn)
    source.drop(conn)
    source.create(conn)
    assert content(conn) == before


@pytest.mark.parametrize("parent", [None, "parent_id"], ids=["by_path", "by_parent"])
def test_a_subtree_that_moves_takes_everything_along(conn, dsn, parent):
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, parent_id int, path ltree UNIQUE, name text,"
        " entity_type text)"
    )
    paths = ["r", "r.a", "r.a.b", "r.a.b.c", "r.d", "s"]
    keys = {tuple(p.split(".")): n for n, p in enumerate(paths, 1)}
    entities = [Entity(n, p, str(n), "t", keys.get(p[:-1])) for p, n in keys.items()]
    fill(conn, entities)
    HierarchySource(parent=parent).create(conn)
    Schema().apply(conn)
    conn.execute("UPDATE entities SET path = 's' || subpath(path, 1) WHERE path <@ 'r.a'")
    conn.execute("UPDATE entities SET parent_id = 6 WHERE id = 2")
    with Database(dsn) as database:
        report = mvrefresh.refresh(database)
    assert {o.strategy for o in report} == {"concurrent"}
    moved = [
        Entity(e.key, ("s", *e.path[1:]), e.name, "t", 6 if e.key == 2 else e.parent)
        if e.path[:2] == ("r", "a")
        else e
        for e in entities
    ]
    assert content(conn) == expected(moved)
    assert content(conn)[0][4][0] == [6, 2, 3]


def test_entities_that_share_a_path_are_each_counted(conn):
    conn.execute(
        "CREATE TABLE entities (id int, path ltree, name text, entity_type text);"
        "INSERT INTO entities VALUES (1, 'r'), (2, 'r.a'), (3, 'r.a'), (4, 'r.a.b')"
    )
    HierarchySource().create(conn)
    counts = {
        row[0]: row[1:]
        for row in conn.execute(
            "SELECT entity_id, direct_children, descendant_count, leaf_descendants"
            " FROM mv_descendant_counts"
        )
    }
    assert counts == {1: (2, 3, 1), 2: (1, 1, 1), 3: (1, 1, 1), 4: (0, 0, 0)}
    rows = conn.execute("SELECT ancestor_ids FROM mv_entity_ancestors WHERE entity_id = 4")
    assert rows.fetchone() == ([1, 2, 3],)


def test_a_circle_of_parents_ends(conn):
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, parent_id int, path ltree, name text,"
        " entity_type text); INSERT INTO entities VALUES (1, 2, 'a'), (2, 1, 'a.b'), (3, 3, 'c')"
    )
    HierarchySource(parent="parent_id").create(conn)
    rows = conn.execute("SELECT entity_id, descendant_count FROM mv_descendant_counts ORDER BY 1")
    assert rows.fetchall() == [(1, 1), (2, 0), (3, 0)]
    rows = conn.execute("SELECT entity_id, ancestor_ids FROM mv_entity_ancestors ORDER BY 1")
    assert rows.fetchall() == [(1, []), (2, [1]), (3, [])]


def test_two_hundred_levels(conn):
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);"
        "INSERT INTO entities SELECT g, text2ltree(repeat('n.', g - 1) || 'n')"
        " FROM generate_series(1, 200) g"
    )
    HierarchySource().create(conn)
    row = conn.execute(
        "SELECT descendant_count, leaf_descendants, height FROM"
        " mv_descendant_counts WHERE entity_id = 1"
    ).fetchone()
    assert row == (199, 1, 199)
    row = conn.execute(
        "SELECT cardinality(ancestor_ids) FROM mv_entity_ancestors WHERE entity_id = 200"
    ).fetchone()
    assert row == (199,)


def test_no_build_joins_the_table_with_itself_by_ltree(conn):
    for source in (HierarchySource(), HierarchySource(parent="parent_id")):
        text = source.ddl()
        assert "@>" not in text
        assert "<@" not in text


HOSTILE = ['q"; DROP TABLE x; --', "☃ %s {}", "x" * 63, "Select"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_everything(conn, dsn, name):
    quoted = '"' + name.replace('"', '""') + '"'
    conn.execute(
        f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} int PRIMARY KEY,"
        f" p{quoted[1:-1].encode().hex()[:9]} ltree); "
    )
    path = f"p{quoted[1:-1].encode().hex()[:9]}"
    source = HierarchySource(
        name,
        schema=name,
        id=name,
        path=path,
        name=None,
        entity_type=None,
        ancestors_view=f"a{name}"[:60],
        counts_view=f"b{name}"[:60],
        stats_view=f"c{name}"[:60],
    )
    conn.execute(f"INSERT INTO {quoted}.{quoted} VALUES (1, 'a'), (2, 'a.b')")
    source.create(conn)
    assert source.views[0] == ViewName(name, f"a{name}"[:60])
    Schema().apply(conn)
    with Database(dsn) as database:
        report = mvrefresh.refresh(database, source.views)
    assert report
    assert len(report.outcomes) == 3
    source.drop(conn)
    source.drop(conn)


def test_ltree_in_another_schema(conn):
    conn.execute(
        "DROP EXTENSION ltree; CREATE SCHEMA extensions; CREATE EXTENSION ltree SCHEMA extensions;"
        "CREATE TABLE entities (id int, path extensions.ltree, name text, entity_type text)"
    )
    HierarchySource().create(conn)
    HierarchySource().drop(conn)
    conn.execute(HierarchySource(ltree_schema="extensions").ddl().encode())


def test_views_may_live_in_a_schema_of_their_own(conn):
    conn.execute(
        "CREATE SCHEMA app; CREATE SCHEMA views;"
        "CREATE TABLE app.entities (id int, path ltree, name text, entity_type text)"
    )
    source = HierarchySource("app.entities", view_schema="views")
    source.create(conn)
    assert {str(view) for view in source.views} == {
        "views.mv_entity_ancestors",
        "views.mv_descendant_counts",
        "views.mv_entity_hierarchy_stats",
    }


class TestRefused:
    def test_no_extension(self, conn):
        conn.execute("DROP EXTENSION ltree")
        with pytest.raises(ConfigurationError, match="CREATE EXTENSION ltree"):
            HierarchySource().create(conn)

    def test_no_table(self, conn):
        with pytest.raises(ConfigurationError, match="no table entities"):
            HierarchySource().create(conn)

    def test_no_column(self, conn):
        conn.execute("CREATE TABLE entities (id int, path ltree, title text)")
        with pytest.raises(ConfigurationError, match=r"no column name, entity_type; it has id"):
            HierarchySource().create(conn)

    def test_a_path_of_another_type(self, conn):
        conn.execute("CREATE TABLE entities (id int, path text, name text, entity_type text)")
        with pytest.raises(ConfigurationError, match="of type text, and ltree is needed"):
            HierarchySource().create(conn)

    def test_a_second_create_leaves_the_first_alone(self, conn):
        conn.execute("CREATE TABLE entities (id int, path ltree, name text, entity_type text)")
        HierarchySource().create(conn)
        with pytest.raises(Exception, match="already exists"):
            HierarchySource(ancestors_view="other").create(conn)
        assert conn.execute("SELECT to_regclass('other')").fetchone() == (None,)

    def test_views_that_are_there(self, conn):
        conn.execute("CREATE TABLE entities (id int, path ltree, name text, entity_type text)")
        conn.execute("CREATE VIEW mv_descendant_counts AS SELECT 1")
        there = 'relation "mv_descendant_counts" already exists: drop.connection. first, or leave'
        with pytest.raises(ConfigurationError, match=there) as raised:
            HierarchySource().create(conn)
        assert isinstance(raised.value.__cause__, DuplicateTable)
        row = conn.execute("SELECT to_regclass('mv_entity_ancestors')").fetchone()
        assert row == (None,)  # all or none
        conn.execute("DROP VIEW mv_descendant_counts")
        HierarchySource().create(conn)
        with pytest.raises(ConfigurationError, match='"mv_entity_ancestors" already exists'):
            HierarchySource().create(conn)
        HierarchySource().drop(conn)
        HierarchySource().create(conn)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"table": ""},
            {"table": "a.b.c"},
            {"id": ""},
            {"path": "x" * 64},
            {"stats_view": "mv_entity_ancestors"},
            {"schema": "\0"},
        ],
    )
    def test_names_that_are_none(self, wrong):
        with pytest.raises(ConfigurationError):
            HierarchySource(**wrong)

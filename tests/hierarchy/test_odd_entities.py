"""What a host's table may hold and no tutorial does: gaps, twins, circles, names with anything."""

from __future__ import annotations

import json
from contextlib import closing, contextmanager

import psycopg
import pytest
from hypothesis import given, settings, strategies as st
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, Schema
from mvrefresh.cache.buffer import BufferMeter
from mvrefresh.errors import ConfigurationError, MvrefreshError, UnknownEntity
from mvrefresh.hierarchy.node import HierarchyCounts, HierarchyNode
from mvrefresh.hierarchy.reader import HierarchyReader

INDEXES = {
    "no_index": "",
    "btree": "CREATE INDEX ON entities (path)",
    "gist": "CREATE INDEX ON entities USING gist (path)",
}


@pytest.fixture
def entities(conn):
    """An empty table with an index that serves it; what `add` puts into it is all there is."""
    Schema().apply(conn)
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, parent_id int, path ltree, name text,"
        " entity_type text); CREATE INDEX ON entities (path)"
    )

    def add(*rows):
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO entities (id, path, name, entity_type) VALUES (%s, %s, %s, 'x')",
                [(*row, f"n{row[0]}")[:3] for row in rows],
            )

    return add


@contextmanager
def resolving(dsn, source=None):
    """A resolver of its own."""
    with Database(dsn) as database, OptimizedHierarchyResolver(database, source) as resolver:
        yield resolver


@pytest.fixture
def resolver(dsn, conn, entities):
    HierarchySource().create(conn)
    with resolving(dsn) as resolver:
        yield resolver


def ids(nodes):
    return [node.id for node in nodes]


def from_the_view_and_from_the_table(resolver, key):
    """Ancestors and counts, which have to be the same both ways."""
    assert resolver.refresh_all_materialized_views()
    found = resolver.ancestors(key), resolver.counts(key)
    assert resolver.look_up(key).tier == "l1"
    assert (resolver.ancestors(key, 0.0), resolver.counts(key, 0.0)) == found
    return found


class TestPlaces:
    def test_without_a_path(self, resolver, entities):
        entities((1, "a"), (2, None), (3, None))
        above, counts = from_the_view_and_from_the_table(resolver, 2)
        assert (above, counts) == ((), HierarchyCounts(0, 0, 0, 0, None, "x"))
        assert resolver.path(2) is None
        assert resolver.node(2).depth is None
        assert resolver.descendants(2) == ()
        assert resolver.lowest_common_ancestor([1, 2]) is None

    def test_an_empty_path_is_above_nobody(self, resolver, entities):
        entities((1, ""), (2, "a"), (3, "a.b"))
        above, counts = from_the_view_and_from_the_table(resolver, 1)
        assert above == ()
        assert counts[:4] == (0, 0, 0, 0)
        assert resolver.descendants(1) == ()
        assert ids(from_the_view_and_from_the_table(resolver, 3)[0]) == [2]

    def test_an_orphan_is_a_root_of_its_own(self, resolver, entities):
        entities((1, "gone.too.here"), (2, "gone.too.here.below"))
        above, counts = from_the_view_and_from_the_table(resolver, 1)
        assert (above, counts) == ((), HierarchyCounts(1, 1, 1, 1, 2, "x"))
        assert ids(resolver.descendants(1)) == [2]

    def test_across_a_gap_the_parent_is_the_nearest_above(self, resolver, entities):
        entities((1, "a"), (2, "a.x.b"), (3, "a.x.b.c"), (4, "a.x.y.z.d"))
        _, counts = from_the_view_and_from_the_table(resolver, 1)
        assert counts == HierarchyCounts(2, 3, 2, 4, 0, "x")
        assert resolver.children(1) == ()  # one level below there is nobody
        assert ids(resolver.descendants(1, max_depth=2)) == [2]
        assert ids(from_the_view_and_from_the_table(resolver, 4)[0]) == [1]

    def test_twins_are_each_counted_and_share_what_is_below(self, resolver, entities):
        entities((1, "a"), (2, "a.b"), (3, "a.b"), (4, "a.b.c"), (5, "a.d"), (6, "a.d"))
        _, counts = from_the_view_and_from_the_table(resolver, 1)
        assert counts == HierarchyCounts(4, 5, 3, 2, 0, "x")
        for twin in (2, 3):
            assert from_the_view_and_from_the_table(resolver, twin)[1][:3] == (1, 1, 1)
        assert ids(from_the_view_and_from_the_table(resolver, 4)[0]) == [1, 2, 3]
        pages, page = [], None
        while found := resolver.descendants(1, limit=1, after=page):
            pages += ids(found)
            page = found[-1]
        assert pages == [2, 3, 4, 5, 6]

    @pytest.mark.parametrize("length", [255, 1000])
    def test_the_longest_label(self, resolver, conn, entities, length):
        if length > 255 and conn.info.server_version < 16_00_00:
            pytest.skip("such labels came with PostgreSQL 16")
        label = "m" * length
        entities((1, label), (2, f"{label}.a"), (3, f"{label[1:]}n.a"), (4, "z"), (5, f"z.{label}"))
        entities((6, f"z.{label}.a.b"), (7, "zz"))
        assert from_the_view_and_from_the_table(resolver, 1)[1][:3] == (1, 1, 1)
        assert from_the_view_and_from_the_table(resolver, 5)[1][:4] == (1, 1, 1, 2)
        assert ids(resolver.descendants(1)) == [2]
        assert ids(resolver.descendants(5)) == [6]

    def test_labels_beyond_letters_and_digits(self, resolver, conn, entities):
        labels = ["Ünï", "日本", "_", "0", "Z", "é"]
        if conn.info.server_version >= 16_00_00:
            labels += ["-", "a-b", "a-"]
        entities((1, "a"), (2, "a.a"))
        entities(*((10 + n, f"a.a.{label}") for n, label in enumerate(labels)))
        entities(*((30 + n, f"a.a{label}") for n, label in enumerate(labels)))
        _, counts = from_the_view_and_from_the_table(resolver, 2)
        assert counts == HierarchyCounts(len(labels), len(labels), len(labels), 1, 1, "x")
        below = ids(resolver.descendants(2))
        assert sorted(below) == list(range(10, 10 + len(labels)))
        assert len(resolver.children(1)) == 1 + len(labels)
        first = resolver.descendants(2, limit=2)
        assert ids(first + resolver.descendants(2, after=first[-1])) == below
        for key in below:
            assert ids(from_the_view_and_from_the_table(resolver, key)[0]) == [1, 2]

    def test_two_hundred_levels(self, resolver, conn):
        conn.execute(
            "INSERT INTO entities SELECT n, n - 1, text2ltree(repeat('n.', n - 1) || 'n'), n, 'x'"
            " FROM generate_series(1, 200) n"
        )
        assert ids(from_the_view_and_from_the_table(resolver, 200)[0]) == list(range(1, 200))
        assert from_the_view_and_from_the_table(resolver, 1)[1][:4] == (1, 199, 1, 199)
        assert ids(resolver.descendants(1)) == list(range(2, 201))
        assert resolver.lowest_common_ancestor([199, 200]).id == 199


class TestParents:
    """With a column of parents the views go by it, and by the path where it cannot be."""

    SOURCE = HierarchySource(parent="parent_id")

    def grow(self, conn, *rows):
        conn.cursor().executemany("INSERT INTO entities VALUES (%s, %s, %s, 'n', 'x')", rows)
        self.SOURCE.create(conn)

    def test_a_circle_ends(self, dsn, conn, entities):
        self.grow(conn, (1, 2, "a"), (2, 1, "a.b"), (3, 3, "c"), (4, 5, "d.x"), (5, 4, "d.y"))
        with resolving(dsn, self.SOURCE) as resolver:
            assert resolver.refresh_all_materialized_views()
            found = {key: ids(above) for key, above in resolver.ancestors_many(range(9)).items()}
            assert found == {1: [], 2: [1], 3: [], 4: [], 5: []}
            counts = resolver.counts_many(range(9))
            assert {key: c.descendant_count for key, c in counts.items()} == {
                1: 1, 2: 0, 3: 0, 4: 0, 5: 0,
            }  # fmt: skip

    def test_a_parent_that_is_nobody(self, dsn, conn, entities):
        self.grow(conn, (1, None, "a"), (2, 99, "a.b"), (3, 2, "a.b.c"))
        with resolving(dsn, self.SOURCE) as resolver:
            assert resolver.refresh_all_materialized_views()
            assert resolver.ancestors(2) == ()
            assert ids(resolver.ancestors(3)) == [2]
            assert resolver.counts(1).descendant_count == 0
            # What is read from the table goes by the path.
            assert ids(resolver.descendants(1)) == [2, 3]
            assert ids(resolver.ancestors(2, 0.0)) == [1]


NAMES = [
    "",
    'say "hi"',
    "{a,b}",
    "a\\b",
    None,
    "NULL",
    "two\nlines",
    "🌍🏴",
    "it's",
    "%s {} %(id)s",
    ",",
]


def test_names_of_every_kind_arrive_as_they_are(resolver, conn, entities):
    path = ""
    for key, name in enumerate(NAMES, 1):
        path += f".l{key}" if path else "l1"
        entities((key, path, name))
    above, _ = from_the_view_and_from_the_table(resolver, len(NAMES))
    assert [node.name for node in above] == NAMES[:-1]
    assert [node.name for node in resolver.descendants(1)] == NAMES[1:]
    assert resolver.node(5) == HierarchyNode(5, "l1.l2.l3.l4.l5", None)


@pytest.mark.parametrize(
    "name", ["My Table", "select", "100% {sure}", "é%s", 'q"; DROP TABLE x; --']
)
def test_names_that_have_to_be_quoted(dsn, conn, name):
    Schema().apply(conn)
    columns = {what: f"{what} {name}" for what in ("id", "path", "name", "type")}
    source = HierarchySource(
        name,
        schema=f"s {name}",
        id=columns["id"],
        path=columns["path"],
        name=columns["name"],
        entity_type=columns["type"],
        ancestors_view=f"a {name}",
        counts_view=f"c {name}",
        stats_view=f"st {name}",
    )
    table = sql.Identifier(f"s {name}", name)
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(f"s {name}")))
    conn.execute(
        sql.SQL("CREATE TABLE {} ({} int, {} ltree, {} text, {} text)").format(
            table, *map(sql.Identifier, columns.values())
        )
    )
    conn.execute(
        sql.SQL("INSERT INTO {} VALUES (1, 'a', 'A', 't'), (2, 'a.b', NULL, NULL)").format(table)
    )
    source.create(conn)
    with resolving(dsn, source) as resolver:
        above, counts = from_the_view_and_from_the_table(resolver, 2)
        assert (above, counts) == (
            (HierarchyNode(1, "a", "A"),),
            HierarchyCounts(0, 0, 0, 0, 1, ""),
        )
        assert resolver.descendants(1) == (HierarchyNode(2, "a.b", None),)


def test_ltree_where_no_search_path_looks(dsn, conn):
    conn.execute(
        "DROP EXTENSION ltree; CREATE SCHEMA elsewhere; CREATE EXTENSION ltree SCHEMA elsewhere;"
        "CREATE TABLE entities (id int, path elsewhere.ltree, name text, entity_type text);"
        "INSERT INTO entities VALUES (1, 'a'), (2, 'a.b'), (3, 'a.b.c')"
    )
    Schema().apply(conn)
    source = HierarchySource(ltree_schema="elsewhere")
    source.create(conn)
    with resolving(dsn, source) as resolver:
        assert ids(from_the_view_and_from_the_table(resolver, 3)[0]) == [1, 2]
        assert from_the_view_and_from_the_table(resolver, 1)[1][:4] == (1, 2, 1, 2)
        first = resolver.descendants(1, limit=1)
        assert ids(first + resolver.descendants(1, after=first[-1])) == [2, 3]


ASKING = {
    "ancestors": lambda r, key: r.ancestors(key),
    "ancestors_live": lambda r, key: r.ancestors(key, 0.0),
    "node": lambda r, key: r.node(key),
    "path": lambda r, key: r.path(key),
    "descendants": lambda r, key: r.descendants(key),
    "children": lambda r, key: r.children(key),
    "counts": lambda r, key: r.counts(key),
    "counts_live": lambda r, key: r.counts(key, 0.0),
    "is_ancestor": lambda r, key: r.is_ancestor(1, key),
    "look_up": lambda r, key: r.look_up(key),
    "lowest_common_ancestor": lambda r, key: r.lowest_common_ancestor([key]),
}


class TestIds:
    @pytest.mark.parametrize("what", ASKING)
    def test_unknown(self, resolver, entities, what):
        entities((1, "a"), (2, "a.b"))
        for key in (99, -1, 2**70, 3.5, float("nan"), None):
            with pytest.raises(UnknownEntity):
                ASKING[what](resolver, key)

    @pytest.mark.parametrize("what", ASKING)
    def test_of_another_type(self, resolver, entities, what):
        entities((1, "a"), (2, "a.b"))
        for key in ("x", "\0", b"1", (1,), object()):
            with pytest.raises(ConfigurationError, match="column id"):
                ASKING[what](resolver, key)
        assert ids(resolver.ancestors(2)) == [1]  # nothing is the worse for it

    def test_unknown_among_many_are_left_out(self, resolver, entities):
        entities((1, "a"), (2, "a.b"))
        assert set(resolver.ancestors_many([2, 99, None, 1])) == {1, 2}
        assert set(resolver.counts_many([2, 99, None, 1])) == {1, 2}
        assert resolver.ancestors_many([]) == {}
        with pytest.raises(UnknownEntity):
            resolver.lowest_common_ancestor([1, 99])

    def test_unknown_above_is_above_nobody(self, resolver, entities):
        entities((1, "a"), (2, "a.b"))
        assert not resolver.is_ancestor(99, 2)


class TestPages:
    @pytest.mark.parametrize("wrong", [{"max_depth": 0}, {"limit": 0}, {"limit": -1}])
    def test_bounds_that_cannot_be_meant(self, resolver, entities, wrong):
        entities((1, "a"), (2, "a.b"))
        with pytest.raises(ConfigurationError):
            resolver.descendants(1, **wrong)

    @pytest.mark.parametrize("path", ["a..b", ".", "a b!", "a'; DROP TABLE entities; --"])
    def test_a_malformed_path_to_go_on_after(self, resolver, entities, path):
        entities((1, "a"), (2, "a.b"))
        with pytest.raises(ConfigurationError):
            resolver.descendants(1, after=HierarchyNode(2, path, "n"))
        assert ids(resolver.descendants(1)) == [2]

    def test_after_what_is_elsewhere(self, resolver, entities):
        entities((1, "b"), (2, "b.c"), (3, "a"), (4, "z"))
        assert ids(resolver.descendants(1, after=resolver.node(3))) == [2]
        assert resolver.descendants(1, after=resolver.node(4)) == ()


def test_a_path_that_is_text_is_refused(dsn, conn):
    conn.execute(
        "CREATE TABLE entities (id int, path text, name text, entity_type text);"
        "INSERT INTO entities VALUES (1, 'a'), (2, 'not ltree!')"
    )
    with pytest.raises(ConfigurationError, match="of type text, and ltree is needed"):
        HierarchySource().create(conn)
    with reading(dsn) as reader:
        for read in (reader.live_counts, reader.live_lineages):
            with pytest.raises(ConfigurationError):
                read([2])
        with pytest.raises(ConfigurationError):
            reader.subtree(2, depth=None, limit=None, after=None)


class TestManyChildren:
    MANY = 100_000

    @pytest.fixture
    def crowd(self, dsn, conn, entities):
        """One entity with very many children, whom the view does not know yet."""
        HierarchySource().create(conn)
        entities((0, "r"), (-1, "z"))
        conn.execute(
            "INSERT INTO entities SELECT n, 0, ('r.c' || n)::ltree, 'n', 'x'"
            " FROM generate_series(1, %s) n",
            [self.MANY],
        )
        conn.execute("ANALYZE entities")
        # A statement that looks at every pair would not end in this time.
        return make_conninfo(dsn, options="-c statement_timeout=20s")

    def test_they_are_read_and_counted(self, crowd):
        with resolving(crowd) as resolver:
            assert len(resolver.children(0)) == self.MANY
            wanted = HierarchyCounts(self.MANY, self.MANY, self.MANY, 1, 0, "x")
            assert resolver.counts(0) == wanted
            assert ids(resolver.ancestors(77_777)) == [0]

    def test_a_page_is_read_from_where_the_last_ended(self, crowd, conn):
        with reading(crowd) as reader:
            query = sql.SQL(reader._statements.text("descendants", "%s", conn))
        values = {"id": 0, "depth": 1, "limit": 50, "after_path": "r.c50000", "after_id": 50_000}
        for mode in ("force_custom_plan", "force_generic_plan"):
            conn.execute(f"SET plan_cache_mode = {mode}")
            explained = conn.execute(
                sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) ") + query, values, prepare=True
            ).fetchone()[0]
            assert 50 <= most_rows(explained[0]["Plan"]) <= 52


def most_rows(plan):
    """Of all the nodes of a plan, the most rows that one gave or looked at in vain."""
    looked_at = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return max([looked_at, *map(most_rows, plan.get("Plans", []))])


# -- the live statements against those they took the place of ---------------------------------

COUNTS_PAIR_BY_PAIR = """
SELECT e.id,
       (SELECT count(*) FROM entities c
         WHERE c.path <@ e.path AND c.path <> e.path
           AND NOT EXISTS (SELECT FROM entities m
                            WHERE m.path @> c.path AND m.path <> c.path
                              AND m.path <@ e.path AND m.path <> e.path)),
       d.entities, d.leaves, coalesce(d.deepest - nlevel(e.path), 0), nlevel(e.path) - 1, 'x'
  FROM entities e
  LEFT JOIN LATERAL (
       SELECT count(*) AS entities, max(nlevel(c.path)) AS deepest,
              count(*) FILTER (WHERE NOT EXISTS (
                  SELECT FROM entities b WHERE b.path <@ c.path AND b.path <> c.path)) AS leaves
         FROM entities c
        WHERE c.path <@ e.path AND c.path <> e.path) d ON true"""

ANCESTORS_PAIR_BY_PAIR = """
SELECT e.id, coalesce(a.ids, '{}')
  FROM entities e
  LEFT JOIN LATERAL (
       SELECT array_agg(a.id ORDER BY nlevel(a.path), a.id) AS ids
         FROM entities a
        WHERE a.path @> e.path AND a.path <> e.path) a ON true"""


@contextmanager
def reading(dsn):
    with Database(dsn) as database:
        yield HierarchyReader(database, HierarchySource(), tracked=False, meter=BufferMeter(0))


@st.composite
def tables(draw):
    """Paths by id with gaps, twins, and some without a place."""
    labels = st.sampled_from(["a", "b", "B", "0", "_", "a0", "a_", "aa", "é", "ab", "aé"])
    paths = []
    for _ in range(draw(st.integers(1, 30))):
        above = draw(st.sampled_from([(), *paths]))
        paths.append((*above, *draw(st.lists(labels, max_size=3))) or ("a",))
    nowhere = draw(st.integers(0, 2))
    return dict(enumerate([*(".".join(path) for path in paths), *[None] * nowhere], 1))


@pytest.mark.parametrize("index", INDEXES)
def test_live_reading_gives_what_looking_at_every_pair_gives(dsn, conn, index):
    conn.execute("CREATE TABLE entities (id int, path ltree, name text, entity_type text)")
    conn.execute(INDEXES[index])
    # So small a table is read as a whole unless that is made dear; and what is dear is compiled.
    indexed = make_conninfo(dsn, options="-c enable_seqscan=off -c jit=off")

    with reading(dsn if index == "no_index" else indexed) as reader:

        @settings(max_examples=40)
        @given(tables())
        def agrees(table):
            conn.execute("TRUNCATE entities")
            conn.execute(
                "INSERT INTO entities SELECT key::int, value::ltree, 'n', 'x'"
                " FROM json_each_text(%s)",
                [json.dumps(table)],
            )
            counts = {
                row[0]: HierarchyCounts(*row[1:]) for row in conn.execute(COUNTS_PAIR_BY_PAIR)
            }
            assert reader.live_counts(list(table)) == counts
            above = dict(conn.execute(ANCESTORS_PAIR_BY_PAIR).fetchall())
            found = reader.live_lineages(list(table))
            assert {key: ids(nodes) for key, (_, nodes) in found.items()} == above
            for key, path in table.items():
                node, nodes = found[key]
                assert node == (key, path, "n")
                assert [n.path for n in nodes] == [table[n.id] for n in nodes]

        agrees()


def test_live_counts_where_text_sorts_by_a_language(dsn, conn):
    """There punctuation counts for nothing, and what is below a path is not right after it."""
    name = f"{conn.info.dbname}_icu"
    try:
        conn.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu"
            " ICU_LOCALE 'en-u-ka-shifted'"
        )
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.SyntaxError) as error:
        pytest.skip(f"no ICU here: {error}")
    other = make_conninfo(dsn, dbname=name)
    try:
        with closing(psycopg.connect(other, autocommit=True)) as other_conn:
            other_conn.execute(
                "CREATE EXTENSION ltree;"
                "CREATE TABLE entities (id int, path ltree, name text, entity_type text)"
            )
            paths = ["r", "r.a", "r.ab", "r.a.c", "r.B", "r.a_", "r.b", "r.A.c", "r.a0.c", "r.é"]
            for key, path in enumerate(paths):
                other_conn.execute("INSERT INTO entities VALUES (%s, %s)", (key, path))
            wanted = {row[0]: row[1:5] for row in other_conn.execute(COUNTS_PAIR_BY_PAIR)}
        with reading(other) as reader:
            found = reader.live_counts(range(len(paths)))
        assert {key: counts[:4] for key, counts in found.items()} == wanted
    finally:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_ancestors_are_looked_for_by_the_index_that_is_there(dsn, conn):
    """Each is one search of the index, never the whole table."""
    conn.execute(
        "CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);"
        "INSERT INTO entities SELECT n, ('r.c' || n / 100 || '.d' || n)::ltree, 'n', 'x'"
        " FROM generate_series(1, 20000) n"
    )
    for create in (INDEXES["btree"], INDEXES["gist"]):
        conn.execute(f"DROP INDEX IF EXISTS entities_path_idx; {create}; ANALYZE entities")
        with reading(dsn) as reader, closing(psycopg.connect(dsn)) as other:
            query = sql.SQL(reader._statements.text("live_ancestors", "%s", conn))
            explained = other.execute(
                sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) ") + query, [[77, 7777]]
            ).fetchone()[0]
        assert most_rows(explained[0]["Plan"]) < 100


# -- what nobody means ---------------------------------------------------------------------------


@pytest.fixture
def two(resolver, entities):
    entities((1, "a"), (2, "a.b"), (3, "a.b.c"))
    resolver.refresh_all_materialized_views()
    return resolver


@pytest.mark.parametrize("what", ASKING)
@pytest.mark.parametrize("key", [[1], {}, {1}], ids=["list", "dict", "set"])
def test_unhashable(two, what, key):
    with pytest.raises(ConfigurationError):
        ASKING[what](two, key)


def test_unhashable_among_many(two):
    for ask in (two.ancestors_many, two.counts_many):
        with pytest.raises(ConfigurationError):
            ask([1, [2]])


@pytest.mark.parametrize("what", ASKING)
def test_text_that_is_not_unicode(two, what):
    with pytest.raises(ConfigurationError):
        ASKING[what](two, "\ud800")


def test_views_gone(two, conn):
    HierarchySource().drop(conn)
    for ask in (lambda: two.ancestors(1, 0.0), lambda: two.counts(1, 0.0), two.look_again):
        with pytest.raises(MvrefreshError):
            ask()


def test_after_without_a_path_is_not_the_first_page(two):
    with pytest.raises(ConfigurationError):
        two.descendants(1, limit=1, after=HierarchyNode(2, None, "n"))


@pytest.mark.parametrize("after", [2, "a.b"])
def test_after_that_is_no_node(two, after):
    with pytest.raises(ConfigurationError):
        two.descendants(1, after=after)


@pytest.mark.parametrize("wrong", [{"limit": "x"}, {"limit": 1.5}, {"max_depth": "x"}])
def test_bounds_of_another_type(two, wrong):
    with pytest.raises(ConfigurationError):
        two.descendants(1, **wrong)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"after": HierarchyNode(2, "a..b", "n")}, "after"),
        ({"limit": 2**70}, "limit"),
        ({"max_depth": 2**40}, "max_depth"),
    ],
    ids=["after", "limit", "max_depth"],
)
def test_the_message_names_what_is_wrong(two, asked, said):
    with pytest.raises(ConfigurationError) as caught:
        two.descendants(1, **asked)
    assert "ids are not of the type" not in str(caught.value)
    assert said in str(caught.value).split("{")[0]


def test_ids_given_as_text_are_answered_alike(two):
    said = set()
    for what in ("ancestors", "descendants", "counts"):
        try:
            ASKING[what](two, "2")
            said.add("answer")
        except (UnknownEntity, ConfigurationError) as error:
            said.add(type(error))
    assert len(said) == 1


def test_lowest_common_ancestor_of_an_iterator(two):
    assert two.lowest_common_ancestor(iter([2, 3])).id == 2


def test_ltree_elsewhere_is_said_or_found(dsn, conn):
    conn.execute(
        "DROP EXTENSION ltree; CREATE SCHEMA elsewhere; CREATE EXTENSION ltree SCHEMA elsewhere;"
        "CREATE TABLE entities (id int, path elsewhere.ltree, name text, entity_type text);"
        "INSERT INTO entities VALUES (1, 'a'), (2, 'a.b')"
    )
    Schema().apply(conn)
    HierarchySource().create(conn)  # finds ltree by itself
    with resolving(dsn) as resolver:
        said = "ltree_schema"
        try:
            assert ids(resolver.descendants(1)) == [2]
        except ConfigurationError as error:
            said = str(error)
    assert "ltree_schema" in said

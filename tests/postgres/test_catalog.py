"""What the catalog says of views, on databases that were built to be awkward."""

from __future__ import annotations

import sys
import tempfile

import psycopg
import pytest

from mvrefresh import ViewName
from mvrefresh.postgres.catalog import read_catalog


def views(conn):
    return {view.label: view for view in read_catalog(conn)}


def reads(graph, view):
    return {graph[oid].label for oid in view.reads}


def test_facts_of_a_view(conn):
    conn.execute(
        "CREATE SCHEMA app; CREATE TABLE app.t (id int, n text);"
        "INSERT INTO app.t SELECT g FROM generate_series(1, 1000) g;"
        "CREATE MATERIALIZED VIEW app.m AS SELECT * FROM app.t;"
        "CREATE UNIQUE INDEX good ON app.m (id) INCLUDE (n);"
        "CREATE UNIQUE INDEX near ON app.m (n) WHERE id > 0; ANALYZE app.m;"
        "CREATE MATERIALIZED VIEW empty AS SELECT 1 AS x WITH NO DATA"
    )
    found = views(conn)
    m = found["app.m"]
    assert m.name == ViewName("app", "m")
    assert (m.owner, m.populated, m.permitted, m.rows_estimate) == ("postgres", True, True, 1000)
    assert m.size_bytes > 30_000
    assert [i.name for i in m.unique_indexes] == ["good", "near"]
    assert m.usable_index.columns == ("id",)
    assert m.base_tables == ("app.t",)
    assert not found["empty"].populated


def test_reads_through_views_functions_and_partitions(conn):
    conn.execute(
        "CREATE TABLE p (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
        "CREATE MATERIALIZED VIEW source AS SELECT * FROM p;"
        "CREATE VIEW plain AS SELECT * FROM source; CREATE VIEW plain2 AS SELECT * FROM plain;"
        "CREATE MATERIALIZED VIEW through_views AS SELECT count(*) FROM plain2;"
        "CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM plain; END;"
        "CREATE MATERIALIZED VIEW through_function AS SELECT f();"
        "CREATE MATERIALIZED VIEW sub AS SELECT (SELECT max(id) FROM source) AS x;"
        "CREATE MATERIALIZED VIEW far AS TABLE through_views"
    )
    graph = read_catalog(conn)
    found = {view.label: view for view in graph}
    assert found["source"].base_tables == ("p", "p1")
    for name in ("through_views", "through_function", "sub"):
        assert reads(graph, found[name]) == {"source"}, name
    assert reads(graph, found["far"]) == {"through_views"}
    assert next(iter(found)) == "source"


def test_an_oid_shared_by_a_function_and_a_table_is_no_bridge(conn):
    """Oids are unique within one catalog only: forge the clash, as a wraparound would."""
    conn.execute(
        "CREATE TABLE t (x int); CREATE MATERIALIZED VIEW a AS TABLE t;"
        "CREATE MATERIALIZED VIEW b AS SELECT 1 AS x;"
        "CREATE FUNCTION g() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM a; END;"
        "SET allow_system_table_mods = on;"
        "UPDATE pg_depend SET objid = 'b'::regclass::oid"
        " WHERE classid = 'pg_proc'::regclass AND objid = 'g()'::regprocedure::oid;"
    )
    assert views(conn)["b"].reads == frozenset()


@pytest.mark.parametrize(
    ("expression", "clock", "volatile"),
    [
        ("now()", ("now",), ()),
        ("CURRENT_DATE", ("current_date",), ()),
        ("CURRENT_TIMESTAMP(3)", ("current_timestamp",), ()),
        ("LOCALTIME", ("localtime",), ()),
        ("age(x)", ("age",), ()),
        ("clock_timestamp()", ("clock_timestamp",), ()),
        ("random()", (), ("random",)),
        ("gen_random_uuid()", (), ("gen_random_uuid",)),
        ("mine.f()", (), ("mine.f",)),
        ("1 OPERATOR(mine.@@@) 2", (), ("mine.f2",)),
        ("upper('x')", (), ()),
        ("x + interval '1 day'", (), ()),
        ("age(x, x)", (), ()),
    ],
)
def test_clock_and_volatile_functions(conn, expression, clock, volatile):
    conn.execute(
        "CREATE SCHEMA mine; CREATE FUNCTION mine.f() RETURNS int LANGUAGE sql VOLATILE"
        " AS 'SELECT 1'; CREATE FUNCTION mine.f2(int, int) RETURNS int LANGUAGE sql VOLATILE"
        " AS 'SELECT 1'; CREATE OPERATOR mine.@@@ (leftarg = int, rightarg = int,"
        " function = mine.f2); CREATE TABLE t (x timestamptz);"
        f"CREATE VIEW v AS SELECT {expression} AS y FROM t;"
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM v"
    )
    m = views(conn)["m"]
    assert m.clock_functions == clock
    assert m.volatile_functions == volatile


def test_a_window_in_a_where_is_found(conn):
    conn.execute(
        "CREATE TABLE t (ts timestamptz); CREATE MATERIALIZED VIEW m AS"
        " SELECT count(*) FROM t WHERE ts >= now() - interval '180 days'"
    )
    assert views(conn)["m"].clock_functions == ("now",)


@pytest.mark.skipif(sys.platform != "linux", reason="libpq traces to a file on Linux only")
def test_the_number_of_round_trips_does_not_grow_with_the_views(conn):
    """Counted on the wire: each Sync that the client sends is one."""

    def round_trips():
        with tempfile.TemporaryFile() as trace:
            conn.pgconn.trace(trace.fileno())
            conn.pgconn.set_trace_flags(psycopg.pq.Trace.SUPPRESS_TIMESTAMPS)
            read_catalog(conn)
            conn.pgconn.untrace()
            trace.seek(0)
            return sum(line.startswith(b"F") and b"Sync" in line for line in trace)

    before = round_trips()
    for i in range(100):
        conn.execute(f"CREATE MATERIALIZED VIEW m{i} AS SELECT 1 AS x")
    assert len(read_catalog(conn)) == 100
    assert round_trips() == before == 1

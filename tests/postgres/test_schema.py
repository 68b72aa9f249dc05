"""Installing and upgrading the library's tables."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import psycopg
import pytest

from mvrefresh import Schema
from mvrefresh.errors import SchemaMissing, SchemaOutdated, SchemaTooNew

HOSTILE = 'a"b; DROP %s {} ☃'


def objects(conn, schema="mvrefresh"):
    return conn.execute(
        "SELECT c.relname, c.relkind::text FROM pg_class c"
        " WHERE relnamespace = to_regnamespace(quote_ident(%s)) ORDER BY 1",
        (schema,),
    ).fetchall()


@pytest.mark.parametrize("name", ["mvrefresh", HOSTILE])
def test_installs_once_and_says_so(conn, name):
    schema = Schema(name)
    with pytest.raises(SchemaMissing, match="mvrefresh schema --apply"):
        schema.check(conn)
    assert schema.apply(conn) == (0, schema.latest)
    assert schema.apply(conn) == (schema.latest, schema.latest)
    schema.check(conn)
    assert "state" in str(objects(conn, name))


def test_metrics_may_live_elsewhere(conn):
    Schema("mine", metrics="public").apply(conn)
    assert conn.execute("SELECT to_regclass('public.refresh_metrics')").fetchone() != (None,)
    assert "refresh_metrics" not in str(objects(conn, "mine"))


@pytest.mark.parametrize("name", ["mvrefresh", HOSTILE])
def test_the_script_does_what_apply_does(conn, new_dsn, name):
    schema = Schema(name)
    schema.apply(conn)
    with closing(psycopg.connect(new_dsn(), autocommit=True)) as other:
        other.execute(schema.ddl().encode())
        schema.check(other)
        assert objects(other, name) == objects(conn, name)


def test_its_text_survives_a_driver_that_has_parameters():
    """Alembic writes a per cent sign twice where it only writes (`--sql`), also in a literal."""
    assert not [number for number, text in Schema._steps() if "%" in text]


def test_an_older_version_is_named_and_upgraded_in_place(conn):
    schema = Schema()
    head, first, *_ = schema.statements()
    conn.execute(head)
    conn.execute(first)
    conn.execute(
        "CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x; INSERT INTO mvrefresh.state VALUES"
        " ('mv'::regclass, 7, gen_random_uuid(), now(), pg_current_snapshot(), now(), now(), 1,"
        " 'r', gen_random_uuid())"
    )
    with pytest.raises(SchemaOutdated, match="version 1"):
        schema.check(conn)
    assert schema.apply(conn) == (1, schema.latest)
    schema.check(conn)
    assert conn.execute("SELECT refresh_no FROM mvrefresh.state").fetchone() == (7,)


def test_a_newer_version_is_left_alone(conn):
    schema = Schema()
    schema.apply(conn)
    conn.execute("INSERT INTO mvrefresh.version VALUES (99)")
    for attempt in (schema.check, schema.apply):
        with pytest.raises(SchemaTooNew, match="99"):
            attempt(conn)


def test_a_failing_install_leaves_nothing(conn):
    conn.execute("CREATE SCHEMA mvrefresh; CREATE TABLE mvrefresh.state (mine int)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        Schema().apply(conn)
    assert objects(conn) == [("state", "r")]


def test_eight_processes_at_once(conn, dsn):
    script = (
        "import sys, psycopg, mvrefresh\n"
        "with psycopg.connect(sys.argv[1], autocommit=True) as conn:\n"
        "    sys.stdin.readline()\n"
        "    print(mvrefresh.Schema().apply(conn)[0])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, dsn],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    before = sorted(int(process.communicate()[0]) for process in processes)
    assert before == [0] + [Schema().latest] * 7
    assert [process.returncode for process in processes] == [0] * 8

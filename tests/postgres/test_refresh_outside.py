"""Calls of `refresh_view` and `refresh_views`: rights, names, decisions, several views at once."""

from __future__ import annotations

from contextlib import closing
from itertools import combinations, product

import psycopg
import pytest
from psycopg import errors as pg, sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from tests.postgres.conftest import WORLD
from tests.postgres.test_refresh_view import (
    OF_ITS_OWN,
    QUICK,
    by_library,
    by_sql,
    records,
    refresh_view,
    refreshed,
    state,
)

import mvrefresh
from mvrefresh import Database, Schema
from mvrefresh.postgres.catalog import read_catalog
from mvrefresh.refreshing.plan import make_plan


class TestRefused:
    def test_what_cannot_be_meant(self, world):
        for arguments, error, said in [
            ("'base'", pg.WrongObjectType, "base is not a materialized view"),
            ("'between_them'", pg.WrongObjectType, "between_them is not"),
            ("4711", pg.UndefinedTable, "4711"),
            ("NULL", pg.UndefinedTable, "p_view is null"),
            ("'gone'", pg.UndefinedTable, "gone"),
            ("'mv', 'quick'", pg.InvalidParameterValue, "'quick'"),
            ("'mv', NULL", pg.InvalidParameterValue, "NULL"),
            ("'mv', p_fallback => 'maybe'", pg.InvalidParameterValue, "'maybe'"),
            ("'mv', p_fallback => NULL", pg.InvalidParameterValue, "NULL"),
            ("'mv', p_lock_timeout => '0'", pg.InvalidParameterValue, "millisecond"),
            ("'mv', p_lock_timeout => NULL", pg.InvalidParameterValue, "millisecond"),
            ("'mv', p_wait_timeout => '-1 s'", pg.InvalidParameterValue, "millisecond"),
        ]:
            with pytest.raises(error, match=said):
                world.execute(f"SELECT mvrefresh.refresh_view({arguments})")
        assert records(world) == []
        assert state(world) is None

    def test_without_a_limit(self, world):
        assert refreshed(world, wait_timeout=None)

    def test_without_a_right(self, refresher, world):
        for right, role, said in [
            ("USAGE ON SCHEMA mvrefresh", "mv_refresher", "schema mvrefresh"),
            ("UPDATE ON mvrefresh.state", "mv_refresher", "UPDATE on mvrefresh.state"),
            ("UPDATE ON mvrefresh.schedule", "mv_refresher", "UPDATE on mvrefresh.schedule"),
            ("INSERT ON mvrefresh.refresh_metrics", "mv_refresher", "INSERT on mvrefresh.refresh_"),
            ("EXECUTE ON FUNCTION mvrefresh.refresh_view", "public", "function refresh_view"),
            (refreshing(world), "mv_refresher", "mv_refresher may not refresh app.mv"),
            ("USAGE ON SCHEMA app", "mv_refresher, app_owner", "may not refresh app.mv"),
        ]:
            world.execute(f"REVOKE {right} FROM {role}")
            with pytest.raises(pg.InsufficientPrivilege) as caught:
                refresh_oid(refresher, world)
            diag = caught.value.diag
            words = f"{diag.message_primary} {diag.message_detail}".replace('"', "")
            assert said in words
            world.execute(f"GRANT {right} TO {role}")
        assert records(world) == []

    def test_with_the_rights_of_the_page_and_no_others(self, refresher, world):
        assert refresh_oid(refresher, world)["status"] == "succeeded"
        world.execute("INSERT INTO base VALUES (4, 'x')")
        again = refresh_oid(refresher, world)
        assert (again["status"], again["rows_inserted"]) == ("succeeded", 1)
        (oid,) = world.execute("SELECT 'app.mv'::regclass::oid").fetchone()
        refresher.execute("CALL mvrefresh.refresh_views(ARRAY[%s::oid::regclass])", (oid,))
        assert {row[1] for row in records(world)} == {"succeeded"}
        assert len(records(world)) == 3


def refreshing(connection):
    """What lets a role refresh app.mv, as a thing to grant or revoke."""
    return "MAINTAIN ON app.mv" if connection.info.server_version >= 170000 else "app_owner"


@pytest.fixture
def refresher(world, dsn):
    """A role with what docs/how-to/permissions.md grants, and its view app.mv."""
    world.execute(
        "CREATE ROLE mv_refresher; CREATE ROLE app_owner;"
        "CREATE SCHEMA app; CREATE MATERIALIZED VIEW app.mv AS SELECT * FROM base;"
        "CREATE UNIQUE INDEX ON app.mv (id); GRANT SELECT ON base TO app_owner;"
        "GRANT USAGE ON SCHEMA mvrefresh TO mv_refresher;"
        "GRANT SELECT ON mvrefresh.version TO mv_refresher;"
        "GRANT SELECT, INSERT, UPDATE ON mvrefresh.state TO mv_refresher;"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON mvrefresh.schedule TO mv_refresher;"
        "GRANT SELECT, INSERT ON mvrefresh.refresh_metrics TO mv_refresher;"
        "GRANT USAGE ON SCHEMA app TO mv_refresher, app_owner;"
        "GRANT CREATE ON SCHEMA app TO app_owner;"
        "ALTER MATERIALIZED VIEW app.mv OWNER TO app_owner;"
        f"GRANT {refreshing(world)} TO mv_refresher"
    )
    try:
        as_role = make_conninfo(dsn, options="-c role=mv_refresher")
        with closing(psycopg.connect(as_role, autocommit=True)) as connection:
            yield connection
    finally:
        for role in ("mv_refresher", "app_owner"):
            world.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def refresh_oid(connection, world):
    """By its oid, which needs no right on its schema."""
    (oid,) = world.execute("SELECT 'app.mv'::regclass::oid").fetchone()
    return refresh_view(connection, oid)


NAMES = ["Ünïcode ☃", 'qu"ote', "100%s {}", "it's", "two words", "select", "$x$", "a" * 63]


class TestNames:
    def test_hostile_ones(self, world, dsn):
        """In schemas of such names, off the search_path."""
        with Database(dsn) as database:
            for name in NAMES:
                view = sql.Identifier(name, name).as_string(world)
                world.execute(
                    f"CREATE SCHEMA {sql.Identifier(name).as_string(world)};"
                    f"CREATE MATERIALIZED VIEW {view} AS SELECT * FROM base;"
                    f"CREATE UNIQUE INDEX {sql.Identifier(name[:60] + 'i').as_string(world)}"
                    f" ON {view} (id, name)"
                )
                theirs, ours = by_library(database, view), by_sql(world, view)
                for key in ("view_name", "strategy", "reason", "refresh_no", "content_token"):
                    assert ours[key] == theirs[key]
                assert ours["content_changed"] is False

    @pytest.mark.parametrize("name", ['my "state"', "it's {100%}"])
    def test_of_the_librarys_schemas(self, conn, name):
        schema = Schema(name, metrics=name + "2")
        schema.apply(conn)
        conn.execute(WORLD)
        function = schema.identifier("refresh_view").as_string(conn)
        (status,) = conn.execute(f"SELECT status FROM {function}('mv')").fetchone()
        assert status == "succeeded"
        table = schema.metrics_table.as_string(conn)
        assert conn.execute(f"SELECT status FROM {table}").fetchone() == ("succeeded",)

    def test_the_search_path_does_not_matter(self, world):
        world.execute(
            "CREATE SCHEMA decoys; CREATE TABLE decoys.state (x int);"
            "CREATE TABLE decoys.refresh_metrics (x int); CREATE TEMP TABLE pg_class (x int);"
            "CREATE FUNCTION decoys.gen_random_uuid() RETURNS uuid LANGUAGE sql"
            " AS 'SELECT NULL::uuid';"
            "CREATE FUNCTION decoys.finish_refresh() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
        (oid,) = world.execute("SELECT 'mv'::regclass::oid").fetchone()
        for key, path in enumerate(["", "decoys, public, pg_catalog", "pg_temp, pg_catalog"]):
            world.execute("SELECT set_config('search_path', %s, false)", (path,))
            assert refreshed(world, oid)["view_name"] == "mv"
            world.execute("INSERT INTO public.base VALUES (%s)", (10 + key,))
            assert refreshed(world, oid)["rows_inserted"] == 1
            world.execute("CALL mvrefresh.refresh_views()")
        (chain,) = world.execute(
            "SELECT changes FROM mvrefresh.state WHERE view = %s", (oid,)
        ).fetchone()
        assert [link["keys"] for link in chain] == [[12], [11], [10]]


INDEXES = [
    "CREATE UNIQUE INDEX {}good ON {{v}} (id, name)",
    "CREATE UNIQUE INDEX {}partial ON {{v}} (id) WHERE id > 0",
    "CREATE UNIQUE INDEX {}both ON {{v}} (abs(id)) WHERE id > 0",
    'CREATE UNIQUE INDEX "{}Ex pr" ON {{v}} (abs(id))',
    "CREATE INDEX {}plain ON {{v}} (id)",
    "CREATE UNIQUE INDEX {}included ON {{v}} (name) INCLUDE (id)",
    """CREATE UNIQUE INDEX {}invalid ON {{v}} (id);
       UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{}invalid'::regclass""",
]


class TestDecisions:
    def test_the_method_and_its_reason_are_those_of_the_plan(self, world):
        chosen = [(), *((index,) for index in INDEXES), *combinations(INDEXES, 2)]
        for number, indexes in enumerate(chosen):
            view, empty = f"v{number}", f"e{number}"
            world.execute(
                f"CREATE MATERIALIZED VIEW {view} AS SELECT * FROM base;"
                f"CREATE MATERIALIZED VIEW {empty} AS SELECT * FROM base WITH NO DATA"
            )
            for place, index in enumerate(indexes):
                for name in (view, empty):
                    prefix = f"{name}_{place}"
                    world.execute(index.replace("{}", prefix).replace("{{v}}", name))
        graph = read_catalog(world)
        for method, fallback in product(("auto", "concurrent", "regular"), ("regular", "never")):
            plan = make_plan(graph, method=method, fallback=fallback)
            expected = {step.view.oid: (step.strategy, step.reason) for step in plan}
            rows = world.execute(
                "SELECT c.oid::bigint, m.strategy, m.reason FROM pg_class c,"
                " mvrefresh.method_of(c.oid, %s, %s) m WHERE c.relkind = 'm'",
                (method, fallback),
            )
            assert {oid: (strategy, reason) for oid, strategy, reason in rows} == expected
        assert len(expected) == 2 * len(chosen) + 3

    def test_what_a_view_reads_is_what_the_catalog_says(self, world):
        world.execute(
            "CREATE TABLE p (id int) PARTITION BY RANGE (id);"
            "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
            "CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC"
            " SELECT count(*) FROM between_them; END;"
            "CREATE FUNCTION g() RETURNS bigint BEGIN ATOMIC SELECT f(); END;"
            "CREATE MATERIALIZED VIEW through_function AS SELECT g();"
            "CREATE MATERIALIZED VIEW over AS SELECT t.n, u.g FROM top t, through_function u;"
            "CREATE VIEW wide AS SELECT (SELECT max(id) FROM mv) AS x, o.n FROM over o, p;"
            "CREATE MATERIALIZED VIEW far AS SELECT * FROM wide;"
            "CREATE MATERIALIZED VIEW late AS SELECT 1 AS x;"
            "CREATE VIEW swapped AS SELECT 1 AS x;"
            "CREATE MATERIALIZED VIEW circle AS SELECT x FROM swapped;"
            "CREATE OR REPLACE VIEW swapped AS SELECT x FROM circle;"
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
            "CREATE FOREIGN TABLE outside (id int) SERVER s;"
            "CREATE MATERIALIZED VIEW over_foreign AS SELECT * FROM outside WITH NO DATA"
        )
        graph = read_catalog(world)
        for deep in (False, True):
            rows = world.execute(
                "SELECT c.oid::bigint, ARRAY(SELECT mvrefresh.views_read(c.oid, %s))::bigint[]"
                " FROM pg_class c WHERE c.relkind = 'm'",
                (deep,),
            ).fetchall()
            assert len(rows) == len(graph)
            for oid, reads in rows:
                expected = graph.upstream([oid]) if deep else graph[oid].reads
                assert len(reads) == len(set(reads))
                assert set(reads) == set(expected) - {oid}, graph[oid].label

    def test_an_oid_shared_by_a_function_and_a_table_is_no_bridge(self, world):
        """Oids are unique within one catalog only: forge the clash, as a wraparound would."""
        world.execute(
            "CREATE FUNCTION g() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM mv; END;"
            "CREATE MATERIALIZED VIEW other AS SELECT 1 AS x;"
            "SET allow_system_table_mods = on;"
            "UPDATE pg_depend SET objid = 'other'::regclass::oid"
            " WHERE classid = 'pg_proc'::regclass AND objid = 'g()'::regprocedure::oid;"
        )
        read = world.execute("SELECT mvrefresh.views_read('other'::regclass)").fetchall()
        assert read == []


class TestSeveral:
    def test_each_after_those_that_it_reads_and_in_a_transaction_of_its_own(self, world):
        world.execute("CREATE MATERIALIZED VIEW above AS SELECT n FROM top")
        world.execute("CALL mvrefresh.refresh_views(ARRAY['above', 'mv', 'top', 'mv']::regclass[])")
        rows = world.execute(
            "SELECT m.view_name, s.xmin::text, m.run_id FROM mvrefresh.refresh_metrics m"
            " JOIN mvrefresh.state s ON s.view = m.view_name::regclass ORDER BY m.id"
        ).fetchall()
        names, transactions, runs = zip(*rows, strict=True)
        assert names == ("mv", "top", "above")
        assert len(set(transactions)) == 3
        assert len(set(runs)) == 1
        as_of = world.execute("SELECT DISTINCT content_as_of FROM mvrefresh.state").fetchall()
        assert len(as_of) == 1

    def test_all(self, world):
        world.execute("CALL mvrefresh.refresh_views()")
        assert sorted(row[0] for row in records(world)) == ['"Empty 100%"', "mv", "top"]

    def test_none(self, world):
        world.execute("CALL mvrefresh.refresh_views('{}')")
        assert records(world) == []

    def test_a_failure_skips_what_reads_it_and_is_raised_at_the_end(self, world):
        world.execute(
            "CREATE MATERIALIZED VIEW bad AS SELECT 1 / 0 AS x WITH NO DATA;"
            "CREATE MATERIALIZED VIEW over_bad AS SELECT x FROM bad WITH NO DATA;"
            "CREATE MATERIALIZED VIEW over_that AS SELECT x FROM over_bad WITH NO DATA"
        )
        with pytest.raises(pg.RaiseException, match="3 of 6 views") as caught:
            world.execute("CALL mvrefresh.refresh_views()")
        first, second, third = caught.value.diag.message_detail.splitlines()
        assert first.startswith("bad: division by zero [22012]")
        assert second == (
            "over_bad: bad was not refreshed. Mend the view it reads; this one was left alone."
        )
        assert third.startswith("over_that: over_bad was not refreshed")
        assert {row[0]: row[1:3] for row in records(world)} == {
            "bad": ("failed", False),
            "over_bad": ("skipped_upstream", None),
            "over_that": ("skipped_upstream", None),
            "mv": ("succeeded", True),
            "top": ("succeeded", True),
            '"Empty 100%"': ("succeeded", True),
        }

    def test_a_skip_is_recorded_as_the_library_records_it(self, world, dsn):
        world.execute(
            "CREATE MATERIALIZED VIEW bad AS SELECT 1 / 0 AS x WITH NO DATA;"
            "CREATE MATERIALIZED VIEW over_bad AS SELECT x FROM bad WITH NO DATA"
        )
        with Database(dsn) as database:
            mvrefresh.refresh(database, ["bad", "over_bad"], policy=QUICK)
        with pytest.raises(pg.RaiseException):
            world.execute(
                "CALL mvrefresh.refresh_views(ARRAY['bad', 'over_bad']::regclass[],"
                " p_trigger => 'manual')"
            )
        cursor = world.cursor(row_factory=dict_row)
        rows = cursor.execute("SELECT * FROM mvrefresh.refresh_metrics ORDER BY id").fetchall()
        plain = [{k: v for k, v in row.items() if k not in OF_ITS_OWN} for row in rows]
        assert plain[:2] == plain[2:]

    def test_a_transaction_of_the_callers_is_refused_before_anything(self, world):
        with pytest.raises(pg.InvalidTransactionTermination), world.transaction():
            world.execute("CALL mvrefresh.refresh_views()")
        assert records(world) == []

    def test_a_name_that_is_none_is_refused_before_anything(self, world):
        with pytest.raises(pg.WrongObjectType):
            world.execute("CALL mvrefresh.refresh_views(ARRAY['mv', 'base']::regclass[])")
        assert records(world) == []

    def test_under_other_defaults_of_the_role(self, world):
        world.execute(
            "SET default_transaction_isolation = 'serializable';"
            "SET default_transaction_read_only = on"
        )
        world.execute("CALL mvrefresh.refresh_views()")
        assert len(records(world)) == 3

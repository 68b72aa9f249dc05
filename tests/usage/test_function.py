"""The function that refreshes the roll-ups from SQL, and its log."""

from __future__ import annotations

import json
import threading
from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from mvrefresh import Database, Schema, UsageSource
from mvrefresh.errors import ConfigurationError, SchemaMissing, SchemaOutdated
from mvrefresh.refreshing.threads import in_thread

CALL = "SELECT view_name, refresh_status FROM refresh_mcp_usage_views()"
DAILY, HOURLY = "archon_mcp_usage_daily", "archon_mcp_usage_hourly"
LOCK = f"SELECT pg_advisory_xact_lock(1836479078, '{DAILY}'::regclass::oid::bigint::int)"
LOG = "SELECT view_name, success, error_message FROM archon_mcp_view_refresh_log ORDER BY 1, 2"


@pytest.fixture
def source(conn):
    source = UsageSource()
    Schema().apply(conn)
    source.create_events(conn)
    source.create(conn)
    source.create_function(conn)
    return source


def break_view(conn, view, needs="archon_mcp_usage_events"):
    """A view that can be refreshed no more."""
    conn.execute(f"DROP MATERIALIZED VIEW IF EXISTS {view}")
    conn.execute(f"CREATE MATERIALIZED VIEW {view} AS SELECT 1 / (count(*) - 1) AS x FROM {needs}")
    conn.execute("INSERT INTO archon_mcp_usage_events DEFAULT VALUES")


@pytest.fixture
def listener(dsn):
    with closing(psycopg.connect(dsn, autocommit=True)) as listener:
        listener.execute("LISTEN mvrefresh")
        yield listener


def test_it_refreshes_both_and_everybody_hears(conn, source, listener):
    conn.execute("INSERT INTO archon_mcp_usage_events (tool_category) VALUES ('rag')")
    assert conn.execute(CALL).fetchall() == [(DAILY, "success"), (HOURLY, "success")]
    assert conn.execute(f"SELECT sum(call_count) FROM {DAILY}").fetchone() == (1,)
    assert conn.execute(LOG).fetchall() == [(DAILY, True, None), (HOURLY, True, None)]
    history = conn.execute(
        "SELECT view_name, success, strategy, trigger, refresh_no, run_id"
        " FROM mvrefresh.refresh_metrics ORDER BY 1"
    ).fetchall()
    assert [row[:5] for row in history] == [
        (view, True, "concurrent", "refresh_mcp_usage_views", 1) for view in (DAILY, HOURLY)
    ]
    assert history[0][5] == history[1][5]
    tokens = dict(conn.execute("SELECT view::regclass::text, content_token FROM mvrefresh.state"))
    heard = [json.loads(n.payload) for n in listener.notifies(timeout=5, stop_after=2)]
    assert {said["view"]: said["t"] for said in heard} == {v: str(t) for v, t in tokens.items()}


def test_the_statement_of_its_users_and_what_it_returns(conn, source):
    assert conn.execute("SELECT refresh_mcp_usage_views()").fetchall() == [
        ((DAILY, "success"),),
        ((HOURLY, "success"),),
    ]
    assert conn.execute(
        "SELECT pg_get_function_result(oid), prosecdef, proconfig FROM pg_proc"
        " WHERE oid = 'refresh_mcp_usage_views()'::regprocedure"
    ).fetchone() == (
        "TABLE(view_name text, refresh_status text)",
        False,
        ["search_path=pg_catalog, pg_temp", "lock_timeout=1s"],
    )
    columns = conn.execute(
        "SELECT column_name, data_type, column_default FROM information_schema.columns"
        " WHERE table_name = 'archon_mcp_view_refresh_log' ORDER BY ordinal_position"
    ).fetchall()
    assert columns == [
        ("id", "uuid", "gen_random_uuid()"),
        ("view_name", "text", None),
        ("refreshed_at", "timestamp with time zone", "now()"),
        ("success", "boolean", "true"),
        ("error_message", "text", None),
    ]


def test_the_callers_settings_are_its_own_again(conn, source):
    with conn.transaction():
        conn.execute("SET LOCAL lock_timeout = '7s'")
        conn.execute("SET LOCAL search_path = public")
        conn.execute(CALL)
        assert conn.execute("SHOW lock_timeout").fetchone() == ("7s",)
        assert conn.execute("SHOW search_path").fetchone() == ("public",)


def test_a_failed_view_is_told_and_the_other_refreshed(conn, source):
    warned = []
    conn.add_notice_handler(lambda diag: warned.append(diag.message_primary))
    break_view(conn, DAILY)
    (daily, error), hourly = conn.execute(CALL).fetchall()
    assert daily == DAILY
    assert error.startswith(f"{DAILY}: division by zero [22012]. Run the view's query by hand")
    assert hourly == (HOURLY, "success")
    assert warned == [error]
    assert conn.execute(LOG).fetchall() == [(DAILY, False, error), (HOURLY, True, None)]
    assert conn.execute(
        "SELECT view_name, status, error_message FROM mvrefresh.refresh_metrics ORDER BY 1"
    ).fetchall() == [(DAILY, "failed", error), (HOURLY, "succeeded", None)]


def test_a_view_that_cannot_be_meant_is_told_and_the_other_refreshed(conn, source):
    conn.execute(f"DROP MATERIALIZED VIEW {DAILY}; CREATE VIEW {DAILY} AS SELECT 1")
    (_, error), hourly = conn.execute(CALL).fetchall()
    assert error.startswith(f"{DAILY}: {DAILY} is not a materialized view [42809]. Only")
    assert hourly == (HOURLY, "success")
    conn.execute(f"DROP VIEW {DAILY}")
    (_, error), hourly = conn.execute(CALL).fetchall()
    assert error == f"{DAILY}: there is no such materialized view. Create it."
    assert hourly == (HOURLY, "success")


def test_a_view_comes_after_what_it_reads_and_not_at_all_if_that_failed(conn, source):
    conn.execute(f"DROP MATERIALIZED VIEW {DAILY}")
    conn.execute(
        f"CREATE MATERIALIZED VIEW {DAILY} AS SELECT sum(call_count) AS calls FROM {HOURLY}"
    )
    conn.execute("INSERT INTO archon_mcp_usage_events DEFAULT VALUES")
    assert conn.execute(CALL).fetchall() == [(HOURLY, "success"), (DAILY, "success")]
    assert conn.execute(f"SELECT calls FROM {DAILY}").fetchone() == (1,)

    conn.execute(f"DROP MATERIALIZED VIEW {HOURLY} CASCADE")
    conn.execute("TRUNCATE archon_mcp_usage_events")
    break_view(conn, HOURLY)
    conn.execute(f"CREATE MATERIALIZED VIEW {DAILY} AS SELECT x FROM {HOURLY}")
    hourly, daily = conn.execute(CALL).fetchall()
    assert "division by zero" in hourly[1]
    assert daily == (
        DAILY,
        f"{DAILY}: {HOURLY} was not refreshed. Mend the view it reads; this one was left alone.",
    )
    assert conn.execute(
        "SELECT status FROM mvrefresh.refresh_metrics ORDER BY id DESC LIMIT 2"
    ).fetchall() == [("skipped_upstream",), ("failed",)]


def test_another_isolation_is_a_failure_of_both_and_a_cancel_is_none(conn, source):
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        rows = conn.execute(CALL).fetchall()
    assert [view for view, _ in rows] == [DAILY, HOURLY]
    assert all("READ COMMITTED" in error for _, error in rows)
    with pytest.raises(psycopg.errors.QueryCanceled), conn.transaction():
        conn.execute(LOCK)
        with closing(psycopg.connect(conn.info.dsn, autocommit=True)) as other:
            other.execute("SET statement_timeout = '100ms'")
            other.execute(CALL)
    assert conn.execute("SELECT count(*) FROM archon_mcp_view_refresh_log").fetchone() == (2,)


def test_a_log_that_takes_no_row_costs_no_refresh(conn, source):
    warned = []
    conn.add_notice_handler(lambda diag: warned.append(diag.message_primary))
    conn.execute(
        "ALTER TABLE archon_mcp_view_refresh_log ADD CHECK (view_name <> {})".format(f"'{DAILY}'")
    )
    assert conn.execute(CALL).fetchall() == [(DAILY, "success"), (HOURLY, "success")]
    assert [w.partition(" is lost")[0] for w in warned] == [
        f"the row of {DAILY} in the refresh log"
    ]
    assert conn.execute(LOG).fetchall() == [(HOURLY, True, None)]
    # held by somebody: for a second, and not for ever
    with closing(psycopg.connect(conn.info.dsn)) as other:
        other.execute("LOCK archon_mcp_view_refresh_log")
        assert conn.execute(CALL).fetchall() == [(DAILY, "success"), (HOURLY, "success")]
    assert "lock timeout" in warned[-1]


def test_two_calls_at_once_take_turns(conn, dsn, source):
    """The second waits where the first began, and holds nothing that the first could wait for."""
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    answers = []

    def call():
        with closing(psycopg.connect(dsn, autocommit=True)) as other:
            answers.append(other.execute(CALL).fetchall())

    second = threading.Thread(target=call)
    with closing(psycopg.connect(dsn)) as first:
        assert [status for _, status in first.execute(CALL)] == ["success", "success"]
        second.start()
        while conn.execute(waits).fetchone() != (1,):
            assert second.is_alive()
        held, wanted = (
            conn.execute(
                "SELECT array_agg(objid::regclass::text ORDER BY objid::regclass::text)"
                f" FROM pg_locks WHERE locktype = 'advisory' AND granted = {granted}"
            ).fetchone()[0]
            for granted in (True, False)
        )
        assert held == [DAILY, HOURLY]
        assert wanted == [DAILY]  # and it holds none
        first.commit()
    second.join()
    assert answers == [[(DAILY, "success"), (HOURLY, "success")]]


def test_many_calls_at_once_end_without_deadlock(conn, dsn, source):
    start = threading.Barrier(4)
    statuses, errors = [], []

    def call():
        try:
            with closing(psycopg.connect(dsn, autocommit=True)) as other:
                start.wait()
                for _ in range(5):
                    other.execute("INSERT INTO archon_mcp_usage_events DEFAULT VALUES")
                    statuses.extend(status for _, status in other.execute(CALL))
        except Exception as error:  # noqa: BLE001 - the test says which
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert statuses == ["success"] * 40
    assert conn.execute("SELECT count(*) FROM mvrefresh.refresh_metrics").fetchone() == (40,)
    assert conn.execute(f"SELECT sum(call_count) FROM {HOURLY}").fetchone() == (20,)


def test_without_the_librarys_schema_nothing_is_touched(conn):
    with pytest.raises(SchemaMissing, match="mvrefresh schema --apply"):
        UsageSource().create_function(conn)
    missing = (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName)  # 18, 15
    with pytest.raises(missing, match="mvrefresh"):
        conn.execute(UsageSource().function_ddl(conn).encode())
    for statement in Schema().statements(until=5):
        conn.execute(statement)
    with pytest.raises(SchemaOutdated):
        UsageSource().create_function(conn)
    with pytest.raises(psycopg.errors.UndefinedFunction):
        conn.execute(UsageSource().function_ddl(conn).encode())
    assert conn.execute(
        "SELECT to_regclass('archon_mcp_view_refresh_log'), to_regproc('refresh_mcp_usage_views')"
    ).fetchone() == (None, None)


def test_creating_it_again_keeps_log_and_grants(conn, source):
    conn.execute(CALL)
    conn.execute("REVOKE EXECUTE ON FUNCTION refresh_mcp_usage_views() FROM PUBLIC")
    found = "SELECT oid, proacl::text FROM pg_proc WHERE proname = 'refresh_mcp_usage_views'"
    before = conn.execute(found).fetchone()
    source.create_function(conn)
    conn.execute(source.function_ddl(conn).encode())
    assert conn.execute(found).fetchone() == before
    assert len(conn.execute(LOG).fetchall()) == 2


def test_many_that_create_it_at_once_wait_for_each_other(conn, dsn):
    source = UsageSource()
    Schema().apply(conn)
    source.create_events(conn)
    source.create(conn)
    go = threading.Barrier(8)

    def create():
        with closing(psycopg.connect(dsn, autocommit=True)) as connection:
            go.wait(30)
            source.create_function(connection)

    threads = [in_thread("create", create) for _ in range(8)]
    for thread in threads:
        thread.result(30)
    assert conn.execute(CALL).fetchall() == [(DAILY, "success"), (HOURLY, "success")]


def test_an_older_function_is_replaced_and_an_older_log_kept(conn):
    source = UsageSource()
    Schema().apply(conn)
    source.create_events(conn)
    source.create(conn)
    conn.execute("""
        CREATE TABLE archon_mcp_view_refresh_log (
            id bigint GENERATED ALWAYS AS IDENTITY, view_name varchar(99),
            refreshed_at timestamptz, success boolean, error_message text, note text);
        INSERT INTO archon_mcp_view_refresh_log (view_name) VALUES ('of old');
        CREATE FUNCTION refresh_mcp_usage_views()
        RETURNS TABLE (view_name text, refresh_status text)
        LANGUAGE sql SECURITY DEFINER AS $$ SELECT 'a', 'success' $$;
    """)
    source.create_function(conn)
    assert conn.execute(CALL).fetchall() == [(DAILY, "success"), (HOURLY, "success")]
    assert [row[0] for row in conn.execute(LOG)] == [DAILY, HOURLY, "of old"]
    assert conn.execute(
        "SELECT prosecdef FROM pg_proc WHERE proname = 'refresh_mcp_usage_views'"
    ).fetchall() == [(False,)]


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (
            "CREATE FUNCTION refresh_mcp_usage_views() RETURNS void LANGUAGE sql AS ''",
            r"refresh_mcp_usage_views\(\) is there already and returns void",
        ),
        (
            "CREATE PROCEDURE refresh_mcp_usage_views() LANGUAGE sql AS ''",
            "returns nothing",
        ),
        (
            (
                "CREATE FUNCTION refresh_mcp_usage_views(force boolean DEFAULT true) RETURNS void"
                " LANGUAGE sql AS ''"
            ),
            r"refresh_mcp_usage_views\(force boolean\) is there",
        ),
        ("CREATE TABLE archon_mcp_view_refresh_log (view_name text)", "has no column refreshed_at"),
        (
            (
                "CREATE TABLE archon_mcp_view_refresh_log (id int NOT NULL, view_name text,"
                " refreshed_at timestamptz, success boolean, error_message text)"
            ),
            "column id of archon_mcp_view_refresh_log has no default",
        ),
    ],
)
def test_what_has_its_names_is_left_alone(conn, there, says):
    Schema().apply(conn)
    conn.execute(there)
    with pytest.raises(ConfigurationError, match=says):
        UsageSource().create_function(conn)
    made = "SELECT to_regclass('archon_mcp_view_refresh_log'), count(*) FROM pg_proc WHERE"
    table, functions = conn.execute(f"{made} proname = 'refresh_mcp_usage_views'").fetchone()
    assert (table is not None, functions) == ("TABLE" in there, "TABLE" not in there)


def test_a_function_of_other_arguments_is_no_obstacle(conn, source):
    conn.execute(
        "CREATE FUNCTION refresh_mcp_usage_views(int) RETURNS int LANGUAGE sql AS 'VALUES (1)'"
    )
    source.create_function(conn)
    assert conn.execute(CALL).fetchall() == [(DAILY, "success"), (HOURLY, "success")]


def test_hostile_names(conn, dsn):
    conn.execute('CREATE SCHEMA "S p"; CREATE TABLE "S p"."E;v" (LIKE pg_class)')
    conn.execute('DROP TABLE "S p"."E;v"')
    source = UsageSource(
        "E;v",
        schema="S p",
        hourly_view="h\"'$function$%s{}\\",
        daily_view="d$function_$",
        refresh_function="f'\"$function$; DROP TABLE x --",
        refresh_log="l $function$ '\"\\n",
    )
    schema = Schema("lib \"'{x}", "his'tory")
    schema.apply(conn)
    source.create_events(conn)
    source.create(conn)
    source.create_function(conn, schema=schema)
    source.create_function(conn, schema=schema)
    call = sql.SQL("SELECT * FROM {}()").format(sql.Identifier("S p", source.refresh_function))
    assert dict(conn.execute(call)) == {str(view): "success" for view in source.views}
    log = sql.SQL("SELECT view_name FROM {}").format(sql.Identifier("S p", source.refresh_log))
    assert {v for (v,) in conn.execute(log)} == {str(view) for view in source.views}
    with Database(dsn, schema=schema.name, metrics_schema=schema.metrics) as database:
        trigger = database.schema.metrics_table.as_string()
        assert conn.execute(f"SELECT DISTINCT trigger FROM {trigger}").fetchall() == [
            (source.refresh_function,)
        ]
    source.drop_function(conn)
    source.drop_function(conn)
    with pytest.raises(psycopg.errors.UndefinedFunction):
        conn.execute(call)
    conn.execute(source.function_ddl(conn, schema=schema).encode())
    assert len(conn.execute(call).fetchall()) == 2


def test_a_search_path_of_the_callers_leads_nowhere(conn, source):
    conn.execute("""
        CREATE SCHEMA trap;
        CREATE TABLE trap.archon_mcp_view_refresh_log (LIKE archon_mcp_view_refresh_log);
        CREATE MATERIALIZED VIEW trap.archon_mcp_usage_daily AS SELECT 1 / 0 AS x WITH NO DATA;
        CREATE FUNCTION trap.coalesce_trap() RETURNS int LANGUAGE sql AS 'VALUES (1)';
        CREATE OPERATOR trap.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);
        SET search_path = trap, pg_catalog, public
    """)
    assert conn.execute(CALL).fetchall() == [(DAILY, "success"), (HOURLY, "success")]
    assert conn.execute("SELECT count(*) FROM trap.archon_mcp_view_refresh_log").fetchone() == (0,)


def test_it_gives_its_caller_no_rights(conn, source):
    role = "usage_reader_of_roll_ups"
    conn.execute(f"CREATE ROLE {role}")
    try:
        conn.execute(f"SET ROLE {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(CALL)
        conn.execute("RESET ROLE")
        conn.execute(
            f"GRANT USAGE ON SCHEMA mvrefresh TO {role};"
            f" GRANT ALL ON ALL TABLES IN SCHEMA mvrefresh TO {role}"
        )
        conn.execute(f"SET ROLE {role}")
        rows = conn.execute(CALL).fetchall()
        assert all("may not refresh" in error for _, error in rows)
    finally:
        conn.execute("RESET ROLE")
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"refresh_function": ""},
        {"refresh_log": "x" * 64},
        {"refresh_log": "archon_mcp_usage_daily"},
        {"refresh_log": "archon_mcp_usage_events"},
    ],
)
def test_names_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        UsageSource(**wrong)

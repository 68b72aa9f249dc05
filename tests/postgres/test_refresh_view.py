"""Refreshes from SQL alone: the same lock, state, record and notification as the library's own."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields
from datetime import timedelta

import psycopg
import pytest
from psycopg import errors as pg, sql
from psycopg.rows import dict_row
from tests.postgres.conftest import WORLD
from tests.refreshing.test_transaction import wait_until

import mvrefresh
from mvrefresh import Database, RefreshPolicy, Schema
from mvrefresh.postgres import locks

QUICK = RefreshPolicy(attempts=1, lock_timeout=0.2)


def refresh_view(connection, view="mv", **arguments):
    """The row that the function returns, as a dict."""
    given = {"view": view, **arguments}
    named = ", ".join(f"p_{name} => %({name})s" for name in given)
    for name in given.keys() & {"lock_timeout", "wait_timeout"}:
        given[name] = timedelta(seconds=given[name]) if given[name] else None
    query = f"SELECT * FROM mvrefresh.refresh_view({named})"
    return connection.cursor(row_factory=dict_row).execute(query, given).fetchone()


def refreshed(connection, view="mv", **arguments):
    row = refresh_view(connection, view, **arguments)
    assert row["status"] == "succeeded", row["error_message"]
    return row


def state(connection, view="mv"):
    return connection.execute(
        "SELECT refresh_no, content_token FROM mvrefresh.state WHERE view = %s::regclass", (view,)
    ).fetchone()


def count(connection, relation="mv"):
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*relation.split(".")))
    return connection.execute(query).fetchone()[0]


def records(connection):
    return connection.execute(
        "SELECT view_name, status, success, strategy FROM mvrefresh.refresh_metrics ORDER BY id"
    ).fetchall()


@contextmanager
def in_thread(call):
    """Run it beside, and give its answer as a list once it is over."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    try:
        yield answers
    finally:
        thread.join()


def waiting(connection, locktype):
    wait_until(
        lambda: connection.execute(
            "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = %s", (locktype,)
        ).fetchone()
    )


def by_library(database, view, method="auto", fallback="regular"):
    """What the library says of its refresh, as `refresh_view` says it."""
    (outcome,) = mvrefresh.refresh(database, [view], method=method, fallback=fallback, policy=QUICK)
    row = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
    row["view_name"], row["status"] = row.pop("view"), row["status"].value
    row["error_message"] = row["error"] and str(row["error"])
    return row


def by_sql(connection, view, method="auto", fallback="regular"):
    """The same from outside."""
    return refresh_view(
        connection,
        view,
        method=method,
        fallback=fallback,
        trigger="manual",
        lock_timeout=QUICK.lock_timeout,
    )


OF_ITS_OWN = {
    "view", "id", "run_id", "last_run_id", "host", "last_started_at", "last_finished_at",
    "content_as_of", "content_snapshot", "created_at", "refresh_duration_ms", "last_duration_ms",
    "duration_ms", "record_id",
}  # fmt: skip


def told(world, listener):
    """All that a refresh has left, with tokens by the order in which they came to be."""
    rows = world.cursor(row_factory=dict_row)
    left = [
        *rows.execute("SELECT * FROM mvrefresh.state ORDER BY view::regclass::text").fetchall(),
        *rows.execute("SELECT * FROM mvrefresh.refresh_metrics ORDER BY id").fetchall(),
    ]
    left += [json.loads(n.payload) for n in listener.notifies(timeout=5, stop_after=1)]
    names = {}

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return value

    def column(key, value):
        if key == "host" or (value is not None and key in OF_ITS_OWN):
            return "some"
        if value is not None and key in ("content_token", "epoch", "t", "p"):
            return names.setdefault(str(value), f"token {len(names)}")
        return plain(value)

    for row in left:  # the links hold tokens of their own
        for link in row.get("changes") or []:
            link.update({key: column(key, link[key]) for key in ("t", "p")})
    return [{key: column(key, value) for key, value in row.items()} for row in left]


CHANGES = """
UPDATE base SET name = 'x' WHERE id = 1;
DELETE FROM base WHERE id = 2;
INSERT INTO base VALUES (7, 'seven');
"""
HISTORY = [
    ("", "top", "auto", "regular"),  # over a view that was never refreshed
    ("", "mv", "auto", "regular"),
    ("", "top", "auto", "regular"),
    ("", "mv", "auto", "regular"),
    (CHANGES, "mv", "concurrent", "regular"),
    ("INSERT INTO base SELECT g FROM generate_series(10, 999) g", "mv", "auto", "never"),
    ("INSERT INTO base SELECT g FROM generate_series(1000, 9999) g", "mv", "auto", "never"),
    ("", "mv", "regular", "never"),
    ("REFRESH MATERIALIZED VIEW mv", "top", "auto", "regular"),  # nobody knows since when
    ("", "mv", "auto", "regular"),
    ("", '"Empty 100%"', "auto", "never"),
    ("", "top", "auto", "never"),
    ("", '"Empty 100%"', "regular", "never"),
]  # fmt: skip


def test_it_leaves_what_the_library_leaves(new_dsn):
    """Two databases, the same history: all columns but ids, times and hosts are the same."""
    with ExitStack() as stack:
        dsns = [new_dsn(), new_dsn()]
        database = stack.enter_context(Database(dsns[0]))
        worlds = [
            stack.enter_context(closing(psycopg.connect(dsn, autocommit=True))) for dsn in dsns
        ]
        listeners = [
            stack.enter_context(closing(psycopg.connect(dsn, autocommit=True))) for dsn in dsns
        ]
        for world, listener in zip(worlds, listeners, strict=True):
            Schema().apply(world)
            world.execute(WORLD)
            listener.execute("LISTEN mvrefresh")
        for before, *wish in HISTORY:
            for world in worlds:
                world.execute(before or "SELECT")
            library, outside = by_library(database, *wish), by_sql(worlds[1], *wish)
            left, same = (told(*pair) for pair in zip(worlds, listeners, strict=True))
            assert same == left, wish
            for name in set(outside) - {"content_token", *OF_ITS_OWN}:
                assert outside[name] == library[name], (name, wish)
            assert (outside["content_as_of"] is None) is (library["content_as_of"] is None)


TROUBLE = {
    "divides": """
        CREATE MATERIALIZED VIEW divides AS SELECT 1 / id AS x FROM base;
        INSERT INTO base VALUES (0, 'zero')""",
    "two_rows": """
        CREATE MATERIALIZED VIEW two_rows AS
        SELECT (SELECT id FROM base WHERE id < 2 + random() * 0) AS x;
        INSERT INTO base VALUES (0, 'zero')""",
    "twice": """
        CREATE MATERIALIZED VIEW twice AS SELECT name FROM base;
        CREATE UNIQUE INDEX ON twice (name); UPDATE base SET name = 'same'""",
    "lines": """
        CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS $$BEGIN
        RAISE EXCEPTION E'two\\nlines?' USING DETAIL = 'that is why.'; END$$;
        CREATE MATERIALIZED VIEW lines AS SELECT fails() WITH NO DATA""",
    "of_0a000": """
        CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS $$BEGIN
        IF (SELECT count(*) > 3 FROM public.base) THEN RAISE feature_not_supported; END IF;
        RETURN 1; END$$;
        CREATE MATERIALIZED VIEW of_0a000 AS SELECT fails();
        CREATE UNIQUE INDEX ON of_0a000 (fails); INSERT INTO base VALUES (0)""",
}


@pytest.mark.parametrize("view", TROUBLE)
def test_a_failure_is_recorded_and_returned_in_the_librarys_words(world, dsn, view):
    world.execute(TROUBLE[view])
    with Database(dsn) as database:
        theirs = by_library(database, view)
    ours = by_sql(world, view)
    assert ours["status"] == "failed"
    assert {k: v for k, v in ours.items() if k not in OF_ITS_OWN} == {
        k: theirs[k] for k in ours if k not in OF_ITS_OWN
    }
    cursor = world.cursor(row_factory=dict_row)
    first, second = (
        {key: value for key, value in row.items() if key not in OF_ITS_OWN}
        for row in cursor.execute("SELECT * FROM mvrefresh.refresh_metrics ORDER BY id")
    )
    assert first == second
    assert world.execute("SELECT count(*) FROM mvrefresh.state").fetchone() == (0,)


class TestWhatChanged:
    def test_nothing_keeps_the_tag_and_says_so(self, world):
        first, second = refreshed(world), refreshed(world)
        assert second["content_token"] == first["content_token"]
        assert (second["refresh_no"], second["content_changed"]) == (1, False)
        assert second["content_as_of"] > first["content_as_of"]

    def test_the_chain_goes_on_from_library_to_sql_and_back(self, world, dsn):
        with Database(dsn) as database:

            def by_library():
                return mvrefresh.refresh(database, ["mv"]).outcomes[0].content_token

            tokens = [by_library()]
            for key in range(10, 16):
                world.execute("INSERT INTO base VALUES (%s, 'new')", (key,))
                tokens.append(by_library() if key % 3 else refreshed(world)["content_token"])
        (chain,) = world.execute(
            "SELECT changes FROM mvrefresh.state WHERE view = 'mv'::regclass"
        ).fetchone()
        assert [link["keys"] for link in chain] == [[15], [14], [13], [12], [11], [10]]
        assert [link["t"] for link in chain] == [str(t) for t in reversed(tokens[1:])]
        assert [link["p"] for link in chain] == [str(t) for t in reversed(tokens[:-1])]

    def test_several_in_one_transaction(self, world):
        """The same view twice, and another, with writes between; each as if it were alone."""
        refreshed(world)
        with world.transaction():
            world.execute("UPDATE base SET name = 'once' WHERE id = 1")
            first = refreshed(world)
            world.execute("UPDATE base SET name = 'twice' WHERE id IN (1, 2)")
            second = refreshed(world)
            third = refreshed(world)
            top = refreshed(world, "top")
            fourth, fifth = (refreshed(world, method="regular") for _ in range(2))
        assert [r["refresh_no"] for r in (first, second, third, fourth, fifth)] == [2, 3, 3, 4, 5]
        assert [r["rows_inserted"] for r in (first, second, third, fourth, fifth)] == [
            1, 2, 0, 3, 3,
        ]  # fmt: skip
        assert [r["rows_deleted"] for r in (first, second, third)] == [1, 2, 0]
        assert top["content_as_of"] == third["content_as_of"]
        assert state(world) == (5, fifth["content_token"])
        assert refreshed(world)["content_changed"] is False

    def test_the_keys_of_two_in_one_transaction(self, world, dsn):
        refreshed(world)
        with closing(psycopg.connect(dsn, autocommit=True)) as listener:
            listener.execute("LISTEN mvrefresh")
            with world.transaction():
                world.execute("DELETE FROM base WHERE id = 1; INSERT INTO base VALUES (8, 'x')")
                refreshed(world)
                world.execute("DELETE FROM base WHERE id = 8")
                refreshed(world)
            sent = [json.loads(n.payload) for n in listener.notifies(timeout=5, stop_after=2)]
        assert [note["k"] for note in sent] == [[1, 8], [8]]
        assert sent[1]["p"] == sent[0]["t"]

    def test_a_plain_refresh_in_the_same_transaction_is_somebody_elses(self, world):
        with world.transaction():
            first = refreshed(world)
            world.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY mv")
            second = refreshed(world)
        assert second["content_token"] != first["content_token"]

    def test_the_snapshot_does_not_claim_what_the_caller_writes_later(self, world, dsn):
        with closing(psycopg.connect(dsn, autocommit=True)) as other, world.transaction():
            world.execute("INSERT INTO base VALUES (4, 'before')")
            other.execute("INSERT INTO base VALUES (5, 'later number, earlier commit')")
            refreshed(world)
            world.execute("INSERT INTO base VALUES (6, 'after')")
            held = world.execute(
                "SELECT pg_visible_in_snapshot(pg_current_xact_id(), content_snapshot),"
                " pg_snapshot_xmax(content_snapshot) > pg_current_xact_id() FROM mvrefresh.state"
            ).fetchone()
        assert held == (False, True)


class TestTransaction:
    def test_a_savepoint_that_is_rolled_back_leaves_nothing(self, world, dsn):
        before = refreshed(world)
        with closing(psycopg.connect(dsn, autocommit=True)) as other:
            other.execute("LISTEN mvrefresh")
            with world.transaction():
                with world.transaction() as savepoint:
                    world.execute("INSERT INTO base VALUES (4, 'x')")
                    refreshed(world)
                    raise psycopg.Rollback(savepoint)
                assert count(world) == 3
                assert state(world) == (1, before["content_token"])
                assert refreshed(world)["content_changed"] is False
            (only,) = other.notifies(timeout=5, stop_after=1)
            assert json.loads(only.payload)["n"] == 1
        assert len(records(world)) == 2

    def test_a_failure_leaves_the_callers_transaction_in_order(self, world):
        world.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / 0 AS x WITH NO DATA")
        with world.transaction():
            world.execute("INSERT INTO base VALUES (4, 'x')")
            assert refresh_view(world, "bad")["status"] == "failed"
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert world.execute(held).fetchone() == (0,)
            refreshed(world)
        assert count(world) == 4
        assert [row[1] for row in records(world)] == ["failed", "succeeded"]

    @pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_another_isolation_is_refused(self, world, isolation):
        with pytest.raises(pg.InvalidTransactionState, match=isolation) as caught:
            with world.transaction():
                world.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
                refresh_view(world)
        assert "READ COMMITTED" in caught.value.diag.message_hint
        assert records(world) == []

    def test_a_read_only_transaction_is_refused(self, world):
        with pytest.raises(pg.ReadOnlySqlTransaction) as caught, world.transaction():
            world.execute("SET TRANSACTION READ ONLY")
            refresh_view(world)
        assert "READ WRITE" in caught.value.diag.message_hint

    @pytest.mark.parametrize("fails", [False, True])
    def test_settings_are_the_callers_again(self, world, fails):
        """Of REFRESH CONCURRENTLY, quote_all_identifiers would make a syntax error."""
        if fails:
            world.execute("UPDATE base SET name = 1 / (id - 1) WHERE id > 1")
            world.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / 0 AS x WITH NO DATA")
        theirs = {
            "lock_timeout": "1234ms",
            "quote_all_identifiers": "on",
            "search_path": '"$user", public',
            "mvrefresh.xid": "mine",
        }

        def shown():
            return {
                name: world.execute("SELECT current_setting(%s)", (name,)).fetchone()[0]
                for name in theirs
            }

        for name, value in theirs.items():
            world.execute("SELECT set_config(%s, %s, false)", (name, value))
        refresh_view(world, "bad" if fails else "mv")
        assert shown() == theirs
        with world.transaction():
            world.execute("UPDATE base SET name = name || '!' WHERE id = 1")
            row = refresh_view(world, "bad" if fails else "mv")
            assert row["status"] == ("failed" if fails else "succeeded")
            assert shown() == theirs
            cursors = "SELECT count(*) FROM pg_cursors WHERE name LIKE 'mvrefresh%'"
            assert world.execute(cursors).fetchone() == (0,)
        assert shown() == theirs

    def test_a_cancel_is_not_swallowed(self, world):
        world.execute(
            "CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(60) IS NULL AS x WITH NO DATA;"
            "SET statement_timeout = '200ms'"
        )
        with pytest.raises(pg.QueryCanceled):
            refresh_view(world, "slow")
        assert records(world) == []


class TestLocks:
    def test_it_waits_for_another_refresh_and_sees_what_that_left(self, world, dsn):
        (oid,) = world.execute("SELECT 'mv'::regclass::oid").fetchone()
        refreshed(world)
        with closing(psycopg.connect(dsn)) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s, %s)", locks.key(oid))
            with in_thread(lambda: refreshed(world, method="regular")) as answers:
                waiting(other, "advisory")
                other.execute("UPDATE mvrefresh.state SET refresh_no = 41")
                other.commit()
        assert answers[0]["refresh_no"] == 42

    def test_but_not_for_ever(self, world, dsn):
        (oid,) = world.execute("SELECT 'mv'::regclass::oid").fetchone()
        with closing(psycopg.connect(dsn)) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s, %s)", locks.key(oid))
            row = refresh_view(world, wait_timeout=0.05)
        assert row["status"] == "failed"
        assert "another refresh of it has not ended within 00:00:00.05" in row["error_message"]
        assert "p_wait_timeout" in row["error_message"]
        assert records(world) == [("mv", "failed", False, None)]

    def test_the_library_waits_for_it(self, world, dsn):
        with Database(dsn) as database, closing(psycopg.connect(dsn)) as other:
            refreshed(other)
            with in_thread(lambda: mvrefresh.refresh(database, ["mv"]).outcomes[0]) as answers:
                waiting(world, "advisory")
                other.commit()
        assert answers[0].content_changed is False
        assert answers[0].refresh_no == 1

    def test_a_reader_is_not_waited_for_longer_than_lock_timeout(self, world, dsn):
        with Database(dsn) as database, closing(psycopg.connect(dsn)) as reader:
            reader.execute("SELECT FROM mv")
            (theirs,) = mvrefresh.refresh(database, ["mv"], method="regular", policy=QUICK)
            ours = by_sql(world, "mv", "regular")
        assert ours["error_message"] == str(theirs.error)
        assert "55P03" in ours["error_message"]

    def test_oids_beyond_31_bits(self, world):
        for oid in (1, 2**31 - 1, 2**31, 2**32 - 1):
            (key,) = world.execute("SELECT %s::oid::bigint::bit(32)::int", (oid,)).fetchone()
            assert (locks.SPACE, key) == locks.key(oid)

    def test_a_view_that_took_the_name_is_not_taken_for_the_one_that_is_meant(self, world, dsn):
        world.execute("CREATE MATERIALIZED VIEW green AS SELECT * FROM base")
        world.execute("INSERT INTO base VALUES (4, 'x')")
        with closing(psycopg.connect(dsn)) as swap:
            swap.execute("ALTER MATERIALIZED VIEW mv RENAME TO blue")
            swap.execute("ALTER MATERIALIZED VIEW green RENAME TO mv")
            with in_thread(lambda: refreshed(world)) as answers:
                waiting(swap, "relation")
                swap.commit()
        assert answers[0]["view_name"] == "blue"
        rows = world.execute("SELECT view::regclass::text FROM mvrefresh.state").fetchall()
        assert rows == [("blue",)]
        assert (count(world, "blue"), count(world, "mv")) == (4, 3)

    def test_an_index_that_goes_meanwhile(self, world, dsn):
        with closing(psycopg.connect(dsn)) as drops:
            drops.execute("DROP INDEX mv_id")
            with in_thread(lambda: refreshed(world)) as answers:
                waiting(drops, "relation")
                drops.commit()
        assert answers[0]["strategy"] == "regular"
        assert answers[0]["reason"] == "it has no unique index; readers wait while it runs"

    def test_a_view_that_goes_meanwhile(self, world, dsn):
        with closing(psycopg.connect(dsn)) as drops:
            drops.execute("DROP MATERIALIZED VIEW top")
            with in_thread(lambda: refresh_view(world, "top")) as answers:
                waiting(drops, "relation")
                drops.commit()
        assert answers[0]["error_message"].startswith("top: it was dropped. ")


class TestHistory:
    def test_one_that_takes_no_record_costs_no_refresh(self, world):
        world.execute(
            "ALTER TABLE mvrefresh.refresh_metrics ADD CHECK (view_name = '');"
            "CREATE MATERIALIZED VIEW bad AS SELECT 1 / 0 AS x WITH NO DATA"
        )
        said = []
        world.add_notice_handler(lambda diag: said.append(diag.message_primary))
        assert refreshed(world)["record_id"] is None
        assert refresh_view(world, "bad")["record_id"] is None
        assert state(world)[0] == 1
        assert [line.partition(" is lost")[0] for line in said] == [
            "mvrefresh: the record of mv", "mvrefresh: the record of bad",
        ]  # fmt: skip

    def test_a_success_resumes_a_suspended_view(self, world):
        world.execute(
            "INSERT INTO mvrefresh.schedule (view, slot, schedule, failures, suspended_at)"
            " VALUES ('mv'::regclass, now(), 'every 1 s', 5, now())"
        )
        refreshed(world)
        row = world.execute("SELECT failures, suspended_at FROM mvrefresh.schedule").fetchone()
        assert row == (0, None)

    def test_a_full_notification_queue_costs_no_refresh(self, restartable):
        """It would fail the caller's COMMIT, which nothing in here can catch."""
        if restartable.version < 17:
            pytest.skip("max_notify_queue_pages, which makes the queue small, is of 17")
        with (
            closing(psycopg.connect(restartable.dsn(), autocommit=True)) as world,
            closing(psycopg.connect(restartable.dsn(), autocommit=True)) as sleeper,
        ):
            Schema().apply(world)
            world.execute(WORLD)
            sleeper.execute("LISTEN other")
            sleeper.execute("BEGIN")  # idle in transaction: it reads no notifications
            with pytest.raises(pg.ProgramLimitExceeded):
                while True:
                    world.execute("SELECT pg_notify('other', repeat('x', 7900))")
            assert refreshed(world)["refresh_no"] == 1

"""Which rows a refresh has changed, as the state row and the notification say it."""

from __future__ import annotations

import json
from contextlib import closing
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from psycopg.conninfo import make_conninfo

import mvrefresh
from mvrefresh import Database, Schema
from mvrefresh.cache.tier import NO_LINE, Change, Tag, line_of
from mvrefresh.postgres.tags import Asked, answer, question


@pytest.fixture
def database(dsn, conn):
    Schema().apply(conn)
    with Database(dsn) as database:
        yield database


@pytest.fixture
def view(database, conn):
    """Ten rows, refreshed once."""
    conn.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text);"
        "INSERT INTO t SELECT n, 'first' FROM generate_series(1, 10) n;"
        "CREATE MATERIALIZED VIEW v AS SELECT * FROM t; CREATE UNIQUE INDEX v_id ON v (id)"
    )
    refresh(database)
    return "public.v"


def refresh(database, **how):
    outcome = mvrefresh.refresh_materialized_view(database, "public.v", **how)
    assert outcome, outcome.error
    return outcome


def line(conn, known=None, key="id", view="public.v"):
    asked = [Asked(view, key, known)]
    ((_, found, _),) = answer(asked, conn.execute(question(Schema(), asked)).fetchall())
    return found


def changed(conn, before, **where):
    return line(conn, **where).changed_since(before)


def test_what_came_went_and_was_changed(database, view, conn):
    before = line(conn).tag
    conn.execute(
        "UPDATE t SET v = 'second' WHERE id IN (3, 4); DELETE FROM t WHERE id = 5;"
        "INSERT INTO t VALUES (11, 'new')"
    )
    refresh(database)
    assert changed(conn, before) == {3, 4, 5, 11}


def test_one_that_went_and_one_that_came_are_two(database, view, conn):
    """As many were inserted as deleted, as if one row had been changed."""
    before = line(conn).tag
    conn.execute("DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (11, 'new')")
    outcome = refresh(database)
    assert (outcome.rows_inserted, outcome.rows_deleted) == (1, 1)
    assert changed(conn, before) == {5, 11}


def test_a_line_goes_back_over_many_refreshes(database, view, conn):
    tags = [line(conn).tag]
    for number in range(1, 60):
        conn.execute("UPDATE t SET v = %s WHERE id = %s", (str(number), number % 10 + 1))
        refresh(database)
        tags.append(line(conn).tag)
    found = line(conn)
    assert len(found.earlier) == 50
    assert found.changed_since(tags[-2]) == {10}
    assert found.changed_since(tags[-4]) == {8, 9, 10}
    assert found.changed_since(tags[9]) == set(range(1, 11))
    assert found.changed_since(tags[8]) is None
    assert found.epoch == tags[0].content_token  # though the chain does not reach it any more
    assert found.tag == tags[-1]


def test_a_refresh_that_changed_nothing_leaves_the_line(database, view, conn):
    before = line(conn).tag
    conn.execute("UPDATE t SET v = 'second' WHERE id = 3")
    refresh(database)
    found = line(conn)
    refresh(database)
    assert line(conn) == found
    assert found.changed_since(before) == {3}


def test_who_knows_the_content_is_not_told_how_it_came_about(database, view, conn):
    conn.execute("UPDATE t SET v = 'second' WHERE id = 3")
    refresh(database)
    found = line(conn)
    assert line(conn, known=found.tag) == line_of(found.tag, found.epoch)


@pytest.mark.parametrize("rows", [1000, 1001])
def test_many_rows_are_all_rows(database, view, conn, rows):
    before = line(conn).tag
    conn.execute("INSERT INTO t SELECT n, 'new' FROM generate_series(11, 10 + %s) n", (rows,))
    refresh(database)
    found = line(conn)
    assert (found.changed_since(before) is None) == (rows > 1000)
    assert (found.epoch == found.tag.content_token) == (rows > 1000)


def test_no_more_keys_than_three_thousand_are_kept(database, view, conn):
    tags = [line(conn).tag]
    for number in range(4):
        first = 11 + 1000 * number
        conn.execute(
            "INSERT INTO t SELECT n, 'new' FROM generate_series(%s::int, %s::int) n",
            (first, first + 899),
        )
        refresh(database)
        tags.append(line(conn).tag)
    found = line(conn)
    assert len(found.changed_since(tags[1])) == 2700
    assert found.changed_since(tags[0]) is None


def test_another_way_of_refreshing_ends_the_line(database, view, conn):
    before = line(conn).tag
    conn.execute("UPDATE t SET v = 'second' WHERE id = 3")
    refresh(database, method="regular")
    found = line(conn)
    assert found == line_of(found.tag)
    conn.execute("UPDATE t SET v = 'third' WHERE id = 4")
    refresh(database)
    assert changed(conn, before) is None
    assert changed(conn, found.tag) == {4}


def test_after_a_refresh_by_somebody_else_it_begins_anew(database, view, conn):
    before = line(conn).tag
    conn.execute("UPDATE t SET v = 'second' WHERE id = 3; REFRESH MATERIALIZED VIEW CONCURRENTLY v")
    assert line(conn) == NO_LINE
    conn.execute("UPDATE t SET v = 'third' WHERE id = 4")
    refresh(database)
    assert changed(conn, before) is None


def test_texts_and_uuids(database, conn):
    conn.execute(
        "CREATE TABLE t (id uuid PRIMARY KEY, v text);"
        "INSERT INTO t SELECT gen_random_uuid(), n FROM generate_series(1, 5) n;"
        "CREATE MATERIALIZED VIEW v AS SELECT v, id FROM t;"
        "CREATE UNIQUE INDEX v_id ON v (id)"
    )
    refresh(database)
    before = line(conn).tag
    added = UUID(int=7)
    conn.execute("INSERT INTO t VALUES (%s, '7')", (added,))
    refresh(database)
    assert changed(conn, before) == {added}
    assert changed(conn, before, key="v") is None  # they are the keys of another column
    conn.execute("CREATE UNIQUE INDEX v_v ON v (v)")  # the first column is taken
    before = line(conn).tag
    conn.execute("INSERT INTO t VALUES (gen_random_uuid(), '\"8, ü')")
    refresh(database)
    assert changed(conn, before, key="v") == {'"8, ü'}
    assert changed(conn, before) is None


@pytest.mark.parametrize(
    ("keys", "index"),
    [
        ("n::numeric AS id, n AS x", "(id)"),  # of a type that is another one in JSON
        ("n AS id, n AS x", "(id, x)"),
        ("n AS id, n AS x", "(id) INCLUDE (x)"),
    ],
)
def test_without_a_key_nobody_can_tell(database, conn, keys, index):
    conn.execute(
        "CREATE TABLE t AS SELECT generate_series(1, 5) AS n;"
        f"CREATE MATERIALIZED VIEW v AS SELECT {keys} FROM t; CREATE UNIQUE INDEX ON v {index}"
    )
    refresh(database)
    before = line(conn).tag
    conn.execute("INSERT INTO t VALUES (6)")
    refresh(database)
    expected = {6} if "INCLUDE" in index else None
    assert changed(conn, before) == expected


def test_who_may_refresh_and_not_read_cannot_tell(database, view, conn, dsn):
    if conn.info.server_version < 170000:
        pytest.skip("before PostgreSQL 17 who may refresh owns the view, and may read it")
    conn.execute(
        "CREATE ROLE refresher LOGIN; GRANT MAINTAIN ON v TO refresher;"
        "GRANT USAGE ON SCHEMA mvrefresh TO refresher;"
        "GRANT ALL ON ALL TABLES IN SCHEMA mvrefresh TO refresher"
    )
    refresh(database)
    before = line(conn).tag
    conn.execute("UPDATE t SET v = 'second' WHERE id = 3")
    try:
        with Database(make_conninfo(dsn, user="refresher")) as theirs:
            refresh(theirs)
        assert changed(conn, before) is None
    finally:
        conn.execute("DROP OWNED BY refresher; DROP ROLE refresher")


def test_the_view_may_have_any_name(database, conn):
    name = 'public."a \'view\' of 100 %s {x} and "" more"'
    conn.execute(
        f'CREATE TABLE t ("i %d" int); CREATE MATERIALIZED VIEW {name} AS SELECT * FROM t;'
        f'CREATE UNIQUE INDEX ON {name} ("i %d")'
    )
    for number in (1, 2):
        conn.execute(f"INSERT INTO t VALUES ({number})")
        before = line(conn, view=name).tag
        assert mvrefresh.refresh_materialized_view(database, name)
    assert changed(conn, before, view=name, key="i %d") == {2}


def payload(conn):
    return json.loads(next(conn.notifies(timeout=20, stop_after=1)).payload)


def test_the_notification_names_them(database, view, conn):
    conn.execute("LISTEN mvrefresh")
    conn.execute("UPDATE t SET v = 'second' WHERE id IN (3, 4)")
    outcome = refresh(database)
    said = payload(conn)
    assert sorted(said["k"]) == [3, 4]
    assert (said["n"], said["t"]) == (2, str(outcome.content_token))
    refresh(database)
    assert payload(conn)["k"] == []
    conn.execute("INSERT INTO t SELECT n, 'new' FROM generate_series(11, 1000) n")
    refresh(database)
    assert len(payload(conn)["k"]) == 990
    conn.execute("UPDATE t SET id = id + 1000000000 WHERE id > 200")  # they do not fit
    refresh(database)
    assert payload(conn)["k"] is None
    refresh(database, method="regular")
    assert payload(conn)["k"] is None


def test_a_savepoint_may_stand_around_it(database, view, conn, dsn):
    """A block with EXCEPTION is one, and its transaction number is another."""
    before = line(conn).tag
    conn.execute("UPDATE t SET v = 'second' WHERE id = 3; DELETE FROM t WHERE id = 4")
    call = """
        SELECT mvrefresh.finish_refresh(
            'v'::regclass, 'v', clock_timestamp(), clock_timestamp(), pg_current_snapshot(), true,
            0, 0, 'concurrent', 'a test', 'test', gen_random_uuid(), 'here', 'none', false)"""
    with closing(psycopg.connect(dsn, autocommit=True)) as fresh:  # it has counted nothing yet
        fresh.execute(
            "BEGIN; SAVEPOINT one;"
            "DECLARE mvrefresh_gone CURSOR FOR SELECT mvrefresh.keys_touched('v'::regclass, true);"
            f"REFRESH MATERIALIZED VIEW CONCURRENTLY v; {call}; RELEASE one; COMMIT"
        )
    assert changed(conn, before) == {3, 4}


CONTENTS = st.dictionaries(st.integers(1, 8), st.sampled_from("ab"), max_size=8)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(CONTENTS, min_size=2, max_size=5))
def test_what_no_line_names_is_the_same(database, view, conn, contents):
    """Between any two contents of a line, whatever the view held before the first of them."""
    seen = []
    for content in contents:
        with conn.cursor() as cursor, conn.transaction():
            cursor.execute("TRUNCATE t")
            cursor.executemany("INSERT INTO t VALUES (%s, %s)", list(content.items()))
        refresh(database)
        seen.append((line(conn).tag, content))
    now, last = line(conn), contents[-1]
    for tag, content in seen:
        keys = frozenset() if tag == now.tag else now.changed_since(tag)
        assert keys >= {k for k in content.keys() | last.keys() if content.get(k) != last.get(k)}
    earlier = [each for each in seen if each[0] != now.tag]
    if earlier:
        tag, content = earlier[-1]
        assert now.changed_since(tag) == {  # and no more of them
            k for k in content.keys() | last.keys() if content.get(k) != last.get(k)
        }


def test_a_gap_ends_a_line():
    a, b, c, d = (Tag(number, UUID(int=number)) for number in range(4))
    changes = [
        Change(c, d, frozenset({1})),
        Change(b, c, frozenset({2})),
        Change(a, Tag(1, UUID(int=9)), frozenset({3})),
    ]
    found = line_of(d, UUID(int=8), changes)
    assert found == (d, UUID(int=8), {c: {1}, b: {1, 2}})
    assert found.changed_since(b) == {1, 2}
    assert found.changed_since(a) is None
    assert found.changed_since(Tag(1, UUID(int=9))) is None
    assert found.changed_since(None) is None
    assert line_of(a, None, changes) == (a, a.content_token, {})
    assert line_of(None, UUID(int=8), changes) == NO_LINE

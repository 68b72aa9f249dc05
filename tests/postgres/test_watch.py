"""One connection that hears of refreshes and asks for tags, and what may happen to it."""

from __future__ import annotations

import queue
import threading
from contextlib import ExitStack, contextmanager
from uuid import UUID

import pytest
from tests.conftest import required
from tests.pooler import PgBouncer
from tests.proxy import GoesSilent
from tests.refreshing.test_transaction import wait_until

import mvrefresh
from mvrefresh import Database, Schema, ViewName
from mvrefresh.cache.content import Content

PATIENCE = 20
ONE = UUID(int=1)


class Heard:
    """Follows a content, and tells what became of it."""

    def __init__(self):
        self.content = Content(self.nobody, lease=2.4)
        self.tags, self.let_go = queue.Queue(), queue.Queue()
        self.content.follow(self)
        self.next()

    @staticmethod
    def nobody():
        raise AssertionError("it is told, and need not ask")

    def retag(self, tag, *, park=False):
        self.tags.put(("blind", None) if park else ("told", tag))

    def advance(self, before, tag, keys):
        self.tags.put(("told", tag))

    def discard(self, keys):
        self.let_go.put(keys)

    def after_fork(self):
        pass

    def next(self):
        return self.tags.get(timeout=PATIENCE)


@pytest.fixture
def view(conn):
    Schema().apply(conn)
    conn.execute("CREATE TABLE t (x int); CREATE MATERIALIZED VIEW v AS SELECT * FROM t")
    return ViewName("public", "v")


@pytest.fixture
def tcp_dsn(postgres, conn):
    return postgres.dsn(conn.info.dbname, tcp=True)


@pytest.fixture
def pooled(dsn):
    with ExitStack() as stack:
        with required():
            bouncer = stack.enter_context(PgBouncer(dsn))
        yield bouncer.pooled()


@contextmanager
def watching(database, view, heard):
    database.watch.add(heard.content, view, "x")
    try:
        yield database.watch
    finally:
        database.watch.remove(heard.content)


def test_it_tells_what_is_current_and_what_comes_to_be(dsn, conn, view):
    heard = Heard()
    with Database(dsn) as database:
        first = mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard) as watch:
            what, tag = heard.next()
            assert (what, tag.refresh_no) == ("told", 1)
            assert watch.state == "listening"
            asked = watch.asked
            conn.execute("INSERT INTO t VALUES (1)")
            second = mvrefresh.refresh_materialized_view(database, view)
            assert heard.next() == ("told", (2, second.content_token))
            assert watch.asked <= asked + 3  # at once, and not by asking ever faster
        assert watch.state == "off"
    assert first.content_token == tag.content_token


@pytest.mark.parametrize(
    "how",
    [
        "REFRESH MATERIALIZED VIEW v",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "REFRESH MATERIALIZED VIEW v WITH NO DATA",
        "ALTER MATERIALIZED VIEW v RENAME TO w",
        "ALTER MATERIALIZED VIEW v RENAME TO w; ALTER MATERIALIZED VIEW w RENAME TO v",
        "ALTER MATERIALIZED VIEW v SET SCHEMA elsewhere",
        "ALTER MATERIALIZED VIEW v SET (fillfactor = 90)",
        "GRANT SELECT ON v TO public",
        "CLUSTER v USING v_x",
        "VACUUM FULL v",
    ],
)
def test_what_nobody_notifies_of_is_found_by_asking(dsn, conn, view, how):
    """Whatever writes a view's content writes its row in pg_class."""
    heard = Heard()
    conn.execute("CREATE SCHEMA elsewhere; CREATE UNIQUE INDEX v_x ON v (x)")
    with Database(dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard) as watch:
            assert heard.next()[1].refresh_no == 1
            asked = watch.asked
            conn.execute(how)
            assert heard.next() == ("told", None)
            assert watch.asked <= asked + 2  # the next question, or the one after that


def test_a_refresh_from_sql_is_heard_of_at_once(dsn, conn, view):
    heard = Heard()
    with Database(dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard):
            heard.next()
            conn.execute("INSERT INTO t VALUES (1)")
            (token,) = conn.execute(
                "SELECT content_token FROM mvrefresh.refresh_view('v')"
            ).fetchone()
            assert heard.next() == ("told", (2, token))


def test_a_view_that_is_dropped_and_made_again(dsn, conn, view):
    heard = Heard()
    with Database(dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard):
            before = heard.next()[1]
            conn.execute("DROP MATERIALIZED VIEW v")
            assert heard.next() == ("told", None)
            conn.execute("CREATE MATERIALIZED VIEW v AS SELECT * FROM t")
            mvrefresh.refresh_materialized_view(database, view)
            after = heard.next()[1]
    assert after.refresh_no == before.refresh_no
    assert after != before


def test_a_backend_that_is_ended_is_replaced(dsn, conn, view):
    heard = Heard()
    with Database(dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard):
            heard.next()
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE '%to_regclass%' AND pid <> pg_backend_pid()"
            )
            conn.execute("INSERT INTO t VALUES (1)")
            mvrefresh.refresh_materialized_view(database, view)
            while (told := heard.next())[1] is None:
                assert told[0] == "blind"
            assert told[1].refresh_no == 2


def test_a_way_that_goes_silent_is_left_and_taken_again(tcp_dsn, dsn, conn, view):
    heard = Heard()
    with GoesSilent(tcp_dsn) as proxy, Database(proxy.dsn) as database, Database(dsn) as other:
        mvrefresh.refresh_materialized_view(other, view)
        with watching(database, view, heard) as watch:
            tag = heard.next()[1]
            proxy.go_silent()
            asked = watch.asked
            conn.execute("INSERT INTO t VALUES (1)")
            mvrefresh.refresh_materialized_view(other, view)
            threading.Event().wait(1.5)
            assert watch.asked <= asked + 1
            assert heard.content.tag == tag
            proxy.speak()
            assert heard.next()[1].refresh_no == 2


def test_two_contents_share_one_connection_and_one_question(dsn, conn, view):
    conn.execute("CREATE MATERIALIZED VIEW w AS SELECT * FROM t")
    one, two = Heard(), Heard()
    with Database(dsn) as database:
        mvrefresh.refresh(database)
        with (
            watching(database, view, one) as watch,
            watching(database, ViewName("public", "w"), two),
        ):
            assert one.next()[1].refresh_no == two.next()[1].refresh_no == 1
            (count,) = conn.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE query LIKE '%to_regclass%' AND pid <> pg_backend_pid()"
            ).fetchone()
            assert count == 1
            assert watch._thread is not None
        assert watch._thread is None


def test_without_the_librarys_tables_it_says_so_and_goes_on(dsn, conn, caplog):
    conn.execute("CREATE MATERIALIZED VIEW v AS SELECT 1 AS x")
    heard = Heard()
    with Database(dsn) as database, watching(database, ViewName("public", "v"), heard):
        while "cannot be watched" not in caplog.text:
            threading.Event().wait(0.01)
        Schema().apply(conn)
        mvrefresh.refresh_materialized_view(database, "public.v")
        assert heard.next()[1].refresh_no == 1


def test_behind_a_transaction_pooler_it_asks_and_does_not_listen(pooled, conn, view):
    heard = Heard()
    with Database(pooled, prepare_threshold=None) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard) as watch:
            assert heard.next()[1].refresh_no == 1
            assert watch.state == "polling"
            conn.execute("INSERT INTO t VALUES (1)")
            mvrefresh.refresh_materialized_view(database, view)
            assert heard.next()[1].refresh_no == 2


def test_round_a_pooler_it_listens(pooled, dsn, conn, view):
    heard = Heard()
    with Database(pooled, prepare_threshold=None, listen_dsn=dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard) as watch:
            heard.next()
            assert watch.state == "listening"


def test_whatever_is_raised_it_goes_on(dsn, view, caplog):
    """As by a follower of a host's: the thread does not end by it."""

    class Raises(Heard):
        raised = False

        def retag(self, tag, *, park=False):
            if tag is not None and not self.raised:
                self.raised = True
                raise ZeroDivisionError
            super().retag(tag, park=park)

    raises, heard = Raises(), Heard()
    with Database(dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, raises):
            with watching(database, view, heard):
                assert heard.next()[1].refresh_no == 1
    assert raises.raised
    assert "cannot be watched" in caplog.text


def test_what_a_notification_names_is_let_go_before_the_answer(dsn, conn, view):
    conn.execute("INSERT INTO t VALUES (1), (2); CREATE UNIQUE INDEX ON v (x)")
    heard = Heard()
    with Database(dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard):
            assert heard.next()[1].refresh_no == 1
            conn.execute("UPDATE t SET x = 3 WHERE x = 2")
            mvrefresh.refresh_materialized_view(database, view)
            assert heard.let_go.get(timeout=PATIENCE) == {2, 3}
            assert heard.next()[1].refresh_no == 2


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "hello",
        "[]",
        '{"view": "v"}',
        '{"view": "v", "k": 7}',
        '{"view": "v", "k": [{}, []]}',
        '{"view": ["v"], "k": [1]}',
        '{"view": "w", "k": [1]}',
        '{"view": "v", "k": null}',
    ],
)
def test_whatever_is_notified_nothing_is_let_go_that_is_not_named(dsn, conn, view, payload):
    """Everybody may notify; the most he can do is to have something read again."""
    heard = Heard()
    with Database(dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard) as watch:
            assert heard.next()[1].refresh_no == 1
            asked = watch.asked
            conn.execute("SELECT pg_notify('mvrefresh', %s)", (payload,))
            wait_until(lambda: watch.asked > asked)
            assert heard.let_go.empty()
            conn.execute("INSERT INTO t VALUES (1)")
            mvrefresh.refresh_materialized_view(database, view)
            assert heard.next()[1].refresh_no == 2


def test_uuids_are_let_go_as_what_they_are_and_as_texts(dsn, conn, view):
    """What type the column has, the notification does not say."""
    heard = Heard()
    with Database(dsn) as database:
        mvrefresh.refresh_materialized_view(database, view)
        with watching(database, view, heard):
            heard.next()
            conn.execute("SELECT pg_notify('mvrefresh', %s)", (f'{{"view": "v", "k": ["{ONE}"]}}',))
            assert heard.let_go.get(timeout=PATIENCE) == {ONE, str(ONE)}

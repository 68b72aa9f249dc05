"""Connections: whose they are, what reaches them, what a fork and a restart do to them."""

from __future__ import annotations

import os
import threading
import time
import traceback
from contextlib import ExitStack

import psycopg
import pytest
from psycopg_pool import ConnectionPool
from tests.proxy import GoesSilent

from mvrefresh import Database
from mvrefresh.errors import ConfigurationError, DatabaseUnavailable, ForkedPool, PoolExhausted

PID = "SELECT pg_backend_pid()"


def pid_of(database):
    with database.dedicated() as connection:
        return connection.execute(PID).fetchone()[0]


class TestSources:
    def test_exactly_one(self, dsn):
        for wrong in ({}, {"dsn": dsn, "connect": lambda: None}):
            with pytest.raises(ConfigurationError, match="exactly one"):
                Database(**wrong)

    def test_a_factory(self, dsn):
        made = []

        def factory():
            made.append(psycopg.connect(dsn, application_name="mvrefresh-made"))
            return made[-1]

        with Database(connect=factory) as database:
            with database.dedicated() as one, database.connection() as two:
                for connection in (one, two):
                    name = connection.execute("SHOW application_name").fetchone()
                    assert name == ("mvrefresh-made",)
                assert one.autocommit
        assert len(made) >= 2
        assert all(connection.closed for connection in made)

    def test_a_pool_keeps_its_settings_to_itself(self, dsn):
        """A refresh is on a connection like the pool's, but not out of it."""
        options = "-c statement_timeout=1234"
        with (
            ConnectionPool(
                dsn, min_size=1, max_size=2, open=True, kwargs={"options": options}
            ) as pool,
            Database(pool=pool) as database,
        ):
            with database.connection() as pooled:
                inside = pooled.execute(PID).fetchone()[0]
            assert pid_of(database) != inside
            assert pool.get_stats()["requests_num"] == 1
        with Database(dsn) as database:
            assert pid_of(database)

    def test_a_hosts_pool_stays_open(self, dsn):
        with ConnectionPool(dsn, min_size=1, open=True) as pool:
            with Database(pool=pool) as database, database.connection() as connection:
                connection.execute("SELECT 1")
            with pool.connection() as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)


class TestSettings:
    def test_keepalives_and_a_name_are_given_and_may_be_overridden(self, dsn):
        with Database(dsn) as database, database.dedicated() as connection:
            given = connection.info.get_parameters()
        assert given["keepalives_idle"] == "30"
        assert given["keepalives_interval"] == "10"
        assert given["keepalives_count"] == "5"
        assert given["application_name"] == "mvrefresh"
        own = psycopg.conninfo.make_conninfo(dsn, keepalives_idle=7, application_name="mine")
        with Database(own) as database, database.dedicated() as connection:
            assert connection.info.get_parameters()["keepalives_idle"] == "7"
            assert connection.info.get_parameters()["application_name"] == "mine"

    def test_prepared_statements_can_be_switched_off(self, dsn):
        with Database(dsn, prepare_threshold=None) as database, database.connection() as conn:
            assert conn.prepare_threshold is None
        with Database(dsn) as database, database.dedicated() as conn:
            assert conn.prepare_threshold is None

    @pytest.mark.parametrize("dsn", ["postgresql://me:hunter2@h/db?nope=1", "password=hunter2 x"])
    def test_a_dsn_that_is_none_is_refused_without_its_password(self, dsn):
        with pytest.raises(ConfigurationError) as caught:
            Database(dsn)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_no_repr_shows_a_password(self, dsn):
        database = Database("postgresql://me:hunter2@localhost/db")
        assert repr(database) == "Database(host=localhost dbname=db)"
        with ConnectionPool("password=hunter2", open=False) as pool:
            assert "hunter2" not in repr(Database(pool=pool))


class TestReuse:
    def test_a_connection_is_kept_for_the_next(self, dsn):
        with Database(dsn) as database:
            assert pid_of(database) == pid_of(database)

    def test_one_left_in_a_transaction_is_not(self, dsn):
        with Database(dsn) as database:
            with database.dedicated() as connection:
                connection.execute("BEGIN")
                first = connection.info.backend_pid
            assert pid_of(database) != first

    def test_one_that_the_server_closed_meanwhile_is_replaced_unseen(self, dsn, conn):
        with Database(dsn) as database:
            first = pid_of(database)
            conn.execute("SELECT pg_terminate_backend(%s, 5000)", (first,))
            assert pid_of(database) != first

    def test_closed_is_closed_and_twice_is_once(self, dsn):
        database = Database(dsn)
        with database.connection() as connection:
            connection.execute("SELECT 1")
        database.close()
        database.close()
        with pytest.raises(DatabaseUnavailable, match="closed"), database.connection():
            pass


BLOCKS = pytest.mark.parametrize("block", ["reader", "connection"])

AT_ONCE = 3.0  # seconds, on a busy machine; where the pool itself checks, it pauses for 10


def fill(database, connections=8):
    """Let the pool keep as many."""
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(database.reader())


def look_up(database, block):
    """How long a statement takes, in seconds."""
    began = time.monotonic()
    with getattr(database, block)() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    return time.monotonic() - began


class TestWhatThePoolKept:
    """Over a restart, none of it is of use; and nobody is to wait for it, or to see it."""

    @BLOCKS
    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_after_a_restart(self, restartable, mode, block):
        with Database(restartable.dsn()) as database:
            fill(database)
            restartable.restart(mode)
            assert look_up(database, block) < AT_ONCE
            fill(database)  # and the others are replaced, too

    @BLOCKS
    def test_after_all_backends_were_ended(self, dsn, conn, block):
        with Database(dsn) as database:
            fill(database)
            end_all(conn)
            assert look_up(database, block) < AT_ONCE

    def test_for_many_at_once(self, dsn, conn):
        with Database(dsn) as database:
            fill(database)
            end_all(conn)
            took = []
            threads = [
                threading.Thread(target=lambda: took.append(look_up(database, "reader")))
                for _ in range(16)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(took) == 16
        assert max(took) < AT_ONCE

    @BLOCKS
    def test_by_a_pool_of_the_hosts_that_does_not_check(self, dsn, conn, block):
        kwargs = {"application_name": "mvrefresh"}
        with (
            ConnectionPool(dsn, max_size=4, kwargs=kwargs) as pool,
            Database(pool=pool) as database,
        ):
            fill(database, 4)
            end_all(conn)
            assert look_up(database, block) < AT_ONCE
            assert pool.get_stats()["pool_size"] <= 4

    def test_over_an_outage(self, restartable):
        """Who waits in vain is told why; who comes after it does not wait out the pool's pauses."""
        with Database(restartable.dsn(), timeout=1.0) as database:
            fill(database)
            restartable.stop()
            for _ in range(2):
                with pytest.raises(DatabaseUnavailable, match="server running") as caught:
                    look_up(database, "reader")
                assert not isinstance(caught.value, PoolExhausted)
            restartable.start()
            assert look_up(database, "reader") < AT_ONCE

    def test_is_handed_out_without_a_word_to_the_server(self, postgres, conn):
        tcp_dsn = postgres.dsn(conn.info.dbname, tcp=True)
        with GoesSilent(tcp_dsn) as proxy, Database(proxy.dsn) as database:
            fill(database, 1)
            proxy.go_silent()
            with database.reader():
                pass
            proxy.speak()

    def test_where_every_connection_is_ended_at_once_it_is_seen(self, dsn, conn):
        """Not opened again and again until the time is over."""

        def doomed():
            made = psycopg.connect(dsn, application_name="mvrefresh")
            if armed.is_set():
                conn.execute("SELECT pg_terminate_backend(%s, 5000)", [made.info.backend_pid])
            return made

        armed = threading.Event()
        with Database(connect=doomed, max_connections=2) as database:
            look_up(database, "reader")
            armed.set()
            end_all(conn)
            with pytest.raises(DatabaseUnavailable, match="broke") as caught:
                look_up(database, "reader")
            assert not isinstance(caught.value, PoolExhausted)


def end_all(conn):
    """End the backends of all that is called as we are, and see them gone."""
    ended = conn.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'mvrefresh' AND datname = current_database()"
    )
    assert ended.fetchall()


class TestFailures:
    def test_short_work_is_rolled_back(self, dsn, conn):
        with Database(dsn) as database, pytest.raises(ZeroDivisionError):
            with database.connection() as connection:
                connection.execute("CREATE TABLE t (x int)")
                raise ZeroDivisionError
        assert conn.execute("SELECT to_regclass('t')").fetchone() == (None,)

    def test_the_reason_is_told_at_once(self, dsn):
        gone = psycopg.conninfo.make_conninfo(dsn, dbname="no_such_database")
        with Database(gone) as database, pytest.raises(DatabaseUnavailable, match="no_such_data"):
            with database.connection():
                pass

    def test_a_connection_lost_in_short_work(self, dsn):
        with Database(dsn) as database, pytest.raises(DatabaseUnavailable, match="broke"):
            with database.connection() as connection:
                connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def test_an_exhausted_pool_says_who_waits(self, dsn):
        with Database(dsn, max_connections=1, timeout=0.05) as database, database.connection():
            with pytest.raises(PoolExhausted, match=r"1 of 1 in use.*max_size"):
                with database.connection():
                    pass


class TestHealth:
    def test_of_a_healthy_one(self, dsn):
        with Database(dsn) as database:
            health = database.health()
        assert (health.status, health.detail, health.in_recovery) == ("healthy", "", False)
        assert health.latency_ms > 0
        assert health.behind_pooler is False
        assert health.pool_size is None

    def test_warns_from_80_percent(self, dsn):
        with Database(dsn, max_connections=5) as database, ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(database.connection())
            assert database.health().status == "healthy"
            stack.enter_context(database.connection())
            health = database.health()
        assert (health.status, health.pool_used, health.pool_size) == ("degraded", 4, 5)
        assert "4 of 5" in health.detail

    def test_of_one_that_is_away_never_raises(self):
        with Database("host=/nonexistent password=hunter2") as database:
            health = database.health()
        assert health.status == "unhealthy"
        assert health.detail
        assert "hunter2" not in health.detail


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
class TestFork:
    def in_child(self, work):
        """Run `work` in a fork; what it returns, or the traceback."""
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                answer = repr(work())
            except BaseException:  # noqa: BLE001 - the child must not go on as a test run
                answer = traceback.format_exc()
            os.write(write, answer.encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            answer = pipe.read()
        os.waitpid(pid, 0)
        return answer

    def test_the_child_has_connections_of_its_own(self, dsn, conn):
        with Database(dsn) as database:
            mine = pid_of(database)
            with database.connection() as connection:
                connection.execute("SELECT 1")
            theirs = self.in_child(lambda: (pid_of(database), database.close())[0])
            assert theirs.isdigit(), theirs
            assert int(theirs) != mine
            alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
            assert conn.execute(alive, (mine,)).fetchone()  # the parent keeps its own
            with database.connection() as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_a_hosts_pool_is_refused_in_the_child(self, dsn):
        with ConnectionPool(dsn, min_size=1, open=True) as pool, Database(pool=pool) as database:

            def work():
                try:
                    with database.connection():
                        return "used it"
                except ForkedPool as error:
                    return str(error)

            assert "post_fork" in self.in_child(work)
            with database.connection() as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)

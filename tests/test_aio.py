"""The asynchronous face: at once from memory, and on threads of its own what is not."""

from __future__ import annotations

import asyncio
import threading

import pytest
from psycopg_pool import ConnectionPool
from tests.hierarchy.test_resolver import TREE, Oracle, make, table  # noqa: F401 - fixtures

from mvrefresh import Database, Every, RefreshService, Schema, errors
from mvrefresh.aio import AsyncHierarchyResolver, AsyncRefreshService, Threads

PATIENCE = 20


@pytest.fixture
def resolver(make):  # noqa: F811 - a fixture
    resolver = make(resident=0)
    resolver.refresh_all_materialized_views()
    return resolver


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the server tells by being asked
            await asyncio.sleep(0.01)


def test_it_answers_as_the_resolver_does(resolver):
    async def ask():
        async with AsyncHierarchyResolver(resolver) as face:
            for key in TREE:
                for _ in range(2):
                    assert await face.ancestors(key) == resolver.ancestors(key)
                assert await face.node(key) == resolver.node(key)
                assert await face.path(key) == resolver.path(key)
                assert await face.descendants(key, limit=2) == resolver.descendants(key, limit=2)
                assert await face.children(key) == resolver.children(key)
                assert await face.counts(key) == resolver.counts(key)
            assert await face.ancestors_many([3, 4, 99]) == resolver.ancestors_many([3, 4])
            assert await face.nodes_many([3, 99]) == resolver.nodes_many([3])
            assert await face.counts_many([3, 99]) == resolver.counts_many([3])
            assert await face.is_ancestor(1, 4)
            assert (await face.lowest_common_ancestor([4, 9])).id == 2
            assert (await face.look_up(4)).tier == "l1"
            assert await face.ancestors(3, 3600) == resolver.ancestors(3)
            with pytest.raises(errors.UnknownEntity):
                await face.ancestors(99)
            with pytest.raises(errors.ConfigurationError):
                await face.ancestors([1])
            assert face.cache_metrics().keys() == resolver.cache_metrics().keys()

    asyncio.run(ask())


def test_what_is_in_memory_needs_no_thread_and_no_pause(resolver):
    resolver.ancestors_many(TREE)

    async def ask():
        async with AsyncHierarchyResolver(resolver, threads=1) as face:
            await asyncio.sleep(0)
            began, coroutine = threading.active_count(), face.ancestors(4)
            with pytest.raises(StopIteration) as answer:
                coroutine.send(None)  # it ends at its first step
            assert answer.value.value == Oracle(TREE).ancestors(4)
            assert threading.active_count() == began

    asyncio.run(ask())


def test_a_refresh_is_seen_at_once(resolver, conn):
    async def ask():
        async with AsyncHierarchyResolver(resolver) as face:
            await face.ancestors(3)
            conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 2")
            assert await face.refresh_materialized_view("mv_entity_ancestors")
            assert [node.name for node in await face.ancestors(3)] == ["A", "renamed"]
            assert await face.refresh_all_materialized_views()
            await face.look_again()

    asyncio.run(ask())


def hold(conn, statement):
    """A statement that others have to wait for, in a transaction of its own."""
    conn.execute("BEGIN")
    conn.execute(statement)


def waiting(conn):
    (count,) = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    ).fetchone()
    return count


def test_a_cancelled_look_up_ends_in_the_server_and_harms_nobody_else(resolver, conn):
    async def ask():
        async with AsyncHierarchyResolver(resolver) as face:
            hold(conn, "LOCK TABLE entities IN ACCESS EXCLUSIVE MODE")
            mine = asyncio.create_task(face.counts(3, 0.0))
            await until(lambda: waiting(conn) == 1)
            mine.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mine
            await until(lambda: waiting(conn) == 0)
            conn.execute("ROLLBACK")
            assert await face.counts(3, 0.0) == resolver.counts(3)

    asyncio.run(ask())


def test_who_waits_for_the_same_look_up_is_not_cancelled_with_it(resolver, conn):
    async def ask():
        async with AsyncHierarchyResolver(resolver) as face:
            hold(conn, "LOCK TABLE entities IN ACCESS EXCLUSIVE MODE")
            mine = asyncio.create_task(face.ancestors(77))  # it is not in the view
            await until(lambda: waiting(conn) == 1)
            theirs = asyncio.create_task(face.ancestors(77))
            await asyncio.sleep(0.05)
            mine.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mine
            conn.execute("INSERT INTO entities VALUES (77, 'a.b.new', 'N', 'x'); COMMIT")
            assert [node.id for node in await theirs] == [1, 2]

    asyncio.run(ask())


def test_a_cancelled_refresh_ends_in_the_server(resolver, conn):
    async def ask():
        async with AsyncHierarchyResolver(resolver) as face:
            hold(conn, "LOCK TABLE entities IN ACCESS EXCLUSIVE MODE")
            task = asyncio.create_task(face.refresh_all_materialized_views())
            await until(lambda: waiting(conn) >= 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: waiting(conn) == 0)
            conn.execute("ROLLBACK")
            assert await face.refresh_all_materialized_views()

    asyncio.run(ask())


def test_a_service(dsn, conn):
    Schema().apply(conn)
    conn.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")

    async def serve():
        with Database(dsn) as database:
            service = RefreshService(database, ["mv"], Every(seconds=3600))
            async with AsyncRefreshService(service) as face:
                reports = await asyncio.gather(*(face.force() for _ in range(20)))
                assert all(reports)
                assert (await face.status())["state"] == "running"
                assert face.health().status == "healthy"
            assert not service.running

    asyncio.run(serve())


def test_no_threads_are_too_few(resolver):
    with pytest.raises(errors.ConfigurationError):
        AsyncHierarchyResolver(resolver, threads=0)


class TestThreads:
    """What a cancel, a limit and a close reach."""

    def test_a_cancel_between_two_connections_is_not_lost(self, dsn):
        begun, go_on, ran = threading.Event(), threading.Event(), []

        def work():
            begun.set()
            assert go_on.wait(PATIENCE)
            with database.connection() as connection:
                ran.append(connection.execute("SELECT 1").fetchone())

        async def cancel():
            threads = Threads("mvrefresh-test", 1)
            task = asyncio.ensure_future(threads.call(work))
            await until(begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
            await threads.close()

        with Database(dsn) as database:
            asyncio.run(cancel())
        assert ran == []

    def test_the_connection_of_a_hosts_pool_is_gone_and_not_given_back_alive(self, dsn, conn):
        """A cancel that arrives late must not hit what the host does next."""
        conn.execute("SELECT pg_advisory_lock(7)")
        waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

        def work():
            with database.connection() as connection:
                connection.execute("SELECT pg_advisory_xact_lock(7)")

        async def cancel():
            threads = Threads("mvrefresh-test", 1)
            task = asyncio.ensure_future(threads.call(work))
            await until(lambda: conn.execute(waits).fetchone())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await threads.close()

        pool = ConnectionPool(dsn, min_size=1, max_size=1, open=True, close_returns=True)
        with pool, Database(pool=pool) as database:
            with pool.connection() as before:
                pid = before.info.backend_pid
            asyncio.run(cancel())
            with pool.connection() as after:
                assert after.info.backend_pid != pid

    def test_a_timeout_of_the_work_is_its_own(self):
        def work():
            raise TimeoutError("of a host's own")

        async def ask():
            threads = Threads("mvrefresh-test", 1)
            try:
                await threads.within(PATIENCE, work)
            finally:
                await threads.close()

        with pytest.raises(TimeoutError, match="own"):
            asyncio.run(ask())

    def test_what_is_broken_off_by_the_end_says_so(self, dsn, conn, monkeypatch):
        monkeypatch.setattr("mvrefresh.aio.CLOSING", 0.1)
        conn.execute("SELECT pg_advisory_lock(7)")
        waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

        def work():
            with database.connection() as connection:
                connection.execute("SELECT pg_advisory_xact_lock(7)")

        async def close():
            threads = Threads("mvrefresh-test", 1)
            task = asyncio.ensure_future(threads.call(work))
            await until(lambda: conn.execute(waits).fetchone())
            await threads.close()
            await task

        with Database(dsn) as database, pytest.raises(errors.Stopping):
            asyncio.run(close())

"""What the app uses starts and stops with it, and nothing of that waits on the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from fastapi import FastAPI
from tests.web.conftest import ENTITIES, until, visit

from mvrefresh import Database, RefreshService, errors
from mvrefresh.web import lifespan, refresh_router


class Resource:
    """Notes what is done with it, and by which thread."""

    def __init__(self, name, seen, *, fails=False):
        self.name, self.seen, self.fails = name, seen, fails

    def note(self, what):
        assert threading.current_thread() is not threading.main_thread()
        self.seen.append(f"{what} {self.name}")


class Startable(Resource):
    def start(self):
        self.note("start")
        if self.fails:
            raise errors.SchemaMissing("no tables")

    def stop(self, timeout):
        assert timeout == 7
        self.note("stop")


class Closable(Resource):
    def close(self):
        self.note("close")


def test_in_order_and_in_reverse():
    seen = []
    resources = Closable("a", seen), Startable("b", seen), Startable("c", seen)
    app = FastAPI(lifespan=lifespan(*resources, stop_timeout=7))

    async def talk(client):
        assert seen == ["start b", "start c"]

    visit(app, talk)
    assert seen == ["start b", "start c", "stop c", "stop b", "close a"]


def test_one_that_cannot_start_stops_the_others():
    seen = []
    resources = Closable("a", seen), Startable("b", seen), Startable("c", seen, fails=True)
    app = FastAPI(lifespan=lifespan(*resources, stop_timeout=7))

    async def talk(client):
        pytest.fail("the app has started")

    with pytest.raises(errors.SchemaMissing):
        visit(app, talk)
    assert seen == ["start b", "start c", "stop c", "stop b", "close a"]


def test_what_can_neither_be_stopped_nor_closed():
    with pytest.raises(errors.ConfigurationError, match="neither"):
        lifespan(object())


def test_a_service_runs_as_long_as_the_app(database, service_on):
    service = service_on("mv")
    app = FastAPI(lifespan=lifespan(service))

    async def talk(client):
        assert service.running

    for _ in range(2):  # an app may be started again, as in a host's tests
        visit(app, talk)
        assert not service.running


def test_a_database_that_a_lifespan_has_closed_starts_no_second_one(dsn):
    database = Database(dsn)
    app = FastAPI(lifespan=lifespan(database))

    async def twice():
        async with app.router.lifespan_context(app):
            assert not database.closed
        with pytest.raises(errors.ConfigurationError, match="for each start anew"):
            async with app.router.lifespan_context(app):
                pass

    asyncio.run(twice())


def test_a_router_may_be_started_again(resolver):
    app = FastAPI()
    app.include_router(refresh_router(resolver), prefix=ENTITIES)

    async def talk(client):
        for path in ("/3/ancestors", "/2/counts", "/refresh/status"):
            assert (await client.get(ENTITIES + path)).status_code == 200
        assert (await client.post(f"{ENTITIES}/refresh")).status_code == 200

    for _ in range(2):
        visit(app, talk)


def test_starting_and_stopping_leave_the_loop_free():
    go_on = threading.Event()

    class Slow(Startable):
        def start(self):
            assert go_on.wait(10)

        def stop(self, timeout):
            go_on.clear()
            assert go_on.wait(10)

    async def whole():
        turns = 0

        async def work():
            nonlocal turns
            while turns < 5:
                await asyncio.sleep(0)
                turns += 1
            go_on.set()

        for _ in range(2):
            turns = 0
            working = asyncio.create_task(work())
            async with lifespan(Slow("x", []), stop_timeout=7)(None):
                await working
                turns = 0
                again = asyncio.create_task(until_cleared(work))
            await again

    async def until_cleared(work):
        await until(lambda: not go_on.is_set())
        await work()

    asyncio.run(whole())


def test_the_database_is_closed_last(dsn, conn):
    conn.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")
    database = Database(dsn)
    database.schema.apply(conn)
    service = RefreshService(database, ["mv"])
    app = FastAPI(lifespan=lifespan(database, service))
    app.include_router(refresh_router(service=service), prefix=ENTITIES)

    async def talk(client):
        assert (await client.post(f"{ENTITIES}/refresh/automated/force")).status_code == 200

    visit(app, talk)
    with pytest.raises(errors.DatabaseUnavailable), database.connection():
        pass


def test_only_the_routers_need_fastapi():
    program = "import sys, mvrefresh, mvrefresh.aio; print('fastapi' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"

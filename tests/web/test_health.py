"""Health: looked at in the background, one look at a time, and read by requests."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fastapi import FastAPI
from tests.web import shapes
from tests.web.conftest import PATIENCE, ask, until, visit

from mvrefresh import Database
from mvrefresh.web import ops_router
from mvrefresh.web.health import HealthWatch

NAMES = ("database", "redis", "pool", "listener", "service")


def host(*arguments, **settings):
    app = FastAPI()
    app.include_router(ops_router(*arguments, **settings))
    return app


def found(app, path="/health"):
    status, document = ask(app, "GET", path)
    shapes.check(shapes.HEALTH, document)
    assert status == (503 if document["status"] == "unhealthy" else 200)
    return document


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
def test_all_is_well(database, resolver, service_on, path):
    service = service_on("mv")
    service.start()
    document = found(host(database, service=service, resolver=resolver), path)
    assert document["status"] == "healthy"
    assert document["checked_at"] is not None
    assert {check["status"] for check in document["checks"].values()} == {"healthy"}


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live"])
def test_head_is_answered_as_get_without_a_body(database, path):
    app = host(database)

    async def talk(client):
        head, get = await client.head(path), await client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers == get.headers

    visit(app, talk)
    assert all(list(ways) == ["get"] for ways in app.openapi()["paths"].values())


def test_head_says_that_it_is_unhealthy():
    with Database("host=127.0.0.1 port=1 dbname=x connect_timeout=2", timeout=1) as database:

        async def talk(client):
            assert (await client.head("/health")).status_code == 503

        visit(host(database), talk)


def test_with_a_database_alone(database):
    assert found(host(database))["status"] == "healthy"


def test_a_database_that_is_away_is_unhealthy_and_the_process_lives():
    with Database("host=127.0.0.1 port=1 dbname=secret connect_timeout=2", timeout=1) as database:
        app = host(database)
        document = found(app)
        assert document["status"] == "unhealthy"
        assert document["checks"]["database"]["status"] == "unhealthy"
        assert "secret" not in str(document)
        assert found(app, "/health/ready")["status"] == "unhealthy"
        status, alive = ask(app, "GET", "/health/live")
        assert status == 200
        assert alive == {"status": "healthy", "checks": {}, "checked_at": alive["checked_at"]}


def test_a_pool_that_is_used_to_80_percent_is_warned_of(dsn, conn):
    with Database(dsn, max_connections=5) as database:
        for used, status in ((3, "healthy"), (4, "degraded")):
            borrowed = [database.connection() for _ in range(used)]
            for each in borrowed:
                each.__enter__()
            document = found(host(database))
            for each in borrowed:
                each.__exit__(None, None, None)
            assert document["checks"]["pool"]["status"] == document["status"] == status
        assert document["checks"]["pool"]["detail"].startswith("4 of 5 ")


def test_a_service_that_was_stopped_degrades(database, service_on):
    document = found(host(database, service=service_on("mv")))
    assert document["checks"]["service"]["status"] == document["status"] == "degraded"


def test_what_the_service_notices_is_looked_at_at_once(database, service_on):
    service = service_on("mv")
    service.start()

    async def talk(client):
        async def status():
            return (await client.get("/health")).json()["checks"]["service"]["status"]

        assert await status() == "healthy"
        for change, expected in ((service.stop, "degraded"), (service.start, "healthy")):
            await asyncio.to_thread(change)
            async with asyncio.timeout(PATIENCE):  # less than the 30 seconds between two looks
                while await status() != expected:  # noqa: ASYNC110 - it tells by being asked
                    await asyncio.sleep(0.01)

    visit(host(database, service=service), talk)


def test_a_redis_that_does_not_answer_degrades(database):
    class Gone:
        def ping(self):
            raise ConnectionError("secret")

    document = found(host(database, redis=Gone()))
    assert document["checks"]["redis"]["status"] == document["status"] == "degraded"
    assert "secret" not in str(document)


def test_a_redis_that_hangs_degrades_and_is_not_asked_again(database, monkeypatch):
    monkeypatch.setattr("mvrefresh.web.health.REDIS_PATIENCE", 0.05)
    go_on = threading.Event()

    class Hanging:
        asked = 0

        def ping(self):
            self.asked += 1
            assert go_on.wait(PATIENCE)

    watch = HealthWatch(database, redis=Hanging())
    for _ in range(3):
        checks = watch.look().checks
        assert checks["redis"].status == "degraded"
        assert checks["database"].status == "healthy"
    assert watch._redis.asked == 1
    go_on.set()
    watch._ping.result(PATIENCE)
    assert watch.look().checks["redis"].status == "healthy"


def test_a_listener_that_cannot_connect_degrades(database, resolver):
    class Deaf:
        def cache_metrics(self):
            figures = resolver.cache_metrics()
            figures["l1_cache"]["watch"] = "connecting"
            return figures

    document = found(host(database, resolver=Deaf()))
    assert document["checks"]["listener"]["status"] == document["status"] == "degraded"


class Slow:
    """A database whose health is told when the test says so."""

    def __init__(self, database):
        self._database = database
        self.go_on = threading.Event()
        self.asking = self.most = 0

    def health(self):
        self.asking += 1
        self.most = max(self.most, self.asking)
        assert self.go_on.wait(20)
        self.asking -= 1
        return self._database.health()

    def pool_use(self):
        return self._database.pool_use()


def test_requests_ask_nobody(database):
    counted = Slow(database)
    counted.go_on.set()
    app = FastAPI()
    app.include_router(ops_router(counted))
    looks = []
    counted.health = lambda: looks.append(1) or database.health()

    async def talk(client):
        for _ in range(20):
            assert (await client.get("/health")).status_code == 200

    visit(app, talk)
    assert len(looks) == 1


def test_one_look_at_a_time_and_one_that_hangs_is_a_finding(database):
    slow = Slow(database)

    async def whole():
        watch = HealthWatch(slow, every=0.001, patience=0.05)
        assert (await watch.latest()).checks["database"].detail.startswith("the database has not")
        many = await asyncio.gather(*(watch.latest() for _ in range(50)))
        assert {each.status for each in many} == {"unhealthy"}
        with pytest.raises(TimeoutError):  # hundreds of times as long as it pauses
            async with asyncio.timeout(0.5):
                await until(lambda: watch.looks > 1)
        assert slow.most == slow.asking == 1
        slow.go_on.set()
        async with asyncio.timeout(20):
            while (await watch.latest()).status != "healthy":  # noqa: ASYNC110 - it tells if asked
                await asyncio.sleep(0.001)
        await until(lambda: watch.looks > 3)
        await watch.stop()
        assert slow.most == 1

    asyncio.run(whole())


def test_metrics_are_the_hosts_own(database):
    text = b"mvrefresh_up 1\n"
    app = host(database, metrics=lambda: (text, "text/plain; version=0.0.4; charset=utf-8"))

    async def talk(client):
        answer = await client.get("/metrics")
        assert answer.status_code == 200
        assert answer.content == text
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"

    visit(app, talk)
    assert ask(host(database), "GET", "/metrics")[0] == 404

"""The routes that refresh and those of the service: every shape, key by key, from a real server."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import pytest
from tests.web import shapes
from tests.web.conftest import ENTITIES, app_of, ask, until, visit

from mvrefresh import Every, InMemoryMetricsStore, RefreshRecord, errors
from mvrefresh.testing import FakeRefreshService
from mvrefresh.web import refresh_router

REFRESH = f"{ENTITIES}/refresh"
STATUS = f"{ENTITIES}/refresh/status"
START, STOP, FORCE, METRICS = (
    f"{ENTITIES}/refresh/automated/{each}" for each in ("start", "stop", "force", "metrics")
)


def test_a_refresh_without_a_service(database, state):
    app = app_of(refresh_router(database=database))
    status, document = ask(app, "POST", REFRESH)
    assert status == 200
    shapes.check(shapes.REFRESHED, document)
    assert document["results"] == {"mv": True}
    assert state()[0] == 1


@pytest.mark.parametrize("running", [True, False])
def test_a_refresh_whether_or_not_the_service_runs(database, service_on, running):
    service = service_on("mv")
    app = app_of(refresh_router(service=service), *([service] if running else []))

    async def talk(client):
        assert service.running is running
        answer = await client.post(REFRESH)
        assert answer.status_code == 200
        shapes.check(shapes.REFRESHED, answer.json())

    visit(app, talk)


def test_a_body_selects(database, conn):
    conn.execute("CREATE MATERIALIZED VIEW other AS SELECT 1 AS x")
    conn.execute("CREATE MATERIALIZED VIEW above AS SELECT * FROM other")
    app = app_of(refresh_router(database=database))

    async def talk(client):
        one = await client.post(REFRESH, json={"views": ["mv"]})
        assert one.json()["results"] == {"mv": True}
        both = await client.post(REFRESH, json={"views": ["other"], "cascade": True})
        assert both.json()["results"] == {"other": True, "above": True}

    visit(app, talk)


def test_a_partial_success(database, broken):
    app = app_of(refresh_router(database=database))
    status, document = ask(app, "POST", REFRESH)
    assert status == 200
    shapes.check(shapes.PARTIAL, document)
    assert document["results"] == {"mv": True, "broken": False}
    assert document["failed_views"] == ["broken"]
    assert document["message"] == "1 of 2 materialized views refreshed successfully"


def test_a_total_failure_is_500(database, broken):
    app = app_of(refresh_router(database=database, views=["broken"]))
    status, document = ask(app, "POST", REFRESH)
    assert status == 500
    shapes.check(shapes.NOTHING_REFRESHED, document)
    assert document["results"] == {"broken": False}
    assert "broken" in document["detail"]


def test_a_view_of_the_router_that_is_not_there_is_no_success(database):
    app = app_of(refresh_router(database=database, views=["mv", "gone"]))
    status, document = ask(app, "POST", REFRESH)
    assert status == 404
    shapes.check({"detail": lambda found: "gone" in found}, document)


def test_what_follows_a_refresh_does_not_cost_its_answer(resolver, monkeypatch, caplog):
    def away(_resolver):
        raise errors.DatabaseUnavailable("gone just now")

    monkeypatch.setattr(type(resolver), "look_again", away)
    status, document = ask(app_of(refresh_router(resolver)), "POST", REFRESH)
    assert status == 200
    shapes.check(shapes.REFRESHED, document)
    assert "gone just now" in caplog.text


def test_the_hierarchy_is_fresh_when_the_answer_is_there(make, conn):
    resolver = make(resident=0, watch=False)  # nobody else tells it
    resolver.refresh_all_materialized_views()
    app = app_of(refresh_router(resolver))

    async def talk(client):
        await client.get(f"{ENTITIES}/3/ancestors")
        conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 2")
        answer = (await client.post(REFRESH)).json()
        assert set(answer["results"]) == {view.name for view in resolver.source.views}
        found = (await client.get(f"{ENTITIES}/3/ancestors")).json()
        assert [node["name"] for node in found["ancestors"]] == ["A", "renamed"]

    visit(app, talk)


def test_a_crowd_shares_refreshes(database, history):
    app = app_of(refresh_router(database=database))

    async def talk(client):
        answers = await asyncio.gather(*(client.post(REFRESH) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}

    visit(app, talk)
    assert len(history()) < 10


# -- status -----------------------------------------------------------------------------------


def test_status_before_and_after(resolver, database, service_on):
    service = service_on("mv", schedule=Every(seconds=300))
    app = app_of(refresh_router(resolver, service))

    async def talk(client):
        stopped = (await client.get(STATUS)).json()
        shapes.check(shapes.STATUS, stopped)
        assert stopped["automated_refresh_status"]["enabled"] is False
        assert stopped["last_refresh"] is not None  # of the hierarchy, by the fixture
        await client.post(START)
        await client.post(FORCE)
        before = datetime.now(UTC).timestamp()
        await client.post(REFRESH)
        running = (await client.get(STATUS)).json()
        shapes.check(shapes.STATUS, running)
        told = running["automated_refresh_status"]
        assert told["enabled"] is True
        assert told["interval_seconds"] == 300
        assert told["success_count"] >= 1
        assert isinstance(told["next_run"], float)
        assert abs(running["last_refresh"] - before) < 30
        assert len(told["fleet"]) == 1

    visit(app, talk)


def test_status_without_a_service_and_before_any_refresh(database):
    status, document = ask(app_of(refresh_router(database=database)), "GET", STATUS)
    assert status == 200
    shapes.check(shapes.STATUS, document)
    assert document["last_refresh"] is None
    told = document["automated_refresh_status"]
    assert told["enabled"] is False
    assert told["last_run"] is told["next_run"] is told["interval_seconds"] is None


# -- the service ------------------------------------------------------------------------------


def service_threads():
    return [t for t in threading.enumerate() if t.name == "mvrefresh-service"]


def test_start_twice_starts_one_thread(service_on):
    service = service_on("mv", schedule=Every(seconds=300))
    app = app_of(refresh_router(service=service), service)

    async def talk(client):
        assert (await client.post(STOP)).status_code == 200
        one, two = await asyncio.gather(client.post(START), client.post(START))
        assert one.status_code == two.status_code == 200
        said = {one.json()["message"]: one.json(), two.json()["message"]: two.json()}
        shapes.check(shapes.STARTED, said["Automated refresh service started successfully"])
        shapes.check(shapes.RUNNING_ALREADY, said["Automated refresh service is already running"])
        again = await client.post(START)
        shapes.check(shapes.RUNNING_ALREADY, again.json())
        assert len(service_threads()) == 1

    visit(app, talk)
    assert not service_threads()


def test_stop_and_what_is_not_running(service_on):
    service = service_on("mv")
    app = app_of(refresh_router(service=service))

    async def talk(client):
        for path in (STOP, FORCE):
            answer = await client.post(path)
            assert answer.status_code == 409
            shapes.check(shapes.NOT_RUNNING, answer.json())
        await client.post(START)
        await client.post(FORCE)
        answer = await client.post(STOP)
        assert answer.status_code == 200
        shapes.check(shapes.STOPPED, answer.json())
        assert answer.json()["final_metrics"]["successful_refreshes"] >= 1
        assert (await client.post(STOP)).status_code == 409

    visit(app, talk)


def test_without_a_service_there_is_none_to_run(database):
    app = app_of(refresh_router(database=database))

    async def talk(client):
        for path in (START, STOP, FORCE):
            answer = await client.post(path)
            assert answer.status_code == 409
            shapes.check(shapes.NOT_RUNNING, answer.json())

    visit(app, talk)


def test_stop_waits_for_the_refresh_in_progress(service_on, slow, conn):
    service = service_on("slow")
    app = app_of(refresh_router(service=service), service)

    async def talk(client):
        await until(lambda: sleeping(conn))  # a new service's views are due
        stops = [asyncio.create_task(client.post(STOP)) for _ in range(20)]
        await until(lambda: not service.running)
        # Whoever waits, holds nobody: the others answer, and the stop is not done.
        assert (await client.get(STATUS)).json()["automated_refresh_status"]["state"] == "stopping"
        assert not any(stop.done() for stop in stops)
        cancel_sleep(conn)
        answers = await asyncio.gather(*stops)
        assert {answer.status_code for answer in answers} == {200}
        shapes.check(shapes.STOPPED, answers[0].json())
        assert answers[0].json()["final_metrics"]["failed_refreshes"] == 1

    visit(app, talk)


def sleeping(conn):
    (count,) = conn.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event = 'PgSleep'"
    ).fetchone()
    return count


def cancel_sleep(conn):
    conn.execute(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )


def test_force_leaves_the_schedule_alone(service_on):
    service = service_on("mv", schedule=Every(seconds=300))
    app = app_of(refresh_router(service=service), service)

    async def talk(client):
        await until(lambda: service.status()["last_run"] is not None)
        next_run = service.status()["next_run"]
        answer = await client.post(FORCE)
        assert answer.status_code == 200
        shapes.check(shapes.FORCED, answer.json())
        assert answer.json()["result"]["views_refreshed"] == 1
        assert service.status()["next_run"] == next_run

    visit(app, talk)


def test_force_in_part_and_not_at_all(service_on, broken):
    service = service_on("mv", "broken")
    app = app_of(refresh_router(service=service), service)

    async def talk(client):
        part = await client.post(FORCE)
        assert part.status_code == 200
        shape = shapes.FORCED | {
            "status": "partial_success",
            "message": "Forced refresh completed, but for broken",
        }
        shape["result"] = shape["result"] | {"success": False}
        shapes.check(shape, part.json())
        assert part.json()["result"]["views_refreshed"] == 1
        none = await client.post(FORCE, json={"views": ["broken"]})
        assert none.status_code == 500
        shapes.check(shapes.NOTHING_REFRESHED, none.json())

    visit(app, talk)


def test_a_hundred_calls_that_wait_keep_nobody_waiting(service_on, slow, conn, resolver):
    """They hold no thread: neither the framework's nor any of ours."""
    service = service_on("slow")
    app = app_of(refresh_router(resolver, service), service)

    @app.get("/on-the-pool")
    def on_the_pool():
        return {"thread": threading.current_thread().name}

    async def talk(client):
        first = asyncio.create_task(client.post(FORCE))
        await until(lambda: sleeping(conn))
        before = threading.active_count()
        waiting = [asyncio.create_task(client.post(FORCE)) for _ in range(100)]
        waiting += [
            asyncio.create_task(client.post(REFRESH, json={"views": ["slow"]})) for _ in range(100)
        ]
        for _ in range(3):
            answer = await client.get(f"{ENTITIES}/3/ancestors")
            assert answer.status_code == 200
        assert (await client.get("/on-the-pool")).status_code == 200
        assert not any(task.done() for task in waiting)
        # One thread serves all who refresh, one is the framework's, two are those of a look-up.
        assert threading.active_count() - before <= 6
        slow(0)
        cancel_sleep(conn)
        await first
        answers = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} == {200}

    visit(app, talk)


def test_a_refresh_that_takes_too_long_is_504_and_goes_on(service_on, slow, conn):
    service = service_on("slow")
    app = app_of(refresh_router(service=service, timeout=0.2), service)

    async def talk(client):
        for path in (REFRESH, FORCE):
            answer = await client.post(path)
            assert answer.status_code == 504
            shapes.check({"detail": "the refresh was not done within 0.2 s"}, answer.json())
        assert sleeping(conn)

    visit(app, talk)


def test_nothing_is_left_behind_by_a_shutdown_during_a_refresh(database, slow, conn, backends):
    app = app_of(refresh_router(database=database, views=["slow"], timeout=0.2))

    async def talk(client):
        assert (await client.post(REFRESH)).status_code == 504
        assert sleeping(conn)

    visit(app, talk)
    assert not sleeping(conn)


def test_the_fake_service_needs_no_database():
    service = FakeRefreshService(["mv"])
    app = app_of(refresh_router(service=service), service)

    async def talk(client):
        shapes.check(shapes.REFRESHED, (await client.post(REFRESH)).json())
        shapes.check(shapes.FORCED, (await client.post(FORCE)).json())
        shapes.check(shapes.STATUS, (await client.get(STATUS)).json())
        shapes.check(shapes.HISTORY, (await client.get(METRICS)).json())
        shapes.check(shapes.RUNNING_ALREADY, (await client.post(START)).json())
        shapes.check(shapes.STOPPED, (await client.post(STOP)).json())

    visit(app, talk)


def test_a_router_needs_something_to_work_on():
    with pytest.raises(errors.ConfigurationError, match="needs a resolver"):
        refresh_router()


# -- history ----------------------------------------------------------------------------------


def test_history_pages_and_sums_up_all_that_match(database):
    store = InMemoryMetricsStore()
    for second in range(20):
        store.record(
            RefreshRecord(
                view_name="mv" if second % 2 else "other",
                refresh_duration_ms=float(second),
                success=second != 3,
                created_at=datetime.fromtimestamp(1000 + second, UTC),
                error_message="no" if second == 3 else None,
            )
        )
    app = app_of(refresh_router(database=database, metrics=store))

    async def talk(client):
        async def read(**params):
            answer = await client.get(METRICS, params=params)
            assert answer.status_code == 200
            shapes.check(shapes.HISTORY, answer.json())
            return answer.json()

        page = await read(limit=3)
        assert [each["refresh_duration_ms"] for each in page["metrics"]] == [19, 18, 17]
        assert page["metrics"][0]["created_at"] == "1970-01-01T00:16:59Z"
        assert page["summary"]["total_count"] == 20
        assert page["summary"]["failure_count"] == 1
        assert page["summary"]["success_rate"] == 95
        mine = await read(view_name="mv", since=1010)
        assert len(mine["metrics"]) == mine["summary"]["total_count"] == 5
        assert mine["summary"]["min_duration_ms"] == 11
        none = await read(view_name="nobody")
        assert none["metrics"] == []
        summary = none["summary"]
        assert [summary.pop(f"{each}_count") for each in ("total", "success", "failure")] == [0] * 3
        assert set(summary.values()) == {None}

    visit(app, talk)


def test_history_of_the_database(database, broken):
    app = app_of(refresh_router(database=database))

    async def talk(client):
        await client.post(REFRESH)
        document = (await client.get(METRICS)).json()
        shapes.check(shapes.HISTORY, document)
        found = {each["view_name"]: each for each in document["metrics"]}
        assert found["mv"]["success"] is True
        assert found["mv"]["error_message"] is None
        assert found["broken"]["success"] is False
        assert "division by zero" in found["broken"]["error_message"]

    visit(app, talk)

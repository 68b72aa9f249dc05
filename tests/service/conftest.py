"""A service on a database with the view `mv` over table `base`, and what it tells."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from tests.refreshing.conftest import database, history, state  # noqa: F401 - fixtures

from mvrefresh import Every, RefreshPolicy, RefreshService

NEVER = Every(seconds=86400)
POLICY = RefreshPolicy(attempts=2, lock_timeout=2, backoff_initial=0.01, backoff_max=0.02)


class Heard:
    """Keeps the events of a bus, and waits for one."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self._changed = threading.Condition()

    def __call__(self, event: object) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type) -> list:
        with self._changed:
            return [event for event in self.events if isinstance(event, kind)]

    def wait(self, kind: type, count: int = 1, seconds: float = 15, **wanted: object) -> list:
        """Until so many events of a kind, with these attributes, were heard."""

        def found() -> list:
            return [
                event
                for event in self.events
                if isinstance(event, kind)
                and all(getattr(event, name) == value for name, value in wanted.items())
            ]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, seconds):
                pytest.fail(f"no {count} {kind.__name__} within {seconds} s: {self.events}")
            return found()


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def service_of(database, heard):  # noqa: F811
    """Makes services that are heard, and are stopped at the end."""
    with ExitStack() as stack:

        def make(*args: object, **settings: object) -> RefreshService:
            settings = {"policy": POLICY, "schedule": NEVER} | settings
            service = RefreshService(database, *args, **settings)
            stack.enter_context(service.subscribe(heard))
            stack.callback(service.stop, timeout=0)
            return service

        yield make


@pytest.fixture
def slow(conn):
    """`slow` takes as many seconds as table `pace` says, 60 to begin with."""
    conn.execute(
        "CREATE TABLE pace (seconds float8); INSERT INTO pace VALUES (60);"
        "CREATE FUNCTION pause() RETURNS text LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_sleep((SELECT seconds FROM public.pace)); RETURN ''; END$$;"
        "CREATE MATERIALIZED VIEW slow AS SELECT 1 AS id, pause() AS paused WITH NO DATA"
    )

    def pace(seconds: float) -> None:
        conn.execute("UPDATE pace SET seconds = %s", (seconds,))

    return pace


@pytest.fixture
def backends(conn):
    """The library's backends, but for those of the test itself."""

    def read() -> list:
        return conn.execute(
            "SELECT application_name, state, query FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'mvrefresh%'"
        ).fetchall()

    return read

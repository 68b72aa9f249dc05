"""A host's application on a real server, and clients that speak to it over sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from websockets.sync.client import connect

from mvrefresh import Database, EventBus
from mvrefresh.fleet.feed import FleetFeed
from mvrefresh.web.events import events_router

SECONDS = 15  # for what has to come


@contextmanager
def served(app):
    """The address of an application, `127.0.0.1:port`."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        started = threading.Event()
        startup = server.startup

        async def start(sockets=None):
            await startup(sockets)
            started.set()

        server.startup = start
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve([listener])), name="uvicorn"
        )
        thread.start()
        try:
            assert started.wait(SECONDS)
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class Socket:
    """A WebSocket client that waits for what it is asked for."""

    def __init__(self, address, query="", **kwargs):
        self._open = ExitStack()
        url = f"ws://{address}/api/refresh/events{query}"
        self.connection = self._open.enter_context(connect(url, **kwargs))
        self.heard = []

    def next(self):
        self.heard.append(json.loads(self.connection.recv(timeout=SECONDS)))
        return self.heard[-1]

    def until(self, event, **data):
        while True:
            message = self.next()
            if message["event"] == event and data.items() <= message["data"].items():
                return message

    def outcomes(self):
        return [(m["data"]["run_id"], m["data"]["view"]) for m in self.heard if is_outcome(m)]

    def close(self):
        self._open.close()


def is_outcome(message):
    return message["event"] == "RefreshFinished"


def elsewhere(dsn, *views):
    """Refresh in another process, and come back when it is done: its run."""
    program = (
        "import sys, mvrefresh\n"
        "with mvrefresh.Database(sys.argv[1]) as db:\n"
        "    print(mvrefresh.refresh(db, sys.argv[2:] or None).run_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, dsn, *views], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def views(conn):
    """`mv` over `base`, `reader` over `mv`."""
    conn.execute("CREATE TABLE base (id int PRIMARY KEY, n int)")
    conn.execute("INSERT INTO base SELECT i, i FROM generate_series(1, 10) i")
    conn.execute("CREATE MATERIALIZED VIEW mv AS SELECT id, n FROM base")
    conn.execute("CREATE UNIQUE INDEX ON mv (id)")
    conn.execute("CREATE MATERIALIZED VIEW reader AS SELECT count(*) AS n FROM mv")


@pytest.fixture
def database(dsn, conn, views):
    with Database(dsn) as database:
        database.schema.apply(conn)
        yield database


@pytest.fixture
def bus():
    return EventBus()


@pytest.fixture
def feed(database, bus):
    return FleetFeed(database, bus)


@pytest.fixture
def address(feed):
    """An application with the events of `feed` below /api."""
    app = FastAPI()
    app.include_router(events_router(feed), prefix="/api")
    with served(app) as address:
        yield address


@pytest.fixture
def socket_of():
    """Opens WebSockets that are closed at the end."""
    with ExitStack() as stack:

        def make(*args, **kwargs):
            return stack.enter_context(closing(Socket(*args, **kwargs)))

        yield make


@pytest.fixture
def listener(address, feed, socket_of):
    """A WebSocket that hears everything from now on."""
    client = socket_of(address)
    client.until("Joined")
    return client

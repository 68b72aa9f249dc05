"""What every test can ask for: servers, databases of its own, a watch over what it leaves behind.

    MVREFRESH_TEST_PG=18,15     majors to run against (--pg does the same), otherwise 18 and every
                                major below /usr/lib/postgresql
    MVREFRESH_TEST_DSN          a superuser's DSN: that server instead of launched ones
    MVREFRESH_TEST_REDIS_URL    that Redis instead of a launched one
    HYPOTHESIS_PROFILE=long     more examples
    TMPDIR=/var/tmp             servers there, and not in /dev/shm where that has room

A server that cannot be started skips the tests which need it, and fails them where CI is set.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import signal
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, LiteralString, Self

import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.servers import (
    PostgresServer,
    RedisServer,
    ServerStartError,
    StandbyServer,
    postgres_bin_dir,
    system_majors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GRACE_SECONDS = 1.0  # for backends and threads that are on their way out

hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=50, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pg", metavar="MAJORS", help="majors of PostgreSQL to test, as in 18,15")


def pytest_configure() -> None:
    # A shell that runs us in the background lets us ignore Ctrl-C, and so would our children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Multiply the tests that use a PostgreSQL, and no others."""
    if "pg_major" not in metafunc.fixturenames:
        return
    if os.environ.get("MVREFRESH_TEST_DSN"):
        metafunc.parametrize("pg_major", [None], ids=["dsn"], indirect=True, scope="session")
    else:
        majors = _majors(metafunc.config)
        if not _chosen(metafunc.config) and _is_long(metafunc.definition.path):
            majors = majors[:1]
        ids = [f"pg{major}" for major in majors]
        metafunc.parametrize("pg_major", majors, ids=ids, indirect=True, scope="session")


ON_THE_NEWEST = {
    "cli", "demo", "docs", "hammers", "web", "test_aio.py", "test_bench.py",
    "test_edge_function.py", "test_examples.py", "test_flask_app.py", "test_force.py",
    "test_health.py", "test_lifecycle.py", "test_pooled.py", "test_prometheus.py",
    "test_replica.py", "test_resolver.py", "test_reviewed.py", "test_selective.py",
    "test_shared.py", "test_testing.py", "test_tracing.py",
}  # fmt: skip
"""Modules whose tests are long and hardly differ by major: on each of them only where asked for."""


def _is_long(path: Path) -> bool:
    return bool(ON_THE_NEWEST & set(path.parts[-3:]))


def _chosen(config: pytest.Config) -> str | None:
    return config.getoption("--pg") or os.environ.get("MVREFRESH_TEST_PG")


def _majors(config: pytest.Config) -> list[int]:
    chosen = _chosen(config)
    if not chosen:
        return sorted({18, *system_majors()}, reverse=True)
    try:
        return [int(major) for major in chosen.split(",")]
    except ValueError:
        raise pytest.UsageError(f"--pg or MVREFRESH_TEST_PG: no list of majors: {chosen}") from None


class ExistingServer:
    """The server of MVREFRESH_TEST_DSN, with as much of PostgresServer as it allows."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        with closing(psycopg.connect(dsn)) as conn:
            self.version = conn.info.server_version // 10000
            self._superuser = conn.info.user

    def dsn(self, dbname: str = "postgres", *, tcp: bool = False, user: str = "postgres") -> str:
        """The given DSN for another database or role; `tcp` is for the DSN itself to say."""
        role = self._superuser if user == "postgres" else user
        return make_conninfo(self._dsn, dbname=dbname, user=role)


class Databases:
    """Makes databases on one server, all copies of a template with ltree, and drops them."""

    def __init__(self, server: PostgresServer | ExistingServer) -> None:
        self.server = server
        # Several runs may share an existing server.
        self._tag = secrets.token_hex(3)
        self._template = f"template_mvr_{self._tag}"
        self._numbers = itertools.count(1)
        # Copying the files is quicker by a third than writing them as WAL (measured on 15 and 18)
        # where nothing is synced, as on the servers we launch; 14 has no choice.
        quick = server.version >= 15 and isinstance(server, PostgresServer)
        self._copy: LiteralString = "STRATEGY file_copy" if quick else ""

    def __enter__(self) -> Self:
        self._admin = psycopg.connect(self.server.dsn(), autocommit=True)
        try:
            self._execute("CREATE DATABASE {}", self._template)
            with closing(psycopg.connect(self.server.dsn(self._template), autocommit=True)) as conn:
                conn.execute("CREATE EXTENSION ltree")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with closing(self._admin):
            self.drop(self._template)

    def create(self) -> str:
        name = f"t_{self._tag}_{next(self._numbers)}"
        self._execute("CREATE DATABASE {} TEMPLATE {} " + self._copy, name, self._template)
        return name

    def drop(self, name: str) -> None:
        # If a client has just gone, its backend is still going; DROP would look again after 100 ms.
        self._backends(name, "%", seconds=0.1)
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def left_behind(self, name: str) -> list[str]:
        """The library's backends in a database that do not go away."""
        return self._backends(name, "mvrefresh%", seconds=GRACE_SECONDS)

    def _backends(self, name: str, application: str, seconds: float) -> list[str]:
        query = """
            SELECT format('%%s (pid %%s, %%s): %%s', application_name, pid, state, query)
            FROM pg_stat_activity WHERE datname = %s AND application_name LIKE %s"""
        deadline = time.monotonic() + seconds
        while backends := self._admin.execute(query, [name, application]).fetchall():
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)
        return [backend for (backend,) in backends]

    def _execute(self, statement: LiteralString, *names: str) -> None:
        self._admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def threads_besides(before: set[threading.Thread]) -> list[str]:
    """The threads that were not there before and would keep the process from ending."""
    deadline = time.monotonic() + GRACE_SECONDS
    new = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in new:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in new if thread.is_alive()]


@contextmanager
def required() -> Iterator[None]:
    """A server that does not start in here skips the test, and fails it where CI is set."""
    try:
        yield
    except ServerStartError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def _databases_of() -> Iterator[Callable[[int | None], Databases]]:
    """The servers of this run, by major: each starts at its first use, all stop at the end."""
    with ExitStack() as stack:

        @functools.cache
        def databases_of(major: int | None) -> Databases:
            server: PostgresServer | ExistingServer
            if major is None:
                server = ExistingServer(os.environ["MVREFRESH_TEST_DSN"])
            else:
                server = stack.enter_context(PostgresServer(postgres_bin_dir(major)))
            return stack.enter_context(Databases(server))

        yield databases_of


@pytest.fixture(scope="session")
def pg_major(request: pytest.FixtureRequest) -> int | None:
    """The major under test, None for that of MVREFRESH_TEST_DSN."""
    major: int | None = request.param
    return major


@pytest.fixture(scope="session")
def databases(pg_major: int | None, _databases_of: Callable[[int | None], Databases]) -> Databases:
    """Makes and drops databases on the server under test; most tests want `dsn` or `new_dsn`."""
    with required():
        return _databases_of(pg_major)


@pytest.fixture(scope="session")
def postgres(databases: Databases) -> PostgresServer | ExistingServer:
    """A running server, shared by all tests: use `restartable` to stop one."""
    return databases.server


@pytest.fixture
def new_dsn(databases: Databases) -> Iterator[Callable[[], str]]:
    """Makes a fresh database at each call; for the tests that need two."""
    names: list[str] = []

    def make() -> str:
        names.append(databases.create())
        return databases.server.dsn(names[-1])

    yield make
    left = [backend for name in names for backend in databases.left_behind(name)]
    for name in names:
        databases.drop(name)
    if left:
        pytest.fail("connections left open:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def dsn(new_dsn: Callable[[], str]) -> str:
    """A fresh database with ltree, dropped after the test."""
    return new_dsn()


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection to `dsn`."""
    with closing(psycopg.connect(dsn, autocommit=True)) as conn:
        yield conn


@pytest.fixture
def restartable(pg_major: int | None) -> Iterator[PostgresServer]:
    """A running server of the test's own, of the major under test, to restart or to kill."""
    if pg_major is None:
        pytest.skip("the server of MVREFRESH_TEST_DSN is not ours to restart")
    with ExitStack() as stack:
        with required():
            server = stack.enter_context(PostgresServer(postgres_bin_dir(pg_major)))
        yield server


@pytest.fixture
def standby(restartable: PostgresServer) -> Iterator[StandbyServer]:
    """A streaming standby of `restartable`, to lag, to be cut off, and to be promoted."""
    with ExitStack() as stack:
        with required():
            server = stack.enter_context(StandbyServer(restartable))
        yield server


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis shared by all tests: use keys of your own."""
    with ExitStack() as stack:
        url = os.environ.get("MVREFRESH_TEST_REDIS_URL")
        if not url:
            with required():
                url = stack.enter_context(RedisServer()).url
        yield url


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    if left := threads_besides(before):
        pytest.fail(f"threads left running: {left}", pytrace=False)

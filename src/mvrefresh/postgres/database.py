"""Connections: for short work from a pool, for refreshes of their own.

A refresh runs for minutes on a connection that nobody else set up for short queries: a pool's
`statement_timeout` or a pool that is exhausted must not reach it. So `connection()` hands out the
pool's, and `dedicated()` direct ones.
"""

from __future__ import annotations

import os
import weakref
from contextlib import contextmanager
from functools import partial
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import psycopg
import psycopg_pool
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mvrefresh.errors import ConfigurationError, DatabaseUnavailable, ForkedPool, PoolExhausted
from mvrefresh.postgres.direct import DirectConnections, hung_up
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.postgres.health import DatabaseHealth, check_health
from mvrefresh.postgres.reach import reached
from mvrefresh.postgres.schema import Schema
from mvrefresh.postgres.watch import TagWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Self, TypeAlias

    from mvrefresh.postgres.direct import AnyConnection

    AnyPool: TypeAlias = psycopg_pool.ConnectionPool[Any]

_DEFAULTS: Final[dict[str, str | int]] = {
    # A dead peer is noticed after 30 + 5 * 10 seconds instead of two hours.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 5,
    "connect_timeout": 10,
    "application_name": "mvrefresh",
}

_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_of_the_parent: list[object] = []  # a fork's inheritance: kept, so that nothing closes it


def _after_fork() -> None:
    for database in list(_databases):
        database._forget_parent()  # noqa: SLF001 - our own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Database:
    """A PostgreSQL database, and how to reach it. Safe to share between threads.

    Exactly one of the first three says where it is:

    Args:
        dsn: A connection string or URI. Parameters of libpq's environment (PG*) fill the rest.
        pool: The host's own `psycopg_pool.ConnectionPool`; it stays the host's to close.
        connect: A function that returns a new psycopg connection.
        schema: Where the library's state and functions live.
        metrics_schema: Where table `refresh_metrics` lives; the same by default.
        max_connections: Size of the pool that is made for short work (not with `pool`).
        timeout: Seconds to wait for a connection of the pool.
        prepare_threshold: As psycopg's; None for a pooler without prepared statements
            (PgBouncer before 1.21). Refreshes never prepare.
        listen_dsn: A way to the server that leads round a transaction pooler, to hear of
            refreshes; without it they are asked for every second.

    Attributes:
        schema: The library's own tables.
        watch: Tells resolvers of refreshes; it works while there are any.

    Raises:
        ConfigurationError: Not exactly one source was given, or the DSN is none.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: AnyPool | None = None,
        connect: Callable[[], AnyConnection] | None = None,
        schema: str = "mvrefresh",
        metrics_schema: str | None = None,
        max_connections: int = 8,
        timeout: float = 10.0,
        prepare_threshold: int | None = 5,
        listen_dsn: str | None = None,
    ) -> None:
        if sum(source is not None for source in (dsn, pool, connect)) != 1:
            raise ConfigurationError("Database() takes exactly one of dsn, pool=, connect=")
        if pool is not None and not isinstance(pool, psycopg_pool.ConnectionPool):
            raise ConfigurationError(
                f"pool= takes a psycopg_pool.ConnectionPool, not {type(pool).__name__}; "
                "beside an asynchronous pool, give the DSN"
            )
        self.schema = Schema(schema, metrics_schema)
        self._conninfo = _conninfo(dsn) if dsn is not None else None
        self._factory = connect
        self._host_pool = pool
        self._own_pool: AnyPool | None = None
        self._max_connections = max_connections
        self._timeout = timeout
        self._prepare_threshold = prepare_threshold
        self._direct = DirectConnections(self._open)
        self._lock = Lock()
        self._listen_conninfo = None if listen_dsn is None else _conninfo(listen_dsn)
        self.watch = TagWatch(self)
        self._closed = False
        self._pid = os.getpid()
        _databases.add(self)

    def __repr__(self) -> str:
        if self._host_pool is not None:
            where = f"pool={self._host_pool.name!r}"
        elif self._factory is not None:
            where = f"connect={getattr(self._factory, '__qualname__', 'factory')}"
        else:
            parts = conninfo_to_dict(self._conninfo or "")
            where = " ".join(f"{k}={parts[k]}" for k in ("host", "port", "dbname") if k in parts)
        return f"Database({where})"

    @property
    def name(self) -> str:
        """The database's, as the DSN or the pool has it; empty where only a factory knows."""
        conninfo = self._conninfo
        if conninfo is None and self._host_pool is not None:
            given = self._host_pool.conninfo
            conninfo = given() if callable(given) else given
        return str(conninfo_to_dict(conninfo or "").get("dbname", ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def connection(self) -> Iterator[AnyConnection]:
        """A connection for short work, from the pool; committed at the end of the block.

        Raises:
            PoolExhausted: None was free in time.
            DatabaseUnavailable: The database cannot be reached.
        """
        pool = self._pool()
        connection = self._checked_out(pool)
        try:
            with unavailable_when_lost(), connection.transaction():
                yield connection
        finally:
            pool.putconn(connection)

    def _checked_out(self, pool: AnyPool) -> AnyConnection:
        """A connection that the server has not closed while it lay in the pool.

        A pool's own `check` is a round trip at each look-up, and after one that fails the pool
        sleeps, for a second, then two: all it kept across a restart would take longer than
        `timeout`.
        """
        deadline = monotonic() + self._timeout
        try:
            connection: AnyConnection = pool.getconn(self._timeout)
            for _ in range(pool.max_size):  # where new ones are closed at once, too: let it be seen
                if not hung_up(connection):
                    break
                pool.putconn(connection)  # which drops it, and opens another
                connection = pool.getconn(deadline - monotonic())
        except psycopg_pool.PoolTimeout:
            raise self._why_no_connection(pool) from None
        except (psycopg.OperationalError, psycopg_pool.PoolClosed) as error:
            raise DatabaseUnavailable(f"no connection to the database: {error}") from error
        return connection

    @contextmanager
    def reader(self) -> Iterator[AnyConnection]:
        """A connection of the pool for one statement that reads: no transaction around it.

        Raises:
            PoolExhausted, DatabaseUnavailable: As `connection`.
        """
        pool = self._pool()
        connection = self._checked_out(pool)
        try:
            with unavailable_when_lost(), reached(connection):
                yield connection
        finally:
            pool.putconn(connection)

    def dedicated(self) -> AbstractContextManager[AnyConnection]:
        """A direct connection in autocommit, apart from any pool, for as long as it takes.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
        """
        return self._direct.lend()

    @contextmanager
    def listening(self) -> Iterator[AnyConnection]:
        """A connection of its own for who listens; closed at the end of the block.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
        """
        lender = self._direct
        if self._listen_conninfo is not None:
            lender = DirectConnections(partial(psycopg.connect, self._listen_conninfo))
        with lender.lend(fresh=True) as connection:
            try:
                yield connection
            finally:
                connection.close()  # who has it next would hear what is said here

    def _open(self) -> AnyConnection:
        if self._factory is not None:
            return self._factory()
        if self._host_pool is None:
            return psycopg.connect(self._conninfo or "")
        pool = self._host_pool
        conninfo, kwargs = pool.conninfo, pool.kwargs
        if callable(conninfo) or callable(kwargs):  # psycopg_pool 3.3 resolves them per connection
            conninfo = conninfo() if callable(conninfo) else conninfo
            kwargs = kwargs() if callable(kwargs) else kwargs
        given = dict(kwargs or {})
        given.pop("autocommit", None)
        connection: AnyConnection = pool.connection_class.connect(conninfo, **given)
        return connection

    def _pool(self) -> AnyPool:
        if self._host_pool is not None:
            if self._pid != os.getpid():
                raise ForkedPool("the pool was made by the parent of this process")
            return self._host_pool
        with self._lock:
            if self._closed:
                raise DatabaseUnavailable("this Database is closed")
            if self._own_pool is None:
                self._own_pool = self._make_pool()
            return self._own_pool

    def _make_pool(self) -> AnyPool:
        with self._direct.lend():  # says at once, and why, where a pool would wait and time out
            pass
        opener = self._open

        class Direct(psycopg.Connection[Any]):
            """Lets the pool open its connections by the host's factory, too."""

            @classmethod
            def connect(cls, *_: Any, **__: Any) -> Any:
                return opener()

        def configure(connection: AnyConnection) -> None:
            connection.autocommit = True
            connection.prepare_threshold = self._prepare_threshold

        return psycopg_pool.ConnectionPool(
            connection_class=Direct,
            configure=configure,
            min_size=0,
            max_size=self._max_connections,
            timeout=self._timeout,
            # It tries as long as who waits does, or its pauses grow to minutes which whoever comes
            # after the outage would wait; a little less, so that who gave up is told why.
            reconnect_timeout=0.8 * self._timeout,
            open=True,
            name="mvrefresh",
        )

    def _why_no_connection(self, pool: AnyPool) -> DatabaseUnavailable:
        stats = pool.get_stats()
        used, size = _use(stats)
        if used < size:  # it had room, so it could not connect: ask the server why
            with self._direct.lend(fresh=True):
                pass
        return PoolExhausted(
            f"no connection was free within {self._timeout:g} s: {used} of {size} in use, "
            f"{stats.get('requests_waiting', 0)} callers waiting"
        )

    def pool_use(self) -> tuple[int, int] | None:
        """(connections in use, max_size) of the pool for short work; None while there is none."""
        pool = self._host_pool or self._own_pool
        return None if pool is None else _use(pool.get_stats())

    def health(self) -> DatabaseHealth:
        """Ask the server for a sign of life, on a direct connection; never raises."""
        return check_health(self)

    def trim(self) -> None:
        """Close direct connections that are kept for the next refresh; others are opened then."""
        self._direct.trim()

    def sever(self, crew: object) -> None:
        """Hang up on a server that does not answer, wherever a thread of `crew` waits for it."""
        self._direct.sever(crew)

    def close(self) -> None:
        """Close what this object opened; the host's pool stays open. Twice is once."""
        with self._lock:
            self._closed = True
            pool, self._own_pool = self._own_pool, None
        self._direct.close()
        if pool is not None:
            pool.close()

    def _forget_parent(self) -> None:
        """In a forked child: leave the parent's pool alone, start with none."""
        _of_the_parent.append(self._own_pool)
        self._own_pool = None
        self._lock = Lock()
        self._direct.forget_parent()


def _use(stats: dict[str, int]) -> tuple[int, int]:
    return stats.get("pool_size", 0) - stats.get("pool_available", 0), stats.get("pool_max", 0)


def _conninfo(dsn: str) -> str:
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # The driver's message quotes the text, and the text may hold a password.
        raise ConfigurationError(
            'the DSN is neither a URI ("postgresql://user@host/db") nor key=value pairs'
        ) from None
    if "@" in str(given.get("host", "")):  # the tail of a password that holds an "@"
        raise ConfigurationError('the host holds an "@": write an "@" in a password as %40')
    return make_conninfo(dsn, **{k: v for k, v in _DEFAULTS.items() if k not in given})

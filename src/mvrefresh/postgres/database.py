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
from typing import TYPE_CHECKING

import psycopg
import psycopg_pool
from psycopg.conninfo import conninfo_to_dict

from mvrefresh.errors import ConfigurationError, ForkedPool
from mvrefresh.postgres.direct import DirectConnections
from mvrefresh.postgres.dsn import completed, shown
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.postgres.health import DatabaseHealth, check_health
from mvrefresh.postgres.pools import OwnPool, checked_out, use_of
from mvrefresh.postgres.reach import reached
from mvrefresh.postgres.replica import Replica
from mvrefresh.postgres.schema import Schema
from mvrefresh.postgres.watch import TagWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Self

    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.postgres.pools import AnyPool

_databases: weakref.WeakSet[Database] = weakref.WeakSet()


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
        read_dsn: A standby, or several, from which look-ups read where they have the current
            content. Nothing is believed of it that this server does not say, too.

    Attributes:
        schema: The library's own tables.
        replica: The way to `read_dsn`; None without one.
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
        read_dsn: str | None = None,
    ) -> None:
        if sum(source is not None for source in (dsn, pool, connect)) != 1:
            raise ConfigurationError("Database() takes exactly one of dsn, pool=, connect=")
        if pool is not None and not isinstance(pool, psycopg_pool.ConnectionPool):
            raise ConfigurationError(
                f"pool= takes a psycopg_pool.ConnectionPool, not {type(pool).__name__}; "
                "beside an asynchronous pool, give the DSN"
            )
        self.schema = Schema(schema, metrics_schema)
        self._conninfo = completed(dsn) if dsn is not None else None
        self._factory = connect
        self._host_pool = pool
        self._timeout = timeout
        self._direct = DirectConnections(self._open)
        self._own_pool = OwnPool(
            self._open,
            before=self._greet,
            size=max_connections,
            timeout=timeout,
            prepare_threshold=prepare_threshold,
            name="mvrefresh",
        )
        self._listen_conninfo = None if listen_dsn is None else completed(listen_dsn)
        self.replica: Replica | None = None
        if read_dsn is not None:
            self.replica = Replica(
                read_dsn, max_connections=max_connections, prepare_threshold=prepare_threshold
            )
        self.watch = TagWatch(self)
        self._pid = os.getpid()
        _databases.add(self)

    def __repr__(self) -> str:
        if self._host_pool is not None:
            where = f"pool={self._host_pool.name!r}"
        elif self._factory is not None:
            where = f"connect={getattr(self._factory, '__qualname__', 'factory')}"
        else:
            where = shown(self._conninfo or "")
        return (
            f"Database({where})" if self.replica is None else f"Database({where}, {self.replica})"
        )

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
        connection = checked_out(pool, self._timeout, self._say_why)
        try:
            with unavailable_when_lost(), reached(connection), connection.transaction():
                yield connection
        finally:
            pool.putconn(connection)

    @contextmanager
    def reader(self) -> Iterator[AnyConnection]:
        """A connection of the pool for one statement that reads: no transaction around it.

        Raises:
            PoolExhausted, DatabaseUnavailable: As `connection`.
        """
        pool = self._pool()
        connection = checked_out(pool, self._timeout, self._say_why)
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
        return self._own_pool.get()

    def _greet(self) -> None:
        """Say at once, and why, where a pool would wait and time out."""
        with self._direct.lend():
            pass

    def _say_why(self) -> None:
        """Raise with the reason why no connection can be opened, if there is one."""
        with self._direct.lend(fresh=True):
            pass

    def pool_use(self) -> tuple[int, int] | None:
        """(connections in use, max_size) of the pool for short work; None while there is none."""
        pool = self._host_pool or self._own_pool.made
        return None if pool is None else use_of(pool.get_stats())

    def health(self) -> DatabaseHealth:
        """Ask the server for a sign of life, on a direct connection; never raises."""
        return check_health(self)

    def dedicated_pids(self) -> set[int]:
        """The server processes behind this object's direct connections, lent and kept.

        Behind a pooler they are of the pooler's making.
        """
        return self._direct.pids()

    def trim(self) -> None:
        """Close direct connections that are kept for the next refresh; others are opened then."""
        self._direct.trim()
        if self.replica is not None:
            self.replica.trim()

    def sever(self, crew: object) -> None:
        """Hang up on a server that does not answer, wherever a thread of `crew` waits for it."""
        self._direct.sever(crew)
        if self.replica is not None:
            self.replica.sever(crew)

    @property
    def closed(self) -> bool:
        """Whether `close` was called: it lends no direct connection any more."""
        return self._direct.closed

    def close(self) -> None:
        """Close what this object opened; the host's pool stays open. Twice is once."""
        self._direct.close()
        self._own_pool.close()
        if self.replica is not None:
            self.replica.close()

    def _forget_parent(self) -> None:
        """In a forked child: leave the parent's pool alone, start with none."""
        self._own_pool.forget_parent()
        self._direct.forget_parent()
        if self.replica is not None:
            self.replica.forget_parent()

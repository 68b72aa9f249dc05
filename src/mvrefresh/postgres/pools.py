"""Pools for short work: made at the first use, and what is handed out of any of them."""

from __future__ import annotations

from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool

from mvrefresh.errors import DatabaseUnavailable, PoolExhausted
from mvrefresh.postgres.direct import hung_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from mvrefresh.postgres.direct import AnyConnection

    AnyPool: TypeAlias = psycopg_pool.ConnectionPool[Any]

_of_the_parent: list[object] = []  # a fork's inheritance: kept, so that nothing closes it


class OwnPool:
    """A pool that is made when somebody asks for it. Any thread may.

    Args:
        connect: Opens a connection.
        before: Called before the pool is made; it may raise, and then there is none.
        size: Connections at most.
        timeout: Seconds that callers wait for one at most.
        prepare_threshold: As psycopg's.
        name: For the log.
    """

    def __init__(
        self,
        connect: Callable[[], AnyConnection],
        *,
        before: Callable[[], None] = lambda: None,
        size: int,
        timeout: float,
        prepare_threshold: int | None,
        name: str,
    ) -> None:
        self._connect = connect
        self._before = before
        self._size = size
        self._timeout = timeout
        self._prepare_threshold = prepare_threshold
        self._name = name
        self._lock = Lock()
        self._closed = False
        self.made: AnyPool | None = None

    def get(self) -> AnyPool:
        """The pool.

        Raises:
            DatabaseUnavailable: It was closed; or what `before` raises.
        """
        with self._lock:
            if self._closed:
                raise DatabaseUnavailable("this Database is closed")
            if self.made is None:
                self._before()
                self.made = self._make()
            return self.made

    def _make(self) -> AnyPool:
        connect = self._connect

        class Direct(psycopg.Connection[Any]):
            """Lets the pool open its connections by a function."""

            @classmethod
            def connect(cls, *_: Any, **__: Any) -> Any:
                return connect()

        def configure(connection: AnyConnection) -> None:
            connection.autocommit = True
            connection.prepare_threshold = self._prepare_threshold

        return psycopg_pool.ConnectionPool(
            connection_class=Direct,
            configure=configure,
            min_size=0,
            max_size=self._size,
            timeout=self._timeout,
            # It tries as long as who waits does, or its pauses grow to minutes which whoever comes
            # after the outage would wait; a little less, so that who gave up is told why.
            reconnect_timeout=0.8 * self._timeout,
            open=True,
            name=self._name,
        )

    def close(self) -> None:
        """Close it, and make none from now on."""
        with self._lock:
            self._closed = True
            pool, self.made = self.made, None
        if pool is not None:
            pool.close()

    def forget_parent(self) -> None:
        """In a forked child: leave the parent's pool alone, start with none."""
        _of_the_parent.append(self.made)
        self.made = None
        self._lock = Lock()


def checked_out(
    pool: AnyPool, timeout: float, ask_why: Callable[[], None] = lambda: None
) -> AnyConnection:
    """A connection that the server has not closed while it lay in the pool.

    A pool's own `check` is a round trip at each look-up, and after one that fails the pool
    sleeps, for a second, then two: all it kept across a restart would take longer than `timeout`.

    Args:
        pool: Ours or the host's.
        timeout: Seconds.
        ask_why: Called where none can be opened; it raises with the reason if it finds one.

    Raises:
        PoolExhausted: None was free in time.
        DatabaseUnavailable: None can be opened.
    """
    deadline = monotonic() + timeout
    try:
        connection: AnyConnection = pool.getconn(timeout)
        for _ in range(pool.max_size):  # where new ones are closed at once, too: let it be seen
            if not hung_up(connection):
                break
            pool.putconn(connection)  # which drops it, and opens another
            connection = pool.getconn(deadline - monotonic())
    except psycopg_pool.PoolTimeout:
        stats = pool.get_stats()
        used, size = use_of(stats)
        if used < size:  # it had room, so it could not connect
            ask_why()
        raise PoolExhausted(
            f"no connection was free within {timeout:g} s: {used} of {size} in use, "
            f"{stats.get('requests_waiting', 0)} callers waiting"
        ) from None
    except (psycopg.OperationalError, psycopg_pool.PoolClosed) as error:
        raise DatabaseUnavailable(f"no connection to the database: {error}") from error
    return connection


def use_of(stats: dict[str, int]) -> tuple[int, int]:
    """(connections in use, max_size), of a pool's figures."""
    return stats.get("pool_size", 0) - stats.get("pool_available", 0), stats.get("pool_max", 0)

"""Another way to read: a standby of the database, as far as it has come.

It may be behind, hang, cancel statements, be away, or be another server altogether. Whoever reads
here compares the tag that came with the rows, and has the database itself to ask instead; so
nobody waits here for long.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

import psycopg

from mvrefresh.errors import DatabaseUnavailable
from mvrefresh.postgres.direct import DirectConnections
from mvrefresh.postgres.dsn import completed, shown
from mvrefresh.postgres.faults import message_of, unavailable_when_lost
from mvrefresh.postgres.patient import PatientConnection
from mvrefresh.postgres.pools import OwnPool, checked_out
from mvrefresh.postgres.reach import reached

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from mvrefresh.postgres.direct import AnyConnection

PATIENCE: Final = 0.5  # seconds for a connection and an answer
_CONNECT_TIMEOUT: Final = (
    2  # seconds, the least that libpq takes; nobody but the pool waits so long
)


class Replica:
    """A server that is read from where it has what is wanted. Any thread may ask.

    Args:
        dsn: A connection string or URI.
        max_connections: Size of its pool.
        prepare_threshold: As psycopg's.

    Raises:
        ConfigurationError: The DSN is none.
    """

    def __init__(self, dsn: str, *, max_connections: int, prepare_threshold: int | None) -> None:
        self._conninfo = completed(dsn, connect_timeout=_CONNECT_TIMEOUT)
        self._said = ""
        self._direct = DirectConnections(partial(psycopg.connect, self._conninfo))
        self._pool = OwnPool(
            self._open,
            size=max_connections,
            timeout=PATIENCE,
            prepare_threshold=prepare_threshold,
            name="mvrefresh-replica",
        )

    def __repr__(self) -> str:
        return f"Replica({shown(self._conninfo)})"

    def _open(self) -> AnyConnection:
        try:
            return PatientConnection.connect(self._conninfo)
        except psycopg.Error as error:
            self._said = message_of(error)
            raise

    def _say_why(self) -> None:
        if self._said:
            raise DatabaseUnavailable(f"no connection to the replica: {self._said}")

    @contextmanager
    def reader(self, patience: float = PATIENCE) -> Iterator[AnyConnection]:
        """A connection of the pool for what reads: no transaction around it.

        Args:
            patience: Seconds until all has to be done, from the wait for the connection on.

        Raises:
            PoolExhausted, DatabaseUnavailable: As `Database.connection`.
        """
        until = monotonic() + patience
        pool = self._pool.get()
        connection = checked_out(pool, patience, self._say_why)
        try:
            if isinstance(connection, PatientConnection):
                connection.until = until
            with unavailable_when_lost(), reached(connection):
                yield connection
        finally:
            pool.putconn(connection)

    def dedicated(self) -> AbstractContextManager[AnyConnection]:
        """A direct connection in autocommit, for as long as it takes.

        Raises:
            DatabaseUnavailable: It cannot be reached.
        """
        return self._direct.lend()

    def trim(self) -> None:
        """Close direct connections that are kept for the next time."""
        self._direct.trim()

    def sever(self, crew: object) -> None:
        """Hang up wherever a thread of `crew` waits on a direct connection."""
        self._direct.sever(crew)

    def close(self) -> None:
        """Close all connections. Twice is once."""
        self._direct.close()
        self._pool.close()

    def forget_parent(self) -> None:
        """In a forked child: leave the parent's connections alone, start with none."""
        self._pool.forget_parent()
        self._direct.forget_parent()

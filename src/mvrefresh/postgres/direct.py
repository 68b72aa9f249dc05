"""Direct connections: opened when needed, a few kept for the next time, none shared with a fork."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import tuple_row

from mvrefresh.errors import ConfigurationError, DatabaseUnavailable, MvrefreshError
from mvrefresh.postgres.faults import message_of
from mvrefresh.postgres.reach import reached
from mvrefresh.refreshing.threads import current_crew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    AnyConnection: TypeAlias = psycopg.Connection[Any]

KEPT_IDLE: Final = 4

_of_the_parent: list[object] = []  # a fork's inheritance: kept, so that nothing closes it


def _make_ours(connection: AnyConnection) -> None:
    """Undo what a host's factory or role may have set that our reading of answers rests on."""
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        connection.commit()  # a factory's SET without COMMIT
    connection.autocommit = True
    connection.prepare_threshold = None  # nothing to gain, and poolers lose them
    connection.row_factory = tuple_row
    if not (connection.info.parameter_status("DateStyle") or "").startswith("ISO"):
        connection.execute("SET DateStyle = ISO")
    if connection.info.parameter_status("client_encoding") not in ("UTF8", "SQL_ASCII"):
        connection.execute("SET client_encoding = 'UTF8'")


def sever(connection: AnyConnection) -> None:
    """Hang up on a server that does not answer: who waits on the connection gets an error."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def hung_up(connection: AnyConnection) -> bool:
    """Whether the server has closed an idle connection meanwhile; asks our own side alone.

    A connection that it has not closed may be lost all the same: only a round trip would tell, and
    only of the moment before. One that is closed here is of no use any more, also to a pool.
    """
    try:
        # Twice: the first may read the server's farewell, the second then its hang-up.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        connection.pgconn.finish()  # not close(): that of a pool's connection may give it back
    return connection.closed


class DirectConnections:
    """Lends direct autocommit connections. Any thread may borrow.

    Args:
        connect: Opens one.
    """

    def __init__(self, connect: Callable[[], AnyConnection]) -> None:
        self._connect = connect
        self._idle: list[AnyConnection] = []
        self._lent: dict[AnyConnection, object] = {}
        self._lock = Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it lends no more."""
        return self._closed

    @contextmanager
    def lend(self, *, fresh: bool = False) -> Iterator[AnyConnection]:
        """A connection for the length of the block; a kept one unless it must be fresh.

        Raises:
            DatabaseUnavailable: None can be opened.
        """
        if self._closed:
            raise DatabaseUnavailable("this Database is closed")
        connection = (None if fresh else self._take_idle()) or self._open()
        self._lent[connection] = current_crew()
        try:
            with reached(connection):
                yield connection
        finally:
            self._lent.pop(connection, None)  # a child forked in the block has none
            self._give_back(connection)

    def sever(self, crew: object) -> None:
        """Hang up on the server wherever a thread of this crew waits for it."""
        for connection, theirs in list(self._lent.items()):
            if theirs is crew:
                sever(connection)

    def pids(self) -> set[int]:
        """The backends of those that are open, as the server calls them."""
        with self._lock:
            connections = [*self._lent.copy(), *self._idle]
        found = set()
        for connection in connections:
            with suppress(psycopg.Error):  # closed meanwhile
                found.add(connection.info.backend_pid)
        return found

    def _open(self) -> AnyConnection:
        try:
            connection = self._connect()
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(
                f"no connection to the database: {message_of(error)}"
            ) from error
        except psycopg.ProgrammingError:
            # The driver's message quotes the text, and the text may hold a password.
            raise DatabaseUnavailable("the connection string cannot be read") from None
        except MvrefreshError:
            raise
        except Exception as error:
            # A host's factory: its tunnel, its vault. Its words may hold a secret.
            raise DatabaseUnavailable(
                f"no connection to the database: connect= raised {type(error).__name__}"
            ) from error
        if not isinstance(connection, psycopg.Connection):
            raise ConfigurationError(
                f"connect= returned {type(connection).__name__}, not a psycopg.Connection"
            )
        try:
            _make_ours(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _take_idle(self) -> AnyConnection | None:
        """A kept connection that the server has not closed meanwhile, if there is one."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not hung_up(connection):
                return connection

    def _give_back(self, connection: AnyConnection) -> None:
        status = connection.info.transaction_status
        clean = not connection.closed and status == psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            keep = clean and not self._closed and len(self._idle) < KEPT_IDLE
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def trim(self) -> None:
        """Close what is kept for the next time."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close what is kept, and keep nothing from now on."""
        with self._lock:
            self._closed = True
        self.trim()

    def forget_parent(self) -> None:
        """In a forked child: leave the parent's connections alone, start with none."""
        # Closing them would say goodbye to the server on the parent's sockets.
        _of_the_parent.append((self._idle, self._lent))
        self._idle, self._lent = [], {}
        self._lock = Lock()

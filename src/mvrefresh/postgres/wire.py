"""A connection that is spoken to and listened on, and never waited for without an end.

The protocol is libpq's own: psycopg's `execute` inside its `notifies()` locks itself. A bell, the
read end of a socket pair, ends every wait.
"""

from __future__ import annotations

import selectors
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq, sql

from mvrefresh.errors import DatabaseUnavailable
from mvrefresh.postgres.notify import CHANNEL

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

Row = tuple[bytes | None, ...]


class Stopped(Exception):  # noqa: N818 - what happened
    """Who waits is to end."""


class Wire:
    """Statements and notifications on one connection, for the thread that owns it.

    Args:
        connection: In autocommit, and nobody else's.
        selector: Where the bell is registered.
        bell: Rung where something else is to be seen to.
        patience: Seconds until an answer has to be there.
        ended: Whether the thread is to end; asked when the bell rings during an answer.
        heard: Called with the payload of each notification.
    """

    def __init__(
        self,
        connection: psycopg.Connection[object],
        selector: selectors.BaseSelector,
        bell: socket.socket,
        *,
        patience: float,
        ended: Callable[[], bool],
        heard: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._pgconn = connection.pgconn
        self._selector = selector
        self._bell = bell
        self._patience = patience
        self._ended = ended
        self._heard = heard

    @contextmanager
    def open(self) -> Iterator[None]:
        """Have the selector look at the connection for as long as the block lasts."""
        fd = self._pgconn.socket
        self._selector.register(fd, selectors.EVENT_READ)
        try:
            yield
        finally:
            self._selector.unregister(fd)

    def listen(self) -> bool:
        """Listen to refreshes, if that is of use here.

        A standby does not take LISTEN. A transaction pooler does, and hands the connection to
        somebody else.
        """
        ((pid,),) = self.answer(b"SELECT pg_backend_pid()")
        if pid is None or int(pid) != self._pgconn.backend_pid:
            return False
        try:
            self.answer(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)).as_bytes(None))
        except psycopg.errors.ReadOnlySqlTransaction:
            return False
        return True

    def wait_until(self, moment: float) -> None:
        """Wait for the moment, for a notification, or for the bell."""
        pgconn = self._pgconn
        while (said := pgconn.notifies()) is None:
            left = moment - monotonic()
            if left <= 0:
                return
            ready = {key.fileobj for key, _ in self._selector.select(left)}
            if self._bell in ready:
                drain(self._bell)
                return
            if ready:
                pgconn.consume_input()
        while said is not None:  # one question answers them all
            self._heard(said.extra)
            said = pgconn.notifies()

    def answer(self, statement: bytes) -> list[Row]:
        """The rows that a statement gives, as text; within the patience.

        Raises:
            DatabaseUnavailable: The answer did not come in time.
            psycopg.Error, OSError: The server refused, or the connection broke.
            Stopped: The thread is to end.
        """
        pgconn, deadline = self._pgconn, monotonic() + self._patience
        pgconn.send_query(statement)
        rows: list[Row] = []
        while True:
            while pgconn.is_busy():
                left = deadline - monotonic()
                if left <= 0:
                    raise DatabaseUnavailable("the server did not answer in time")
                pgconn.flush()
                ready = {key.fileobj for key, _ in self._selector.select(left)}
                if self._bell in ready:
                    drain(self._bell)
                    if self._ended():
                        raise Stopped
                if ready - {self._bell}:
                    pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return rows
            if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                raise psycopg.errors.error_from_result(result)
            rows += [
                tuple(result.get_value(row, column) for column in range(result.nfields))
                for row in range(result.ntuples)
            ]


def drain(bell: socket.socket) -> None:
    """Take all that was rung."""
    with suppress(BlockingIOError):
        while bell.recv(1024):
            pass

"""Ending a run early, in the server and not only here."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from threading import Condition, Event, get_ident
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from mvrefresh.errors import RefreshCancelled
from mvrefresh.postgres.direct import sever

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mvrefresh.postgres.direct import AnyConnection

_AGAIN = 0.1  # seconds; a cancel that finds its backend between two statements is lost


class Cancellation:
    """The wish to end a run, and the connections on which it has work in the server."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._connections: dict[AnyConnection, int] = {}
        self.wish = Event()
        """Set when the run is to end: what pauses, waits for this."""

    def request(self) -> None:
        """Let nothing begin any more; what runs, runs on."""
        self.wish.set()

    @property
    def requested(self) -> bool:
        """Whether the run is to end."""
        return self.wish.is_set()

    def check(self, view: str) -> None:
        """Raise `RefreshCancelled` if the run is to end."""
        if self.requested:
            raise RefreshCancelled(view, "it was cancelled before it began")

    @contextmanager
    def reaches(self, connection: AnyConnection) -> Iterator[None]:
        """Let a cancel reach what runs on `connection` inside the block."""
        with self._changed:
            self._connections[connection] = get_ident()
        try:
            yield
        finally:
            with self._changed:
                del self._connections[connection]
                if self.requested:
                    # A cancel that arrives late must not hit what runs on it next.
                    connection.pgconn.finish()  # not close(): that of a pool's may give it back
                self._changed.notify_all()

    def sever(self) -> None:
        """Hang up on a server that does not answer: what waits for it gets an error."""
        self.request()
        with self._changed:
            connections = list(self._connections)
        for connection in connections:
            sever(connection)

    def cancel(self, timeout: float = 10.0) -> bool:
        """Cancel everything in the server, and wait until it has stopped.

        From a callback or a signal handler of the thread that does the work there is nothing to
        wait for: it goes on when the caller returns, and ends then.

        Returns:
            Whether all has stopped within `timeout` seconds.
        """
        deadline = monotonic() + timeout
        self.request()
        while True:
            with self._changed:
                running = dict(self._connections)
            for connection in running:
                # An error: it has just ended, or the server is gone, and so has the work.
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=max(_AGAIN, deadline - monotonic()))
            if not running:
                return True
            if get_ident() in running.values() or monotonic() >= deadline:
                return False
            with self._changed:
                self._changed.wait_for(lambda: not self._connections, timeout=_AGAIN)

"""Ending a run early, in the server and not only here."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Condition
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from mvrefresh.errors import RefreshCancelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mvrefresh.postgres.direct import AnyConnection

_AGAIN = 0.1  # seconds; a cancel that finds its backend between two statements is lost


class Cancellation:
    """The wish to end a run, and the connections on which it has work in the server."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._connections: set[AnyConnection] = set()
        self.requested = False

    def check(self, view: str) -> None:
        """Raise `RefreshCancelled` if the run is to end."""
        if self.requested:
            raise RefreshCancelled(view, "it was cancelled before it began")

    @contextmanager
    def reaches(self, connection: AnyConnection) -> Iterator[None]:
        """Let a cancel reach what runs on `connection` inside the block."""
        with self._changed:
            self._connections.add(connection)
        try:
            yield
        finally:
            with self._changed:
                self._connections.discard(connection)
                self._changed.notify_all()

    def cancel(self, timeout: float = 10.0) -> bool:
        """Cancel everything in the server, and wait until it has stopped.

        Returns:
            Whether all has stopped within `timeout` seconds.
        """
        deadline = monotonic() + timeout
        with self._changed:
            self.requested = True
        while monotonic() < deadline:
            with self._changed:
                running = list(self._connections)
            if not running:
                return True
            for connection in running:
                try:
                    connection.cancel_safe(timeout=max(_AGAIN, deadline - monotonic()))
                except psycopg.Error:  # it has just ended, or the server is gone: so has the work
                    continue
            with self._changed:
                self._changed.wait_for(lambda: not self._connections, timeout=_AGAIN)
        return False

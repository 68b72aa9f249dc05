"""Waits that end: for servers that may hang while another one has the answer.

A server that is suspended answers nothing, and neither a `statement_timeout` of its own nor a
keepalive of its kernel ends that. So the client looks at the clock.
"""

from __future__ import annotations

from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from psycopg.abc import PQGen

T = TypeVar("T")

_GLANCE: Final = 0.05  # seconds between two looks at the clock while nothing arrives


class PatientConnection(psycopg.Connection[Any]):
    """A connection that is given up where an answer is not there in time.

    Attributes:
        until: When it has to be there, by the monotonic clock; None: never mind.
    """

    until: float | None = None

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """As psycopg's, and no longer than it may.

        Raises:
            psycopg.OperationalError: It took too long; the connection is gone.
        """
        if self.until is None:
            return super().wait(gen, *args, **kwargs)
        return super().wait(self._in_time(gen, self.until), _GLANCE)

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """As psycopg's; who has no time left for an answer has little for this."""
        if self.until is not None:
            timeout = min(timeout, max(2 * _GLANCE, self.until - monotonic()))
        super().cancel_safe(timeout=timeout)

    def _in_time(self, gen: PQGen[T], until: float) -> PQGen[T]:
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for  # every glance, if nothing arrives
                if monotonic() >= until:
                    self.pgconn.finish()  # whatever it says now, nobody waits for
                    raise psycopg.OperationalError("the server did not answer in time")
                waits_for = gen.send(ready)
        except StopIteration as end:
            answer: T = end.value
            return answer


class Patience:
    """Gives up in the middle of long work where nothing has been heard for so long.

    Args:
        seconds: Between two signs of life at most.
        give_up: Called once, on a thread of its own, if there is none.
    """

    def __init__(self, seconds: float, give_up: Callable[[], object]) -> None:
        self._seconds = seconds
        self._give_up = give_up
        self._heard = monotonic()
        self._over = Event()
        self._thread = Thread(target=self._run, name="mvrefresh-patience", daemon=True)

    def heard(self) -> None:
        """A sign of life."""
        self._heard = monotonic()

    def __enter__(self) -> Self:
        self.heard()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(max(_GLANCE, self._heard + self._seconds - monotonic())):
            if monotonic() >= self._heard + self._seconds:
                self._give_up()
                return

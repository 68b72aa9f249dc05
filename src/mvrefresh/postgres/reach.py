"""Who wants to be able to end what a thread has the server do.

Set around work on a thread; whatever a `Database` lends there is then within it.
"""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import psycopg

    Reaches: TypeAlias = Callable[[psycopg.Connection[Any]], AbstractContextManager[object]]

REACH: Final[ContextVar[Reaches | None]] = ContextVar("mvrefresh_reach", default=None)
"""Makes a block around a statement on a connection, within which it can be ended."""


def reached(connection: psycopg.Connection[Any]) -> AbstractContextManager[object]:
    """The block for what this thread does on a connection."""
    reach = REACH.get()
    return nullcontext() if reach is None else reach(connection)

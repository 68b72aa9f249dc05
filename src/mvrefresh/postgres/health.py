"""Is the database well? Asked on a direct connection, so that an exhausted pool can say so."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

import psycopg

from mvrefresh.errors import MvrefreshError
from mvrefresh.postgres.faults import message_of

if TYPE_CHECKING:
    from mvrefresh.postgres.database import Database

POOL_WARNING: Final = 0.8
"""Share of a pool in use from which the database counts as degraded."""


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """What `Database.health()` found.

    Attributes:
        status: "healthy"; "degraded" when the pool is used to 80 % or more; "unhealthy".
        latency_ms: Milliseconds of a round trip; None without an answer.
        pool_used, pool_size: Connections of the pool in use, and its max_size; None without one.
        detail: What is wrong, in words; empty when nothing is.
    """

    status: str
    latency_ms: float | None = None
    server_version: int | None = None
    in_recovery: bool | None = None
    behind_pooler: bool | None = None
    pool_used: int | None = None
    pool_size: int | None = None
    detail: str = ""


def check_health(database: Database) -> DatabaseHealth:
    """Ask the server for a sign of life; never raises."""
    used, size = database.pool_use() or (None, None)
    started = monotonic()
    try:
        with database.dedicated() as connection:
            row = connection.execute("SELECT pg_backend_pid(), pg_is_in_recovery()").fetchone()
            pid, in_recovery = row if row is not None else (0, None)
            latency = (monotonic() - started) * 1000
            version = connection.info.server_version
            pooler = connection.info.backend_pid != pid
    except (MvrefreshError, psycopg.Error) as error:
        return DatabaseHealth("unhealthy", pool_used=used, pool_size=size, detail=message_of(error))
    pressed = used is not None and size is not None and size > 0 and used >= POOL_WARNING * size
    return DatabaseHealth(
        status="degraded" if pressed else "healthy",
        latency_ms=latency,
        server_version=version,
        in_recovery=in_recovery,
        behind_pooler=pooler,
        pool_used=used,
        pool_size=size,
        detail=f"{used} of {size} connections of the pool are in use" if pressed else "",
    )

"""L3: PostgreSQL's shared buffers: a meter of how often reads find their blocks, and a warmer.

Nothing is kept here: the buffers are the server's. One read in `every` is metered, by what the
server has counted for the view and its indexes before it and after it, in one transaction, so that
nobody else's reads are in the difference. `warm` reads the views into the buffers, which pays after
a restart or where they were evicted; residency says how much of them is there now.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import tuple_row

from mvrefresh.cache.tier import TierStats
from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg import Connection

_COUNTED: Final = b"""
SELECT coalesce(sum(pg_stat_get_xact_blocks_fetched(o)), 0)::bigint,
       coalesce(sum(pg_stat_get_xact_blocks_hit(o)), 0)::bigint
  FROM (SELECT %s::regclass::oid AS o
        UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = %s::regclass) r
"""
_WARM: Final = b"""
SELECT coalesce(sum(pg_prewarm(o)), 0)::bigint
  FROM (SELECT v::regclass AS o FROM unnest(%s::text[]) v
        UNION ALL SELECT i.indexrelid::regclass FROM unnest(%s::text[]) v
          JOIN pg_index i ON i.indrelid = v::regclass) r
"""
_RESIDENT: Final = b"""
SELECT count(b.bufferid)::float8 / nullif(sum(c.pages) OVER (), 0)
  FROM (SELECT sum(pg_relation_size(o) / current_setting('block_size')::bigint) AS pages,
               array_agg(pg_relation_filenode(o)) AS files
          FROM (SELECT v::regclass AS o FROM unnest(%s::text[]) v
                UNION ALL SELECT i.indexrelid::regclass FROM unnest(%s::text[]) v
                  JOIN pg_index i ON i.indrelid = v::regclass) r) c
  LEFT JOIN pg_buffercache b
    ON b.relfilenode = ANY (c.files) AND b.relforknumber = 0
   AND b.reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
 GROUP BY c.pages
"""


class BufferMeter:
    """Counts blocks that reads found in the buffers, and that they did not. Any thread may ask.

    Args:
        every: One read in so many is metered, which costs it two more statements; 0: none is.

    Raises:
        ConfigurationError: It is negative.
    """

    def __init__(self, every: int = 100) -> None:
        if every < 0:
            raise ConfigurationError(f"every={every} is negative; 0 meters nothing")
        self._every = every
        self._reads = count(1)
        self._lock = Lock()
        self._hits = self._misses = 0

    @contextmanager
    def metered(self, connection: Connection[Any], relation: str) -> Iterator[None]:
        """Meter what is read of a relation inside the block, if it is this one's turn.

        Args:
            connection: On which it is read.
            relation: As SQL reads a name.
        """
        if not self._every or next(self._reads) % self._every:
            yield
            return
        cursor = connection.cursor(row_factory=tuple_row)
        with connection.transaction():
            before = cursor.execute(_COUNTED, (relation, relation)).fetchone() or (0, 0)
            yield
            after = cursor.execute(_COUNTED, (relation, relation)).fetchone() or (0, 0)
        fetched, hit = after[0] - before[0], after[1] - before[1]
        with self._lock:
            self._hits += hit
            self._misses += fetched - hit

    def stats(self) -> TierStats:
        """Blocks of the metered reads."""
        with self._lock:
            return TierStats(hits=self._hits, misses=self._misses)


def warm(connection: Connection[Any], relations: Sequence[str]) -> int | None:
    """Read relations and their indexes into the buffers.

    Returns:
        Blocks read; None where the extension pg_prewarm is not installed.
    """
    if not _has(connection, "pg_prewarm"):
        return None
    row = connection.cursor(row_factory=tuple_row).execute(
        _WARM, (list(relations), list(relations))
    )
    found = row.fetchone()
    return int(found[0]) if found else 0


def residency(connection: Connection[Any], relations: Sequence[str]) -> float | None:
    """The share of relations and their indexes that is in the buffers, 0 to 1.

    Returns:
        None where the extension pg_buffercache is not installed, or they are empty.
    """
    if not _has(connection, "pg_buffercache"):
        return None
    row = (
        connection.cursor(row_factory=tuple_row)
        .execute(_RESIDENT, (list(relations), list(relations)))
        .fetchone()
    )
    return None if row is None or row[0] is None else float(row[0])


def _has(connection: Connection[Any], extension: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM pg_extension WHERE extname = %s", (extension,)
    ).fetchone()
    return row is not None

"""Refreshes that go on elsewhere: seen by the lock of the view, which each of them holds.

Nobody is told of a refresh before it commits, except by that lock. One that is done between two
looks is not seen: its outcome is all there is to tell.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from mvrefresh.events import RefreshFinished, RefreshStarted
from mvrefresh.fleet.news import News
from mvrefresh.postgres import locks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from uuid import UUID

    from mvrefresh.events import Event

HELD: Final = sql.SQL("""
SELECT l.objid AS view, l.pid, a.xact_start AS since,
       coalesce(a.application_name, '') AS application
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {space}::oid AND l.objsubid = 2
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                      WHERE d.datname = current_database())
""").format(space=sql.Literal(locks.SPACE))
"""Rows of `view` (oid), `pid`, `since` (null: this role may not know) and `application`."""


class GoingOn:
    """Which refreshes were told already: others' by their locks, this process's by its events."""

    def __init__(self) -> None:
        self._ours: set[tuple[UUID, str]] = set()
        self._done: set[str] = set()  # since the last look: the next may have begun before
        self._seen: set[tuple[Any, ...]] = set()

    def hear(self, event: Event) -> None:
        """Of this process: whoever hears it begin need not be told that it goes on."""
        if isinstance(event, RefreshStarted):
            self._ours.add((event.run_id, event.view))
        elif isinstance(event, RefreshFinished):
            self._ours.discard((event.run_id, event.outcome.view))
            self._done.add(event.outcome.view)

    def new_among(
        self, rows: Iterable[Mapping[str, Any]], now: datetime, pids: Collection[int] = ()
    ) -> list[News]:
        """Those of other processes that no look has seen.

        Args:
            rows: As `ledger.read` gives them: all that go on.
            now: The look's moment.
            pids: Server processes that work for this process: before one is heard to begin, it
                has the lock.
        """
        ours = {view for _, view in self._ours} | self._done
        self._done = set()
        held = {(row["view"], row["pid"], row["since"]): row for row in rows}
        others = {
            key: row
            for key, row in held.items()
            if row["view"] is not None and row["view"] not in ours and row["pid"] not in pids
        }
        new = others.keys() - self._seen
        # One that was told, and is hidden by a wish of ours for the same view, is not new after it.
        self._seen = (self._seen & held.keys()) | others.keys()
        return [News("RefreshGoingOn", now, _data(others[key])) for key in sorted(new, key=str)]


def _data(row: Mapping[str, Any]) -> dict[str, Any]:
    since = row["since"]
    return {**row, "since": since and datetime.fromisoformat(since)}

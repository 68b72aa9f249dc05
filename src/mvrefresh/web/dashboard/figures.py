"""What the dashboard shows: all views of the database, their latest runs, the tiers of a cache."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from mvrefresh.errors import ConfigurationError
from mvrefresh.fleet.onlooker import Onlooker
from mvrefresh.fleet.picture import seconds_between
from mvrefresh.metrics.store import RefreshRecord, summarize
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.refreshing.schedule import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from mvrefresh.fleet.picture import Picture, ViewSeen
    from mvrefresh.postgres.database import Database

POINTS: Final = 100  # runs of each view
_FRESH_FOR: Final = 0.5  # seconds: pages that ask at the same time share an answer
_LATE: Final = 1.5  # intervals: as old as this, one run was missed
_STALE: Final = 3.0

_SIZES = sql.SQL(
    "SELECT c.oid::bigint, pg_total_relation_size(c.oid) FROM pg_class c"
    " WHERE c.oid = ANY (%s::oid[])"
)
_RUNS = sql.SQL("""
SELECT v.label, l.* FROM unnest(%s::text[]) AS v (label) CROSS JOIN LATERAL (
    SELECT r.created_at, r.refresh_duration_ms, r.success, r.strategy,
           coalesce(r.status, CASE WHEN r.success THEN 'succeeded' ELSE 'failed' END) AS status
      FROM {metrics} r WHERE r.view_name = v.label
     ORDER BY r.created_at DESC, r.id DESC LIMIT {most}) l
""")


class Figures:
    """Looks at the fleet for any number of pages. Safe to call from any thread.

    Args:
        database: Whose views.
        cache: Gives the tiers' figures, as `resolver.cache_metrics` does; None: there are none.
    """

    def __init__(
        self, database: Database, cache: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        self._database = database
        self._cache = cache
        self._onlooker = Onlooker(database)
        self._lock = Lock()
        self._last: tuple[float, dict[str, Any]] | None = None

    def read(self) -> dict[str, Any]:
        """The figures of now.

        Keys: `at` (Unix seconds, by the database's clock, as all moments here), `database`,
        `standby`, `views` (`_view`), `history` {view: [{`at`, `duration_ms`, `success`, `status`,
        `strategy`}], oldest first}, `summaries` {view: the fields of `MetricsSummary` over these},
        `cache` (null: there is none), `fleet` [{`host`, `pid`, `since`}] (null: not to be seen).

        Raises:
            SchemaMissing: The library's tables are not there.
            DatabaseUnavailable: The database is not there.
        """
        with self._lock:
            if self._last is None or monotonic() - self._last[0] > _FRESH_FOR:
                self._last = monotonic(), self._read()
            return self._last[1]

    def _read(self) -> dict[str, Any]:
        picture = self._onlooker.look()
        graph = self._onlooker.graph
        labels = {view.oid: view.label for view in graph}
        sizes, runs = self._more(picture)
        views = []
        for seen in picture.views:
            view = graph[seen.oid]
            reads = sorted(labels[oid] for oid in view.reads if oid in labels)
            views.append(
                _view(seen, picture.now)
                | {
                    "reads": reads,
                    "tables": list(view.base_tables),
                    "size_bytes": sizes.get(seen.oid),
                    "blocks_readers": view.concurrently_obstacle is not None,
                    "obstacle": view.concurrently_obstacle,
                }
            )
        fleet = picture.fleet
        return {
            "at": picture.now.timestamp(),
            "database": picture.where,
            "standby": picture.standby,
            "views": views,
            "history": {
                label: [
                    {
                        "at": run.created_at and run.created_at.timestamp(),
                        "duration_ms": run.refresh_duration_ms,
                        "success": run.success,
                        "status": run.status,
                        "strategy": run.strategy,
                    }
                    for run in reversed(records)
                ]
                for label, records in runs.items()
            },
            "summaries": {label: summarize(records) for label, records in runs.items()},
            "cache": None if self._cache is None else self._cache(),
            "fleet": fleet
            and [
                {"host": p.host, "pid": p.pid, "since": p.since and p.since.timestamp()}
                for p in fleet
            ],
        }

    def _more(self, picture: Picture) -> tuple[dict[int, int], dict[str, list[RefreshRecord]]]:
        runs: dict[str, list[RefreshRecord]] = defaultdict(list)
        query = _RUNS.format(metrics=self._database.schema.metrics_table, most=sql.Literal(POINTS))
        with self._database.dedicated() as connection, unavailable_when_lost():
            sizes = dict(
                connection.execute(_SIZES, ([seen.oid for seen in picture.views],)).fetchall()
            )
            for label, at, duration, success, strategy, status in connection.execute(
                query, ([seen.label for seen in picture.views],)
            ):
                runs[label].append(
                    RefreshRecord(label, duration, success, at, status=status, strategy=strategy)
                )
        return sizes, runs


def _view(seen: ViewSeen, now: datetime) -> dict[str, Any]:
    """A view.

    Keys: `view` (its label), `populated`, `freshness` (see `_freshness`), `age_seconds` (of the
    content), `content_as_of`, `schedule`, `interval_seconds`, `last_run`, `next_run`, `status`,
    `strategy`, `reason`, `error`, `duration_ms`, `trigger` (of the last run), `refresh_no`,
    `running_since`, `suspended_because`, `failures`, `changed_by_others`; and `reads`, `tables`,
    `size_bytes`, `blocks_readers`, `obstacle`.
    """
    last, running = seen.last, seen.running
    age = seconds_between(seen.content_as_of, now) if seen.populated else None
    interval = _interval(seen.schedule, now)
    return {
        "view": seen.label,
        "populated": seen.populated,
        "freshness": _freshness(seen, age, interval),
        "age_seconds": age,
        "content_as_of": seen.content_as_of and seen.content_as_of.timestamp(),
        "schedule": seen.schedule,
        "interval_seconds": interval,
        "last_run": last and last.created_at and last.created_at.timestamp(),
        "next_run": seen.due_at and seen.due_at.timestamp(),
        "status": last and last.status,
        "strategy": last and last.strategy,
        "reason": last and last.reason,
        "error": last and last.error_message,
        "duration_ms": last and last.refresh_duration_ms,
        "trigger": last and last.trigger,
        "refresh_no": seen.refresh_no,
        "running_since": running and running.since.timestamp(),
        "suspended_because": seen.suspended_because,
        "failures": seen.failures,
        "changed_by_others": seen.changed_by_others,
    }


def _interval(schedule: str | None, now: datetime) -> float | None:
    """Seconds from one slot to the next, as things are now; None without a schedule."""
    if schedule is None:
        return None
    try:
        parsed = parse_schedule(schedule)
    except ConfigurationError:  # of a later version of the library
        return None
    following = parsed.after(now, now)
    return (parsed.after(following, following) - following) / timedelta(seconds=1)


def _freshness(seen: ViewSeen, age: float | None, interval: float | None) -> str:
    """In a word: how the age of the content stands to the schedule.

    `fresh`, `late` (a run was missed), `stale` (several were), `suspended`, `unpopulated`,
    `unscheduled` (nobody promised anything), `unknown` (nobody noted its age).
    """
    if not seen.populated:
        return "unpopulated"
    if seen.suspended_because is not None:
        return "suspended"
    if interval is None:
        return "unscheduled"
    if age is None:
        return "unknown"
    if age <= _LATE * interval:
        return "fresh"
    return "late" if age <= _STALE * interval else "stale"

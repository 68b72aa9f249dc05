"""What a service tells of itself: one picture of this process, the database and the fleet."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, TypedDict

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from mvrefresh.errors import MvrefreshError
from mvrefresh.postgres.slots import Tick, read_tick
from mvrefresh.refreshing.due import due_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.direct import AnyConnection
    from mvrefresh.service.loop import Session
    from mvrefresh.service.roster import Roll


class ViewStatus(TypedDict):
    """One view of a service. Moments are Unix seconds, None for never."""

    view: str
    schedule: str
    last_run: float | None
    next_run: float | None
    content_as_of: float | None
    refresh_no: int | None
    running: bool
    failures: int
    suspended_because: str | None
    last_error: str | None


class FleetMember(TypedDict):
    """One live process with a service on this database.

    `since` in Unix seconds; None where the process has another role, whose times are hidden.
    """

    host: str
    pid: int
    since: float | None
    here: bool


class ServiceConfig(TypedDict):
    """What a service was told to do. `views` None: all of the database, not yet looked up."""

    interval_seconds: float | None
    concurrent_refresh: bool
    views: list[str] | None


class ServiceStatus(TypedDict):
    """What `RefreshService.status()` gives. Moments are Unix seconds, None for never.

    `state` is "stopped", "running", "standby", "degraded" or "stopping"; `fleet` is None where it
    cannot be known: the database is away, or a transaction pooler stands between.
    """

    state: str
    enabled: bool
    coordination: str
    started_at: float | None
    last_run: float | None
    next_run: float | None
    interval_seconds: float | None
    success_count: int
    failure_count: int
    views: list[ViewStatus]
    fleet: list[FleetMember] | None
    error: str | None


_CONTENTS = sql.SQL("""
SELECT s.view::bigint AS view, extract(epoch FROM s.content_as_of)::float8 AS content_as_of,
       s.refresh_no
  FROM {state} s JOIN pg_class c ON c.oid = s.view AND c.xmin = s.xmin
""")
_FLEET = b"""
SELECT min(extract(epoch FROM backend_start))::float8 AS since, application_name AS name
  FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'mvrefresh service %'
 GROUP BY application_name ORDER BY 1, 2
"""


def service_status(
    database: Database,
    session: Session | None,
    *,
    coordination: str,
    interval_seconds: float | None,
) -> ServiceStatus:
    """Ask the session and the database; where that is away, what is known without it."""
    fleet: list[FleetMember] | None = None
    contents: dict[int, Mapping[str, Any]] = {}
    error: str | None = None
    tick = None if session is None else session.dispatcher.tick
    try:
        with database.dedicated() as connection:
            fleet = _fleet(connection)
            if coordination == "schema":
                tick = read_tick(connection, database.schema)
                contents = _contents(connection, database)
    except (psycopg.Error, MvrefreshError) as away:
        error = str(away)
    figures = None if session is None else session.tally.sum()
    views = [] if session is None else _views(session, tick, contents)
    return {
        "state": state_of(session),
        "enabled": session is not None,
        "coordination": coordination,
        "started_at": None if session is None else session.started_at,
        "last_run": max((v["last_run"] for v in views if v["last_run"] is not None), default=None),
        "next_run": min((v["next_run"] for v in views if v["next_run"] is not None), default=None),
        "interval_seconds": interval_seconds,
        "success_count": 0 if figures is None else figures.successful_refreshes,
        "failure_count": 0 if figures is None else figures.failed_refreshes,
        "views": views,
        "fleet": fleet,
        "error": error if session is None else session.error or error,
    }


def state_of(session: Session | None) -> str:
    """The state of a service in words; asks nobody."""
    if session is None:
        return "stopped"
    tick = session.dispatcher.tick
    if session.stopping:
        return "stopping"
    if session.error is not None:
        return "degraded"
    return "standby" if tick is not None and tick.standby else "running"


def _contents(connection: AnyConnection, database: Database) -> dict[int, Mapping[str, Any]]:
    query = _CONTENTS.format(state=database.schema.identifier("state"))
    return {row["view"]: row for row in connection.cursor(row_factory=dict_row).execute(query)}


def _fleet(connection: AnyConnection) -> list[FleetMember] | None:
    """The processes by the names of their connections: nothing is written, nothing is left over."""
    cursor = connection.cursor(row_factory=dict_row)
    backend = cursor.execute("SELECT pg_backend_pid() AS pid").fetchone()
    if backend is None or backend["pid"] != connection.info.backend_pid:
        return None  # a transaction pooler names its server connections after whoever came last
    members: list[FleetMember] = []
    for row in cursor.execute(_FLEET):
        host, _, pid = str(row["name"]).removeprefix("mvrefresh service ").rpartition(":")
        if pid.isdigit():
            here = int(pid) == os.getpid() and socket.gethostname().startswith(host)
            members.append({"host": host, "pid": int(pid), "since": row["since"], "here": here})
    return members


def _label(roll: Roll, oid: int | None) -> str | None:
    return None if oid is None or oid not in roll.graph else roll.graph[oid].label


def _views(
    session: Session, tick: Tick | None, contents: Mapping[int, Mapping[str, Any]]
) -> list[ViewStatus]:
    roll, running = session.roster.roll, session.dispatcher.running
    if roll is None or tick is None:
        return []
    rows = tick.rows or session.dispatcher.rows
    suspended = session.dispatcher.decision.suspended
    views: list[ViewStatus] = []
    for view in map(roll.graph.__getitem__, roll.order):
        row = rows.get(view.oid)
        schedule = roll.schedule_of(view.oid, row)
        started = None if row is None else row.last_started_at
        content = contents.get(view.oid, {})
        because = suspended.get(view.oid)
        due = None
        if row is not None and because is None:
            due = due_at(row, schedule, tick.now).timestamp()
        views.append(
            {
                "view": view.label,
                "schedule": str(schedule),
                "last_run": None if started is None else started.timestamp(),
                "next_run": due,
                "content_as_of": content.get("content_as_of"),
                "refresh_no": content.get("refresh_no"),
                "running": view.oid in running,
                "failures": 0 if row is None else row.failures,
                "suspended_because": _label(roll, because),
                "last_error": None if row is None else row.last_error,
            }
        )
    return views

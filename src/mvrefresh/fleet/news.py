"""What happened in a fleet, as a value that can be told to anybody: a name, a moment, plain data.

`docs/reference/events.md` has the data of each. Keys may be added, none is renamed or dropped.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from mvrefresh.events import RefreshFinished, RunFinished, RunStarted, ServiceStopped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from mvrefresh.events import Event
    from mvrefresh.refreshing.plan import Plan
    from mvrefresh.refreshing.report import RefreshOutcome

Key: TypeAlias = tuple[str, str]
"""A run and a view of it, or a record without a run: what is told once."""

OUTCOME = (
    "view", "status", "success", "strategy", "reason", "duration_ms", "attempts", "refresh_no",
    "content_token", "content_as_of", "content_changed", "rows_inserted", "rows_deleted", "shared",
    "record_id",
)  # fmt: skip
"""What the data of a `RefreshFinished` has beside `run_id`, `error`, `trigger` and `host`."""


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened.

    Attributes:
        event: A name: that of a class of `mvrefresh.events`, or one of the feed's own.
        at: When: of a refresh that another process did, by the database's clock.
        data: What there is to say about it.
        id: How far whoever has heard this has heard the fleet; None: nobody can tell.
        key: What it is told once of; None: it is no outcome.
    """

    event: str
    at: datetime
    data: Mapping[str, Any]
    id: str | None = None
    key: Key | None = None


def news_of(event: Event) -> News:
    """An event of this process, which happened now."""
    at, name = datetime.now(UTC), type(event).__name__
    match event:
        case RefreshFinished(run_id=run_id, outcome=outcome):
            data = outcome_data(run_id, outcome)
            return News(name, at, data, key=(str(run_id), outcome.view))
        case RunStarted(run_id=run_id, plan=plan):
            return News(name, at, {"run_id": run_id, "steps": _steps(plan)})
        case RunFinished(run_id=run_id, report=report):
            return News(
                name,
                at,
                {
                    "run_id": run_id,
                    "success": bool(report),
                    "started_at": report.started_at,
                    "duration_ms": report.duration_ms,
                    "results": report.results,
                    "failed_views": report.failed_views,
                },
            )
        case ServiceStopped(metrics=metrics):
            return News(name, at, {"metrics": metrics})
        case _:
            return News(name, at, {f.name: getattr(event, f.name) for f in fields(event)})


def outcome_data(run_id: UUID, outcome: RefreshOutcome) -> dict[str, Any]:
    """The data of a `RefreshFinished` of this process."""
    return {
        "run_id": run_id,
        **{name: getattr(outcome, name) for name in OUTCOME},
        "error": outcome.error,
        "trigger": None,
        "host": socket.gethostname(),
    }


def recorded(row: Mapping[str, Any]) -> News:
    """A refresh of any process, as history and state have it.

    Args:
        row: As `ledger.read` gives it.
    """
    run_id, view, words = row["run_id"], row["view"], row["error_message"]
    data = {"run_id": run_id, **dict.fromkeys(OUTCOME)}
    data |= {name: row[name] for name in data if name in row}
    data["error"] = None if words is None else {"type": None, "message": words, "sqlstate": None}
    data |= {"shared": False, "trigger": row["trigger"], "host": row["host"]}
    key = (run_id or f"record {row['record_id']}", view)
    return News("RefreshFinished", datetime.fromisoformat(row["at"]), data, key=key)


def _steps(plan: Plan) -> list[dict[str, Any]]:
    labels = {step.view.oid: step.view.label for step in plan}
    return [
        {
            "view": step.view.label,
            "strategy": step.strategy,
            "reason": step.reason,
            "blocks_readers": step.blocks_readers,
            "after": sorted(labels[oid] for oid in step.after),
            "cascaded": step.cascaded,
        }
        for step in plan
    ]

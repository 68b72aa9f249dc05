"""The answers of `--json`: what each part holds. Keys may be added, none is renamed or dropped.

Durations are milliseconds and say so in their names; times are ISO-8601 in UTC with `Z`; what is
not known is null. Views go by their label, as in reports and history (`mv`, `app."My View"`).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mvrefresh.cli.exits import message
from mvrefresh.fleet.picture import seconds_between

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from mvrefresh.cli.sight import SchemaVersion, Sight
    from mvrefresh.fleet.picture import Picture, ViewSeen
    from mvrefresh.metrics.store import MetricsSummary, RefreshRecord
    from mvrefresh.refreshing.graph import ViewGraph
    from mvrefresh.refreshing.plan import Plan
    from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport
    from mvrefresh.refreshing.view import MaterializedView


def view_document(view: MaterializedView, labels: Mapping[int, str]) -> dict[str, Any]:
    """A materialized view, as the catalog shows it.

    Keys: `view`, `schema`, `name`, `oid`, `owner`, `populated`, `permitted` (may this role
    refresh it), `size_bytes`, `rows_estimate` (null: never analysed), `concurrently` (can it be
    refreshed without blocking readers), `obstacle` (why not), `unique_indexes` [{`name`,
    `columns`, `usable`, `obstacle`}], `reads` (views), `base_tables`, `clock_functions`,
    `volatile_functions`.
    """
    return {
        "view": view.label,
        "schema": view.name.schema,
        "name": view.name.name,
        "oid": view.oid,
        "owner": view.owner,
        "populated": view.populated,
        "permitted": view.permitted,
        "size_bytes": view.size_bytes,
        "rows_estimate": view.rows_estimate if view.rows_estimate >= 0 else None,
        "concurrently": view.concurrently_obstacle is None,
        "obstacle": view.concurrently_obstacle,
        "unique_indexes": [
            {
                "name": index.name,
                "columns": list(index.columns),
                "usable": index.obstacle is None,
                "obstacle": index.obstacle,
            }
            for index in view.unique_indexes
        ],
        "reads": sorted(labels[oid] for oid in view.reads if oid in labels),
        "base_tables": list(view.base_tables),
        "clock_functions": list(view.clock_functions),
        "volatile_functions": list(view.volatile_functions),
    }


def views_document(graph: ViewGraph) -> dict[str, Any]:
    """Of `list`: `views` [`view_document`], each after what it reads."""
    labels = {view.oid: view.label for view in graph}
    return {"views": [view_document(view, labels) for view in graph]}


def plan_document(plan: Plan) -> dict[str, Any]:
    """What a refresh would do.

    Keys: `method`, `fallback` (as asked), `steps` [{`position` (from 1), `wave` (from 1; those
    of one wave may run at the same time), `view`, `strategy` (null: refused), `reason`,
    `blocks_readers`, `after` (views of this plan), `cascaded`}].
    """
    labels = {step.view.oid: step.view.label for step in plan}
    wave_of = {s.view.oid: n for n, wave in enumerate(plan.waves, 1) for s in wave}
    return {
        "method": plan.method,
        "fallback": plan.fallback,
        "steps": [
            {
                "position": position,
                "wave": wave_of[step.view.oid],
                "view": step.view.label,
                "strategy": step.strategy,
                "reason": step.reason,
                "blocks_readers": step.blocks_readers,
                "after": sorted(labels[oid] for oid in step.after),
                "cascaded": step.cascaded,
            }
            for position, step in enumerate(plan, 1)
        ],
    }


def outcome_document(outcome: RefreshOutcome) -> dict[str, Any]:
    """What became of one view.

    Keys: `view`, `status` (succeeded, failed, skipped_unchanged, skipped_upstream, cancelled),
    `success` (null: skipped), `strategy`, `reason`, `duration_ms`, `attempts`, `refresh_no`,
    `content_token`, `content_as_of`, `content_changed`, `rows_inserted`, `rows_deleted`,
    `record_id`, `error` (null or {`type`, `message`, `sqlstate`}).
    """
    error = outcome.error
    return {
        "view": outcome.view,
        "status": outcome.status.value,
        "success": outcome.success,
        "strategy": outcome.strategy,
        "reason": outcome.reason,
        "duration_ms": outcome.duration_ms,
        "attempts": outcome.attempts,
        "refresh_no": outcome.refresh_no,
        "content_token": outcome.content_token,
        "content_as_of": outcome.content_as_of,
        "content_changed": outcome.content_changed,
        "rows_inserted": outcome.rows_inserted,
        "rows_deleted": outcome.rows_deleted,
        "record_id": outcome.record_id,
        "error": None
        if error is None
        else {
            "type": type(error).__name__,
            "message": message(error),
            "sqlstate": getattr(error, "sqlstate", None),
        },
    }


def report_document(report: RefreshReport, *, interrupted: bool = False) -> dict[str, Any]:
    """What came of a run.

    Keys: `run_id`, `success` (of all), `interrupted` (by Ctrl-C), `started_at`, `duration_ms`,
    `results` {view: bool}, `failed_views`, `outcomes` (see `outcome_document`).
    """
    return {
        "run_id": report.run_id,
        "success": bool(report),
        "interrupted": interrupted,
        "started_at": report.started_at,
        "duration_ms": report.duration_ms,
        "results": report.results,
        "failed_views": report.failed_views,
        "outcomes": [outcome_document(outcome) for outcome in report],
    }


def history_document(
    view: str | None,
    since: datetime | None,
    records: Sequence[RefreshRecord],
    summary: MetricsSummary,
    by_view: Mapping[str, MetricsSummary],
) -> dict[str, Any]:
    """Of `history`.

    Keys: `view`, `since` (as asked; null: all), `records` (newest first; the fields of
    `RefreshRecord`), `summary` (over all records that match, not over the page; the fields of
    `MetricsSummary`), `by_view` {view: summary} of the views in `records`.
    """
    return {
        "view": view,
        "since": since,
        "records": [asdict(record) for record in records],
        "summary": asdict(summary),
        "by_view": {label: asdict(each) for label, each in by_view.items()},
    }


def schema_document(schema: SchemaVersion, *, before: int | None = None) -> dict[str, Any]:
    """Of `schema`.

    Keys: `schema`, `metrics_schema`, `installed` (version; 0: none), `needed`, `status`
    (current, missing, outdated, too_new); with `--apply` also `before`, the version until then.
    """
    document = {
        "schema": schema.place.name,
        "metrics_schema": schema.place.metrics,
        "installed": schema.installed,
        "needed": schema.needed,
        "status": schema.status,
    }
    return document if before is None else document | {"before": before}


def status_document(sight: Sight) -> dict[str, Any]:
    """Of `status`.

    Keys: `healthy`, `problems` (in words), `checked_at` (by the database's clock), `database`
    (the fields of `DatabaseHealth`), `schema` (`schema_document`), `views` [`view_document`, and
    `changed_by_others`, `refresh_no`, `content_token`, `content_as_of`, `age_seconds`,
    `failures`, `suspended_at`, `suspended_because` (as `watch` has them), `last_status`,
    `last_refresh_at`, `last_duration_ms`, `last_strategy`, `last_error`].
    """
    labels = {view.oid: view.label for view in sight.graph}
    problems = sight.problems()
    return {
        "healthy": not problems,
        "problems": problems,
        "checked_at": sight.now,
        "database": asdict(sight.health),
        "schema": schema_document(sight.schema),
        "views": [view_document(view, labels) | _freshness(sight, view) for view in sight.graph],
    }


def _freshness(sight: Sight, view: MaterializedView) -> dict[str, Any]:
    state, record = sight.states.get(view.oid), sight.last.get(view.label)
    slot = sight.slots.get(view.oid)
    return {
        "changed_by_others": view.oid in sight.changed_by_others,
        "refresh_no": state.refresh_no if state else None,
        "content_token": state.content_token if state else None,
        "content_as_of": state.content_as_of if state else None,
        "age_seconds": sight.age_seconds(view),
        "failures": slot.failures if slot else 0,
        "suspended_at": slot.suspended_at if slot else None,
        "suspended_because": sight.suspended_because(view),
        "last_status": record.status if record else None,
        "last_refresh_at": record.created_at if record else None,
        "last_duration_ms": record.refresh_duration_ms if record else None,
        "last_strategy": record.strategy if record else None,
        "last_error": record.error_message if record else None,
    }


def picture_document(picture: Picture) -> dict[str, Any]:
    """Of `watch`, for every look.

    Keys: `looked_at` (by the database's clock), `database`, `standby`, `views` (see
    `_seen_document`), `records` (new since the last look, oldest first; at the first the latest
    few; the fields of `RefreshRecord`), `fleet` [{`host`, `pid`, `since`}] (null: not to be seen
    through a transaction pooler).
    """
    return {
        "looked_at": picture.now,
        "database": picture.where,
        "standby": picture.standby,
        "views": [_seen_document(view, picture.now) for view in picture.views],
        "records": [asdict(record) for record in picture.records],
        "fleet": None if picture.fleet is None else [asdict(each) for each in picture.fleet],
    }


def _seen_document(view: ViewSeen, now: datetime) -> dict[str, Any]:
    last, running = view.last, view.running
    elapsed = None if running is None else seconds_between(running.since, now)
    return {
        "view": view.label,
        "oid": view.oid,
        "populated": view.populated,
        "changed_by_others": view.changed_by_others,
        "refresh_no": view.refresh_no,
        "content_as_of": view.content_as_of,
        "age_seconds": seconds_between(view.content_as_of, now) if view.populated else None,
        "schedule": view.schedule,
        "next_due_at": view.due_at,
        "failures": view.failures,
        "suspended_at": view.suspended_at,
        "suspended_because": view.suspended_because,
        "scheduled_error": view.last_error,
        "last_status": last.status if last else None,
        "last_refresh_at": last.created_at if last else None,
        "last_duration_ms": last.refresh_duration_ms if last else None,
        "last_strategy": last.strategy if last else None,
        "last_error": last.error_message if last else None,
        "usual_duration_ms": view.usual_duration_ms,
        "running_since": running.since if running else None,
        "running_ms": None if elapsed is None else elapsed * 1000,
        "running_pid": running.pid if running else None,
        "running_application": running.application if running else None,
    }

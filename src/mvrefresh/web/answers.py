"""What a report, a status and a history look like on the wire."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from mvrefresh.cache.tier import TierStats
from mvrefresh.web.responses import answer, utc

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.responses import Response

    from mvrefresh.metrics.store import MetricsSummary, RefreshRecord
    from mvrefresh.refreshing.report import RefreshReport
    from mvrefresh.service.status import ServiceStatus

OPERATIONAL: Final = "LTREE materialized view refresh service is operational"
_TIERS: Final = ("l1_cache", "l2_cache", "l3_cache", "l4_cache", "overall")
_AUTOMATED: Final = (
    "enabled", "last_run", "next_run", "interval_seconds", "success_count", "failure_count",
    "state", "views", "fleet", "error",
)  # fmt: skip
_NO_SERVICE: Final[Mapping[str, Any]] = {
    "enabled": False,
    "last_run": None,
    "next_run": None,
    "interval_seconds": None,
    "success_count": 0,
    "failure_count": 0,
    "state": "stopped",
    "views": [],
    "fleet": None,
    "error": None,
}
_RECORD: Final = (
    "id",
    "view_name",
    "refresh_duration_ms",
    "success",
    "created_at",
    "error_message",
)
_SUMMARY: Final = (
    "total_count", "success_count", "failure_count", "success_rate", "average_duration_ms",
    "p95_duration_ms", "p99_duration_ms", "min_duration_ms", "max_duration_ms",
)  # fmt: skip


def _all_failed(report: RefreshReport) -> Response | None:
    """The one answer of 500; None where a view was refreshed, or there was none to refresh."""
    results = report.results
    if not results or any(results.values()):
        return None
    failed = ", ".join(report.failed_views)
    detail = f"None of {len(results)} materialized views was refreshed: {failed}"
    return answer({"detail": detail, "results": results}, 500)


def refreshed(report: RefreshReport) -> Response:
    """Of `POST /refresh`."""
    failure = _all_failed(report)
    if failure is not None:
        return failure
    results, failed = report.results, report.failed_views
    document: dict[str, Any] = {
        "status": "success",
        "message": "All materialized views refreshed successfully",
        "results": results,
        "duration_ms": report.duration_ms,
    }
    if failed:
        done = len(results) - len(failed)
        document["status"] = "partial_success"
        document["message"] = f"{done} of {len(results)} materialized views refreshed successfully"
        document["failed_views"] = failed
    return answer(document)


def forced(report: RefreshReport) -> Response:
    """Of `POST /refresh/automated/force`."""
    failure = _all_failed(report)
    if failure is not None:
        return failure
    results, failed = report.results, report.failed_views
    return answer(
        {
            "status": "partial_success" if failed else "success",
            "result": {
                "duration_ms": report.duration_ms,
                "views_refreshed": len(results) - len(failed),
                "success": not failed,
                "results": results,
            },
            "message": f"Forced refresh completed, but for {', '.join(failed)}"
            if failed
            else "Forced refresh completed successfully",
        }
    )


def status_of(
    cache: Mapping[str, Any] | None, service: ServiceStatus | None, last_refresh: float | None
) -> dict[str, Any]:
    """Of `GET /refresh/status`."""
    none = TierStats()
    automated: Mapping[str, Any] = _NO_SERVICE if service is None else dict(service)
    return {
        "status": "available",
        "last_refresh": last_refresh,
        "cache_metrics": cache or {name: asdict(none) | {"hit_rate": None} for name in _TIERS},
        "automated_refresh_status": {key: automated[key] for key in _AUTOMATED},
        "message": OPERATIONAL,
    }


def history(records: Iterable[RefreshRecord], summary: MetricsSummary) -> dict[str, Any]:
    """Of `GET /refresh/automated/metrics`."""
    return {
        "status": "success",
        "metrics": [_record(record) for record in records],
        "summary": {key: getattr(summary, key) for key in _SUMMARY},
    }


def _record(record: RefreshRecord) -> dict[str, Any]:
    shown = {key: getattr(record, key) for key in _RECORD}
    if record.created_at is not None:
        shown["created_at"] = utc(record.created_at)
    return shown

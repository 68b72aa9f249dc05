"""The HTTP surface in Flask: the library is not bound to one framework.

    pip install flask
    flask --app "flask_app:create_app()" run       # with MVREFRESH_DSN

Refresh, automated refresh, history, look-ups and usage analytics, in the shapes of the routers for
FastAPI. Each request waits on its own thread, as Flask has it. `create_app` starts nothing, so
commands and tests can build the application, too; POST .../automated/start does, or the entry of
the server (`app.extensions["mvrefresh"].service.start()`).
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, request

from mvrefresh import (
    Database,
    Every,
    HierarchySource,
    MvrefreshError,
    OptimizedHierarchyResolver,
    RefreshReport,
    RefreshService,
    UsageRefresh,
    UsageSource,
    errors,
    refresh,
)

SECONDS = 300
STATUS_OF = (  # the first that fits
    (errors.UnknownView, 404),
    (errors.UnknownEntity, 404),
    (errors.NotRunning, 409),
    (errors.ConfigurationError, 422),
    (errors.DatabaseUnavailable, 503),
    (errors.SchemaMissing, 503),
    (errors.RefreshTimeout, 504),
)
RECORD = ("id", "view_name", "refresh_duration_ms", "success", "error_message")
SUMMARY = (
    *("total_count", "success_count", "failure_count", "success_rate"),
    *(f"{which}_duration_ms" for which in ("average", "p95", "p99", "min", "max")),
)
FINAL = (
    *("total_refreshes", "successful_refreshes", "failed_refreshes"),
    *("average_duration_ms", "uptime_seconds"),
)
AUTOMATED = (
    *("enabled", "last_run", "next_run", "interval_seconds"),
    *("success_count", "failure_count"),
)


@dataclass(frozen=True)
class Site:
    """What the requests share."""

    database: Database
    service: RefreshService
    views: tuple[str, ...]
    resolver: OptimizedHierarchyResolver
    usage: UsageRefresh
    starting: threading.Lock  # so that of two that start it, one says that it did

    def close(self) -> None:
        """Stop the service, let go of the connections."""
        self.service.stop(timeout=20)
        self.resolver.close()
        self.database.close()


def create_site(dsn: str, source: HierarchySource, usage: UsageSource) -> Site:
    database = Database(dsn)
    return Site(
        database,
        RefreshService(database, source.views, Every(seconds=SECONDS)),
        tuple(map(str, source.views)),
        OptimizedHierarchyResolver(database, source),
        UsageRefresh(database, usage),
        threading.Lock(),
    )


def utc(moment: datetime | None) -> str | None:
    """ISO-8601 with Z."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def fields(source: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Some of an object's attributes, or of a mapping's keys."""
    if isinstance(source, dict):
        return {name: source[name] for name in names}
    return {name: getattr(source, name) for name in names}


def number(text: str | None, kind: type, default: Any) -> Any:
    """A parameter of the query."""
    try:
        return default if text is None else kind(text)
    except ValueError:
        raise errors.ConfigurationError(f"{text!r:.60} is not a number") from None


def body_list(name: str, default: list[Any] | None = None) -> list[Any] | None:
    """A list out of the JSON body."""
    body = request.get_json(silent=True) if request.data else {}
    found = body.get(name, default) if isinstance(body, dict) else ()
    plain = isinstance(found, list) and all(isinstance(item, str | int) for item in found)
    if not plain and found is not default:
        raise errors.ConfigurationError(f'the body is not {{"{name}": [...]}}')
    return found


def all_failed(report: RefreshReport) -> bool:
    return bool(report.outcomes) and not any(report)


def create_app(
    dsn: str | None = None,
    source: HierarchySource | None = None,
    usage: UsageSource | None = None,
    *,
    entities: str = "/api/entities",
    analytics: str = "/api/mcp/analytics",
) -> Flask:
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    site = create_site(
        dsn or os.environ["MVREFRESH_DSN"],
        source or HierarchySource(table="entities"),
        usage or UsageSource(),
    )
    app.extensions["mvrefresh"] = site
    _answer_errors(app)
    _refresh_routes(app, site, f"{entities}/refresh")
    _automated_routes(app, site, f"{entities}/refresh/automated")
    _hierarchy_routes(app, site, entities)

    @app.post(f"{analytics}/refresh-views")
    def refresh_views() -> Any:
        outcome = site.usage.refresh()
        return {
            "success": outcome.success,
            "message": outcome.message,
            "refreshed_at": utc(outcome.refreshed_at),
        }, 200 if outcome else 500

    return app


def _answer_errors(app: Flask) -> None:
    @app.errorhandler(MvrefreshError)
    def told(error: MvrefreshError) -> Any:
        for kind, status in STATUS_OF:
            if isinstance(error, kind):
                return {"detail": error.what}, status
        app.logger.error("unexpected: %s", error)
        return {"detail": "the refresh failed"}, 500

    @app.errorhandler(404)
    def nowhere(_: Any) -> Any:
        return {"detail": "there is nothing here"}, 404


def _refresh_routes(app: Flask, site: Site, prefix: str) -> None:
    @app.post(prefix)
    def refresh_now() -> Any:
        """Whether or not the service runs."""
        views = body_list("views")
        report = refresh(site.database, site.views if views is None else views)
        site.resolver.look_again()  # this process is fresh at once
        if all_failed(report):
            return {"detail": "every view failed", "results": report.results}, 500
        answer: dict[str, Any] = {
            "status": "success" if report else "partial_success",
            "message": "All materialized views refreshed successfully"
            if report
            else f"Not refreshed: {', '.join(report.failed_views)}",
            "results": report.results,
            "duration_ms": report.duration_ms,
        }
        if not report:
            answer["failed_views"] = report.failed_views
        return answer

    @app.get(f"{prefix}/status")
    def status() -> Any:
        found: Any = site.service.status()
        return {
            "status": "available",
            "last_refresh": last_refresh(site),
            "cache_metrics": site.resolver.cache_metrics(),
            "automated_refresh_status": fields(found, AUTOMATED),
            "message": "LTREE materialized view refresh service is operational",
        }


def last_refresh(site: Site) -> float | None:
    """Unix seconds of the last success in the newest part of the history, by anybody."""
    for record in site.service.metrics.recent(100):
        if record.success and record.view_name in site.views and record.created_at is not None:
            return record.created_at.timestamp()
    return None


def _automated_routes(app: Flask, site: Site, prefix: str) -> None:
    service = site.service

    @app.post(f"{prefix}/start")
    def start() -> Any:
        with site.starting:
            started = service.start()
        config = {
            "interval_seconds": SECONDS,
            "concurrent_refresh": True,
            "views": list(site.views),
        }
        message = "started successfully" if started else "is already running"
        return {
            "status": "success",
            "message": f"Automated refresh service {message}",
            "config": config,
        }

    @app.post(f"{prefix}/stop")
    def stop() -> Any:
        with site.starting:
            if not service.running:
                return {"detail": "Automated refresh service is not running"}, 409
            final = service.stop()
        return {
            "status": "success",
            "message": "Automated refresh service stopped successfully",
            "final_metrics": fields(final, FINAL),
        }

    @app.post(f"{prefix}/force")
    def force() -> Any:
        try:
            report = service.force()
        except errors.NotRunning:
            return {"detail": "Automated refresh service is not running"}, 409
        site.resolver.look_again()
        if all_failed(report):
            return {"detail": "every view failed", "results": report.results}, 500
        return {
            "status": "success" if report else "partial_success",
            "result": {
                "duration_ms": report.duration_ms,
                "views_refreshed": sum(report.results.values()),
                "success": bool(report),
                "results": report.results,
            },
            "message": "Forced refresh completed successfully"
            if report
            else f"Not refreshed: {', '.join(report.failed_views)}",
        }

    @app.get(f"{prefix}/metrics")
    def metrics() -> Any:
        view = request.args.get("view_name")
        since = number(request.args.get("since"), float, None)
        try:
            moment = None if since is None else datetime.fromtimestamp(since, UTC)
        except (OverflowError, ValueError, OSError) as error:
            raise errors.ConfigurationError(f"since={since} is no moment") from error
        limit = number(request.args.get("limit"), int, 100)
        rows = service.metrics.recent(limit, view, moment)
        return {
            "status": "success",
            "metrics": [fields(row, RECORD) | {"created_at": utc(row.created_at)} for row in rows],
            "summary": fields(service.metrics.summary(view, moment), SUMMARY),
        }


def _hierarchy_routes(app: Flask, site: Site, prefix: str) -> None:
    @app.get(f"{prefix}/<entity>/ancestors")
    def ancestors(entity: str) -> Any:
        answer = site.resolver.look_up(id_of(entity))
        response: Response = app.json.response(
            id=id_of(entity), ancestors=[node._asdict() for node in answer.value]
        )
        response.headers["X-Cache-Tier"] = answer.tier
        if answer.age_seconds is not None:
            response.headers["X-Content-Age-Seconds"] = f"{answer.age_seconds:.3f}"
        return response

    @app.post(f"{prefix}/ancestors:batch")
    def ancestors_batch() -> Any:
        ids = body_list("ids")
        if ids is None:
            raise errors.ConfigurationError('the body is not {"ids": [...]}')
        found = site.resolver.ancestors_many(ids)
        return {"ancestors": {str(i): [n._asdict() for n in chain] for i, chain in found.items()}}


def id_of(text: str) -> int | str:
    """An id out of a path; here they are integers where they look so."""
    return int(text) if text.isascii() and text.isdecimal() else text

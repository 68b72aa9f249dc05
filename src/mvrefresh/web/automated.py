"""Routes of the service: start, stop, force, and the history of all refreshes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Query, Request  # read by FastAPI as annotations

from mvrefresh.errors import NotRunning
from mvrefresh.metrics.store import MAX_LIMIT
from mvrefresh.web.answers import forced, history
from mvrefresh.web.bodies import read_body, taken
from mvrefresh.web.errors import documented
from mvrefresh.web.models import Forced, History, NothingRefreshed, Selection, Started, Stopped
from mvrefresh.web.responses import answer
from mvrefresh.web.waiting import Together, Waiting, within

if TYPE_CHECKING:
    from fastapi.params import Depends
    from starlette.responses import Response

    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.service.service import RefreshService

_LATEST: Final = 253402300799.0  # the last second of the year 9999


def add_history(router: APIRouter, metrics: MetricsStore, waiting: Waiting) -> None:
    """`GET /refresh/automated/metrics`, which needs no service."""

    def read(limit: int, view_name: str | None, since: datetime | None) -> dict[str, Any]:
        return history(metrics.recent(limit, view_name, since), metrics.summary(view_name, since))

    @router.get(
        "/refresh/automated/metrics",
        summary="Past refreshes, and figures over them",
        response_model=History,
        responses=documented(422, 503),
        tags=["automated refresh"],
    )
    async def past(
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Records at most")] = 100,
        view_name: Annotated[
            str | None, Query(pattern="^[^\\x00]*$", description="Only of this view")
        ] = None,
        since: Annotated[
            float | None,
            Query(ge=0, le=_LATEST, allow_inf_nan=False, description="Unix seconds"),
        ] = None,
    ) -> Response:
        """Records of the whole fleet, the newest first. The summary covers all that match."""
        moment = None if since is None else datetime.fromtimestamp(since, UTC)
        return answer(await waiting.call(read, limit, view_name, moment))


def add_switches(
    router: APIRouter,
    service: RefreshService | None,
    timeout: float | None,
    only_ours: Depends,
) -> None:
    """Start, stop and force; without a service it is never running."""
    starting = stopping = None
    if service is not None:
        starting = Together("mvrefresh-web-start", service.start)
        stopping = Together("mvrefresh-web-stop", service.stop)

    @router.post(
        "/refresh/automated/start",
        summary="Start the service",
        response_model=Started,
        responses=documented(403, 404, 409, 503),
        dependencies=[only_ours],
        tags=["automated refresh"],
    )
    async def start() -> Response:
        """Start it in this process; if it runs, nothing is started."""
        if service is None or starting is None:
            raise NotRunning("this application has no refresh service")
        begins, first = await starting()
        done = "started successfully" if begins and first else "is already running"
        return answer(
            {
                "status": "success",
                "message": f"Automated refresh service {done}",
                "config": service.config,
            }
        )

    @router.post(
        "/refresh/automated/stop",
        summary="Stop the service",
        response_model=Stopped,
        responses=documented(403, 409),
        dependencies=[only_ours],
        tags=["automated refresh"],
    )
    async def stop() -> Response:
        """Stop it in this process; returns when the refresh in progress has ended."""
        if service is None or stopping is None or not (service.running or stopping.pending):
            raise NotRunning("the refresh service is not running")
        figures, _ = await stopping(anew=service.running)
        return answer(
            {
                "status": "success",
                "message": "Automated refresh service stopped successfully",
                "final_metrics": asdict(figures),
            }
        )

    @router.post(
        "/refresh/automated/force",
        summary="Refresh now, by the service",
        response_model=Forced,
        responses=documented(403, 404, 409, 422, 503, 504, _500=NothingRefreshed),
        dependencies=[only_ours],
        openapi_extra=taken(Selection, required=False),
        tags=["automated refresh"],
    )
    async def force(request: Request) -> Response:
        """Refresh the service's views, or some of them; schedules are not moved."""
        wish = await read_body(request, Selection)
        if service is None:
            raise NotRunning("this application has no refresh service")
        future = service.force(wish.views, cascade=wish.cascade, wait=False)
        return forced(await within(future, timeout))

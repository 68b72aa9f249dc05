"""`usage_router`: the roll-ups of usage, refreshed by the library or by the database's function."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter

from mvrefresh.errors import ConfigurationError
from mvrefresh.postgres.function import call_refresh_function
from mvrefresh.usage.source import UsageSource
from mvrefresh.web.errors import documented
from mvrefresh.web.models import UsageNotRefreshed, UsageRefreshed
from mvrefresh.web.refresher import Refresher
from mvrefresh.web.responses import answer
from mvrefresh.web.route import Route
from mvrefresh.web.waiting import on_a_thread, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from concurrent.futures import Future
    from typing import TypeAlias

    from fastapi.params import Depends
    from starlette.responses import Response

    from mvrefresh.events import EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.report import RefreshReport

    _Begin: TypeAlias = Callable[[], Future[Any]]


def usage_router(
    database: Database | None = None,
    source: UsageSource | None = None,
    *,
    by: Literal["library", "function"] = "library",
    refresh: Callable[[], RefreshReport] | None = None,
    function: str = "refresh_mcp_usage_views",
    metrics: MetricsStore | None = None,
    policy: RefreshPolicy | None = None,
    events: EventBus | None = None,
    read_only: bool = False,
    timeout: float | None = None,
    dependencies: Sequence[Depends] = (),
) -> APIRouter:
    """A route to refresh the roll-ups.

    `app.include_router(usage_router(db), prefix="/api/mcp/analytics")`.

    Args:
        database: Where they are.
        source: Their names.
        by: "library", or the "function" of the database.
        refresh: Refreshes them, instead of the library's own way: a function without arguments,
            or what has one of the name `refresh`.
        function: The database's function, as SQL reads a name.
        metrics: As `mvrefresh.refresh` takes it, and so the following.
        policy: Limits, retries, parallelism.
        events: Whom to tell of every step.
        read_only: Leave out the route, which changes something.
        timeout: Seconds that a request waits, then 504: the refresh goes on.
        dependencies: The host's, of every route.

    Raises:
        ConfigurationError: Neither a database nor a `refresh` was given.
    """
    if by not in ("library", "function"):
        raise ConfigurationError(f"by={by!r} is neither 'library' nor 'function'")
    if database is None and (refresh is None or by == "function"):
        raise ConfigurationError("usage_router() needs a database, or refresh=")
    refresher = None
    begin: _Begin
    if by == "function":
        assert database is not None  # noqa: S101 - said above
        begin = partial(_by_function, database, function)
    elif refresh is not None:
        begin = partial(on_a_thread, "mvrefresh-usage", getattr(refresh, "refresh", refresh))
    else:
        assert database is not None  # noqa: S101 - said above
        views = (source or UsageSource()).views
        refresher = Refresher(database, views, metrics=metrics, policy=policy, events=events)
        begin = refresher.ask

    @asynccontextmanager
    async def end_with_the_app(_app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if refresher is not None:
                await within(on_a_thread("mvrefresh-web-close", refresher.close), None)

    router = APIRouter(
        route_class=Route, dependencies=list(dependencies), lifespan=end_with_the_app
    )
    if not read_only:
        _add_refresh(router, begin, timeout)
    return router


def _by_function(database: Database, function: str) -> Future[Mapping[str, bool]]:
    return on_a_thread("mvrefresh-usage", lambda: call_refresh_function(database, function))


def _add_refresh(router: APIRouter, begin: _Begin, timeout: float | None) -> None:
    @router.post(
        "/refresh-views",
        summary="Refresh the roll-ups",
        response_model=UsageRefreshed,
        responses=documented(404, 422, 503, 504, _500=UsageNotRefreshed),
        tags=["usage"],
    )
    async def refresh_views() -> Response:
        """Refresh them; one that fails makes it a failure that names it."""
        outcome = await within(begin(), timeout)
        results = dict(outcome if isinstance(outcome, Mapping) else outcome.results)
        failed = [view for view, done in results.items() if not done]
        document: dict[str, Any] = {
            "success": not failed,
            "message": "Materialized views refreshed successfully",
            "refreshed_at": datetime.now(UTC),
        }
        if not failed:
            return answer(document)
        document["message"] = f"Materialized views not refreshed: {', '.join(failed)}"
        return answer(document | {"detail": document["message"], "results": results}, 500)

"""`usage_router`: the roll-ups of usage, refreshed by the library or by the database's function."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from fastapi import APIRouter

from mvrefresh.errors import ConfigurationError
from mvrefresh.expected import DATABASE, USAGE_SOURCE, expect
from mvrefresh.usage.refresh import By, UsageRefresh, summary_of
from mvrefresh.web.errors import documented
from mvrefresh.web.models import UsageNotRefreshed, UsageRefreshed
from mvrefresh.web.origin import only_from
from mvrefresh.web.responses import answer
from mvrefresh.web.route import Route
from mvrefresh.web.waiting import InTurn, on_a_thread, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from typing import TypeAlias

    from fastapi.params import Depends
    from starlette.responses import Response

    from mvrefresh.events import EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.report import RefreshReport
    from mvrefresh.usage.refresh import UsageOutcome
    from mvrefresh.usage.source import UsageSource

    _Refresh: TypeAlias = Callable[[], RefreshReport | UsageOutcome]


def usage_router(
    database: Database | None = None,
    source: UsageSource | None = None,
    *,
    by: By = "library",
    refresh: UsageRefresh | _Refresh | None = None,
    metrics: MetricsStore | None = None,
    policy: RefreshPolicy | None = None,
    events: EventBus | None = None,
    read_only: bool = False,
    timeout: float | None = None,
    origins: Collection[str] = (),
    dependencies: Sequence[Depends] = (),
) -> APIRouter:
    """A route to refresh the roll-ups.

    `app.include_router(usage_router(db), prefix="/api/mcp/analytics")`. What it has begun it ends
    with the app.

    Args:
        database: Where they are.
        source: Their names, and that of the database's function.
        by: "library", or the "function" of the database.
        refresh: Who refreshes them instead: a `UsageRefresh`, or a function of the host's, which
            nobody ends early. Calls are made one at a time; who asks meanwhile shares the next.
        metrics: As `UsageRefresh` takes it, and so the following.
        policy: Limits, retries, parallelism.
        events: Whom to tell of every step.
        read_only: Leave out the route, which changes something.
        timeout: Seconds that a request waits, then 504: the refresh goes on.
        origins: Of pages on other hosts that may refresh, `https://admin.example.org`.
        dependencies: The host's, of every route.

    Raises:
        ConfigurationError: Neither a database nor a `refresh` was given, or both ways to refresh.
    """
    if by not in get_args(By):
        raise ConfigurationError(f"by={by!r} is none of {', '.join(get_args(By))}")
    if refresh is not None and by == "function":
        raise ConfigurationError('usage_router() takes by="function" or refresh=, not both')
    if refresh is None and database is None:
        raise ConfigurationError("usage_router() needs a database, or refresh=")
    way = "usage_router(database, source)"
    if database is not None:
        expect(database, DATABASE, way)
    if source is not None:
        expect(source, USAGE_SOURCE, way)
    if refresh is None:
        assert database is not None  # noqa: S101 - said above
        refresh = UsageRefresh(database, source, by, policy=policy, metrics=metrics, events=events)
    turns = _in_turn(refresh)

    @asynccontextmanager
    async def end_with_the_app(_app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await within(on_a_thread("mvrefresh-web-close", turns.close), None)

    router = APIRouter(
        route_class=Route, dependencies=list(dependencies), lifespan=end_with_the_app
    )
    if not read_only:
        _add_refresh(router, turns, timeout, only_from(origins))
    return router


def _in_turn(refresh: UsageRefresh | _Refresh) -> InTurn[Any]:
    if isinstance(refresh, UsageRefresh):
        sever = refresh.database.sever
        return InTurn("mvrefresh-usage", refresh.refresh, refresh.cancel, sever)
    return InTurn("mvrefresh-usage", refresh)


def _add_refresh(
    router: APIRouter,
    turns: InTurn[Any],
    timeout: float | None,
    only_ours: Depends,
) -> None:
    @router.post(
        "/refresh-views",
        summary="Refresh the roll-ups",
        response_model=UsageRefreshed,
        responses=documented(403, 503, 504, _500=UsageNotRefreshed),
        dependencies=[only_ours],
        tags=["usage"],
    )
    async def refresh_views() -> Response:
        """Refresh them; one that fails makes it a failure that names it."""
        outcome = await within(turns.ask(), timeout)
        results = dict(outcome.results)
        failed = [view for view, done in results.items() if not done]
        document: dict[str, Any] = {
            "success": not failed,
            "message": summary_of(failed),
            "refreshed_at": datetime.now(UTC),
        }
        if not failed:
            return answer(document)
        return answer(document | {"detail": document["message"], "results": results}, 500)

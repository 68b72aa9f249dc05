"""Every 15 minutes, by the application itself: way D of docs/how-to/usage-analytics.md.

    pip install "apscheduler<4"

In the lifespan of a FastAPI application:

    @asynccontextmanager
    async def lifespan(app):
        start_scheduler(Database(os.environ["MVREFRESH_DSN"]))

Yield:
        stop_scheduler()

With several workers each has a scheduler. Their refreshes take turns, so that does no harm, but it
is work done twice: start it in one, or use a RefreshService, which is once per fleet.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from mvrefresh import MvrefreshError, UsageRefresh

if TYPE_CHECKING:
    from mvrefresh import Database

logger = logging.getLogger(__name__)

_scheduler: AsyncIOScheduler | None = None


def refresh_mcp_views(usage: UsageRefresh) -> None:
    """The job: no coroutine, so the scheduler calls it on a thread, and the event loop goes on."""
    try:
        outcome = usage.refresh()
    except MvrefreshError as error:  # the database is away: the next quarter of an hour comes
        logger.error("usage views: %s", error)  # noqa: TRY400 - the trace says no more
        return
    if outcome:
        logger.info("usage views: %s", outcome.message)
    else:
        logger.error("usage views: %s", outcome.message)


def start_scheduler(database: Database) -> AsyncIOScheduler:
    """Start it, on the running event loop; again: the one that runs."""
    global _scheduler  # noqa: PLW0603 - one per application
    if _scheduler is None:
        _scheduler = AsyncIOScheduler(timezone="UTC")
        _scheduler.start()
    _scheduler.add_job(
        refresh_mcp_views,
        CronTrigger(minute="*/15", timezone="UTC"),
        args=[UsageRefresh(database)],
        id="refresh_mcp_views",
        replace_existing=True,
        coalesce=True,  # what was slept through is done once
        max_instances=1,
        misfire_grace_time=300,
    )
    return _scheduler


def stop_scheduler() -> None:
    """Stop it; a refresh that runs is not waited for, and ends by itself. Not started: nothing."""
    global _scheduler  # noqa: PLW0603 - as above
    if _scheduler is not None:
        _scheduler.shutdown(wait=False)
        _scheduler = None

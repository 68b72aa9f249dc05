"""The functions at the top of the package: plan, refresh, refresh_due, and two classic names."""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_COMPLETED, wait
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg

from mvrefresh.errors import DatabaseUnavailable
from mvrefresh.expected import DATABASE, expect
from mvrefresh.postgres.catalog import naming_the_kind, read_catalog
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.refreshing.plan import make_plan
from mvrefresh.refreshing.report import RefreshReport
from mvrefresh.refreshing.runner import Runner
from mvrefresh.service.dispatcher import Dispatcher
from mvrefresh.service.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mvrefresh.events import EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import Fallback, Method, Plan, ViewLike
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.report import RefreshOutcome
    from mvrefresh.refreshing.schedule import Schedule


logger = logging.getLogger("mvrefresh")


def plan(
    database: Database,
    views: Iterable[ViewLike] | None = None,
    *,
    cascade: bool = False,
    method: Method = "auto",
    fallback: Fallback = "regular",
) -> Plan:
    """Say what a refresh would do, and why, without doing it.

    Args:
        database: Whose views.
        views: Names (`"mv"`, `"app.mv"`), or None for all of them.
        cascade: Also every view that reads one of these.
        method: "auto", or "concurrent" or "regular" by the caller's wish.
        fallback: What to do where CONCURRENTLY is impossible: block readers, or refuse.

    Raises:
        UnknownView: No such materialized view; NotAMaterializedView: it is something else.
        DatabaseUnavailable: The database cannot be reached.
    """
    expect(database, DATABASE, "plan(database, views), refresh(database, views)", "dedicated")
    with unavailable_when_lost(psycopg.Error), database.dedicated() as connection:
        graph = read_catalog(connection)
        with naming_the_kind(connection):
            return make_plan(graph, views, cascade=cascade, method=method, fallback=fallback)


def refresh(
    database: Database,
    views: Iterable[ViewLike] | None = None,
    *,
    cascade: bool = False,
    method: Method = "auto",
    fallback: Fallback = "regular",
    policy: RefreshPolicy | None = None,
    metrics: MetricsStore | None = None,
    events: EventBus | None = None,
) -> RefreshReport:
    """Refresh views: in order, by the right method, each in one transaction, with a record.

    Blocks until the last view is done. A view that failed is in the report, not an exception:
    `report.raise_for_failures()` makes it one.

    Args:
        database: Whose views.
        views: Names (`"mv"`, `"app.mv"`), or None for all of them.
        cascade: Also every view that reads one of these.
        method: "auto", or "concurrent" or "regular" by the caller's wish.
        fallback: What to do where CONCURRENTLY is impossible: block readers, or refuse.
        policy: Limits, retries, parallelism; see `RefreshPolicy`.
        metrics: Where to record; by default table `refresh_metrics` of this database.
        events: Whom to tell of every step.

    Raises:
        UnknownView: No such materialized view. Nothing was touched.
        SchemaMissing: The library's tables are not installed. Nothing was touched.
        DatabaseUnavailable: The database cannot be reached.
    """
    what = plan(database, views, cascade=cascade, method=method, fallback=fallback)
    return Runner(database, metrics=metrics, policy=policy, events=events).run(what)


def refresh_due(
    database: Database,
    views: Iterable[ViewLike] | None = None,
    *,
    schedule: Schedule | Mapping[str, Schedule] | None = None,
    method: Method = "auto",
    fallback: Fallback = "regular",
    policy: RefreshPolicy | None = None,
    metrics: MetricsStore | None = None,
    events: EventBus | None = None,
    suspend_after: int | None = 5,
) -> RefreshReport:
    """Refresh those of the views that are due and that nobody else is at work on.

    For schedulers: any number of them, in any process, may call it as often as they like. A view
    is due by its row in table `schedule`, on the database's clock; that is decided once more
    under the lock of each refresh, so that a slot is served once in the whole fleet. A view that
    nobody has scheduled before is registered by the first call.

    Args:
        database: Whose views.
        views: Names, or None for all of them.
        schedule: One for all, or one a view; None: as the database knows it from the last
            service or call, or else `Every(seconds=300)`.
        method: As `refresh` takes it, and so the following.
        fallback: What to do where CONCURRENTLY is impossible.
        policy: Limits, retries, parallelism.
        metrics: Where to record.
        events: Whom to tell of every step.
        suspend_after: As `RefreshService` takes it.

    Returns:
        What was done here; without outcomes if nothing was due, or the server is a standby.

    Raises:
        UnknownView: No such materialized view. Nothing was touched.
        SchemaMissing: The library's tables are not installed. Nothing was touched.
        DatabaseUnavailable: The database cannot be reached.
    """
    expect(database, DATABASE, "refresh_due(database, views)")
    outcomes: list[RefreshOutcome] = []
    started_at, started = datetime.now(UTC), monotonic()
    runner = Runner(database, metrics=metrics, policy=policy, events=events)
    roster = Roster(views, schedule)
    dispatcher = Dispatcher(
        runner,
        roster,
        method=method,
        fallback=fallback,
        suspend_after=suspend_after,
        once=True,
        on_outcome=outcomes.append,
    )
    with unavailable_when_lost(psycopg.Error), database.dedicated() as connection:
        roster.check(connection, runner.schema)
        dispatcher.turn(connection)
    try:
        _see_to_the_end(dispatcher, database)
    except BaseException:  # a signal of the host's: leave nothing running
        runner.cancel()
        wait(dispatcher.in_flight)
        raise
    return RefreshReport(
        run_id=uuid4(),
        outcomes=tuple(outcomes),
        started_at=started_at,
        duration_ms=round((monotonic() - started) * 1000, 3),
    )


def _see_to_the_end(dispatcher: Dispatcher, database: Database) -> None:
    """Take up what becomes ready as the first ones end; without a database, wait for these."""
    while running := dispatcher.in_flight:
        wait(running, return_when=FIRST_COMPLETED)
        try:
            with database.dedicated() as connection:
                dispatcher.turn(connection)
        except (psycopg.Error, DatabaseUnavailable) as error:
            logger.warning("refresh_due: what is due now cannot be looked at: %s", error)
            wait(dispatcher.in_flight)
            dispatcher.reap()


def refresh_materialized_view(
    database: Database,
    name: ViewLike,
    *,
    method: Method = "auto",
    fallback: Fallback = "regular",
    policy: RefreshPolicy | None = None,
    metrics: MetricsStore | None = None,
    events: EventBus | None = None,
) -> RefreshOutcome:
    """Refresh one view; the outcome is truthy on success. Raises as `refresh` does."""
    report = refresh(
        database,
        [name],
        method=method,
        fallback=fallback,
        policy=policy,
        metrics=metrics,
        events=events,
    )
    return report.outcomes[0]


def refresh_all_materialized_views(
    database: Database,
    *,
    method: Method = "auto",
    fallback: Fallback = "regular",
    policy: RefreshPolicy | None = None,
    metrics: MetricsStore | None = None,
    events: EventBus | None = None,
) -> RefreshReport:
    """Refresh every view of the database; `.results` is view -> bool. Raises as `refresh` does."""
    return refresh(
        database, method=method, fallback=fallback, policy=policy, metrics=metrics, events=events
    )

"""The functions at the top of the package: plan, refresh, and the two classic names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from mvrefresh.errors import NotAMaterializedView, UnknownView
from mvrefresh.postgres.catalog import kind_of, read_catalog
from mvrefresh.postgres.faults import unavailable_when_lost
from mvrefresh.refreshing.plan import make_plan
from mvrefresh.refreshing.runner import Runner
from mvrefresh.refreshing.view import ViewName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mvrefresh.events import EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import Fallback, Method, Plan, ViewLike
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport


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
    with unavailable_when_lost(psycopg.Error), database.dedicated() as connection:
        graph = read_catalog(connection)
        try:
            return make_plan(graph, views, cascade=cascade, method=method, fallback=fallback)
        except UnknownView as error:
            for schema, name in error.readings:
                if (kind := kind_of(connection, schema, name)) is not None:
                    label = str(ViewName(schema, name)) if schema else name
                    raise NotAMaterializedView(
                        f"{label} is {kind}, not a materialized view"
                    ) from None
            raise


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


def refresh_materialized_view(
    database: Database,
    name: ViewLike,
    *,
    method: Method = "auto",
    fallback: Fallback = "regular",
    policy: RefreshPolicy | None = None,
    metrics: MetricsStore | None = None,
) -> RefreshOutcome:
    """Refresh one view; the outcome is truthy on success. Raises as `refresh` does."""
    report = refresh(
        database, [name], method=method, fallback=fallback, policy=policy, metrics=metrics
    )
    return report.outcomes[0]


def refresh_all_materialized_views(
    database: Database,
    *,
    method: Method = "auto",
    fallback: Fallback = "regular",
    policy: RefreshPolicy | None = None,
    metrics: MetricsStore | None = None,
) -> RefreshReport:
    """Refresh every view of the database; `.results` is view -> bool. Raises as `refresh` does."""
    return refresh(database, method=method, fallback=fallback, policy=policy, metrics=metrics)

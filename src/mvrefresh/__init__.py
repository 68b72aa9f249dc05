"""Keep PostgreSQL materialized views fresh: right order, right method, one transaction."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvrefresh.api import (
        plan,
        refresh,
        refresh_all_materialized_views,
        refresh_due,
        refresh_materialized_view,
    )
    from mvrefresh.errors import MvrefreshError
    from mvrefresh.events import Event, EventBus
    from mvrefresh.hierarchy.node import Answer, HierarchyCounts, HierarchyNode
    from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver
    from mvrefresh.hierarchy.source import HierarchySource
    from mvrefresh.metrics.memory import InMemoryMetricsStore
    from mvrefresh.metrics.postgres import PostgresMetricsStore
    from mvrefresh.metrics.store import MetricsStore, MetricsSummary, RefreshRecord
    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.health import DatabaseHealth
    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.plan import Plan, Step
    from mvrefresh.refreshing.policy import RefreshPolicy
    from mvrefresh.refreshing.report import FinalMetrics, RefreshOutcome, RefreshReport, Status
    from mvrefresh.refreshing.runner import Runner
    from mvrefresh.refreshing.schedule import Cron, Every, Schedule
    from mvrefresh.refreshing.view import MaterializedView, UniqueIndex, ViewName
    from mvrefresh.service.health import Check, ServiceHealth
    from mvrefresh.service.service import RefreshService
    from mvrefresh.service.status import ServiceStatus
    from mvrefresh.usage.refresh import UsageOutcome, UsageRefresh
    from mvrefresh.usage.source import UsageSource

__all__ = [
    "Answer",
    "Check",
    "Cron",
    "Database",
    "DatabaseHealth",
    "Event",
    "EventBus",
    "Every",
    "FinalMetrics",
    "HierarchyCounts",
    "HierarchyNode",
    "HierarchySource",
    "InMemoryMetricsStore",
    "MaterializedView",
    "MetricsStore",
    "MetricsSummary",
    "MvrefreshError",
    "OptimizedHierarchyResolver",
    "Plan",
    "PostgresMetricsStore",
    "RefreshOutcome",
    "RefreshPolicy",
    "RefreshRecord",
    "RefreshReport",
    "RefreshService",
    "Runner",
    "Schedule",
    "Schema",
    "ServiceHealth",
    "ServiceStatus",
    "Status",
    "Step",
    "UniqueIndex",
    "UsageOutcome",
    "UsageRefresh",
    "UsageSource",
    "ViewName",
    "plan",
    "refresh",
    "refresh_all_materialized_views",
    "refresh_due",
    "refresh_materialized_view",
]

logging.getLogger("mvrefresh").addHandler(logging.NullHandler())

# Where each public name is: loaded when it is first asked for, so that a host waits only for what
# it uses. The imports above say the same to a type checker, which does not see this.
_MODULES = {
    "Answer": "hierarchy.node",
    "Check": "service.health",
    "Cron": "refreshing.schedule",
    "Database": "postgres.database",
    "DatabaseHealth": "postgres.health",
    "Event": "events",
    "EventBus": "events",
    "Every": "refreshing.schedule",
    "FinalMetrics": "refreshing.report",
    "HierarchyCounts": "hierarchy.node",
    "HierarchyNode": "hierarchy.node",
    "HierarchySource": "hierarchy.source",
    "InMemoryMetricsStore": "metrics.memory",
    "MaterializedView": "refreshing.view",
    "MetricsStore": "metrics.store",
    "MetricsSummary": "metrics.store",
    "MvrefreshError": "errors",
    "OptimizedHierarchyResolver": "hierarchy.resolver",
    "Plan": "refreshing.plan",
    "PostgresMetricsStore": "metrics.postgres",
    "RefreshOutcome": "refreshing.report",
    "RefreshPolicy": "refreshing.policy",
    "RefreshRecord": "metrics.store",
    "RefreshReport": "refreshing.report",
    "RefreshService": "service.service",
    "Runner": "refreshing.runner",
    "Schedule": "refreshing.schedule",
    "Schema": "postgres.schema",
    "ServiceHealth": "service.health",
    "ServiceStatus": "service.status",
    "Status": "refreshing.report",
    "Step": "refreshing.plan",
    "UniqueIndex": "refreshing.view",
    "UsageOutcome": "usage.refresh",
    "UsageRefresh": "usage.refresh",
    "UsageSource": "usage.source",
    "ViewName": "refreshing.view",
    "plan": "api",
    "refresh": "api",
    "refresh_all_materialized_views": "api",
    "refresh_due": "api",
    "refresh_materialized_view": "api",
}

# `import mvrefresh` is enough for `except mvrefresh.errors.PoolExhausted`. Not those that need an
# extra (cli, demo) or pytest (testing): they are imported by who wants them.
_SUBMODULES = frozenset(
    {
        "api",
        "cache",
        "errors",
        "events",
        "hierarchy",
        "metrics",
        "postgres",
        "refreshing",
        "service",
        "usage",
    }
)

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        """Load a public name at its first use. In many threads at once it is the same object."""
        if (module := _MODULES.get(name)) is not None:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")  # which makes it an attribute of ours
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}",
            name=name,
            obj=import_module(__name__),  # for "Did you mean ...?"
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})

"""Keep PostgreSQL materialized views fresh: right order, right method, one transaction."""

from __future__ import annotations

import logging

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
    "UsageSource",
    "ViewName",
    "plan",
    "refresh",
    "refresh_all_materialized_views",
    "refresh_due",
    "refresh_materialized_view",
]

logging.getLogger("mvrefresh").addHandler(logging.NullHandler())

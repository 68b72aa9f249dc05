"""The shapes of all that goes over the wire, with an example each: OpenAPI is made of them.

Answers are written by orjson from plain dicts, not through these; the tests hold the two together.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

MOST_VIEWS = 1_000
MOST_IDS = 10_000


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Detail(BaseModel):
    """Any error."""

    model_config: ClassVar = _example(detail="there is no materialized view 'mv_sales'")
    detail: str


class NothingRefreshed(BaseModel):
    """Every view failed."""

    model_config: ClassVar = _example(
        detail="None of 1 materialized views was refreshed: mv_sales",
        results={"mv_sales": False},
    )
    detail: str
    results: dict[str, bool]


# -- refresh --------------------------------------------------------------------------------------


class Selection(BaseModel):
    """Which views: none named, all of the router's; `cascade`: also all that read these."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"views": ["mv_sales"], "cascade": False}]}
    )
    views: list[str] | None = Field(default=None, min_length=1, max_length=MOST_VIEWS)
    cascade: bool = False


class Refreshed(BaseModel):
    """What came of a refresh; `failed_views` only where it was a partial success."""

    model_config: ClassVar = _example(
        status="success",
        message="All materialized views refreshed successfully",
        results={"mv_entity_ancestors": True, "mv_descendant_counts": True},
        duration_ms=12.5,
    )
    status: Literal["success", "partial_success"]
    message: str
    results: dict[str, bool]
    duration_ms: float
    failed_views: list[str] = Field(default=[])


class TierFigures(BaseModel):
    """What a tier has done; it may have more figures of its own."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "hits": 990,
                    "misses": 10,
                    "hit_rate": 99.0,
                    "size": 10,
                    "errors": 0,
                    "degraded_since": None,
                }
            ]
        },
    )
    hits: int
    misses: int
    hit_rate: float | None
    size: int | None
    errors: int
    degraded_since: float | None


class CacheMetrics(BaseModel):
    """The four tiers, and all of them together."""

    l1_cache: TierFigures
    l2_cache: TierFigures
    l3_cache: TierFigures
    l4_cache: TierFigures
    overall: TierFigures


class AutomatedStatus(BaseModel):
    """Of the service in this process; `last_run` and `next_run` are the fleet's."""

    model_config: ClassVar = _example(
        enabled=True,
        last_run=1764000000.0,
        next_run=1764000300.0,
        interval_seconds=300.0,
        success_count=12,
        failure_count=0,
        state="running",
        views=[],
        fleet=[],
        error=None,
    )
    enabled: bool
    last_run: float | None
    next_run: float | None
    interval_seconds: float | None
    success_count: int
    failure_count: int
    state: Literal["stopped", "running", "standby", "degraded", "stopping"]
    views: list[dict[str, JsonValue]]
    fleet: list[dict[str, JsonValue]] | None
    error: str | None


class RefreshStatus(BaseModel):
    """How things stand."""

    status: Literal["available"]
    last_refresh: float | None
    cache_metrics: CacheMetrics
    automated_refresh_status: AutomatedStatus
    message: str


# -- the service ----------------------------------------------------------------------------------


class AutomatedConfig(BaseModel):
    """What the service does. `views` null: all of the database, which was out of reach."""

    model_config: ClassVar = _example(
        interval_seconds=300.0, concurrent_refresh=True, views=["mv_entity_ancestors"]
    )
    interval_seconds: float | None
    concurrent_refresh: bool
    views: list[str] | None


class Started(BaseModel):
    """The service runs."""

    status: Literal["success"]
    message: Literal[
        "Automated refresh service started successfully",
        "Automated refresh service is already running",
    ]
    config: AutomatedConfig


class Final(BaseModel):
    """What a service did in this process, from its start to its stop."""

    model_config: ClassVar = _example(
        total_refreshes=12,
        successful_refreshes=12,
        failed_refreshes=0,
        average_duration_ms=8.1,
        uptime_seconds=3600.0,
    )
    total_refreshes: int
    successful_refreshes: int
    failed_refreshes: int
    average_duration_ms: float | None
    uptime_seconds: float


class Stopped(BaseModel):
    """The service has stopped."""

    status: Literal["success"]
    message: str
    final_metrics: Final


class ForcedResult(BaseModel):
    """What was done; `views_refreshed` counts those that succeeded."""

    model_config: ClassVar = _example(
        duration_ms=12.5, views_refreshed=1, success=True, results={"mv_sales": True}
    )
    duration_ms: float
    views_refreshed: int
    success: bool
    results: dict[str, bool]


class Forced(BaseModel):
    """What came of a forced refresh."""

    status: Literal["success", "partial_success"]
    result: ForcedResult
    message: str


class Record(BaseModel):
    """One refresh of one view; `success` is null where the view was skipped."""

    model_config: ClassVar = _example(
        id=7,
        view_name="mv_sales",
        refresh_duration_ms=8.1,
        success=True,
        created_at="2025-01-13T10:30:00.250000Z",
        error_message=None,
    )
    id: int | None
    view_name: str
    refresh_duration_ms: float
    success: bool | None
    created_at: datetime | None
    error_message: str | None


class Summary(BaseModel):
    """Over all records that match, not over the page; `success_rate` 0 to 100."""

    model_config: ClassVar = _example(
        total_count=100,
        success_count=99,
        failure_count=1,
        success_rate=99.0,
        average_duration_ms=8.1,
        p95_duration_ms=12.0,
        p99_duration_ms=20.5,
        min_duration_ms=5.0,
        max_duration_ms=21.0,
    )
    total_count: int
    success_count: int
    failure_count: int
    success_rate: float | None
    average_duration_ms: float | None
    p95_duration_ms: float | None
    p99_duration_ms: float | None
    min_duration_ms: float | None
    max_duration_ms: float | None


class History(BaseModel):
    """Records, the newest first, and their summary."""

    status: Literal["success"]
    metrics: list[Record]
    summary: Summary


# -- the hierarchy --------------------------------------------------------------------------------


class Node(BaseModel):
    """An entity in its place."""

    model_config: ClassVar = _example(id=2, path="world.europe", name="Europe")
    id: Any
    path: str | None
    name: Any


class Ancestors(BaseModel):
    """Those above an entity, from the root down."""

    model_config: ClassVar = _example(id=3, ancestors=[{"id": 1, "path": "world", "name": "World"}])
    id: Any
    ancestors: list[Node]


class Descendants(BaseModel):
    """A page of those below an entity; `next` is the `after` of the next page, null on the last."""

    model_config: ClassVar = _example(
        id=1, descendants=[{"id": 2, "path": "world.europe", "name": "Europe"}], next=None
    )
    id: Any
    descendants: list[Node]
    next: str | None


class Counts(BaseModel):
    """How much lies below an entity."""

    model_config: ClassVar = _example(
        id=1,
        direct_children=2,
        descendant_count=9,
        leaf_descendants=5,
        height=3,
        depth=0,
        entity_type="continent",
    )
    id: Any
    direct_children: int
    descendant_count: int
    leaf_descendants: int
    height: int
    depth: int | None
    entity_type: str


class Batch(BaseModel):
    """The ancestors of many, in the order of the request, and the ids that there are not."""

    entities: list[Ancestors]
    unknown: list[Any]


# -- usage, health --------------------------------------------------------------------------------


class UsageRefreshed(BaseModel):
    """All roll-ups were refreshed."""

    model_config: ClassVar = _example(
        success=True,
        message="Materialized views refreshed successfully",
        refreshed_at="2025-01-13T10:30:00Z",
    )
    success: Literal[True]
    message: str
    refreshed_at: datetime


class UsageNotRefreshed(BaseModel):
    """A roll-up was not refreshed; the message names it."""

    model_config: ClassVar = _example(
        success=False,
        message="Materialized views not refreshed: archon_mcp_usage_daily",
        refreshed_at="2025-01-13T10:30:00Z",
        detail="Materialized views not refreshed: archon_mcp_usage_daily",
        results={"archon_mcp_usage_hourly": True, "archon_mcp_usage_daily": False},
    )
    success: Literal[False]
    message: str
    refreshed_at: datetime
    detail: str
    results: dict[str, bool]


class HealthCheck(BaseModel):
    """One thing that was looked at; `detail` says what is wrong."""

    model_config: ClassVar = _example(status="healthy", detail="")
    status: Literal["healthy", "degraded", "unhealthy"]
    detail: str


class HealthChecks(BaseModel):
    """All that is looked at."""

    database: HealthCheck
    redis: HealthCheck
    pool: HealthCheck
    listener: HealthCheck
    service: HealthCheck


class Health(BaseModel):
    """By the last check in the background; `checked_at` null: there was none yet."""

    status: Literal["healthy", "degraded", "unhealthy"]
    checks: HealthChecks
    checked_at: float | None


class Alive(BaseModel):
    """The process answers."""

    model_config: ClassVar = _example(status="healthy", checks={}, checked_at=None)
    status: Literal["healthy"]
    checks: dict[str, HealthCheck]
    checked_at: float | None

"""MvrefreshCollector: all figures of a process, read when Prometheus asks.

Nothing is counted for it where look-ups are made: caches keep their figures anyway, and are asked.
Refreshes are counted by their events, views are looked at in one statement. A database that is away
costs the scrape `timeout` seconds at most, and the figures that only it knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.registry import Collector

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.errors import ConfigurationError
from mvrefresh.events import EventBus
from mvrefresh.expected import DATABASE, RESOLVER, SERVICE, expect
from mvrefresh.prometheus.families import FAMILIES, STATES, WATCH, Sheet, empty
from mvrefresh.prometheus.glance import Glance
from mvrefresh.prometheus.labels import Labels
from mvrefresh.prometheus.tally import RefreshTally
from mvrefresh.service.health import GRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver
    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.freshness import Freshness
    from mvrefresh.service.service import RefreshService
    from mvrefresh.testing.fake import FakeRefreshService

BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1800.0, 3600.0,
)  # fmt: skip
"""Upper bounds of the refresh durations, in seconds."""

_WAY: Final = "MvrefreshCollector(database, service=service, resolvers=[resolver])"


class MvrefreshCollector(Collector):
    """Shows the figures of one database in this process; register it on a registry of the host's.

    Counters are of this process, and begin anew in a forked child. Figures of views are the
    database's, so that every process shows the same.

    Args:
        database: Whose views.
        service: The refresh service of this process, if it has one; then only its views count as
            overdue or suspended.
        resolvers: Whose caches are shown, labelled by their tables; or by name.
        events: Further buses on which refreshes are told; those of the service and the resolvers
            are heard anyway.
        most_views: How many views have a label of their own; all others are `other`.
        buckets: Upper bounds of the durations, in seconds, ascending.
        timeout: Seconds that a scrape waits for the database.

    Raises:
        ConfigurationError: A parameter cannot be meant.
    """

    def __init__(
        self,
        database: Database,
        *,
        service: RefreshService | FakeRefreshService | None = None,
        resolvers: Iterable[OptimizedHierarchyResolver]
        | Mapping[str, OptimizedHierarchyResolver] = (),
        events: EventBus | Iterable[EventBus] = (),
        most_views: int = 200,
        buckets: Sequence[float] = BUCKETS,
        timeout: float = 2.0,
    ) -> None:
        expect(database, DATABASE, _WAY)
        if service is not None:
            expect(service, SERVICE, _WAY, "views", "state", "events")
        if most_views < 0 or timeout <= 0:
            raise ConfigurationError(
                f"most_views={most_views}, timeout={timeout}: give at least 0, and more than 0"
            )
        if not buckets or list(buckets) != sorted({float(bound) for bound in buckets}):
            raise ConfigurationError(f"buckets={buckets!r} are not bounds in ascending order")
        self._database = database
        self._service = service
        self._resolvers = _named(resolvers)
        self._buckets = [*(f"{float(bound)!r}" for bound in buckets), "+Inf"]
        self._labels = Labels(most_views)
        self._tally = RefreshTally(self._labels, buckets)
        self._glance = Glance(database, timeout)
        self._subscriptions = ExitStack()
        buses = [events] if isinstance(events, EventBus) else list(events)
        buses += [heard.events for heard in (service, *self._resolvers.values()) if heard]
        for bus in {id(bus): bus for bus in buses}.values():
            self._subscriptions.enter_context(bus.subscribe(self._tally))
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: its own figures begin."""
        self._labels.forget_parent()
        self._tally.forget_parent()
        self._glance.forget_parent()

    def close(self) -> None:
        """Hear of refreshes no more. Take it off its registry yourself."""
        self._subscriptions.close()

    def describe(self) -> Iterable[Metric]:
        """The families without figures: registering asks no database."""
        return map(empty, FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """All figures as they are now; never raises for a database that is away."""
        sheet = Sheet()
        freshness = self._glance.look()
        sheet.add("mvrefresh_up", int(freshness is not None))
        if freshness is not None:
            self._add_views(sheet, freshness)
        self._add_refreshes(sheet)
        self._add_process(sheet)
        for name, resolver in self._resolvers.items():
            _add_resolver(sheet, name, resolver.cache_metrics())
        yield from sheet.families.values()

    def _add_refreshes(self, sheet: Sheet) -> None:
        figures = self._tally.figures()
        for (view, status), count in figures.refreshes.items():
            sheet.add("mvrefresh_refreshes", count, view, status)
        for name, counts in (
            ("mvrefresh_refreshes_shared", figures.shared),
            ("mvrefresh_refresh_retries", figures.retries),
            ("mvrefresh_refresh_fallbacks", figures.fallbacks),
            ("mvrefresh_records_lost", figures.lost),
        ):
            for view, count in counts.items():
                sheet.add(name, count, view)
        for view, (fallen, seconds) in figures.durations.items():
            buckets = zip(self._buckets, accumulate(fallen), strict=True)
            sheet.add_durations("mvrefresh_refresh_duration_seconds", view, buckets, seconds)

    def _add_views(self, sheet: Sheet, freshness: list[Freshness]) -> None:
        ours = set(self._service.views) if self._service is not None else None
        for each in freshness:
            self._tally.expect(self._labels.of(each.view))
        for name, value, together in _OF_A_VIEW:
            found: dict[str, float] = {}
            for each in freshness:
                figure = value(each)
                if figure is None:
                    continue
                if ours is not None and each.view not in ours and name in _BY_SCHEDULE:
                    continue
                label = self._labels.of(each.view)
                found[label] = together((found[label], figure)) if label in found else figure
            for label, figure in found.items():
                sheet.add(name, figure, label)
        cared_for = [each for each in freshness if ours is None or each.view in ours]
        sheet.add("mvrefresh_views_overdue", sum(each.overdue > GRACE for each in cared_for))
        sheet.add("mvrefresh_views_suspended", sum(each.suspended for each in cared_for))

    def _add_process(self, sheet: Sheet) -> None:
        if self._service is not None:
            sheet.add_state("mvrefresh_service_state", STATES, self._service.state)
        watch = self._database.watch
        sheet.add_state("mvrefresh_watch_state", WATCH, watch.state)
        sheet.add("mvrefresh_watch_questions", watch.asked)
        use = self._database.pool_use()
        if use is not None:
            sheet.add("mvrefresh_pool_connections", use[0])
            sheet.add("mvrefresh_pool_connections_max", use[1])


_OF_A_VIEW: Final[
    tuple[
        tuple[str, Callable[[Freshness], float | None], Callable[[tuple[float, float]], float]], ...
    ]
] = (
    ("mvrefresh_view_content_age_seconds", lambda view: view.content_age, max),
    ("mvrefresh_view_last_refresh_timestamp_seconds", lambda view: view.refreshed_at, min),
    ("mvrefresh_view_refreshing", lambda view: int(view.refreshing), sum),
    ("mvrefresh_view_schedule_interval_seconds", lambda view: view.interval, max),
    ("mvrefresh_view_overdue_seconds", lambda view: view.overdue, max),
    ("mvrefresh_view_failures", lambda view: view.failures, max),
    ("mvrefresh_view_suspended", lambda view: int(view.suspended), sum),
)
"""What is told of each view, and what of those together that share a label."""

_BY_SCHEDULE: Final = frozenset(
    {
        # The row of a view that has left all schedules stays, and says that it is due.
        "mvrefresh_view_schedule_interval_seconds",
        "mvrefresh_view_overdue_seconds",
        "mvrefresh_view_failures",
        "mvrefresh_view_suspended",
    }
)


def _named(
    resolvers: Iterable[OptimizedHierarchyResolver] | Mapping[str, OptimizedHierarchyResolver],
) -> dict[str, OptimizedHierarchyResolver]:
    if not isinstance(resolvers, Iterable):
        raise ConfigurationError(
            f"resolvers= takes a list of resolvers, not {type(resolvers).__name__}: write {_WAY}"
        )
    if isinstance(resolvers, Mapping):
        for resolver in resolvers.values():
            expect(resolver, RESOLVER, _WAY, "cache_metrics", "events")
        return dict(resolvers)
    named: dict[str, OptimizedHierarchyResolver] = {}
    for resolver in resolvers:
        expect(resolver, RESOLVER, _WAY, "cache_metrics", "events", "source")
        name = str(resolver.source.base_table)
        if name in named:
            raise ConfigurationError(
                f"two resolvers of table {name}: pass a mapping, by the names they are to have"
            )
        named[name] = resolver
    return named


def _add_resolver(sheet: Sheet, name: str, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    l1, l4 = metrics["l1_cache"], metrics["l4_cache"]
    tiers = {tier: metrics[tier] for tier in ("l1_cache", "l2_cache", "l3_cache", "l4_cache")}
    tiers["l4_replica"] = {
        "hits": l4["replica_reads"],
        "misses": l4["replica_too_old"],
        "errors": l4["replica_errors"],
        "degraded_since": l4["replica_degraded_since"],
        "size": None,
    }
    for tier, figures in tiers.items():
        sheet.add("mvrefresh_cache_hits", figures["hits"], name, tier)
        sheet.add("mvrefresh_cache_misses", figures["misses"], name, tier)
        sheet.add("mvrefresh_cache_errors", figures["errors"], name, tier)
        degraded = figures["degraded_since"] is not None
        sheet.add("mvrefresh_cache_degraded", int(degraded), name, tier)
        if figures["size"] is not None:
            sheet.add("mvrefresh_cache_entries", figures["size"], name, tier)
    sheet.add("mvrefresh_cache_source_reads", metrics["overall"]["source_reads"], name)
    sheet.add("mvrefresh_cache_blind", int(l1["blind"]), name)

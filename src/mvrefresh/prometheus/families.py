"""What is shown, by name: the conventions of Prometheus, base units, prefix `mvrefresh_`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from mvrefresh.service.health import GRACE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

_Kind: TypeAlias = type[CounterMetricFamily] | type[GaugeMetricFamily] | type[HistogramMetricFamily]

STATES: Final = ("stopped", "running", "standby", "degraded", "stopping")
WATCH: Final = ("off", "connecting", "listening", "polling")

FAMILIES: Final[dict[str, tuple[_Kind, str, tuple[str, ...]]]] = {
    "mvrefresh_up": (
        GaugeMetricFamily, "Whether the database answered this scrape in time.", ()),
    "mvrefresh_refreshes": (
        CounterMetricFamily, "Refreshes that this process has brought to an end.",
        ("view", "status")),
    "mvrefresh_refreshes_shared": (
        CounterMetricFamily, "Forced refreshes that another refresh has served.", ("view",)),
    "mvrefresh_refresh_duration_seconds": (
        HistogramMetricFamily, "How long refreshes took that ran in this process.", ("view",)),
    "mvrefresh_refresh_retries": (
        CounterMetricFamily, "Attempts that failed in a way that may pass.", ("view",)),
    "mvrefresh_refresh_fallbacks": (
        CounterMetricFamily, "Refreshes that went on as blocking ones.", ("view",)),
    "mvrefresh_records_lost": (
        CounterMetricFamily, "Records that the history did not take.", ("view",)),
    "mvrefresh_view_content_age_seconds": (
        GaugeMetricFamily, "Age of the content, where it is known; of others the oldest.",
        ("view",)),
    "mvrefresh_view_last_refresh_timestamp_seconds": (
        GaugeMetricFamily, "When the content was refreshed; of others the first.", ("view",)),
    "mvrefresh_view_schedule_interval_seconds": (
        GaugeMetricFamily, "Between two scheduled refreshes; of others the longest.", ("view",)),
    "mvrefresh_view_overdue_seconds": (
        GaugeMetricFamily, "Since the view is due, and not being refreshed; of others the longest.",
        ("view",)),
    "mvrefresh_view_failures": (
        GaugeMetricFamily, "Scheduled runs that failed since the last success; of others the most.",
        ("view",)),
    "mvrefresh_view_suspended": (
        GaugeMetricFamily, "Whether schedules leave it alone; of others how many.", ("view",)),
    "mvrefresh_view_refreshing": (
        GaugeMetricFamily, "Whether it is being refreshed, by any process; of others how many.",
        ("view",)),
    "mvrefresh_views_overdue": (
        GaugeMetricFamily, f"Views that have been due for more than {GRACE:.0f} s.", ()),
    "mvrefresh_views_suspended": (
        GaugeMetricFamily, "Views that schedules leave alone.", ()),
    "mvrefresh_service_state": (
        GaugeMetricFamily, "1 for the state in which this process's service is.", ("state",)),
    "mvrefresh_cache_hits": (
        CounterMetricFamily, "Look-ups that a tier answered; of l3_cache blocks.",
        ("resolver", "tier")),
    "mvrefresh_cache_misses": (
        CounterMetricFamily, "Look-ups that a tier passed on; of l3_cache blocks.",
        ("resolver", "tier")),
    "mvrefresh_cache_errors": (
        CounterMetricFamily, "Times that a tier failed and was gone round.", ("resolver", "tier")),
    "mvrefresh_cache_degraded": (
        GaugeMetricFamily, "Whether a tier is gone round: its breaker is open.",
        ("resolver", "tier")),
    "mvrefresh_cache_entries": (
        GaugeMetricFamily, "Entries that a tier holds, where it can tell.", ("resolver", "tier")),
    "mvrefresh_cache_source_reads": (
        CounterMetricFamily, "Reads of the table below all tiers.", ("resolver",)),
    "mvrefresh_cache_blind": (
        GaugeMetricFamily, "Whether the next look-up has to ask what is current.", ("resolver",)),
    "mvrefresh_watch_state": (
        GaugeMetricFamily, "1 for the state in which the watch of the views is.", ("state",)),
    "mvrefresh_watch_questions": (
        CounterMetricFamily, "Times that the watch has asked what is current.", ()),
    "mvrefresh_pool_connections": (
        GaugeMetricFamily, "Connections of the pool that are in use.", ()),
    "mvrefresh_pool_connections_max": (
        GaugeMetricFamily, "Connections that the pool may have.", ()),
}  # fmt: skip
"""Every family of metrics: its kind, its help, its labels. Counters are shown with `_total`."""


class Sheet:
    """The families of one scrape, each made when its first figure comes."""

    def __init__(self) -> None:
        self.families: dict[str, Metric] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        """A figure of a family; the values of its labels in their order."""
        family: Any = self.families.get(name)
        if family is None:
            family = self.families[name] = empty(name)
        family.add_metric(labels, value)

    def add_state(self, name: str, states: Iterable[str], now: str) -> None:
        """A figure for each state: 1 for that of now."""
        for state in states:
            self.add(name, int(state == now), state)

    def add_durations(
        self, name: str, label: str, buckets: Iterable[tuple[str, float]], seconds: float
    ) -> None:
        """A histogram's figures for one label; the buckets are cumulative."""
        family: Any = self.families.get(name)
        if family is None:
            family = self.families[name] = empty(name)
        family.add_metric([label], list(buckets), seconds)


def empty(name: str) -> Metric:
    """A family without figures."""
    kind, text, labels = FAMILIES[name]
    return kind(name, text, labels=labels)

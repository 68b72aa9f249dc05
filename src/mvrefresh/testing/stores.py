"""What every metrics store does: a suite for stores of a host's own.

A store is one when it passes::

    class TestMyStore(MetricsStoreContract):
        @pytest.fixture
        def store(self):
            return MyStore(...)
"""
# ruff: noqa: S101, PLR2004 - contract suites are tests

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mvrefresh.errors import ConfigurationError
from mvrefresh.metrics.store import MetricsStore, MetricsSummary
from mvrefresh.testing.records import a_record


class MetricsStoreContract:
    """What every metrics store does. Subclasses give an empty store by the fixture `store`."""

    @pytest.fixture
    def store(self) -> MetricsStore:
        """An empty store, to be given by the subclass."""
        raise NotImplementedError

    def test_it_is_a_store(self, store: MetricsStore) -> None:
        """It has the protocol's methods."""
        assert isinstance(store, MetricsStore)

    def test_a_record_comes_back_as_it_went_in(self, store: MetricsStore) -> None:
        """With an id and a moment, and otherwise unchanged."""
        record = a_record('odd "näme"', 12.5)
        stored = store.record(record)
        assert stored.id is not None
        assert stored.created_at is not None
        assert stored.created_at.tzinfo is not None
        assert replace(stored, id=None, created_at=None) == record
        assert list(store.recent()) == [stored]

    def test_failures_and_skips_keep_their_words(self, store: MetricsStore) -> None:
        """False and None are told apart, and the message is kept whole."""
        store.record(a_record(success=False, status="failed", error_message="a\nb; '%s'"))
        store.record(a_record(success=None, status="skipped_upstream"))
        skipped, failed = store.recent()
        assert failed.success is False
        assert failed.error_message == "a\nb; '%s'"
        assert skipped.success is None

    def test_recent_is_newest_first_and_limited(self, store: MetricsStore) -> None:
        """Ties of the moment are broken by the id."""
        moment = datetime(2025, 1, 13, 10, 30, tzinfo=UTC)
        for i in range(5):
            store.record(a_record(duration_ms=float(i), created_at=moment))
        store.record(a_record(duration_ms=9.0, created_at=moment - timedelta(days=1)))
        assert [r.refresh_duration_ms for r in store.recent(6)] == [4.0, 3.0, 2.0, 1.0, 0.0, 9.0]
        assert [r.refresh_duration_ms for r in store.recent(2)] == [4.0, 3.0]

    def test_filters_by_view_and_moment(self, store: MetricsStore) -> None:
        """Both `recent` and `summary` honour them; `since` is inclusive."""
        moment = datetime(2025, 1, 13, 10, 30, tzinfo=UTC)
        for view, hours in (("a", 0), ("a", 2), ("b", 2)):
            store.record(a_record(view, created_at=moment + timedelta(hours=hours)))
        since = moment + timedelta(hours=2)
        assert [r.view_name for r in store.recent(view_name="a")] == ["a", "a"]
        assert [r.view_name for r in store.recent(since=since)] == ["b", "a"]
        assert store.summary(view_name="a", since=since).total_count == 1
        assert store.summary(view_name="nobody") == MetricsSummary()

    def test_the_summary_counts_what_ran(self, store: MetricsStore) -> None:
        """Skipped records are in the history and in no figure."""
        durations = [5.0, 1.0, 2.0, 4.0, 1000.123]
        for duration in durations:
            store.record(a_record(duration_ms=duration, success=duration != 1.0))
        store.record(a_record(duration_ms=0.0, success=None, status="skipped_unchanged"))
        summary = store.summary()
        assert (summary.total_count, summary.success_count, summary.failure_count) == (5, 4, 1)
        assert summary.success_rate == pytest.approx(80.0)
        assert summary.average_duration_ms == pytest.approx(sum(durations) / 5, abs=0.001)
        assert summary.p50_duration_ms == pytest.approx(4.0, abs=0.001)
        assert summary.p95_duration_ms == pytest.approx(5 + 0.8 * 995.123, abs=0.001)
        assert summary.min_duration_ms == pytest.approx(1.0)
        assert summary.max_duration_ms == pytest.approx(1000.123)

    def test_purge_by_age(self, store: MetricsStore) -> None:
        """What is older goes, the rest stays."""
        now = datetime.now(UTC)
        for days in (0, 10, 40):
            store.record(a_record(created_at=now - timedelta(days=days)))
        assert store.purge(older_than=timedelta(days=30)) == 1
        assert len(store.recent()) == 2

    def test_purge_by_count_keeps_the_newest_of_each_view(self, store: MetricsStore) -> None:
        """Views that are refreshed rarely keep their history."""
        for view, count in (("often", 5), ("seldom", 1)):
            for i in range(count):
                store.record(a_record(view, duration_ms=float(i)))
        assert store.purge(keep_per_view=2) == 3
        left = [(r.view_name, r.refresh_duration_ms) for r in store.recent()]
        assert left == [("seldom", 0.0), ("often", 4.0), ("often", 3.0)]
        assert store.purge(keep_per_view=0) == 3
        assert list(store.recent()) == []

    @pytest.mark.parametrize("limit", [0, -1, 10_001])
    def test_a_limit_out_of_bounds_is_refused(self, store: MetricsStore, limit: int) -> None:
        """Before anything is read."""
        with pytest.raises(ConfigurationError, match="limit"):
            store.recent(limit)

    def test_a_moment_without_time_zone_is_refused(self, store: MetricsStore) -> None:
        """It could mean two things."""
        naive = datetime(2025, 1, 1)  # noqa: DTZ001 - the point
        with pytest.raises(ConfigurationError, match="time zone"):
            store.recent(since=naive)
        with pytest.raises(ConfigurationError, match="time zone"):
            store.summary(since=naive)

    def test_purge_without_a_bound_is_refused(self, store: MetricsStore) -> None:
        """It would delete everything, or nothing."""
        store.record(a_record())
        with pytest.raises(ConfigurationError):
            store.purge()
        with pytest.raises(ConfigurationError):
            store.purge(keep_per_view=-1)
        with pytest.raises(ConfigurationError):
            store.purge(older_than=timedelta(days=-1))
        assert len(store.recent()) == 1

    def test_many_threads_at_once(self, store: MetricsStore) -> None:
        """No record is lost, no id given twice."""
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda i: store.record(a_record(f"v{i % 3}")).id, range(80)))
        assert len(set(ids)) == 80
        assert store.summary().total_count == 80

"""Both stores pass the same contract, and give the same figures for the same records."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given, strategies as st

from mvrefresh import Database, InMemoryMetricsStore, PostgresMetricsStore, Schema
from mvrefresh.errors import ConfigurationError
from mvrefresh.testing import MetricsStoreContract, a_record


class TestInMemory(MetricsStoreContract):
    @pytest.fixture
    def store(self):
        return InMemoryMetricsStore()

    def test_the_oldest_go_first(self):
        store = InMemoryMetricsStore(capacity=2)
        for i in range(3):
            store.record(a_record(duration_ms=float(i)))
        assert [r.refresh_duration_ms for r in store.recent()] == [2.0, 1.0]

    def test_a_store_of_nothing_is_refused(self):
        with pytest.raises(ConfigurationError):
            InMemoryMetricsStore(capacity=0)


class TestPostgres(MetricsStoreContract):
    @pytest.fixture
    def store(self, conn, dsn):
        Schema(metrics='history of"it').apply(conn)
        with Database(dsn, metrics_schema='history of"it') as database:
            yield PostgresMetricsStore(database)

    def test_recent_by_view_uses_its_index(self, store, conn):
        conn.execute(
            'INSERT INTO "history of""it".refresh_metrics (view_name, refresh_duration_ms)'
            " SELECT 'v' || g % 500, 1 FROM generate_series(1, 20000) g"
        )
        conn.execute('ANALYZE "history of""it".refresh_metrics')
        plan = conn.execute(
            'EXPLAIN SELECT * FROM "history of""it".refresh_metrics WHERE view_name = \'v7\''
            " ORDER BY created_at DESC, id DESC LIMIT 100"
        ).fetchall()
        assert "refresh_metrics_view_recent" in str(plan)

    def test_an_older_table_of_the_hosts_own_is_adopted(self, conn, dsn):
        conn.execute(
            "CREATE TABLE public.refresh_metrics ("
            " id bigserial PRIMARY KEY, view_name text NOT NULL,"
            " refresh_duration_ms double precision NOT NULL, success boolean NOT NULL,"
            " created_at timestamptz DEFAULT now(), error_message text);"
            "INSERT INTO refresh_metrics (view_name, refresh_duration_ms, success)"
            " VALUES ('old', 7, false)"
        )
        Schema(metrics="public").apply(conn)
        with Database(dsn, metrics_schema="public") as database:
            store = PostgresMetricsStore(database)
            store.record(a_record(success=None))
            skipped, old = store.recent()
        assert skipped.success is None
        assert (old.view_name, old.status) == ("old", "failed")


def test_figures_have_three_digits_in_both(conn, dsn):
    Schema().apply(conn)
    with Database(dsn) as database:
        for store in (InMemoryMetricsStore(), PostgresMetricsStore(database)):
            for duration in (1.0004, 2.0, 2.00049):
                store.record(a_record(duration_ms=duration))
            figures = asdict(store.summary())
            assert {name: value for name, value in figures.items() if "duration" in name} == {
                "average_duration_ms": 1.667,
                "p50_duration_ms": 2.0,
                "p95_duration_ms": 2.0,
                "p99_duration_ms": 2.0,
                "min_duration_ms": 1.0,
                "max_duration_ms": 2.0,
            }


def test_the_same_records_give_the_same_figures_in_both(conn, dsn):
    Schema().apply(conn)
    with Database(dsn) as database:
        in_database = PostgresMetricsStore(database)

        @given(records=_RECORDS)
        def agree(records):
            in_memory = InMemoryMetricsStore()
            conn.execute("TRUNCATE mvrefresh.refresh_metrics")
            for duration, success in records:
                record = a_record(duration_ms=duration, success=success)
                in_memory.record(record)
                in_database.record(record, connection=conn)
            ours, theirs = asdict(in_memory.summary()), asdict(in_database.summary())
            for name, value in ours.items():
                # A sum is taken in another order there, and may be rounded the other way.
                expected = None if value is None else pytest.approx(value, abs=0.00101)
                assert theirs[name] == expected, name

        agree()


_RECORDS = st.lists(
    st.tuples(st.floats(0, 1e7, allow_nan=False), st.sampled_from([True, False, None])),
    max_size=40,
)

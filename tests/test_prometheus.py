"""What Prometheus is shown is what happened: real refreshes, and the page parsed as it would be."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import closing
from uuid import uuid4

import psycopg
import pytest
import yaml
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests import documents
from tests.hierarchy.test_resolver import TREE, make, table  # noqa: F401 - fixtures
from tests.refreshing.conftest import QUICK, database  # noqa: F401 - a fixture
from tests.service.conftest import heard  # noqa: F401 - a fixture

from mvrefresh import (
    Database,
    EventBus,
    Every,
    RefreshOutcome,
    RefreshPolicy,
    RefreshService,
    Schema,
    Status,
    errors,
    refresh,
)
from mvrefresh.events import RefreshFinished
from mvrefresh.prometheus import MvrefreshCollector, exposition
from mvrefresh.prometheus.families import FAMILIES, empty
from mvrefresh.prometheus.labels import OTHER, Labels

NEVER = Every(seconds=86400)


class Page:
    """A scrape of one collector: figures by name and labels."""

    def __init__(self, collector: MvrefreshCollector) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        body, self.content_type = exposition(registry)
        self.text = body.decode()
        self.families = {f.name: f for f in text_string_to_metric_families(self.text)}
        self.samples = [s for family in self.families.values() for s in family.samples]
        keys = [(s.name, *sorted(s.labels.items())) for s in self.samples]
        assert len(keys) == len(set(keys)), "a series stands there twice"

    def get(self, name: str, **labels: str) -> float | None:
        found = [s.value for s in self.samples if s.name == name and s.labels == labels]
        return found[0] if found else None

    def all(self, name: str) -> dict[tuple[str, ...], float]:
        """Figures by the values of the labels, `view` first."""
        order = ("view", "status", "le", "state", "resolver", "tier")
        return {
            tuple(s.labels[label] for label in order if label in s.labels): s.value
            for s in self.samples
            if s.name == name
        }

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """As `all`, without zeros."""
        return {labels: value for labels, value in self.all(name).items() if value}


@pytest.fixture
def bus():
    return EventBus()


@pytest.fixture
def collector(database, bus):  # noqa: F811 - a fixture
    with closing(MvrefreshCollector(database, events=bus)) as collector:
        yield collector


def test_before_anything_happened(collector):
    page = Page(collector)
    assert page.content_type.startswith("text/plain")
    assert page.get("mvrefresh_up") == 1
    assert page.get("mvrefresh_watch_state", state="off") == 1
    assert page.get("mvrefresh_watch_state", state="listening") == 0
    assert page.get("mvrefresh_views_overdue") == 0
    assert not page.counted("mvrefresh_refreshes_total")
    assert not page.all("mvrefresh_service_state")


def test_refreshes_are_counted_by_view_and_status(collector, database, conn, bus):  # noqa: F811
    conn.execute(
        "CREATE MATERIALIZED VIEW broken AS SELECT 1 / id AS x FROM base WHERE id < 3;"
        "CREATE MATERIALIZED VIEW below AS SELECT x FROM broken"
    )
    refresh(database, events=bus)
    conn.execute("INSERT INTO base VALUES (0, 'zero')")
    report = refresh(database, events=bus, policy=QUICK)
    page = Page(collector)
    assert page.counted("mvrefresh_refreshes_total") == {
        ("mv", "succeeded"): 2,
        ("broken", "succeeded"): 1,
        ("broken", "failed"): 1,
        ("below", "succeeded"): 1,
        ("below", "skipped_upstream"): 1,
    }
    name = "mvrefresh_refresh_duration_seconds"
    assert page.all(f"{name}_count") == {("mv",): 2, ("broken",): 2, ("below",): 1}
    assert page.get(f"{name}_bucket", view="mv", le="+Inf") == 2
    assert page.get(f"{name}_bucket", view="mv", le="3600.0") == 2
    first = page.get(f"{name}_sum", view="below")
    assert 0 < first < 60
    refresh(database, ["mv"], events=bus)
    after = Page(collector)
    assert after.get("mvrefresh_refreshes_total", view="mv", status="succeeded") == 3
    assert after.get("mvrefresh_refreshes_total", view="broken", status="failed") == 1
    longer = after.get(f"{name}_sum", view="mv") - page.get(f"{name}_sum", view="mv")
    shown = refresh(database, ["mv"], events=bus)["mv"].duration_ms / 1000
    assert longer > 0
    assert Page(collector).get(f"{name}_sum", view="mv") == pytest.approx(
        after.get(f"{name}_sum", view="mv") + shown
    )
    assert report["broken"].success is False


def test_buckets_are_cumulative_and_hold_their_bound(database, bus):  # noqa: F811
    with closing(MvrefreshCollector(database, events=bus, buckets=(0.5, 1, 2))) as collector:
        for milliseconds in (100, 500, 501, 2000, 2001):
            bus.publish(finished(duration_ms=milliseconds))
        page = Page(collector)
    assert page.all("mvrefresh_refresh_duration_seconds_bucket") == {
        ("mv", "0.5"): 2, ("mv", "1.0"): 3, ("mv", "2.0"): 4, ("mv", "+Inf"): 5,
    }  # fmt: skip
    assert page.get("mvrefresh_refresh_duration_seconds_sum", view="mv") == pytest.approx(5.102)


def finished(view="mv", **values):
    run = uuid4()
    values = {"status": Status.SUCCEEDED, "attempts": 1} | values
    return RefreshFinished(run, RefreshOutcome(view=view, run_id=run, **values))


def test_retries_fallbacks_and_lost_records(collector, database, conn, bus):  # noqa: F811
    with conn.transaction():
        conn.execute("LOCK TABLE base IN ACCESS EXCLUSIVE MODE")
        refresh(database, ["mv"], events=bus, policy=QUICK)
    conn.execute("ALTER TABLE mvrefresh.refresh_metrics ADD CHECK (view_name <> 'mv') NOT VALID")
    refresh(database, ["mv"], events=bus, policy=QUICK)
    page = Page(collector)
    assert page.get("mvrefresh_refresh_retries_total", view="mv") == 1
    assert page.get("mvrefresh_records_lost_total", view="mv") == 1
    assert page.get("mvrefresh_refreshes_total", view="mv", status="failed") == 1


def test_views_by_the_database(collector, database, conn, bus):  # noqa: F811
    conn.execute("CREATE MATERIALIZED VIEW never AS SELECT 1 AS x")
    refresh(database, ["mv"])  # by nobody whom the collector hears
    page = Page(collector)
    assert not page.counted("mvrefresh_refreshes_total")
    for name in ("refreshes_shared", "refresh_retries", "refresh_fallbacks", "records_lost"):
        # Zeros, so that the first one is an increase.
        assert page.all(f"mvrefresh_{name}_total") == {("mv",): 0}
    assert 0 <= page.get("mvrefresh_view_content_age_seconds", view="mv") < 60
    (now,) = conn.execute("SELECT extract(epoch FROM now())::float8").fetchone()
    moment = page.get("mvrefresh_view_last_refresh_timestamp_seconds", view="mv")
    assert now - 60 < moment <= now
    assert page.get("mvrefresh_view_content_age_seconds", view="never") is None
    assert page.get("mvrefresh_view_schedule_interval_seconds", view="mv") is None
    conn.execute(
        "UPDATE mvrefresh.state SET content_as_of = now() - interval '1 hour';"
        "INSERT INTO mvrefresh.schedule (view, slot, schedule, registered_at) VALUES"
        " ('mv'::regclass, now() - interval '10 min', 'every 600 s', now() - interval '1 h'),"
        " ('never'::regclass, now() + interval '1 min', 'cron 0 3 * * 6 UTC', now());"
        "UPDATE mvrefresh.schedule SET failures = 5, suspended_at = now()"
        " WHERE view = 'never'::regclass"
    )
    page = Page(collector)
    assert 0 <= page.get("mvrefresh_view_overdue_seconds", view="mv") - 600 < 60
    assert page.get("mvrefresh_view_schedule_interval_seconds", view="mv") == 600
    assert page.get("mvrefresh_view_schedule_interval_seconds", view="never") == 7 * 86400
    assert page.get("mvrefresh_views_overdue") == 1
    assert page.get("mvrefresh_view_overdue_seconds", view="never") == 0
    assert page.get("mvrefresh_view_suspended", view="never") == 1
    assert page.get("mvrefresh_view_suspended", view="mv") == 0
    assert page.get("mvrefresh_views_suspended") == 1
    assert page.get("mvrefresh_view_failures", view="never") == 5


def test_a_view_that_reads_a_suspended_one_is_left_alone_as_well(collector, conn):
    conn.execute(
        "CREATE MATERIALIZED VIEW reader AS SELECT count(*) AS n FROM mv;"
        "CREATE VIEW between AS SELECT n FROM reader;"
        "CREATE MATERIALIZED VIEW above AS SELECT n FROM between;"
        "INSERT INTO mvrefresh.schedule (view, slot, schedule, registered_at, suspended_at)"
        " SELECT v::regclass, now() - interval '10 min', 'every 600 s', now() - interval '1 h',"
        "        CASE v WHEN 'mv' THEN now() END"
        "   FROM unnest(ARRAY['mv', 'reader', 'above']) v"
    )
    page = Page(collector)
    for view in ("mv", "reader", "above"):
        assert page.get("mvrefresh_view_suspended", view=view) == 1
        assert page.get("mvrefresh_view_overdue_seconds", view=view) == 0
    assert page.get("mvrefresh_views_suspended") == 3
    assert page.get("mvrefresh_views_overdue") == 0


def test_content_that_somebody_else_refreshed_has_no_age(collector, database, conn):  # noqa: F811
    refresh(database, ["mv"])
    assert Page(collector).get("mvrefresh_view_content_age_seconds", view="mv") is not None
    conn.execute("REFRESH MATERIALIZED VIEW mv")
    assert Page(collector).get("mvrefresh_view_content_age_seconds", view="mv") is None


def test_a_cron_that_rests_at_weekends_has_the_long_interval(collector, conn):
    conn.execute(
        "INSERT INTO mvrefresh.schedule (view, slot, schedule, registered_at, last_started_at)"
        " VALUES ('mv'::regclass, now() + interval '1 h', 'cron 0 * * * * UTC', now(),"
        " now() - interval '71 h')"
    )
    seconds = Page(collector).get("mvrefresh_view_schedule_interval_seconds", view="mv")
    assert 70 * 3600 < seconds <= 72 * 3600


def test_a_refresh_that_runs_is_seen_from_any_process(collector, database, conn):  # noqa: F811
    assert not Page(collector).all("mvrefresh_view_refreshing")
    refresh(database, ["mv"])
    assert Page(collector).get("mvrefresh_view_refreshing", view="mv") == 0
    conn.execute(
        "INSERT INTO mvrefresh.schedule (view, slot, schedule, registered_at)"
        " VALUES ('mv'::regclass, now() - interval '1 h', 'every 60 s', now() - interval '2 h')"
    )
    assert Page(collector).get("mvrefresh_view_overdue_seconds", view="mv") > 3000
    with conn.transaction():
        conn.execute("LOCK TABLE base IN ACCESS EXCLUSIVE MODE")
        patient = RefreshPolicy(lock_timeout=60)
        other = threading.Thread(
            target=refresh, args=(database, ["mv"]), kwargs={"policy": patient}
        )
        other.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'base'::regclass"
        while conn.execute(waiting).fetchone() == (0,):
            pass
        page = Page(collector)
        assert page.get("mvrefresh_view_refreshing", view="mv") == 1
        assert page.get("mvrefresh_view_overdue_seconds", view="mv") == 0
    other.join()
    assert Page(collector).get("mvrefresh_view_refreshing", view="mv") == 0


def test_a_first_failure_is_an_increase(collector, database, conn, bus):  # noqa: F811
    """To Prometheus, a series that begins with 1 has never risen."""
    conn.execute(
        "INSERT INTO mvrefresh.schedule (view, slot, schedule, registered_at)"
        " VALUES ('mv'::regclass, now(), 'every 60 s', now())"
    )
    page = Page(collector)
    assert page.all("mvrefresh_refreshes_total") == {("mv", "succeeded"): 0, ("mv", "failed"): 0}
    bus.publish(finished(status=Status.FAILED))
    page = Page(collector)
    assert page.all("mvrefresh_refreshes_total") == {("mv", "succeeded"): 0, ("mv", "failed"): 1}


def test_a_service(database, conn, heard):  # noqa: F811
    conn.execute("CREATE MATERIALIZED VIEW left_alone AS SELECT 1 AS x")
    service = RefreshService(database, ["mv"], NEVER)
    with closing(MvrefreshCollector(database, service=service)) as collector:
        page = Page(collector)
        assert page.get("mvrefresh_service_state", state="stopped") == 1
        assert page.get("mvrefresh_service_state", state="running") == 0
        with service.subscribe(heard), service:
            heard.wait(RefreshFinished)
            assert service.views == ("mv",)
            assert service.state == service.status()["state"] == "running"
            conn.execute(
                "INSERT INTO mvrefresh.schedule (view, slot, schedule, registered_at)"
                " VALUES ('left_alone'::regclass, now() - interval '1 h', 'every 60 s', now())"
            )
            page = Page(collector)
        assert page.get("mvrefresh_service_state", state="running") == 1
        assert sum(page.all("mvrefresh_service_state").values()) == 1
        assert page.get("mvrefresh_refreshes_total", view="mv", status="succeeded") == 1
        # nobody of ours cares for it: its row says for ever that it is due
        assert page.get("mvrefresh_views_overdue") == 0
        assert page.get("mvrefresh_view_overdue_seconds", view="left_alone") is None
        assert page.get("mvrefresh_view_overdue_seconds", view="mv") == 0


def test_a_forced_refresh_that_was_shared_counts_apart(collector, bus):
    bus.publish(finished(shared=True))
    page = Page(collector)
    assert page.get("mvrefresh_refreshes_shared_total", view="mv") == 1
    assert not page.counted("mvrefresh_refreshes_total")
    assert not page.all("mvrefresh_refresh_duration_seconds_count")


def test_what_was_cancelled_before_it_began_has_no_duration(collector, bus):
    bus.publish(finished(status=Status.CANCELLED, attempts=0))
    page = Page(collector)
    assert page.counted("mvrefresh_refreshes_total") == {("mv", "cancelled"): 1}
    assert not page.all("mvrefresh_refresh_duration_seconds_count")


def test_tiers_as_the_resolver_counts_them(make, redis_url):  # noqa: F811
    resolver = make(resident=0, redis=redis_url)
    resolver.refresh_all_materialized_views()
    with closing(MvrefreshCollector(resolver._database, resolvers=[resolver])) as collector:
        resolver.ancestors(3)
        resolver.ancestors(3)
        page, metrics = Page(collector), resolver.cache_metrics()
        for tier in ("l1_cache", "l2_cache", "l3_cache", "l4_cache"):
            labels = {"resolver": "entities", "tier": tier}
            for family, key in (("hits", "hits"), ("misses", "misses"), ("errors", "errors")):
                shown = page.get(f"mvrefresh_cache_{family}_total", **labels)
                assert shown == metrics[tier][key], (tier, key)
            assert page.get("mvrefresh_cache_degraded", **labels) == 0
        assert page.get("mvrefresh_cache_hits_total", resolver="entities", tier="l1_cache") == 1
        assert page.get("mvrefresh_cache_entries", resolver="entities", tier="l1_cache") > 0
        assert page.get("mvrefresh_cache_blind", resolver="entities") == 0
        # the resolver's own refreshes are heard without being told of
        resolver.refresh_materialized_view(str(resolver.source.views[0]))
        shown = Page(collector).counted("mvrefresh_refreshes_total")
        assert shown == {(str(resolver.source.views[0]), "succeeded"): 1}
        assert Page(collector).get("mvrefresh_pool_connections_max") == 8


def test_a_tier_that_is_gone_round(make):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    resolver = make(resident=0, redis=f"redis://127.0.0.1:{port}/0")
    resolver.refresh_all_materialized_views()
    for key in TREE:  # after a few failures nobody asks any more
        resolver.ancestors(key)
    with closing(MvrefreshCollector(resolver._database, resolvers={"world": resolver})) as each:
        page = Page(each)
    assert page.get("mvrefresh_cache_degraded", resolver="world", tier="l2_cache") == 1
    assert page.get("mvrefresh_cache_errors_total", resolver="world", tier="l2_cache") >= 1
    assert page.get("mvrefresh_cache_degraded", resolver="world", tier="l4_replica") == 0


def test_two_resolvers_need_two_names(make):  # noqa: F811
    first, second = make(watch=False), make(watch=False)
    with pytest.raises(errors.ConfigurationError, match="pass a mapping"):
        MvrefreshCollector(first._database, resolvers=[first, second])
    both = {"a": first, "b": second}
    with closing(MvrefreshCollector(first._database, resolvers=both)) as collector:
        assert Page(collector).get("mvrefresh_cache_blind", resolver="b") is not None


class TestDatabaseAway:
    def test_it_cannot_be_reached(self, caplog, bus):
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        away = Database(f"host=127.0.0.1 port={port} dbname=x user=x")
        with caplog.at_level(logging.WARNING, "mvrefresh"):
            with closing(MvrefreshCollector(away, events=bus)) as collector:
                bus.publish(finished())
                for _ in range(3):
                    page = Page(collector)
        assert page.get("mvrefresh_up") == 0
        assert page.get("mvrefresh_refreshes_total", view="mv", status="succeeded") == 1
        assert page.get("mvrefresh_watch_state", state="off") == 1
        assert not page.all("mvrefresh_views_overdue")
        assert len([r for r in caplog.records if "Prometheus" in r.message]) == 1  # an outage

    def test_it_goes_and_comes_back(self, restartable):
        with closing(psycopg.connect(restartable.dsn(), autocommit=True)) as conn:
            Schema().apply(conn)
            conn.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")
        with Database(restartable.dsn()) as database:  # noqa: F811
            refresh(database)
            with closing(MvrefreshCollector(database)) as collector:
                assert Page(collector).get("mvrefresh_view_content_age_seconds", view="mv") >= 0
                restartable.stop()
                page = Page(collector)
                assert page.get("mvrefresh_up") == 0
                assert page.get("mvrefresh_view_content_age_seconds", view="mv") is None
                restartable.start()
                page = Page(collector)
                assert page.get("mvrefresh_up") == 1
                assert page.get("mvrefresh_view_content_age_seconds", view="mv") >= 0

    def test_it_swallows_everything(self, bus):
        """Not even a connection comes about: a scrape waits so long and no longer."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            away = Database(f"host=127.0.0.1 port={port} dbname=x user=x sslmode=disable")
            before = set(threading.enumerate())
            with closing(MvrefreshCollector(away, events=bus, timeout=0.2)) as collector:
                for _ in range(3):
                    assert Page(collector).get("mvrefresh_up") == 0
            (thread,) = set(threading.enumerate()) - before  # one, not one a scrape
            connection, _ = silent.accept()
            connection.close()
        thread.join(20)
        assert not thread.is_alive()

    def test_a_statement_that_hangs(self, collector, database, conn):  # noqa: F811
        with closing(MvrefreshCollector(database, timeout=0.3)) as hasty, conn.transaction():
            conn.execute("LOCK TABLE mvrefresh.state IN ACCESS EXCLUSIVE MODE")
            assert Page(hasty).get("mvrefresh_up") == 0
        assert Page(collector).get("mvrefresh_up") == 1

    def test_tables_that_are_not_installed_are_no_outage(self, dsn):
        with Database(dsn) as bare, closing(MvrefreshCollector(bare)) as collector:
            page = Page(collector)
        assert page.get("mvrefresh_up") == 1
        assert not page.all("mvrefresh_view_content_age_seconds")


class TestLabels:
    def test_so_many_and_no_more(self, database, conn, bus):  # noqa: F811
        for name in "abcd":
            conn.execute(f"CREATE MATERIALIZED VIEW {name} AS SELECT 1 AS x")
        with closing(MvrefreshCollector(database, events=bus, most_views=2)) as collector:
            refresh(database, ["a", "b"], events=bus)
            refresh(database, ["a", "c"], events=bus)
            before = Page(collector)
            refresh(database, ["d"], events=bus)
            page = Page(collector)
        assert page.counted("mvrefresh_refreshes_total") == {
            ("a", "succeeded"): 2, ("b", "succeeded"): 1, ("other", "succeeded"): 2,
        }  # fmt: skip
        name = "mvrefresh_view_content_age_seconds"
        assert set(page.all(name)) == {("a",), ("b",), ("other",)}
        assert page.get(name, view="other") > before.get(name, view="other")  # c's, the older
        name = "mvrefresh_view_last_refresh_timestamp_seconds"
        assert page.get(name, view="other") == before.get(name, view="other")
        assert page.get("mvrefresh_view_refreshing", view="other") == 0

    @given(st.lists(st.text(max_size=4), max_size=30), st.integers(0, 5))
    def test_a_label_stays_its_views(self, views, most):
        labels = Labels(most)
        first = [labels.of(view) for view in views]
        assert [labels.of(view) for view in views] == first
        assert len(set(first) - {OTHER}) <= most
        own = {view: label for view, label in zip(views, first, strict=True) if label != OTHER}
        assert len(set(own.values())) == len(own)

    @pytest.mark.parametrize(
        "name", ['a"b', "a\\b", "a\nb", "<img src=x onerror=alert(1)>", "ü €", "a{b}=,", "other"]
    )
    def test_hostile_names(self, collector, database, conn, bus, name):  # noqa: F811
        conn.execute(
            sql.SQL("CREATE MATERIALIZED VIEW {} AS SELECT 1 AS x").format(sql.Identifier(name))
        )
        (outcome,) = [o for o in refresh(database, events=bus) if o.view != "mv"]
        label = "public.other" if name == "other" else outcome.view
        page = Page(collector)
        assert page.get("mvrefresh_refreshes_total", view=label, status="succeeded") == 1
        assert page.get("mvrefresh_view_content_age_seconds", view=label) >= 0


def test_figures_only_rise_while_many_refresh_and_scrape(collector, bus):
    done = threading.Event()
    seen: list[float] = []

    def scrape():
        while not done.is_set():
            seen.append(
                Page(collector).get("mvrefresh_refreshes_total", view="mv", status="succeeded") or 0
            )

    def work():
        for _ in range(500):
            bus.publish(finished())

    scraping, working = threading.Thread(target=scrape), [
        threading.Thread(target=work) for _ in range(4)
    ]  # fmt: skip
    for thread in (scraping, *working):
        thread.start()
    for thread in working:
        thread.join()
    done.set()
    scraping.join()
    assert seen == sorted(seen)
    page = Page(collector)
    assert page.get("mvrefresh_refreshes_total", view="mv", status="succeeded") == 2000
    assert page.get("mvrefresh_refresh_duration_seconds_count", view="mv") == 2000


def test_after_close_nothing_is_heard(database, bus):  # noqa: F811
    collector = MvrefreshCollector(database, events=[bus, bus])
    bus.publish(finished())
    collector.close()
    bus.publish(finished())
    assert not bus.heard
    assert Page(collector).get("mvrefresh_refreshes_total", view="mv", status="succeeded") == 1


def test_registering_asks_no_database():
    nowhere = Database("host=/nowhere dbname=x")
    registry = CollectorRegistry(auto_describe=True)
    with closing(MvrefreshCollector(nowhere)) as collector:
        registry.register(collector)
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(MvrefreshCollector(nowhere))


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"most_views": -1}, {"buckets": ()}, {"buckets": (2, 1)}]
)
def test_parameters_that_cannot_be_meant(database, wrong):  # noqa: F811
    with pytest.raises(errors.ConfigurationError):
        MvrefreshCollector(database, **wrong)


def test_open_metrics_for_who_asks_for_it(collector, database, bus):  # noqa: F811
    refresh(database, events=bus)
    registry = CollectorRegistry()
    registry.register(collector)
    body, content_type = exposition(registry, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in open_metrics(body.decode())}
    assert {"mvrefresh_refreshes", "mvrefresh_refresh_duration_seconds"} <= names


def test_a_forked_child_begins_anew(database, dsn):  # noqa: F811
    """In a process of its own: what pytest and its threads hold must not be forked."""
    script = inspect.cleandoc("""
        import os, sys
        from prometheus_client import CollectorRegistry
        from mvrefresh import Database, EventBus, refresh
        from mvrefresh.prometheus import MvrefreshCollector, exposition
        database, bus = Database(sys.argv[1]), EventBus()
        registry = CollectorRegistry()
        registry.register(MvrefreshCollector(database, events=bus))
        refresh(database, events=bus)
        line = b'mvrefresh_refreshes_total{status="succeeded",view="mv"} '
        assert line + b"1.0" in exposition(registry)[0], exposition(registry)[0]
        pid = os.fork()
        if not pid:
            code = 1
            try:
                page = exposition(registry)[0]
                assert b"mvrefresh_up 1.0" in page and line + b"0.0" in page, page
                refresh(database, events=bus)
                assert line + b"1.0" in exposition(registry)[0]
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        refresh(database, events=bus)
        assert line + b"2.0" in exposition(registry)[0]
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, dsn],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_role_that_may_only_look(database, conn, dsn):  # noqa: F811
    refresh(database, ["mv"])
    conn.execute("CREATE ROLE watcher_of_metrics LOGIN")
    try:
        role = Database(make_conninfo(dsn, user="watcher_of_metrics"))
        with role, closing(MvrefreshCollector(role)) as collector:
            assert Page(collector).get("mvrefresh_up") == 0
            conn.execute(
                "GRANT USAGE ON SCHEMA mvrefresh TO watcher_of_metrics;"
                "GRANT SELECT ON mvrefresh.state, mvrefresh.schedule TO watcher_of_metrics"
            )
            assert Page(collector).get("mvrefresh_view_content_age_seconds", view="mv") >= 0
    finally:
        conn.execute("DROP OWNED BY watcher_of_metrics; DROP ROLE watcher_of_metrics")


def test_families_by_convention():
    for name, (_, text, labels) in FAMILIES.items():
        assert name.startswith("mvrefresh_")
        assert text.endswith(".")
        family = empty(name)
        assert not name.endswith("_total")
        assert (family.type == "histogram") <= name.endswith("_seconds")
        assert set(labels) <= {"view", "status", "state", "resolver", "tier"}


def test_every_family_is_in_the_reference():
    page = documents.DOCS / "reference/metrics.md"
    shown = [row[:3] for row in documents.table(page, "Figures for Prometheus")]
    kinds = {name: empty(name).type for name in FAMILIES}
    assert shown == [
        [name + "_total" * (kinds[name] == "counter"), kinds[name], ", ".join(labels)]
        for name, (_, _, labels) in FAMILIES.items()
    ]


MONITORING = documents.DOCS / "monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
VARIABLES = DASHBOARD["templating"]["list"]


def metrics_of(promql: str) -> dict[str, set[str]]:
    """The metrics that an expression names, each with the labels that are asked of it."""
    found: dict[str, set[str]] = {}
    for match in re.finditer(r"(?P<name>mvrefresh_\w+)(?:\{(?P<labels>[^}]*)\})?", promql):
        labels = re.sub(r'"[^"]*"', "", match["labels"] or "")
        found.setdefault(match["name"], set()).update(re.findall(r"\w+", labels))
    return found


def shown_series() -> dict[str, set[str]]:
    """The names of all series, with their labels, as a collector gives them."""
    series = {}
    for name, (_, _, labels) in FAMILIES.items():
        kind = empty(name).type
        ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
        for end in ends[kind]:
            series[name + end] = {*labels, *(["le"] if end == "_bucket" else [])}
    return series


EXPRESSIONS = [
    *(rule["expr"] for group in RULES for rule in group["rules"]),
    *(target["expr"] for target in TARGETS),
    *(v["query"]["query"] for v in VARIABLES if v["type"] == "query"),
]


@pytest.mark.parametrize("promql", EXPRESSIONS)
def test_an_expression_names_what_there_is(promql):
    series, asked = shown_series(), metrics_of(promql)
    assert asked
    for name, labels in asked.items():
        assert name in series
        assert labels <= {*series[name], "job", "instance"}
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", promql)
    known = {"job", "instance"}.union(*(series[name] for name in asked))
    assert {label.strip() for group in grouped for label in group.split(",")} <= known
    assert promql.count("(") == promql.count(")")


def test_what_is_shown_is_used():
    """A family that neither a picture nor a rule shows is one too many, or was forgotten."""
    used = {name for promql in EXPRESSIONS for name in metrics_of(promql)}
    for name in FAMILIES:
        assert any(each.startswith(name) for each in used), name


def test_rules_have_all_that_a_rule_needs():
    (group,) = RULES
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) > 5
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        by = re.findall(r"\{\{ \$labels\.(\w+) \}\}", str(rule["annotations"]))
        grouped = " ".join(re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])) or "job instance"
        assert set(by) <= set(re.findall(r"\w+", grouped)), rule["alert"]


def test_every_alert_is_on_the_page():
    page = documents.DOCS / "how-to/monitor-with-prometheus.md"
    shown = [row[0] for row in documents.table(page, "Dashboard and alerts")]
    assert shown == [rule["alert"] for group in RULES for rule in group["rules"]]


def test_the_dashboard_has_the_shape_of_one():
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    assert [v["name"] for v in VARIABLES] == ["datasource", "job", "view"]
    assert (VARIABLES[0]["type"], VARIABLES[0]["query"]) == ("datasource", "prometheus")
    source = {"type": "prometheus", "uid": "${datasource}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "table"}
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == source
        assert panel["targets"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        assert all(target["datasource"] == source for target in panel["targets"])
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
    places = [
        {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
    ]
    assert len(set().union(*places)) == sum(map(len, places)), "two panels lie over one another"
    legends = "".join(target["legendFormat"] for target in TARGETS)
    assert set(re.findall(r"\{\{(\w+)\}\}", legends)) <= {
        "view", "status", "state", "resolver", "tier", "instance",
    }  # fmt: skip


def test_each_rule_is_shown_to_fire_and_to_be_silent():
    cases = yaml.safe_load((MONITORING / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    tried = [
        (expected["alertname"], bool(expected["exp_alerts"]))
        for case in cases
        for expected in case["alert_rule_test"]
    ]
    names = {rule["alert"] for group in RULES for rule in group["rules"]}
    assert set(tried) == {(name, fires) for name in names for fires in (True, False)}


@pytest.mark.parametrize("command", ["check rules alerts.yml", "test rules alerts.test.yml"])
def test_promtool_takes_the_rules(command):
    if shutil.which("promtool") is None and not os.environ.get("CI"):
        pytest.skip("promtool, of Prometheus, is not installed")
    done = subprocess.run(
        ["promtool", *command.split()], cwd=MONITORING,  # noqa: S607 - the reader's own
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

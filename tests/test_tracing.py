"""Spans as OpenTelemetry's own SDK has them, of real refreshes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests import documents
from tests.refreshing.conftest import QUICK, database  # noqa: F401 - a fixture
from tests.service.conftest import heard, slow  # noqa: F401 - fixtures

from mvrefresh import EventBus, Every, RefreshPolicy, RefreshService, Runner, plan, refresh
from mvrefresh.events import RefreshFinished, RefreshStarted
from mvrefresh.tracing import RefreshSpans, tracing

NEVER = Every(seconds=86400)


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def bus(provider):
    bus = EventBus()
    with tracing(bus, provider):
        yield bus


@pytest.fixture
def spans(exporter):
    """Finished spans by what they are of; of each there is one."""

    def read():
        found = exporter.get_finished_spans()
        named = {
            span.name.removeprefix("mvrefresh ").removeprefix("refresh "): span for span in found
        }
        assert len(named) == len(found)
        return named

    return read


def said(span):
    return {
        name.removeprefix("mvrefresh."): value
        for name, value in span.attributes.items()
        if name.startswith("mvrefresh.")
    }


def test_a_run_and_its_views(database, bus, spans, provider):  # noqa: F811
    with provider.get_tracer("host").start_as_current_span("request") as request:
        report = refresh(database, events=bus)
        assert trace.get_current_span() is request  # as it was
    found = spans()
    run, view = found["run"], found["mv"]
    assert run.parent.span_id == request.context.span_id
    assert view.parent.span_id == run.context.span_id
    assert {span.context.trace_id for span in found.values()} == {request.context.trace_id}
    assert said(run) == {
        "run_id": str(report.run_id), "views": 1, "trigger": "manual", "failed_views": (),
    }  # fmt: skip
    outcome = report["mv"]
    assert said(view) == {
        "run_id": str(report.run_id),
        "view": "mv",
        "trigger": "manual",
        "strategy": "concurrent",
        "reason": outcome.reason,
        "status": "succeeded",
        "duration_ms": outcome.duration_ms,
        "attempts": 1,
        "refresh_no": 1,
        "rows_inserted": outcome.rows_inserted,
        "rows_deleted": outcome.rows_deleted,
        "content_changed": outcome.content_changed,
        "content_as_of": outcome.content_as_of.isoformat(),
        "shared": False,
    }
    assert view.attributes["db.system.name"] == "postgresql"
    assert (run.kind, view.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    assert run.start_time <= view.start_time <= view.end_time <= run.end_time
    assert view.end_time - view.start_time >= outcome.duration_ms * 1e6 * 0.9
    assert (run.status.status_code, view.status.status_code) == (StatusCode.UNSET,) * 2
    assert view.instrumentation_scope.name == "mvrefresh"


def test_a_failure_is_recorded_and_what_reads_it_is_skipped(database, conn, bus, spans):  # noqa: F811
    conn.execute(
        "CREATE MATERIALIZED VIEW broken AS SELECT 1 / id AS x FROM base WITH NO DATA;"
        "CREATE MATERIALIZED VIEW below AS SELECT x FROM broken WITH NO DATA;"
        "INSERT INTO base VALUES (0, 'zero')"
    )
    report = refresh(database, events=bus)
    found = spans()
    broken, below, run = found["broken"], found["below"], found["run"]
    assert broken.status.status_code is StatusCode.ERROR
    assert "division by zero" in broken.status.description
    (event,) = broken.events
    assert event.name == "exception"
    assert event.attributes["exception.type"].endswith("DefinitionFailed")
    assert said(below)["status"] == "skipped_upstream"
    assert below.status.status_code is StatusCode.UNSET  # neither a success nor a failure
    assert run.status.status_code is StatusCode.ERROR
    assert said(run)["failed_views"] == ("broken",)
    assert {span.parent.span_id for span in (broken, below)} == {run.context.span_id}
    assert not report


def test_views_in_parallel_have_their_run_for_a_parent(database, conn, bus, spans):  # noqa: F811
    for name in ("one", "two", "three"):
        conn.execute(f"CREATE MATERIALIZED VIEW {name} AS SELECT pg_sleep(0.2)::text AS x")
    refresh(database, events=bus, policy=RefreshPolicy(jobs=3))
    found = spans()
    run = found.pop("run")
    assert set(found) == {"mv", "one", "two", "three"}
    assert {span.parent.span_id for span in found.values()} == {run.context.span_id}
    slow_ones = [found[name] for name in ("one", "two", "three")]
    overlap = min(s.end_time for s in slow_ones) - max(s.start_time for s in slow_ones)
    assert overlap > 0
    assert all(s.end_time - s.start_time >= 0.2e9 for s in slow_ones)


def test_a_retry_is_an_event_of_the_same_span(database, conn, bus, spans):  # noqa: F811
    with conn.transaction():
        conn.execute("LOCK TABLE base IN ACCESS EXCLUSIVE MODE")
        refresh(database, ["mv"], events=bus, policy=QUICK)
    view = spans()["mv"]
    assert [event.name for event in view.events] == ["retry", "exception"]
    assert view.events[0].attributes["mvrefresh.attempt"] == 1
    assert "lock timeout" in view.events[0].attributes["exception.message"]
    assert said(view)["attempts"] == 2
    assert view.end_time - view.start_time >= 2 * 0.2e9  # both attempts


def test_a_fallback_is_an_event_and_the_strategy_is_the_last(database, conn, bus, spans):  # noqa: F811
    runner = Runner(database, events=bus)
    planned = plan(database, ["mv"])
    conn.execute("DROP INDEX mv_id")
    assert runner.run(planned)
    view = spans()["mv"]
    assert [event.name for event in view.events] == ["fallback"]
    assert said(view)["strategy"] == "regular"
    assert view.events[0].attributes["mvrefresh.reason"] == said(view)["reason"]


def test_a_lost_record_is_an_event(database, conn, bus, spans):  # noqa: F811
    conn.execute("ALTER TABLE mvrefresh.refresh_metrics ADD CHECK (view_name <> 'mv') NOT VALID")
    refresh(database, ["mv"], events=bus)
    assert [event.name for event in spans()["mv"].events] == ["record lost"]


def test_a_service_begins_traces_of_its_own(database, provider, exporter, heard, conn):  # noqa: F811
    service = RefreshService(database, ["mv"], NEVER)
    host = provider.get_tracer("host")
    with tracing(service.events, provider), service.subscribe(heard):
        with host.start_as_current_span("start"), service:  # as a request that starts it would
            heard.wait(RefreshFinished)
            report = service.force()
    found = exporter.get_finished_spans()
    views = [span for span in found if span.name == "mvrefresh refresh mv"]
    assert [said(span)["trigger"] for span in views] == ["schedule", "force"]
    (run,) = [span for span in found if span.name == "mvrefresh run"]
    assert said(run)["run_id"] == str(report.run_id)
    assert (views[0].parent, run.parent) == (None, None)
    assert views[1].parent.span_id == run.context.span_id
    assert len({span.context.trace_id for span in found}) == 3


def test_a_scheduled_refresh_is_nobodys_child(provider, spans):
    """Also where an instrumentation has given the service's thread its starter's context."""
    bus, run = EventBus(), uuid4()
    with tracing(bus, provider):
        with provider.get_tracer("host").start_as_current_span("start"):
            bus.publish(RefreshStarted(run, "mv", "regular", "", "schedule"))
    assert spans()["mv"].parent is None


def test_what_is_open_ends_with_the_block(provider, spans):
    bus = EventBus()
    with tracing(bus, provider):
        bus.publish(RefreshStarted(uuid4(), "mv", "regular", "why", "schedule"))
        assert not spans()
    assert said(spans()["mv"])["reason"] == "why"
    assert not bus.heard


def test_what_never_ends_does_not_pile_up(provider, exporter):
    subscriber = RefreshSpans(provider)
    for _ in range(1500):
        subscriber(RefreshStarted(uuid4(), "mv", "regular", "", "schedule"))
    assert len(exporter.get_finished_spans()) == 500


def test_every_attribute_is_on_the_page(database, bus, spans):  # noqa: F811
    page = documents.DOCS / "how-to/trace-with-opentelemetry.md"
    shown: dict[str, set[str]] = {"run": set(), "view": set()}
    for names, where, _ in documents.table(page, "What a span says"):
        for on in shown if where == "both" else [where]:
            shown[on].update(names.split(", "))
    refresh(database, events=bus)
    found = spans()
    assert shown == {"run": set(found["run"].attributes), "view": set(found["mv"].attributes)}


class Interrupt(BaseException):
    """As Ctrl-C."""


def test_an_interrupted_run_is_told_to_its_end(database, conn, bus, spans):  # noqa: F811
    conn.execute("CREATE MATERIALIZED VIEW after_it AS SELECT id FROM mv")

    def interrupt(event):
        if isinstance(event, RefreshFinished) and event.outcome.view == "mv":
            raise Interrupt

    with bus.subscribe(interrupt), pytest.raises(Interrupt):
        refresh(database, events=bus)
    found = spans()
    assert set(found) == {"mv", "after_it", "run"}
    assert said(found["after_it"])["status"] == "cancelled"


def test_a_cancelled_refresh_is_an_error_of_its_span(database, slow, bus, spans):  # noqa: F811
    runner, begun = Runner(database, events=bus), threading.Event()
    with bus.subscribe(lambda event: isinstance(event, RefreshStarted) and begun.set()):
        work = threading.Thread(target=runner.run, args=(plan(database, ["slow"]),))
        work.start()
        begun.wait(20)
        assert runner.cancel()
        work.join()
    span = spans()["slow"]
    assert said(span)["status"] == "cancelled"
    assert span.status.status_code is StatusCode.ERROR


def test_without_an_sdk_nothing_happens(database):  # noqa: F811
    bus = EventBus()
    with tracing(bus):
        assert refresh(database, events=bus)


def test_a_child_leaves_the_parents_spans_alone(database, dsn):  # noqa: F811
    script = inspect.cleandoc("""
        import os, sys
        from uuid import uuid4
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from mvrefresh import Database, EventBus, refresh
        from mvrefresh.events import RefreshStarted
        from mvrefresh.tracing import RefreshSpans
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        spans = RefreshSpans(provider)
        spans(RefreshStarted(uuid4(), "mv", "regular", "", "schedule"))
        pid = os.fork()
        if not pid:
            code = 1
            try:
                spans.close()
                code = len(exporter.get_finished_spans())
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        spans.close()
        assert len(exporter.get_finished_spans()) == 1
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, dsn],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_nothing_imports_opentelemetry_or_prometheus_unasked():
    program = (
        "import sys; from mvrefresh import *; import mvrefresh.api, mvrefresh.service.service;"
        "print([n for n in sys.modules if n.startswith(('opentelemetry', 'prometheus_client'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"

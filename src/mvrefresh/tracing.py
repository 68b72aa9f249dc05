"""Spans for OpenTelemetry (extra `otel`): one a run, one a view, made from events.

Where a run is started by its caller, `refresh()`, its span is a child of the caller's, on whose
thread `RunStarted` comes. A view's span is a child of its run's, whatever thread it is on. What a
service does is on threads of the service, and begins a trace: a forced run may serve callers of
several traces at once, and a scheduled refresh has no caller.

A view's span begins with its `RefreshStarted` and ends with its `RefreshFinished`, so it holds
retries, their pauses and a fallback; of what never began there is a span of no length. Spans are
not made current: they may begin on one thread and end on another.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.events import (
    RecordLost,
    RefreshFellBack,
    RefreshFinished,
    RefreshRetried,
    RefreshStarted,
    RunFinished,
    RunStarted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from opentelemetry.trace import Span, TracerProvider

    from mvrefresh.events import Event, EventBus
    from mvrefresh.refreshing.report import RefreshOutcome

_MOST: Final = 1000
"""Open spans of a kind. A scheduled refresh that finds, after a lost connection, that another
process has done its work has no last event; its span is ended when so many have begun since."""


@contextmanager
def tracing(
    events: EventBus, tracer_provider: TracerProvider | None = None
) -> Iterator[RefreshSpans]:
    """Make spans of the refreshes that are told on a bus, for as long as the block lasts.

    Args:
        events: As given to `refresh`, or `service.events`.
        tracer_provider: The host's; by default OpenTelemetry's global one.
    """
    spans = RefreshSpans(tracer_provider)
    with events.subscribe(spans):
        try:
            yield spans
        finally:
            spans.close()


@dataclass(slots=True)
class _OpenRun:
    span: Span
    left: int
    trigger: str
    failed: list[str]


class RefreshSpans:
    """Makes spans of events; a subscriber of an `EventBus`. Any thread may call it.

    Args:
        tracer_provider: The host's; by default OpenTelemetry's global one.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("mvrefresh", tracer_provider=tracer_provider)
        self.after_fork()
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: what is open is the parent's to end."""
        self._lock = Lock()
        self._runs: OrderedDict[UUID, _OpenRun] = OrderedDict()
        self._views: OrderedDict[tuple[UUID, str], Span] = OrderedDict()

    def close(self) -> None:
        """End what is open."""
        with self._lock:
            views, self._views = self._views, OrderedDict()
            runs, self._runs = self._runs, OrderedDict()
        for span in (*views.values(), *(run.span for run in runs.values())):
            span.end()

    def __call__(self, event: Event) -> None:
        """Begin, note or end."""
        match event:
            case RunStarted():
                self._begin_run(event)
            case RefreshStarted(view=view):
                span = self._of(event.run_id, view, event.trigger)
                span.set_attribute("mvrefresh.strategy", event.strategy)
                span.set_attribute("mvrefresh.reason", event.reason)
            case RefreshRetried(view=view, attempt=attempt, error=error):
                self._of(event.run_id, view).add_event(
                    "retry", {"mvrefresh.attempt": attempt, "exception.message": str(error)}
                )
            case RefreshFellBack(view=view, reason=reason):
                self._of(event.run_id, view).add_event("fallback", {"mvrefresh.reason": reason})
            case RecordLost(view=view, error=error):
                self._of(event.run_id, view).add_event(
                    "record lost", {"exception.message": str(error)}
                )
            case RefreshFinished(outcome=outcome):
                self._end_view(event.run_id, outcome)
            case RunFinished():
                self._end_run(event.run_id)

    # -- runs ----------------------------------------------------------------------------------

    def _begin_run(self, event: RunStarted) -> None:
        span = self._tracer.start_span(
            "mvrefresh run",
            attributes={
                "mvrefresh.run_id": str(event.run_id),
                "mvrefresh.views": len(event.plan),
                "mvrefresh.trigger": event.trigger,
            },
        )
        with self._lock:
            self._runs[event.run_id] = _OpenRun(span, len(event.plan), event.trigger, [])
            gone = self._runs.popitem(last=False)[1] if len(self._runs) > _MOST else None
        if gone is not None:
            gone.span.end()

    def _end_run(self, run_id: UUID) -> None:
        with self._lock:
            run = self._runs.pop(run_id, None)
        if run is None:
            return
        run.span.set_attribute("mvrefresh.failed_views", run.failed)
        if run.failed:
            words = f"{len(run.failed)} views were not refreshed"
            run.span.set_status(Status(StatusCode.ERROR, words))
        run.span.end()

    # -- views ---------------------------------------------------------------------------------

    def _of(self, run_id: UUID, view: str, trigger: str = "") -> Span:
        """The span of a view's refresh, begun if it was not."""
        with self._lock:
            found = self._views.get((run_id, view))
            run = self._runs.get(run_id)
        if found is not None:  # of one view, events come one after the other
            return found
        # Without a run it is a service's, whose thread may have been given somebody's context.
        parent = Context() if run is None else trace.set_span_in_context(run.span, Context())
        span = self._tracer.start_span(
            f"mvrefresh refresh {view}",
            context=parent,
            kind=SpanKind.CLIENT,
            attributes={
                "db.system.name": "postgresql",
                "mvrefresh.run_id": str(run_id),
                "mvrefresh.view": view,
                "mvrefresh.trigger": trigger or (run.trigger if run is not None else "schedule"),
            },
        )
        with self._lock:
            self._views[run_id, view] = span
            gone = self._views.popitem(last=False)[1] if len(self._views) > _MOST else None
        if gone is not None:
            gone.end()
        return span

    def _end_view(self, run_id: UUID, outcome: RefreshOutcome) -> None:
        span = self._of(run_id, outcome.view)
        _describe(span, outcome)
        span.end()
        with self._lock:
            self._views.pop((run_id, outcome.view), None)
            run = self._runs.get(run_id)
            if run is not None:
                run.left -= 1
                if outcome.success is False:
                    run.failed.append(outcome.view)
        if run is not None and run.left <= 0:  # an interrupted run has no `RunFinished`
            self._end_run(run_id)


def _describe(span: Span, outcome: RefreshOutcome) -> None:
    attributes = {
        "status": outcome.status.value,
        "strategy": outcome.strategy,
        "reason": outcome.reason,
        "duration_ms": outcome.duration_ms,
        "attempts": outcome.attempts,
        "refresh_no": outcome.refresh_no,
        "rows_inserted": outcome.rows_inserted,
        "rows_deleted": outcome.rows_deleted,
        "content_changed": outcome.content_changed,
        "shared": outcome.shared,
    }
    for name, value in attributes.items():
        if value is not None:
            span.set_attribute(f"mvrefresh.{name}", value)
    if outcome.content_as_of is not None:
        span.set_attribute("mvrefresh.content_as_of", outcome.content_as_of.isoformat())
    if outcome.error is not None:
        span.record_exception(outcome.error)
    if outcome.success is False:
        span.set_status(Status(StatusCode.ERROR, str(outcome.error)))

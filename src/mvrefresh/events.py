"""What happened, in the past tense, and how to hear of it.

Callbacks run on the thread that did the work, in the order of subscription. One that raises is
logged and the work goes on: nobody's dashboard may cost a refresh.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

from mvrefresh.refreshing.threads import on_our_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from mvrefresh.refreshing.plan import Plan
    from mvrefresh.refreshing.report import FinalMetrics, RefreshOutcome, RefreshReport

logger = logging.getLogger("mvrefresh")


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began; `plan` is what it will do, `trigger` who asked, as in the history."""

    run_id: UUID
    plan: Plan
    trigger: str = ""


@dataclass(frozen=True, slots=True)
class RefreshStarted:
    """A view's refresh began."""

    run_id: UUID
    view: str
    strategy: str
    reason: str
    trigger: str = ""


@dataclass(frozen=True, slots=True)
class RefreshRetried:
    """An attempt failed in a way that may pass; another follows."""

    run_id: UUID
    view: str
    attempt: int
    error: Exception


@dataclass(frozen=True, slots=True)
class RefreshFellBack:
    """CONCURRENTLY turned out to be impossible; a blocking refresh follows."""

    run_id: UUID
    view: str
    reason: str


@dataclass(frozen=True, slots=True)
class RefreshFinished:
    """A view is done with: refreshed, failed, skipped or cancelled."""

    run_id: UUID
    outcome: RefreshOutcome


@dataclass(frozen=True, slots=True)
class RecordLost:
    """The metrics store did not take a record; the refresh stands."""

    run_id: UUID
    view: str
    error: Exception


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended."""

    run_id: UUID
    report: RefreshReport


@dataclass(frozen=True, slots=True)
class ServiceStarted:
    """A refresh service began to work, or a host started it anew."""

    views: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceStopped:
    """A refresh service has ended; none of its refreshes runs any more."""

    metrics: FinalMetrics


@dataclass(frozen=True, slots=True)
class ViewSuspended:
    """A view is left alone by schedules, until any refresh of it by the library succeeds.

    Attributes:
        because: The view that failed too often: itself, or one that it reads.
        failures: How often that one has, in a row.
        last_error: What it said last.
    """

    view: str
    because: str
    failures: int
    last_error: str


@dataclass(frozen=True, slots=True)
class ViewResumed:
    """A view that was suspended is refreshed by schedule again."""

    view: str


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A service's health is another than before: "healthy", "degraded" or "unhealthy"."""

    before: str
    after: str
    detail: str


@dataclass(frozen=True, slots=True)
class TierDegraded:
    """A tier of a resolver's cache has failed, and is gone round: "l2_cache", "l4_replica"."""

    tier: str
    why: str


@dataclass(frozen=True, slots=True)
class TierRecovered:
    """A tier that was gone round is asked again."""

    tier: str


@dataclass(frozen=True, slots=True)
class ValuePoisoned:
    """A tier held something that the library has not written, or that was damaged: a miss."""

    tier: str
    key: str
    why: str


Event: TypeAlias = (
    RunStarted
    | RefreshStarted
    | RefreshRetried
    | RefreshFellBack
    | RefreshFinished
    | RecordLost
    | RunFinished
    | ServiceStarted
    | ServiceStopped
    | ViewSuspended
    | ViewResumed
    | HealthChanged
    | TierDegraded
    | TierRecovered
    | ValuePoisoned
)
"""Everything that a subscriber may be handed."""

if TYPE_CHECKING:
    Callback: TypeAlias = Callable[[Event], None]


class EventBus:
    """Hands events to whoever subscribed. Any thread may publish or subscribe."""

    def __init__(self) -> None:
        self._callbacks: tuple[Callback, ...] = ()
        self._lock = Lock()

    @contextmanager
    def subscribe(self, callback: Callback) -> Iterator[None]:
        """Hear of events for as long as the block lasts."""
        with self._lock:
            self._callbacks = (*self._callbacks, callback)
        try:
            yield
        finally:
            with self._lock:
                left = list(self._callbacks)
                left.remove(callback)
                self._callbacks = tuple(left)

    @property
    def heard(self) -> bool:
        """Whether anybody has subscribed."""
        return bool(self._callbacks)

    def publish(self, event: Event) -> None:
        """Tell the log and everybody; never raises."""
        for callback in (log_event, *self._callbacks):
            try:
                callback(event)
            except BaseException as error:
                # A host's own thread is the host's: Ctrl-C in a callback is meant for it.
                if not isinstance(error, Exception | SystemExit) and not on_our_thread():
                    raise
                logger.exception(
                    "a subscriber raised on %s; it stays subscribed", type(event).__name__
                )

    def forget_parent(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = Lock()


def log_event(event: Event) -> None:
    """The log's own subscriber: one line an event, on logger `mvrefresh`."""
    match event:
        case RunStarted(plan=plan):
            logger.debug("run %s: %d views", event.run_id, len(plan))
        case RefreshStarted():
            logger.debug("%s: refresh, %s: %s", event.view, event.strategy, event.reason)
        case RefreshRetried():
            logger.warning("%s: attempt %d failed: %s", event.view, event.attempt, event.error)
        case RefreshFellBack():
            logger.warning("%s: falls back to a blocking refresh: %s", event.view, event.reason)
        case RecordLost():
            logger.error("%s: the record was lost: %s", event.view, event.error)
        case RefreshFinished(outcome=outcome) if outcome:
            logger.info(
                "%s: %s in %.1f ms (%s)",
                outcome.view,
                outcome.status,
                outcome.duration_ms,
                outcome.strategy,
            )
        case RefreshFinished(outcome=outcome):
            logger.error("%s: %s: %s", outcome.view, outcome.status, outcome.error)
        case RunFinished(report=report):
            logger.debug("run %s: done in %.1f ms", event.run_id, report.duration_ms)
        case _:
            _log_service_event(event)


def _log_service_event(event: Event) -> None:
    match event:
        case ServiceStarted(views=views):
            logger.info("the service works for %d views", len(views))
        case ServiceStopped(metrics=metrics):
            logger.info("the service has stopped: %s", metrics)
        case ViewSuspended():
            logger.error(
                "%s: suspended, %s failed %d times in a row: %s",
                event.view, event.because, event.failures, event.last_error,
            )  # fmt: skip
        case ViewResumed():
            logger.info("%s: resumed", event.view)
        case HealthChanged():
            level = logging.INFO if event.after == "healthy" else logging.WARNING
            why = f": {event.detail}" if event.detail else ""
            logger.log(level, "the service is %s%s", event.after, why)
        case TierDegraded():
            logger.warning("%s is gone round: %s", event.tier, event.why)
        case TierRecovered():
            logger.info("%s is asked again", event.tier)
        case ValuePoisoned():
            logger.warning("%s: %s is none of ours: %s", event.tier, event.key, event.why)

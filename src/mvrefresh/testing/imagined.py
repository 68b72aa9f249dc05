"""Views that are in no database: what they read, when they are due, what their refresh brings."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING
from uuid import uuid4

from mvrefresh import errors
from mvrefresh.postgres.faults import as_refresh_error
from mvrefresh.refreshing.due import Decision, Slot, decide, due_at
from mvrefresh.refreshing.graph import ViewGraph
from mvrefresh.refreshing.report import RefreshOutcome, Status
from mvrefresh.refreshing.view import MaterializedView, UniqueIndex, ViewName
from mvrefresh.service.roster import Roll

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from uuid import UUID

    from mvrefresh.refreshing.claim import Claim
    from mvrefresh.refreshing.plan import Step, ViewLike
    from mvrefresh.refreshing.schedule import Schedule
    from mvrefresh.service.status import ViewStatus

_INDEX = UniqueIndex("imagined_key", ("id",))  # so that CONCURRENTLY is possible


def now() -> datetime:
    """The clock of the imagined database."""
    return datetime.now(UTC)


class ImaginedViews:
    """What a database would know of some views. Any thread may ask.

    Args:
        schedules: By name; the views are these.
        reads: By name, the views that a view reads.
        duration_ms: What every refresh takes, as reports and records say.
    """

    def __init__(
        self,
        schedules: Mapping[str, Schedule],
        reads: Mapping[str, Collection[str]],
        *,
        duration_ms: float,
    ) -> None:
        names = {self._name(text) for text in (*schedules, *reads)}
        names |= {self._name(read) for upstream in reads.values() for read in upstream}
        oids = {name: oid for oid, name in enumerate(sorted(names), start=16384)}
        upstream = {
            oids[self._name(view)]: frozenset(oids[self._name(read)] for read in read_ones)
            for view, read_ones in reads.items()
        }
        graph = ViewGraph(
            MaterializedView(
                oid, name, unique_indexes=(_INDEX,), reads=upstream.get(oid, frozenset())
            )
            for name, oid in oids.items()
        )
        self.schedules = {oids[self._name(text)]: each for text, each in schedules.items()}
        self.roll = Roll(
            graph,
            self.schedules,
            {oid: frozenset(graph.upstream([oid])) for oid in self.schedules},
            order=tuple(view.oid for view in graph.order(self.schedules)),
            mixed=frozenset(),
            unknown=(),
            fingerprint="",
        )
        self.rows: dict[int, Slot] = {
            oid: Slot(oid, schedule.first(now()), now(), schedule=str(schedule))
            for oid, schedule in self.schedules.items()
        }
        self.refresh_no: Counter[int] = Counter()
        self.content_as_of: dict[int, datetime] = {}
        self._duration_ms = duration_ms
        self._failing: dict[int, tuple[Exception, int | None]] = {}
        self._lock = Lock()

    @staticmethod
    def _name(text: str) -> ViewName:
        schema, name = ViewName.parse(text)
        return ViewName(schema or "public", name)

    def oids(self, views: Iterable[ViewLike] | None) -> frozenset[int]:
        """Whom they mean; None: those that are scheduled."""
        if views is None:
            return frozenset(self.schedules)
        return frozenset(self.roll.graph.find(view).oid for view in views)

    def label(self, oid: int) -> str:
        """The name by which reports know a view."""
        return self.roll.graph[oid].label

    # -- what a test wants to happen -----------------------------------------------------------

    def fail(self, view: str, error: Exception | str, times: int | None) -> None:
        """Let the refreshes of a view fail, or the next few."""
        found = self.roll.graph.find(view)
        if isinstance(error, str):
            error = errors.DefinitionFailed(found.label, error)
        with self._lock:
            self._failing[found.oid] = as_refresh_error(found.label, error), times

    def mend(self, view: str) -> None:
        """Let them succeed again."""
        with self._lock:
            self._failing.pop(self.roll.graph.find(view).oid, None)

    def suspend(self, view: str, failures: int, last_error: str) -> None:
        """As after so many failures on schedule."""
        oid = self.roll.graph.find(view).oid
        with self._lock:
            self.rows[oid] = replace(
                self.rows[oid], failures=failures, suspended_at=now(), last_error=last_error
            )

    def make_due(self, oids: Collection[int]) -> datetime:
        """Let the slots of these views come; the moment at which they have."""
        moment = now()
        with self._lock:
            for oid in oids:
                past = moment - timedelta(seconds=self.schedules[oid].jitter)
                self.rows[oid] = replace(self.rows[oid], slot=past)
        return moment

    # -- what is known -------------------------------------------------------------------------

    def decide(self, oids: Collection[int], moment: datetime) -> Decision:
        """What a service does about these."""
        schedules = {oid: each for oid, each in self.schedules.items() if oid in oids}
        with self._lock:
            return decide(self.rows, schedules, self.roll.upstream, moment, ours=self.schedules)

    def statuses(self, running: Collection[int], suspended: Mapping[int, int]) -> list[ViewStatus]:
        """The views as `RefreshService.status` has them."""
        found: list[ViewStatus] = []
        for view in self.roll.graph.order(self.schedules):
            row, because = self.rows[view.oid], suspended.get(view.oid)
            started, as_of = row.last_started_at, self.content_as_of.get(view.oid)
            schedule = self.schedules[view.oid]
            due = None if because is not None else due_at(row, schedule, now()).timestamp()
            found.append(
                {
                    "view": view.label,
                    "schedule": str(schedule),
                    "last_run": None if started is None else started.timestamp(),
                    "next_run": due,
                    "content_as_of": None if as_of is None else as_of.timestamp(),
                    "refresh_no": self.refresh_no.get(view.oid),
                    "running": view.oid in running,
                    "failures": row.failures,
                    "suspended_because": None if because is None else self.label(because),
                    "last_error": row.last_error,
                }
            )
        return found

    # -- refreshing ----------------------------------------------------------------------------

    def refresh(self, step: Step, run_id: UUID, claim: Claim | None = None) -> RefreshOutcome:
        """The outcome of a refresh: success, unless a test wants it otherwise."""
        oid = step.view.oid
        outcome = RefreshOutcome(
            view=step.view.label,
            status=Status.SUCCEEDED,
            run_id=run_id,
            strategy=step.strategy,
            reason=step.reason,
            duration_ms=self._duration_ms,
            attempts=1,
        )
        with self._lock:
            error = self._next_error(oid)
            if error is not None:
                return replace(outcome, status=Status.FAILED, error=error)
            self.refresh_no[oid] += 1
            self.content_as_of[oid] = now()
            if claim is not None:
                self.rows[oid] = claim.served_in_memory()
            elif oid in self.rows:
                self.rows[oid] = self.rows[oid].resumed()
            return replace(
                outcome,
                refresh_no=self.refresh_no[oid],
                content_token=uuid4(),
                content_as_of=self.content_as_of[oid],
                content_changed=True,
            )

    def skip(self, step: Step, run_id: UUID, upstream: Collection[str]) -> RefreshOutcome:
        """The outcome of a view whose upstream was not refreshed."""
        return RefreshOutcome(
            view=step.view.label,
            status=Status.SKIPPED_UPSTREAM,
            run_id=run_id,
            reason=step.reason,
            error=errors.UpstreamFailed(
                step.view.label, f"{', '.join(upstream)} was not refreshed"
            ),
        )

    def cancel(self, step: Step, run_id: UUID, *, begun: bool) -> RefreshOutcome:
        """The outcome of a view whose run was ended."""
        how = "it was cancelled" if begun else "the run ended before it began"
        return RefreshOutcome(
            view=step.view.label,
            status=Status.CANCELLED,
            run_id=run_id,
            strategy=step.strategy if begun else None,
            reason=step.reason,
            duration_ms=self._duration_ms if begun else 0.0,
            attempts=int(begun),
            error=errors.RefreshCancelled(step.view.label, how),
        )

    def give_up(self, claim: Claim, outcome: RefreshOutcome) -> RefreshOutcome:
        """Move on a slot that was not served; too many of them suspend the view."""
        with self._lock:
            words = claim.give_up_in_memory(outcome)
            self.rows[claim.row.view] = claim.row
        return replace(outcome, reason=f"{outcome.reason}; {words}") if words else outcome

    def _next_error(self, oid: int) -> Exception | None:
        error, times = self._failing.get(oid, (None, None))
        if error is not None and times is not None:
            if times <= 1:
                del self._failing[oid]
            else:
                self._failing[oid] = error, times - 1
        return error

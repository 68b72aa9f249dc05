"""Refresh the roll-ups now, by the library or by the function in the database: one answer."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Condition, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from mvrefresh.errors import (
    ConfigurationError,
    MvrefreshError,
    SchemaMissing,
    SchemaNotPermitted,
    UnknownView,
)
from mvrefresh.postgres import definition
from mvrefresh.postgres.catalog import read_catalog
from mvrefresh.postgres.faults import is_connection_loss, message_of, unavailable_when_lost
from mvrefresh.postgres.reach import REACH
from mvrefresh.refreshing.cancellation import Cancellation
from mvrefresh.refreshing.plan import make_plan
from mvrefresh.refreshing.policy import RefreshPolicy
from mvrefresh.refreshing.runner import Runner
from mvrefresh.usage.source import UsageSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mvrefresh.events import EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.reach import Reaches
    from mvrefresh.refreshing.plan import Plan
    from mvrefresh.refreshing.view import ViewName

logger = logging.getLogger("mvrefresh")

By: TypeAlias = Literal["library", "function"]

SUCCESS = "Materialized views refreshed successfully"


def summary_of(failed: Iterable[str]) -> str:
    """For people; it names the views that were not refreshed."""
    names = ", ".join(failed)
    return f"Materialized views not refreshed: {names}" if names else SUCCESS


@dataclass(frozen=True, slots=True)
class UsageOutcome:
    """What came of a refresh of the roll-ups.

    Attributes:
        success: Whether every view was refreshed.
        message: For people; it names the views that were not.
        refreshed_at: When it was done; UTC.
        results: View -> whether it was refreshed.
        errors: View -> why it was not, and what to do; not for everybody's eyes.
    """

    success: bool
    message: str
    refreshed_at: datetime
    results: dict[str, bool]
    errors: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.success


class UsageRefresh:
    """Refreshes the roll-ups of a source. Safe to call from any thread.

    Args:
        database: Whose views.
        source: Which views, and which function; the usual names by default.
        by: "library": each view in a transaction of its own, in parallel, tried again where a
            failure may pass. "function": by the function of `source`, in one transaction and with
            its log, as pg_cron does.
        policy: Limits; of the function `refresh_timeout` alone, which then is that of the call.
        metrics: Where the library records; the function always records in `refresh_metrics`.
        events: Whom the library tells of every step.

    Raises:
        ConfigurationError: `by` is neither.
    """

    def __init__(
        self,
        database: Database,
        source: UsageSource | None = None,
        by: By = "library",
        *,
        policy: RefreshPolicy | None = None,
        metrics: MetricsStore | None = None,
        events: EventBus | None = None,
    ) -> None:
        if by not in get_args(By):
            raise ConfigurationError(f"by={by!r} is none of {', '.join(get_args(By))}")
        self.database = database
        self.source = source or UsageSource()
        self.by: By = by
        self._policy = policy or RefreshPolicy(trigger="usage")
        self._runner = Runner(database, metrics=metrics, policy=self._policy, events=events)
        self._calls: dict[Cancellation, int] = {}  # and the thread of each
        self._changed = Condition()

    def refresh(self) -> UsageOutcome:
        """Refresh all views of the source; blocks until the last one is done.

        A view that failed, or that is not there, is in the outcome and does not end the others.

        Raises:
            SchemaMissing: The library's tables, or the function, are not installed.
            DatabaseUnavailable: The database cannot be reached.
        """
        done = self._done()
        results = {str(view): done.get(str(view), "") is None for view in self.source.views}
        errors = {view: done.get(view) or "" for view, fresh in results.items() if not fresh}
        for view, error in errors.items():
            logger.warning("usage: %s was not refreshed: %s", view, error)
        return UsageOutcome(
            success=not errors,
            message=summary_of(errors),
            refreshed_at=datetime.now(UTC),
            results=results,
            errors=errors,
        )

    def _done(self) -> dict[str, str | None]:
        """View -> None, or why not; within reach of `cancel` from its first statement."""
        call = Cancellation()
        self._calls[call] = get_ident()
        before = REACH.set(_both(REACH.get(), call.reaches))
        try:
            return self._by_library(call) if self.by == "library" else self._by_function()
        except (MvrefreshError, psycopg.Error) as error:
            if not call.requested:
                raise
            why = f"it was cancelled: {message_of(error)}"
            return {str(view): why for view in self.source.views}
        finally:
            REACH.reset(before)
            with self._changed:
                del self._calls[call]
                self._changed.notify_all()

    def cancel(self, timeout: float = 10.0) -> bool:
        """End in the server what runs; its outcome says so.

        Args:
            timeout: Seconds to wait for the server.

        Returns:
            Whether nothing runs any more.
        """
        deadline = monotonic() + timeout
        calls = dict(self._calls)
        for call in calls:
            call.request()
        for cancel in (self._runner.cancel, *(call.cancel for call in calls)):
            cancel(max(0.0, deadline - monotonic()))
        if get_ident() in calls.values():  # a callback: what it waits for waits for it
            return False
        with self._changed:
            left = max(0.0, deadline - monotonic())
            return self._changed.wait_for(lambda: calls.keys().isdisjoint(self._calls), left)

    def _by_library(self, call: Cancellation) -> dict[str, str | None]:
        plan, done = self._plan()
        if plan is not None:
            call.check("the roll-ups")
            report = self._runner.run(plan)
            done |= {o.view: None if o else str(o.error or o.status) for o in report}
        return done

    def _plan(self) -> tuple[Plan | None, dict[str, str | None]]:
        """What to do for the views that are there, and of the others why not."""
        found: list[ViewName] = []
        missing: dict[str, str | None] = {}
        with unavailable_when_lost(psycopg.Error), self.database.dedicated() as connection:
            graph = read_catalog(connection)
        for view in self.source.views:
            try:
                graph.find(view)
            except UnknownView as error:
                missing[str(view)] = str(error)
            else:
                found.append(view)
        if not found:
            return None, missing
        return make_plan(graph, found), missing

    def _by_function(self) -> dict[str, str | None]:
        name = self.source.function
        try:
            with unavailable_when_lost(), self.database.dedicated() as connection:
                rows = self._call(connection)
        except psycopg.errors.UndefinedFunction as error:
            raise SchemaMissing(
                f"there is no function {name}(), or not what it calls: apply mvrefresh's schema,"
                " then call UsageSource.create_function(connection)"
            ) from error
        except psycopg.errors.InvalidSchemaName as error:
            raise SchemaMissing(f"{name}() does not work: {message_of(error)}") from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaNotPermitted(f"{name}() does not work: {message_of(error)}") from error
        except psycopg.Error as error:  # cancelled, or refused at COMMIT: all is rolled back
            if is_connection_loss(error):
                raise
            return {str(view): message_of(error) for view in self.source.views}
        return {view: None if status == "success" else status for view, status in rows}

    def _call(self, connection: psycopg.Connection[object]) -> list[tuple[str, str]]:
        """In the isolation that a refresh needs, and without the role's limit on statements."""
        query = sql.SQL("SELECT view_name, refresh_status FROM {}()").format(
            definition.identifier(self.source.function)
        )
        limit = round((self._policy.refresh_timeout or 0) * 1000)
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE")
            connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{limit}ms",))
            return connection.cursor(row_factory=tuple_row).execute(query).fetchall()


def _both(outer: Reaches | None, inner: Reaches) -> Reaches:
    if outer is None:
        return inner

    @contextmanager
    def reaches(connection: psycopg.Connection[Any]) -> Iterator[None]:
        with outer(connection), inner(connection):
            yield

    return reaches

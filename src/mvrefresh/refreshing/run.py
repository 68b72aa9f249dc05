"""What all steps of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mvrefresh.metrics.postgres import PostgresMetricsStore

if TYPE_CHECKING:
    from uuid import UUID

    from mvrefresh.events import EventBus
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.cancellation import Cancellation
    from mvrefresh.refreshing.commission import Since
    from mvrefresh.refreshing.plan import Plan
    from mvrefresh.refreshing.policy import RefreshPolicy


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a plan: what it works on, how it behaves, whom it tells."""

    run_id: UUID
    plan: Plan
    database: Database
    metrics: MetricsStore
    policy: RefreshPolicy
    events: EventBus
    cancellation: Cancellation
    host: str
    since: Since | None = None

    @property
    def schema(self) -> Schema | None:
        """Where state and history are; None without coordination."""
        return self.database.schema if self.policy.coordination == "schema" else None

    @property
    def metrics_in_database(self) -> bool:
        """Whether the history is a table of the database whose views are refreshed."""
        return (
            isinstance(self.metrics, PostgresMetricsStore)
            and self.metrics.database is self.database
        )

    @property
    def records_itself(self) -> bool:
        """Whether a refresh's own transaction writes its history."""
        return self.schema is not None and self.metrics_in_database

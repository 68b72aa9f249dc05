"""How a run behaves, apart from what it refreshes: one value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from mvrefresh.errors import ConfigurationError

MetricsPolicy: TypeAlias = Literal["best_effort", "required"]
Coordination: TypeAlias = Literal["schema", "local"]


_SHORTEST = 0.001  # seconds; PostgreSQL counts milliseconds, and takes 0 for no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """How a run behaves.

    Attributes:
        jobs: Views refreshed at the same time, each on a connection of its own.
        lock_timeout: Seconds that a refresh waits for the lock of the view, or of what it reads,
            before it gives way (and is tried again): while it waits, later readers wait too.
        wait_timeout: Seconds to wait for another refresh of the same view to end, which blocks
            nobody; None: as long as it takes.
        refresh_timeout: Seconds that a refresh may take, enforced in the server; None: no limit,
            whatever statement_timeout the role has.
        attempts: How often a view is tried when its failure may pass (deadlock, lock, restart).
        retry_timeout: Seconds after which no further attempt begins.
        backoff_initial, backoff_max: Seconds between attempts: doubling, with jitter.
        metrics_policy: "best_effort": a failing store costs no refresh; "required": no record,
            no refresh.
        coordination: "schema" needs the library's tables; "local" goes without: the advisory
            lock still holds the fleet apart, but there is no state, token or notification.
        analyze: ANALYZE a view after its commit.
        prewarm: Read a view into PostgreSQL's buffers after its commit (extension pg_prewarm).
        trigger: Who asks, for the record.
    """

    jobs: int = 2
    lock_timeout: float = 5.0
    wait_timeout: float | None = 600.0
    refresh_timeout: float | None = None
    attempts: int = 6
    retry_timeout: float = 45.0
    backoff_initial: float = 0.1
    backoff_max: float = 2.0
    metrics_policy: MetricsPolicy = "best_effort"
    coordination: Coordination = "schema"
    analyze: bool = False
    prewarm: bool = False
    trigger: str = "manual"

    def __post_init__(self) -> None:
        for name in ("jobs", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)} is less than 1")
        for name in ("lock_timeout", "retry_timeout", "backoff_initial", "backoff_max"):
            if getattr(self, name) < _SHORTEST:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)} is less than a millisecond (it counts seconds)"
                )
        for name in ("wait_timeout", "refresh_timeout"):
            if getattr(self, name) is not None and getattr(self, name) < _SHORTEST:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)} is less than a millisecond (it counts seconds; "
                    "None means no limit)"
                )
        for name, allowed in (
            ("metrics_policy", get_args(MetricsPolicy)),
            ("coordination", get_args(Coordination)),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}"
                )

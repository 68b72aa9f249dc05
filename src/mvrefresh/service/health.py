"""Is the service well? Checked in the background, so that asking costs nothing and never waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mvrefresh.postgres.health import POOL_WARNING

if TYPE_CHECKING:
    from collections.abc import Mapping

GRACE: Final = 60.0
"""Seconds that a due view may wait for its refresh before it counts as overdue."""

_SEVERITY: Final = {"healthy": 0, "degraded": 1, "unhealthy": 2}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        status: "healthy", "degraded" or "unhealthy".
        detail: What is wrong, in words; empty when nothing is.
    """

    status: str = "healthy"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """How a service is, by the worst of its checks.

    Attributes:
        checks: "service", "database", "pool", "overdue" and "suspended".
        checked_at: Unix seconds of the last word of the database; None when there was none.
    """

    checks: Mapping[str, Check] = field(default_factory=dict)
    checked_at: float | None = None

    @property
    def status(self) -> str:
        """The worst of all checks: "healthy", "degraded" or "unhealthy"."""
        return max(
            (check.status for check in self.checks.values()),
            key=lambda status: _SEVERITY[status],
            default="healthy",
        )

    @property
    def detail(self) -> str:
        """All that is wrong, in words."""
        return "; ".join(check.detail for check in self.checks.values() if check.detail)


def database_check(error: str | None, silent_for: float, interval: float) -> Check:
    """Whether the database answers.

    Args:
        error: What the last look said, if it failed.
        silent_for: Seconds since the last answer.
        interval: Seconds between two looks at most.
    """
    if error is not None:
        return Check("unhealthy", f"the database does not answer: {error}")
    if silent_for > 3 * interval:
        return Check("unhealthy", f"the database has not answered for {silent_for:.0f} s")
    return Check()


def pool_check(use: tuple[int, int] | None) -> Check:
    """Whether the host's pool has room; warned from 80 % on."""
    if use is None or not use[1] or use[0] < POOL_WARNING * use[1]:
        return Check()
    return Check("degraded", f"{use[0]} of {use[1]} connections of the pool are in use")


def views_check(what: str, views: list[str]) -> Check:
    """Whether no view is overdue, or suspended."""
    if not views:
        return Check()
    return Check("degraded", f"{what}: {', '.join(sorted(views))}")

"""Which views, in which order, by which strategy, and why. Pure: no database, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mvrefresh.refreshing.graph import ViewGraph
    from mvrefresh.refreshing.view import MaterializedView, ViewName

    ViewLike: TypeAlias = str | ViewName | MaterializedView | int

Fallback: TypeAlias = Literal["regular", "never"]
"""What to do where CONCURRENTLY is impossible: block readers for a while, or refuse."""

Method: TypeAlias = Literal["auto", "concurrent", "regular"]
"""`auto` decides from what the view can; the others are the caller's own wish."""


@dataclass(frozen=True, slots=True)
class Step:
    """One view's part of a plan.

    Attributes:
        strategy: Name of the strategy; None when the step is refused (see `reason`).
        reason: Why this strategy, or why none, in words.
        after: Oids of the views of this plan that must have been refreshed first.
        cascaded: True when nobody asked for this view but it reads one that was asked for.
    """

    view: MaterializedView
    strategy: str | None
    reason: str
    after: frozenset[int] = frozenset()
    cascaded: bool = False

    @property
    def blocks_readers(self) -> bool:
        """Whether readers of the view wait while it is refreshed."""
        return self.strategy == "regular" and self.view.populated


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order in which each stands after all that it reads."""

    steps: tuple[Step, ...]
    method: Method = "auto"
    fallback: Fallback = "regular"

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def waves(self) -> tuple[tuple[Step, ...], ...]:
        """The steps in groups that may run at the same time, given enough connections."""
        wave_of: dict[int, int] = {}
        for step in self.steps:
            wave_of[step.view.oid] = 1 + max((wave_of[oid] for oid in step.after), default=-1)
        waves: list[list[Step]] = [[] for _ in range(1 + max(wave_of.values(), default=-1))]
        for step in self.steps:
            waves[wave_of[step.view.oid]].append(step)
        return tuple(tuple(wave) for wave in waves)


def make_plan(
    graph: ViewGraph,
    views: Iterable[ViewLike] | None = None,
    *,
    cascade: bool = False,
    method: Method = "auto",
    fallback: Fallback = "regular",
) -> Plan:
    """Decide what a refresh would do.

    Args:
        graph: The database's views.
        views: Which to refresh; None is all of them. Each counts once, however often named.
        cascade: Also refresh every view that reads one of these, at any depth.
        method: The caller's wish; "auto" takes CONCURRENTLY wherever the view can.
        fallback: "regular" lets a view that cannot be refreshed CONCURRENTLY block its readers;
            "never" refuses its step instead.

    Raises:
        UnknownView: A name is not that of a materialized view.
        ConfigurationError: `method` or `fallback` is no such thing, or `views` is one string.
    """
    if method not in get_args(Method):
        raise ConfigurationError(f"method={method!r} is none of {', '.join(get_args(Method))}")
    if fallback not in get_args(Fallback):
        raise ConfigurationError(
            f"fallback={fallback!r} is none of {', '.join(get_args(Fallback))}"
        )
    if isinstance(views, str | bytes):
        raise ConfigurationError(f"views={views!r} is one name: pass a list, [{views!r}]")
    asked = {v.oid for v in graph} if views is None else {graph.find(v).oid for v in views}
    cascaded = graph.dependants(asked) if cascade else set()
    chosen = asked | cascaded
    steps = []
    for view in graph.order(chosen):
        strategy, reason = _choose(view, method, fallback)
        after = view.reads & chosen - {view.oid}
        steps.append(
            Step(view, strategy, reason, after=frozenset(after), cascaded=view.oid in cascaded)
        )
    return Plan(tuple(steps), method=method, fallback=fallback)


def _choose(view: MaterializedView, method: Method, fallback: Fallback) -> tuple[str | None, str]:
    """The strategy and the reason in words."""
    if method == "regular":
        waiting = "readers wait while it runs" if view.populated else "it is not populated yet"
        return "regular", f"asked for; {waiting}"
    obstacle = view.concurrently_obstacle
    if obstacle is None:
        index = view.usable_index
        assert index is not None  # noqa: S101 - what no obstacle means
        columns = ", ".join(index.columns)
        return "concurrent", f"populated, with unique index {index.name} ({columns})"
    if not view.populated:  # nobody can read it, so there is nobody to block
        return "regular", f"{obstacle}, so there are no readers to block"
    if fallback == "never":
        return None, f"CONCURRENTLY is impossible, {obstacle}, and blocking was ruled out"
    return "regular", f"{obstacle}; readers wait while it runs"

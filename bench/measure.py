"""How things are timed: interleaved rounds, the median of the rounds' ratios.

Absolute times swing on a shared machine; the ratio of two things done in turn does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        seconds, rival_seconds: Medians over the rounds.
        ratio: Median of ours / rival's, round by round.
        bound: What was promised of the ratio; None where nothing was.
        above: Seconds: what was promised of the difference; None where nothing was.
    """

    what: str
    rival: str
    rounds: int
    seconds: float
    rival_seconds: float
    ratio: float
    bound: float | None = None
    above: float | None = None

    @property
    def promised(self) -> str:
        """The promise in words; empty where there is none."""
        if self.above is not None:
            return f"< {self.above * 1000:g} ms above"
        return "" if self.bound is None else f"<= {self.bound:g}"

    @property
    def verdict(self) -> str:
        """Whether the promise holds."""
        if not self.promised:
            return ""
        kept = self.bound is None or self.ratio <= self.bound
        if self.above is not None:
            kept = kept and self.seconds - self.rival_seconds < self.above
        return "holds" if kept else "BROKEN"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number that has no rival.

    Attributes:
        unit: Of the value; empty for a count.
        how: Over how much it was measured.
    """

    what: str
    value: float
    unit: str
    how: str


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    started = perf_counter()
    work()
    return perf_counter() - started


def compare(
    what: str,
    ours: Callable[[], object],
    rival_name: str,
    rival: Callable[[], object],
    *,
    rounds: int,
    bound: float | None = None,
) -> Row:
    """Time both in turn, after one round that does not count; who is first alternates."""
    ours(), rival()
    pairs = []
    for number in range(rounds):
        if number % 2:
            theirs = seconds(rival)
            mine = seconds(ours)
        else:
            mine = seconds(ours)
            theirs = seconds(rival)
        pairs.append((mine, theirs))
    return Row(
        what=what,
        rival=rival_name,
        rounds=rounds,
        seconds=median(mine for mine, _ in pairs),
        rival_seconds=median(theirs for _, theirs in pairs),
        ratio=median(mine / theirs for mine, theirs in pairs),
        bound=bound,
    )

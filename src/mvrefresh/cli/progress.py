"""A run as it goes: a live table in a terminal, plain lines anywhere else.

Both hear the runner's events, on the threads that do the work, and hold nothing up.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from mvrefresh.cli.exits import message
from mvrefresh.cli.tables import STYLES, keep_whole, method, name, result, table
from mvrefresh.cli.wording import duration, number, one_line, plural, rows_written
from mvrefresh.events import (
    RecordLost,
    RefreshFellBack,
    RefreshFinished,
    RefreshRetried,
    RefreshStarted,
)
from mvrefresh.refreshing.report import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console
    from rich.table import Table

    from mvrefresh.events import Event
    from mvrefresh.refreshing.plan import Plan
    from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport

_FRAMES_A_SECOND = 8
_WIDTHS = (10, 10, 8, 8, 8)  # of the widest that may come, so that nothing jumps


def rows(outcome: RefreshOutcome) -> str:
    """Rows written; of a regular refresh, which writes them all, just how many there are."""
    if outcome.status is not Status.SUCCEEDED:
        return "-"
    if outcome.strategy == "regular":
        return number(outcome.rows_inserted)
    return rows_written(outcome.rows_inserted, outcome.rows_deleted)


@contextmanager
def shown(
    console: Console,
    plan: Plan,
    expected: Mapping[str, float | None],
    *,
    live: bool,
    transient: bool = False,
) -> Iterator[Callable[[Event], None]]:
    """Show a run of `plan` for as long as the block lasts.

    Args:
        console: Where.
        plan: What is run.
        expected: Milliseconds that a view's refresh takes by experience, by label.
        live: A table that moves, where the console can; otherwise lines.
        transient: Whether that table goes away at the end.

    Yields:
        The callback for the runner's events.
    """
    if not (live and console.is_terminal and not console.is_dumb_terminal):
        yield _Lines(console, expected)
        return
    board = _Board(plan, expected)
    with Live(
        console=console,
        get_renderable=board.table,
        refresh_per_second=_FRAMES_A_SECOND,
        vertical_overflow="visible",
        transient=transient,
    ):
        yield board


def closing_words(console: Console, report: RefreshReport) -> None:
    """What came of the run, in a line; then a line for every view that was not refreshed."""
    done = sum(1 for outcome in report if outcome)
    took = duration(report.duration_ms)
    if report:
        console.print(Text(f"{plural(done, 'view')} refreshed in {took}.", "green"))
    else:
        console.print(
            Text(
                f"{done} of {plural(len(report.outcomes), 'view')} refreshed in {took}.", "bold red"
            )
        )
    for outcome in report:
        if not outcome and outcome.error is not None:
            console.print(
                name(f"  {message(outcome.error)}", STYLES[outcome.status]), soft_wrap=True
            )


class _Lines:
    """A line when a view's refresh begins, and one when it ends."""

    def __init__(self, console: Console, expected: Mapping[str, float | None]) -> None:
        self._console = console
        self._expected = expected

    def _say(self, view: str, what: str) -> None:
        self._console.print(name(f"{view}: {what}"), soft_wrap=True)

    def __call__(self, event: Event) -> None:
        match event:
            case RefreshStarted(view=view, strategy=strategy):
                usual = self._expected.get(view)
                hint = "" if usual is None else f", usually {duration(usual)}"
                self._say(view, f"refreshing ({strategy}{hint})")
            case RefreshRetried(view=view, attempt=attempt, error=error):
                self._say(view, f"attempt {attempt} failed: {message(error)}")
            case RefreshFellBack(view=view, reason=reason):
                self._say(view, f"falls back to a blocking refresh: {reason}")
            case RecordLost(view=view, error=error):
                self._say(view, f"refreshed, but the record was lost: {message(error)}")
            case RefreshFinished(outcome=outcome) if outcome:
                written = "" if rows(outcome) == "-" else f", {rows(outcome)} rows"
                if outcome.strategy == "regular" and outcome.rows_inserted is not None:
                    written = f", {plural(outcome.rows_inserted, 'row')}"
                self._say(
                    outcome.view,
                    f"{result(outcome)} in {duration(outcome.duration_ms)}"
                    f" ({outcome.strategy}{written})",
                )
            case RefreshFinished(outcome=outcome):
                self._say(outcome.view, result(outcome))


@dataclass(slots=True)
class _Row:
    """A view on the board."""

    expected: float | None
    strategy: str | None
    state: str = "waiting"
    note: str = ""
    started: float | None = None
    outcome: RefreshOutcome | None = None


class _Board:
    """All views of a run at once: who waits, who runs for how long, who is done."""

    def __init__(self, plan: Plan, expected: Mapping[str, float | None]) -> None:
        self._lock = Lock()
        self._rows = {
            step.view.label: _Row(expected.get(step.view.label), step.strategy) for step in plan
        }

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case RefreshStarted(view=view, strategy=strategy):
                    row = self._rows[view]
                    row.state, row.strategy = "refreshing", strategy
                    row.started = row.started or monotonic()
                case RefreshRetried(view=view, attempt=attempt, error=error):
                    self._rows[view].state = f"attempt {attempt + 1}"
                    self._rows[view].note = message(error)
                case RefreshFellBack(view=view, reason=reason):
                    self._rows[view].note = f"falls back: {reason}"
                case RecordLost(view=view, error=error):
                    self._rows[view].note = f"the record was lost: {message(error)}"
                case RefreshFinished(outcome=outcome):
                    self._rows[outcome.view].outcome = outcome

    def table(self) -> Table:
        """The board as it stands."""
        made = table("View", "State", "Method", "Took>", "Usually>", "Rows>")
        for column, width in zip(made.columns[1:], _WIDTHS, strict=True):
            column.min_width = width
        with self._lock:
            for label, row in self._rows.items():
                view = name(label)
                if row.note and row.outcome is None:
                    view.append(f"\n{one_line(row.note)}", "yellow")
                made.add_row(view, *_cells(row))
        return keep_whole(made, self._rows)


def _cells(row: _Row) -> tuple[Text | str, ...]:
    expected = duration(row.expected)
    how = method(row.strategy)
    if row.outcome is not None:
        outcome = row.outcome
        return (
            Text(result(outcome), STYLES[outcome.status]),
            how,
            duration(outcome.duration_ms) if outcome.attempts else "-",
            expected,
            rows(outcome),
        )
    if row.started is None:
        return Text(row.state, "dim"), how, "-", expected, "-"
    elapsed = (monotonic() - row.started) * 1000
    slow = row.expected is not None and elapsed > 2 * row.expected
    return (
        Text(row.state, "bold"),
        how,
        Text(duration(elapsed), "yellow" if slow else ""),
        expected,
        "-",
    )

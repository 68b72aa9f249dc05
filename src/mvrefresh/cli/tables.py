"""Tables for people, as plain as can be: readable at 80 columns, and in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from mvrefresh.cli.wording import (
    duration,
    moment,
    number,
    one_line,
    rows_written,
    size,
)
from mvrefresh.refreshing.report import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mvrefresh.metrics.store import MetricsSummary, RefreshRecord
    from mvrefresh.refreshing.graph import ViewGraph
    from mvrefresh.refreshing.plan import Plan
    from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport

Align = Literal["<", ">"]

_NAME = 32  # columns of a name that are not given up for other columns

STYLES = {
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "skipped_upstream": "yellow",
    "skipped_unchanged": "green",
}
"""How a status looks, wherever it is shown."""


def name(text: str, style: str = "") -> Text:
    """A name or message from the database: text, whatever it holds."""
    return Text(one_line(text), style=style, overflow="fold")


def table(*columns: str, title: str = "") -> Table:
    """An empty table; a heading that ends with `>` is that of a column of numbers."""
    made = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        padding=(0, 1, 0, 0),  # with the box's own blank: two between columns
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        numbers = column.endswith(">")
        made.add_column(
            column.rstrip(">"),
            justify="right" if numbers else "left",
            no_wrap=numbers,
            overflow="fold",
        )
    return made


def keep_whole(made: Table, labels: Iterable[str]) -> Table:
    """Fold other columns before that of the views' names, unless these are very long."""
    longest = max((len(one_line(label)) for label in labels), default=0)
    for column in made.columns:
        if column.header == "View":
            column.min_width = min(longest, _NAME)
    return made


def names(labels: Iterable[str]) -> Text:
    """Names, one a line."""
    return Text("\n").join(name(label) for label in labels)


def method(strategy: str | None) -> Text:
    """A strategy, coloured by what it does to readers."""
    styles = {"concurrent": "green", "regular": "yellow"}
    return Text(strategy or "refused", style=styles.get(strategy or "", "bold red"))


def views_table(graph: ViewGraph) -> Table:
    """All views: what they are and how they can be refreshed."""
    made = table("View", "Rows>", "Size>", "Method", "Reads")
    labels = {view.oid: view.label for view in graph}
    for view in graph:
        reads = sorted(labels[oid] for oid in view.reads if oid in labels)
        made.add_row(
            name(view.label),
            number(view.rows_estimate) if view.rows_estimate >= 0 else "?",
            size(view.size_bytes),
            method("concurrent" if view.concurrently_obstacle is None else "regular"),
            names([*reads, *view.base_tables]),
        )
    return keep_whole(made, labels.values())


def plan_table(plan: Plan) -> Table:
    """The steps, in order, with reasons."""
    made = table("#>", "View", "Method", "Why")
    labels = {step.view.oid: step.view.label for step in plan}
    for position, step in enumerate(plan, 1):
        why = []
        if step.cascaded:
            why.append("reads one that was asked for")
        if step.after:
            why.append("after " + ", ".join(sorted(labels[oid] for oid in step.after)))
        made.add_row(
            str(position),
            name(step.view.label),
            method(step.strategy),
            name("; ".join([*why, step.reason])),
        )
    return keep_whole(made, labels.values())


def outcomes_table(report: RefreshReport) -> Table:
    """What became of each view, and of its content."""
    made = table("View", "Result", "Method", "Took>", "Rows>", "Content")
    for outcome in report:
        content = "-" if outcome.refresh_no is None else f"no. {outcome.refresh_no}"
        if outcome.content_changed is False:
            content += ", kept"
        made.add_row(
            name(outcome.view),
            Text(result(outcome), STYLES[outcome.status]),
            method(outcome.strategy) if outcome.strategy else Text("-"),
            duration(outcome.duration_ms) if outcome.attempts else "-",
            rows_written(outcome.rows_inserted, outcome.rows_deleted),
            Text(content),
        )
    return keep_whole(made, report.results)


def result(outcome: RefreshOutcome) -> str:
    """What became of a view, in one word."""
    if outcome.status is Status.SUCCEEDED:
        return "unchanged" if outcome.content_changed is False else "refreshed"
    return outcome.status.value.partition("_")[0]


def history_table(records: Sequence[RefreshRecord]) -> Table:
    """The records, one a line."""
    made = table("Time (UTC)", "View", "Result", "Took>", "Rows>", "No.>")
    for record in records:
        result = (record.strategy or "refreshed") if record.success else record.status
        made.add_row(
            moment(record.created_at) if record.created_at else "-",
            name(record.view_name),
            name(result.replace("_", " "), STYLES.get(record.status, "")),
            duration(record.refresh_duration_ms) if record.success is not None else "-",
            rows_written(record.rows_inserted, record.rows_deleted),
            number(record.refresh_no),
        )
    return keep_whole(made, (record.view_name for record in records))


def summary_table(summaries: Mapping[str, MetricsSummary]) -> Table:
    """Percentiles, one line a view."""
    made = table("View", "Runs>", "Failed>", "p50>", "p95>", "p99>", "Longest>")
    for label, summary in summaries.items():
        made.add_row(
            name(label),
            number(summary.total_count),
            Text(number(summary.failure_count), "bold red" if summary.failure_count else ""),
            duration(summary.p50_duration_ms),
            duration(summary.p95_duration_ms),
            duration(summary.p99_duration_ms),
            duration(summary.max_duration_ms),
        )
    return keep_whole(made, summaries)

"""`history`: what was refreshed, and how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mvrefresh.cli.documents import history_document
from mvrefresh.cli.options import Since, View, global_options
from mvrefresh.cli.session import Session, pass_session
from mvrefresh.cli.tables import STYLES, history_table, name, summary_table
from mvrefresh.cli.wording import moment, plural
from mvrefresh.errors import AmbiguousView, UnknownView
from mvrefresh.metrics.postgres import PostgresMetricsStore
from mvrefresh.metrics.store import MAX_LIMIT
from mvrefresh.postgres.catalog import read_catalog

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import Console

    from mvrefresh.metrics.store import MetricsStore, MetricsSummary, RefreshRecord
    from mvrefresh.postgres.database import Database


@click.command("history")
@click.argument("view", required=False, type=View())
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    default=20,
    show_default=True,
    metavar="N",
    help="How many refreshes to show; the percentiles are over all.",
)
@click.option("--since", type=Since(), help="Only those since: 24h, 7d, 2025-01-31, ...T10:30Z.")
@global_options
@pass_session
def history(session: Session, view: str | None, limit: int, since: datetime | None) -> None:
    """Show past refreshes, the newest first, and their percentiles.

    VIEW: only this one; it may be one that was dropped since.
    """
    with session.database() as database:
        with database.dedicated() as connection:
            database.schema.check(connection)
        metrics = PostgresMetricsStore(database)
        label = None if view is None else _label(database, metrics, view)
        records = metrics.recent(limit, view_name=label, since=since)
        summary = metrics.summary(view_name=label, since=since)
        by_view = summaries(metrics, sorted({r.view_name for r in records}), since)
    session.answer(
        history_document(label, since, records, summary, by_view),
        lambda console: show_history(console, records, summary, by_view),
    )


def _label(database: Database, metrics: MetricsStore, view: str) -> str:
    """The label under which the history knows a view, also one that is no more."""
    try:
        with database.dedicated() as connection:
            return read_catalog(connection).find(view).label
    except AmbiguousView:
        raise
    except UnknownView:
        if metrics.recent(1, view_name=view):
            return view
        raise


def summaries(
    metrics: MetricsStore, labels: Sequence[str], since: datetime | None = None
) -> dict[str, MetricsSummary]:
    """Figures of each view, by label."""
    return {label: metrics.summary(view_name=label, since=since) for label in labels}


def show_history(
    console: Console,
    records: Sequence[RefreshRecord],
    summary: MetricsSummary,
    by_view: dict[str, MetricsSummary],
) -> None:
    """The records, what went wrong, the percentiles."""
    if not records:
        console.print("No refresh is on record.")
        return
    console.print(history_table(records))
    for record in records:
        if record.error_message and record.created_at:
            text = f"{moment(record.created_at)}  {' '.join(record.error_message.split())}"
            console.print(name(text, STYLES.get(record.status, "")), soft_wrap=True)
    console.print()
    total = {"all": summary} if len(by_view) > 1 else {}
    console.print(summary_table(by_view | total))
    rate = "" if summary.success_rate is None else f", {summary.success_rate:.4g} % succeeded"
    shown = f"{plural(len(records), 'record')} shown"
    console.print(f"{shown}, {plural(summary.total_count, 'run')} in all{rate}.")

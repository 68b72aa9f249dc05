"""What the chapters of the demo share: a database, its views, a runner, a console."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row
from rich.text import Text

from mvrefresh import api
from mvrefresh.cli.documents import report_document
from mvrefresh.cli.progress import closing_words, shown
from mvrefresh.cli.refreshing import run, usual_durations
from mvrefresh.cli.tables import name, outcomes_table, table
from mvrefresh.cli.views import show_plan
from mvrefresh.cli.wording import moment, number
from mvrefresh.hierarchy.source import HierarchySource
from mvrefresh.refreshing.policy import RefreshPolicy
from mvrefresh.refreshing.runner import Runner
from mvrefresh.usage.source import UsageSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import LiteralString

    from rich.console import Console

    from mvrefresh.demo.servers import Place
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import Plan
    from mvrefresh.refreshing.report import RefreshReport


@dataclass(slots=True)
class Stage:
    """Where a chapter plays.

    Attributes:
        console: For people; it is quiet where the answer is JSON.
        place: The server and the database.
        database: The same, as the library knows it.
        cities: Whether the world has cities.
        reports: Of all refreshes until now.
    """

    console: Console
    place: Place
    database: Database
    cities: bool = False
    hierarchy: HierarchySource = field(
        default_factory=lambda: HierarchySource(table="entities", parent="parent_id")
    )
    usage: UsageSource = field(default_factory=UsageSource)
    reports: list[RefreshReport] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line for people."""
        self.console.print(text)

    def plan(self) -> Plan:
        """The plan for all views, shown."""
        plan = api.plan(self.database)
        show_plan(self.console, plan)
        return plan

    def refresh(self) -> dict[str, Any]:
        """Refresh all views, shown; the report's document.

        Raises:
            KeyboardInterrupt: A Ctrl-C ended it; nothing runs in the server any more.
        """
        runner = Runner(self.database, policy=RefreshPolicy(trigger="demo"))
        plan, watch = api.plan(self.database), None
        if self.console.is_terminal and not self.console.quiet:
            expected = usual_durations(runner.metrics, plan)
            watch = shown(self.console, plan, expected, live=True, transient=True)
        report, interrupted = run(runner, plan, watch)
        self.reports.append(report)
        if interrupted:
            raise KeyboardInterrupt
        self.console.print(outcomes_table(report))
        closing_words(self.console, report)
        return report_document(report)

    def now(self) -> datetime:
        """The time by the database's clock, in UTC."""
        (row,) = self.rows("SELECT clock_timestamp() AS now")
        moment: datetime = row["now"]
        return moment.astimezone(UTC)

    def rows(self, query: LiteralString, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query."""
        with self.database.dedicated() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(query, values).fetchall()

    def look(self, question: str, query: LiteralString, *values: Any) -> list[dict[str, Any]]:
        """Ask the views something, and show question and answer."""
        found = self.rows(query, *values)
        self.show(question, found)
        return found

    def show(self, question: str, rows: Sequence[dict[str, Any]]) -> None:
        """A question, and its answer as a table."""
        self.console.print(Text(question, "italic"))
        self.console.print()
        self.console.print(_answer(rows))


def _answer(rows: Sequence[dict[str, Any]]) -> Any:
    """Rows as a table; numbers to the right."""
    if not rows:
        return Text("(no rows)", "dim")
    numeric = {key for key, value in rows[0].items() if isinstance(value, int | float)}
    made = table(*(f"{key}>" if key in numeric else key for key in rows[0]))
    for row in rows:
        made.add_row(*(_cell(value) for value in row.values()))
    return made


def _cell(value: Any) -> Text | str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, list):
        return name(" > ".join(map(str, value)))
    return name("-" if value is None else str(value))


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the demo.

    Attributes:
        key: Its name in the JSON document.
        title: Its heading.
        play: Does and shows it; returns what the JSON document says of it.
    """

    key: str
    title: str
    play: Callable[[Stage], dict[str, Any]]

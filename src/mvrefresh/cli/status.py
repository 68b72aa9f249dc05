"""`status`: is every view there, fresh and sound, and does the database do well?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from mvrefresh.cli.documents import status_document
from mvrefresh.cli.exits import Exit
from mvrefresh.cli.options import global_options
from mvrefresh.cli.session import Session, pass_session
from mvrefresh.cli.sight import Sight, look
from mvrefresh.cli.tables import STYLES, keep_whole, name, table
from mvrefresh.cli.wording import age, duration, number, plural, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@click.command("status")
@global_options
@pass_session
@click.pass_context
def status(ctx: click.Context, session: Session) -> None:
    """Show how fresh each view is, how its last refresh went, and the database's health."""
    with session.database() as database:
        sight = look(database)
    session.answer(status_document(sight), lambda console: _show(console, sight))
    if sight.schema.status != "current":
        ctx.exit(Exit.SCHEMA)
    ctx.exit(Exit.NOT_REFRESHED if sight.problems() else Exit.OK)


def _show(console: Console, sight: Sight) -> None:
    health, problems = sight.health, sight.problems()
    version = f"PostgreSQL {(health.server_version or 0) // 10000}"
    latency = f", answers in {duration(health.latency_ms)}" if health.latency_ms else ""
    standby = ", a standby (nothing can be refreshed here)" if health.in_recovery else ""
    pooler = ", behind a pooler" if health.behind_pooler else ""
    console.print(
        name(f"Database {sight.where}: {health.status}, {version}{latency}{standby}{pooler}"),
        soft_wrap=True,
    )
    console.print(name(f"Schema {sight.schema.place.name}: {sight.schema.words}"), soft_wrap=True)
    console.print()
    if len(sight.graph):
        console.print(_table(sight))
        for view in sight.graph:
            if view.oid in sight.changed_by_others:
                console.print(
                    name(
                        f"{view.label}: somebody else has refreshed or altered it since the"
                        " library did, so nobody knows how old it is"
                    ),
                    soft_wrap=True,
                )
    else:
        console.print("There is no materialized view in this database.")
    if problems:
        console.print()
        console.print(Text(f"{plural(len(problems), 'problem')}:", "bold red"))
        for problem in problems:
            console.print(name(f"  {problem}"), soft_wrap=True)
    elif len(sight.graph):
        console.print(Text("All is well.", "green"))


def _table(sight: Sight) -> Table:
    made = table("View", "Content", "No.>", "Last", "Took>", "Size>")
    for view in sight.graph:
        state, record = sight.states.get(view.oid), sight.last.get(view.label)
        seconds = sight.age_seconds(view)
        if not view.populated:
            content = Text("not populated", "bold red")
        elif view.oid in sight.changed_by_others:
            content = Text("by others", "yellow")
        else:
            content = Text("age unknown", "dim") if seconds is None else Text(age(seconds))
        made.add_row(
            name(view.label),
            content,
            number(state.refresh_no if state else None),
            Text(record.status.replace("_", " "), STYLES.get(record.status, ""))
            if record
            else Text("never", "dim"),
            duration(record.refresh_duration_ms) if record else "-",
            size(view.size_bytes),
        )
    return keep_whole(made, (view.label for view in sight.graph))

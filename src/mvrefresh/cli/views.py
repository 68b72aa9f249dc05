"""`list` and `plan`: which views there are, and what a refresh of them would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mvrefresh import api
from mvrefresh.cli.documents import plan_document, views_document
from mvrefresh.cli.options import choice_of_views, global_options
from mvrefresh.cli.session import Session, pass_session
from mvrefresh.cli.tables import name, plan_table, views_table
from mvrefresh.cli.wording import plural
from mvrefresh.postgres.catalog import read_catalog

if TYPE_CHECKING:
    from rich.console import Console

    from mvrefresh.refreshing.plan import Fallback, Method, Plan


@click.command("list")
@global_options
@pass_session
def list_views(session: Session) -> None:
    """Show the materialized views, each after what it reads."""
    with session.database() as database, database.dedicated() as connection:
        graph = read_catalog(connection)

    def people(console: Console) -> None:
        if not len(graph):
            console.print("There is no materialized view in this database.")
            return
        console.print(views_table(graph))
        for view in graph:
            if view.concurrently_obstacle is not None:
                console.print(name(f"{view.label}: {view.concurrently_obstacle}"), soft_wrap=True)

    session.answer(views_document(graph), people)


@click.command("plan")
@choice_of_views
@global_options
@pass_session
def plan_refresh(
    session: Session, *, views: tuple[str, ...], cascade: bool, method: Method, fallback: Fallback
) -> None:
    """Say what a refresh would do, and why, without doing it.

    VIEWS: those that are meant; all of the database without any.
    """
    with session.database() as database:
        plan = api.plan(database, views or None, cascade=cascade, method=method, fallback=fallback)
    session.answer(plan_document(plan), lambda console: show_plan(console, plan))


def show_plan(console: Console, plan: Plan) -> None:
    """The steps, and how many views keep their readers waiting."""
    if not plan.steps:
        console.print("There is nothing to refresh: this database has no materialized view.")
        return
    console.print(plan_table(plan))
    blocking = sum(1 for step in plan if step.blocks_readers)
    refused = sum(1 for step in plan if step.strategy is None)
    words = [f"{plural(len(plan), 'view')} in {plural(len(plan.waves), 'wave')}"]
    words += [f"{blocking} by a blocking refresh"] if blocking else ["readers go on"]
    words += [f"{refused} refused"] if refused else []
    console.print(", ".join(words) + ".")

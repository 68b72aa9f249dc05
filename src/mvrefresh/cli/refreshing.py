"""`refresh`: carry a plan out, show how it goes, and end it in the server on Ctrl-C."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from mvrefresh import api
from mvrefresh.cli.documents import report_document
from mvrefresh.cli.exits import Exit
from mvrefresh.cli.options import Limit, choice_of_views, global_options
from mvrefresh.cli.output import console
from mvrefresh.cli.progress import closing_words, shown
from mvrefresh.cli.session import Session, pass_session
from mvrefresh.refreshing.policy import RefreshPolicy
from mvrefresh.refreshing.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mvrefresh.events import Callback
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.refreshing.plan import Fallback, Method, Plan
    from mvrefresh.refreshing.report import RefreshReport

_GLANCE = 0.2  # seconds; Windows delivers a Ctrl-C only between two waits


@click.command("refresh")
@choice_of_views
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=RefreshPolicy().jobs,
    show_default=True,
    metavar="N",
    help="Views refreshed at the same time.",
)
@click.option(
    "--lock-timeout",
    type=Limit(),
    default=RefreshPolicy().lock_timeout,
    help="How long to wait for a lock: readers queue behind us.  [default: 5s]",
)
@click.option(
    "--wait-timeout",
    type=Limit(),
    default=RefreshPolicy().wait_timeout,
    help="How long to wait for another refresh of the same view to end.  [default: 600s]",
)
@click.option("--refresh-timeout", type=Limit(), help="How long a refresh may take.  [no limit]")
@click.option(
    "--local", is_flag=True, help="Go without the library's tables: no state, no history."
)
@click.option("--analyze", is_flag=True, help="ANALYZE each view after its refresh.")
@click.option("--prewarm", is_flag=True, help="Read each view into the buffers (pg_prewarm).")
@global_options
@pass_session
@click.pass_context
def refresh(
    ctx: click.Context,
    session: Session,
    *,
    views: tuple[str, ...],
    cascade: bool,
    method: Method,
    fallback: Fallback,
    jobs: int,
    lock_timeout: float,
    wait_timeout: float,
    refresh_timeout: float | None,
    local: bool,
    analyze: bool,
    prewarm: bool,
) -> None:
    """Refresh views: in order, by the right method, each in one transaction.

    VIEWS: those that are meant; all of the database without any. Ctrl-C cancels in the server.
    """
    policy = RefreshPolicy(
        jobs=jobs,
        lock_timeout=lock_timeout,
        wait_timeout=wait_timeout,
        refresh_timeout=refresh_timeout,
        coordination="local" if local else "schema",
        analyze=analyze,
        prewarm=prewarm,
        trigger="cli",
    )
    with session.database() as database:
        plan = api.plan(database, views or None, cascade=cascade, method=method, fallback=fallback)
        runner = Runner(database, policy=policy)
        watch = None
        if not session.json:
            if not local:
                with database.dedicated() as connection:
                    database.schema.check(connection)  # before anything is shown
            expected = usual_durations(runner.metrics, plan)
            watch = shown(console(), plan, expected, live=not session.verbose)
        report, interrupted = run(runner, plan, watch)
    session.answer(
        report_document(report, interrupted=interrupted),
        lambda people: closing_words(people, report),
    )
    if interrupted:
        ctx.exit(Exit.INTERRUPTED)
    ctx.exit(Exit.OK if report else Exit.NOT_REFRESHED)


def run(
    runner: Runner, plan: Plan, watch: AbstractContextManager[Callback] | None = None
) -> tuple[RefreshReport, bool]:
    """Run a plan so that a person may end it.

    Args:
        runner: Who runs it.
        plan: What to run.
        watch: What shows the run while it goes on; it gives the callback for the events.

    Returns:
        The report, and whether a Ctrl-C ended the run.
    """
    with nullcontext() if watch is None else _subscribed(runner, watch):
        # On a thread, so that a signal finds this one free to cancel in the server.
        thread = ThreadPoolExecutor(1, thread_name_prefix="mvrefresh-run")
        running, interrupted = thread.submit(runner.run, plan), False
        try:
            while not running.done():
                try:
                    if interrupted:
                        # Again and again: one that comes between two statements finds nothing.
                        runner.cancel(timeout=_GLANCE)
                    wait([running], timeout=_GLANCE)
                except KeyboardInterrupt:
                    if interrupted:  # the second: leave; the server sees that we are gone
                        raise
                    interrupted = True
        finally:
            thread.shutdown(wait=False)
    return running.result(), interrupted


@contextmanager
def _subscribed(runner: Runner, watch: AbstractContextManager[Callback]) -> Iterator[None]:
    with watch as callback, runner.events.subscribe(callback):
        yield


def usual_durations(metrics: MetricsStore, plan: Plan) -> dict[str, float | None]:
    """The median duration of each view's refreshes in the history, in milliseconds."""
    return {
        step.view.label: metrics.summary(view_name=step.view.label).p50_duration_ms for step in plan
    }

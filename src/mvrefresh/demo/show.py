"""Plays the chapters, one after the other, and sums up."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mvrefresh.cli.wording import duration, plural
from mvrefresh.demo.chapters import CHAPTERS

if TYPE_CHECKING:
    from mvrefresh.demo.stage import Stage


def play(stage: Stage, *, started: float) -> dict[str, Any]:
    """Play all chapters.

    Args:
        stage: Where.
        started: When the demo began, by `monotonic()`.

    Returns:
        The document of `--json`: `success` (of every refresh), `elapsed_ms`, `refreshes`,
        `failures`, `chapters` {key: what the chapter says}.
    """
    chapters = {}
    for position, chapter in enumerate(CHAPTERS, 1):
        if position > 1:
            stage.console.print()
        stage.console.print(Text(f"{position}. {chapter.title}", "bold"))
        stage.console.print()
        chapters[chapter.key] = chapter.play(stage)
    outcomes = [outcome for report in stage.reports for outcome in report]
    failures = sum(1 for outcome in outcomes if not outcome)
    elapsed = (monotonic() - started) * 1000
    stage.console.print()
    words = (
        f"{plural(len(outcomes), 'refresh').replace('refreshs', 'refreshes')}, {failures} failed"
    )
    stage.console.print(
        Text(f"{words}; the whole demo took {duration(elapsed)}.", "red" if failures else "green")
    )
    return {
        "success": not failures,
        "elapsed_ms": elapsed,
        "refreshes": len(outcomes),
        "failures": failures,
        "chapters": chapters,
    }

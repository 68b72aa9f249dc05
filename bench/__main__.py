"""`nox -s bench`: every measured claim in one run, as a table and as JSON.

    python -m bench [--quick] [--only NAME] [--json FILE]

Against a PostgreSQL 18 of its own, out of the wheel, or against `--dsn` (a database that may be
filled with tables). `--quick` is for the tests: it shows that the benchmark runs, no more.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import psycopg
from rich.console import Console
from rich.table import Table
from tests.servers import PostgresServer, postgres_bin_dir

from bench import (
    broadcast,
    coherence,
    cold,
    hierarchy_build,
    hit_ratio,
    imports,
    lookups,
    overhead,
    parallel,
    resident,
    service,
    shared,
    web,
)
from bench.hit_ratio import Score
from bench.measure import Figure, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PARTS: dict[str, Callable[..., Sequence[Row | Figure | Score]]] = {
    "overhead": overhead.run,
    "parallel": parallel.run,
    "hierarchy": hierarchy_build.run,
    "service": service.run,
    "lookups": lookups.run,
    "cold": cold.run,
    "resident": resident.run,
    "shared": shared.run,
    "web": web.run,
    "broadcast": broadcast.run,
    "coherence": coherence.run,
    "imports": imports.run,
    "hit_ratio": hit_ratio.run,
}


def machine(dsn: str) -> dict[str, object]:
    """What the figures were measured on."""
    with closing(psycopg.connect(dsn)) as connection:
        (server,) = connection.execute("SHOW server_version").fetchone() or ("?",)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "cpu": platform.machine(),
        "python": platform.python_version(),
        "postgresql": server,
        "psycopg": psycopg.__version__,
    }


def table(rows: list[Row], title: str) -> Table:
    """The rows for people."""
    shown = Table(title=title, title_justify="left")
    for column in ("what", "against", "rounds", "ours", "theirs", "ratio", "promised", ""):
        shown.add_column(column, justify="left" if column in ("what", "against", "") else "right")
    for row in rows:
        shown.add_row(
            row.what,
            row.rival,
            str(row.rounds),
            f"{row.seconds * 1000:,.1f} ms",
            f"{row.rival_seconds * 1000:,.1f} ms",
            f"{row.ratio:.3f}",
            row.promised,
            row.verdict,
        )
    return shown


def figures_table(figures: list[Figure]) -> Table:
    """The numbers without a rival."""
    shown = Table()
    for column in ("what", "value", "how"):
        shown.add_column(column, justify="right" if column == "value" else "left")
    for figure in figures:
        shown.add_row(figure.what, f"{figure.value:,.2f} {figure.unit}".strip(), figure.how)
    return shown


def scores_table(scores: list[Score]) -> Table:
    """Hit ratios."""
    shown = Table(title="of 100 look-ups so many are hits", title_justify="left")
    for column in ("what", "against", "ours", "theirs", "above", ""):
        shown.add_column(column, justify="left" if column in ("what", "against", "") else "right")
    for score in scores:
        shown.add_row(
            score.what,
            score.rival,
            f"{score.ours:.2f}",
            f"{score.theirs:.2f}",
            f"{score.ours - score.theirs:+.2f}",
            score.verdict,
        )
    return shown


def main() -> int:
    """Run the parts; 1 if a promise is broken (never with --quick)."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no verdict")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--dsn", help="an empty database to use")
    parser.add_argument("--json", type=Path, default=Path("bench/results/latest.json"))
    wish = parser.parse_args()
    found: list[Row | Figure | Score] = []
    with ExitStack() as stack:
        dsn = wish.dsn
        if dsn is None:
            dsn = stack.enter_context(PostgresServer(postgres_bin_dir(18))).dsn()
        about = machine(dsn)
        for name, part in PARTS.items():
            if wish.only in (None, name):
                print(f"{name} ...", file=sys.stderr, flush=True)
                found += part(dsn, quick=wish.quick)
    rows = [each for each in found if isinstance(each, Row)]
    figures = [each for each in found if isinstance(each, Figure)]
    scores = [each for each in found if isinstance(each, Score)]
    console = Console(width=max(160, Console().width))
    console.print(table(rows, ", ".join(f"{key} {value}" for key, value in about.items())))
    if figures:
        console.print(figures_table(figures))
    if scores:
        console.print(scores_table(scores))
    wish.json.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": about,
        "quick": wish.quick,
        "rows": [asdict(row) for row in rows],
        "figures": [asdict(figure) for figure in figures],
        "scores": [asdict(score) for score in scores],
    }
    wish.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    broken = "BROKEN" in {each.verdict for each in rows} | {each.verdict for each in scores}
    return 1 if broken and not wish.quick else 0


if __name__ == "__main__":
    sys.exit(main())

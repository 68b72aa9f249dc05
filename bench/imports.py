"""What `import mvrefresh` costs a fresh interpreter, over the libraries that it stands on.

    python -m bench --only imports

Each time a new process, from before its start to after its end, so nothing is subtracted: the
interpreter's own start is in both, and is a figure besides.
"""

from __future__ import annotations

import subprocess
import sys

from bench.measure import Figure, Row, compare, seconds

OURS = "import mvrefresh"
THEIRS = "import psycopg, psycopg_pool, orjson, cachetools"


def start(statement: str) -> None:
    """Run a statement in an interpreter of its own."""
    subprocess.run([sys.executable, "-c", statement], check=True)  # noqa: S603 - our own words


def run(dsn: str, *, quick: bool = False) -> list[Row | Figure]:  # noqa: ARG001 - as every part
    """The import against theirs, and the interpreter alone."""
    rounds = 2 if quick else 41
    row = compare(
        OURS,
        lambda: start(OURS),
        THEIRS,
        lambda: start(THEIRS),
        rounds=rounds,
        bound=1.3,
    )
    alone = sorted(seconds(lambda: start("pass")) for _ in range(rounds))[rounds // 2]
    return [row, Figure("an interpreter that imports nothing", 1e3 * alone, "ms", "median")]

"""What `import mvrefresh` costs a fresh interpreter, over the libraries that it stands on.

    python -m bench --only imports

Public names are loaded when they are first used, so there are two rows: the import alone, and with
every public name used. A host is between them.

Each time a new process, from before its start to after its end, so nothing is subtracted: the
interpreter's own start is in both, and is a figure besides. Both find their bytecode, as an
installed package does: it is written in the round that does not count.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory

from bench.measure import Figure, Row, compare, seconds

OURS = "import mvrefresh"
EVERY_NAME = "from mvrefresh import *"
THEIRS = "import psycopg, psycopg_pool, orjson, cachetools"


def run(dsn: str, *, quick: bool = False) -> list[Row | Figure]:  # noqa: ARG001 - as every part
    """The import against theirs, and the interpreter alone."""
    rounds = 2 if quick else 41
    with TemporaryDirectory() as bytecode:
        environment = dict(os.environ, PYTHONPYCACHEPREFIX=bytecode)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def start(statement: str) -> None:
            command = [sys.executable, "-c", statement]
            subprocess.run(command, check=True, env=environment)  # noqa: S603 - our own words

        def against(ours: str, bound: float | None) -> Row:
            return compare(
                ours, lambda: start(ours), THEIRS, lambda: start(THEIRS), rounds=rounds, bound=bound
            )

        rows = [against(OURS, 1.3), against(EVERY_NAME, None)]
        alone = median(seconds(lambda: start("pass")) for _ in range(rounds))
    return [*rows, Figure("an interpreter that imports nothing", 1e3 * alone, "ms", "median")]

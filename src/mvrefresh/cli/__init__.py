"""The command `mvrefresh`. Needs the extra `cli` (click, rich).

Reading order: `exits` (what an exit code means), `session` (where the database is, how to
answer), `app` (the group of commands); then the commands, `views`, `refreshing`, `status`,
`history`, `schema`; then how they speak: `documents` (JSON), `tables`, `progress`, `wording`.
`watch` is a loop: `mvrefresh.fleet` makes a `picture`, `board` and `changes` show it.

A command asks the library and shows the answer; it decides nothing.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = frozenset({"click", "rich", "markdown_it", "pygments"})


def main() -> int:
    """Run the command line of this process.

    Returns:
        2 if the extra is not installed; otherwise it ends the process with the command's code.
    """
    try:
        from mvrefresh.cli.app import app  # noqa: PLC0415 - without the extra this must fail softly
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write('mvrefresh: the command line needs: pip install "mvrefresh[cli]"\n')
        return 2
    app.main()
    return 0  # pragma: no cover - app.main() ends the process

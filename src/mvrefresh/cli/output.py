"""Where output goes: JSON for machines, a rich console for people."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import Any

import click
import orjson
from rich.console import Console

from mvrefresh.cli.wording import iso

WIDTH_OF_A_FILE = 100
"""Columns where stdout is no terminal: rich would take 80 and fold what a pipe could keep whole."""


def _default(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)  # orjson's own would keep the session's time zone
    raise TypeError


def _rounded(value: Any) -> Any:
    """Floats to three places: below a microsecond they say nothing."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def write_json(document: dict[str, Any], *, on_one_line: bool = False) -> None:
    """Write one document to stdout."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATETIME
    if not on_one_line:
        options |= orjson.OPT_INDENT_2
    click.echo(orjson.dumps(_rounded(document), default=_default, option=options), nl=False)


def console() -> Console:
    """A console on the present stdout. Strings on it are text: no markup, no emoji, no guesses."""
    made = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    if not made.is_terminal and not os.environ.get("COLUMNS"):
        made.width = WIDTH_OF_A_FILE
    return made

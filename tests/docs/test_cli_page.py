"""The page of the command line, and every command that any page names."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pytest
from tests import documents
from tests.docs.test_pages import PAGES, name_of

import mvrefresh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLI = documents.DOCS / "reference/cli.md"

PROGRAMS = {"alembic", "curl", "export", "flask", "mvrefresh", "nox", "pip", "psql", "python"}
PROGRAMS |= {"deno", "supabase"}  # of an Edge Function
PROGRAMS |= {"uvicorn"}  # of the FastAPI example


def command_lines(text: str) -> Iterator[list[str]]:
    """The programs that a shell block calls, each with its arguments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((at for at, w in enumerate(words) if w in {"&&", "|", ";"}), len(words))
            part, words = words[:end], words[end + 1 :]
            while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):
                part = part[1:]
            if ">" in part:
                part = part[: part.index(">")]
            if part:
                yield part


def mentioned(page: Path) -> Iterator[list[str]]:
    """Command lines of a page: those of its shell blocks, and `mvrefresh x` in its text."""
    for block in documents.blocks(page):
        if block.language == "sh":
            yield from command_lines(block.text)
    for token in documents.tokens(page):
        for child in token.children or ():
            if child.type == "code_inline" and child.content.startswith("mvrefresh "):
                yield from command_lines(child.content)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page):
    click = pytest.importorskip("click")
    from mvrefresh.cli.app import app

    for program, *arguments in mentioned(page):
        assert PurePath(program).name in PROGRAMS, f"{name_of(page)}: {program}"
        if program != "mvrefresh":
            continue
        try:
            with app.make_context("mvrefresh", list(arguments)) as context:
                if not context._protected_args:
                    continue
                name, command, rest = app.resolve_command(
                    context, [*context._protected_args, *context.args]
                )
                command.make_context(name, rest, parent=context).close()
        except click.exceptions.Exit:
            pass  # --help, --version
        except click.ClickException as error:
            pytest.fail(f"{name_of(page)}: mvrefresh {shlex.join(arguments)}: {error.message}")


def two_columns(heading: str, head: str) -> list[str]:
    """The first cells of the tables below a heading of the command line's page, of one kind."""
    found = (rows for rows in documents.tables(CLI, heading) if rows[0][0] == head)
    return [row[0] for rows in found for row in rows[1:]]


def test_every_command_and_option_is_in_the_reference():
    pytest.importorskip("click")
    from mvrefresh.cli.app import app

    def options(command):
        return {
            max(parameter.opts, key=len)
            for parameter in command.params
            if parameter.param_type_name == "option"
        }

    everywhere = set(two_columns("Options of every command", "option")) - {"--help"}
    assert options(app) == everywhere | {"--version"}
    names = app.list_commands(None)
    assert {f"mvrefresh {name}" for name in names} <= set(documents.headings(CLI))
    for name in names:
        shown = set(two_columns(f"mvrefresh {name}", "option"))
        if name == "refresh":
            shown |= set(two_columns("mvrefresh plan", "option"))
        assert options(app.get_command(None, name)) == shown | everywhere


def test_exit_codes_are_as_documented():
    pytest.importorskip("click")
    from mvrefresh.cli.exits import Exit

    assert [int(code) for code in two_columns("Exit codes", "code")] == list(Exit)


def keys_of(value: Any, path: str = "") -> Iterator[str]:
    """`a.b`, `a[].c` for every leaf; names of views become `{view}`."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            name = "{view}" if path in {"results", "by_view"} else key
            yield from keys_of(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from keys_of(inner, f"{path}[]")
    else:
        yield path


@pytest.mark.parametrize(
    "command",
    ["list", "plan", "refresh", "status", "history", "schema", "schema --apply", "schema --sql"],
)
def test_json_keys_are_as_documented(command: str, dsn, conn):
    testing = pytest.importorskip("click.testing")
    from mvrefresh.cli.app import app

    conn.execute("CREATE MATERIALIZED VIEW good AS SELECT 1 AS one")
    conn.execute("CREATE UNIQUE INDEX ON good (one)")
    conn.execute("CREATE MATERIALIZED VIEW bad AS SELECT one, one / 0 FROM good WITH NO DATA")
    conn.execute("CREATE UNIQUE INDEX ON bad (one)")
    with mvrefresh.Database(dsn) as db:
        db.schema.apply(conn)
        mvrefresh.refresh(db)
    answer = testing.CliRunner().invoke(app, [*command.split(), "--json", "--dsn", dsn])
    shown = set(two_columns(f"mvrefresh {command.split(maxsplit=1)[0]}", "key"))
    if command == "status":
        shown = shown - {"views[]"} | set(two_columns("mvrefresh list", "key"))
    if command == "history":
        each = {key.removeprefix("summary") for key in shown if key.startswith("summary.")}
        shown = shown - {"by_view.{view}"} | {"by_view.{view}" + key for key in each}
    if command == "schema --sql":
        shown &= {"sql"}
    else:
        shown -= {"sql"} if command == "schema --apply" else {"sql", "before"}
    given = set(keys_of(json.loads(answer.stdout))) - {"outcomes[].error"}
    assert given == shown


def test_json_of_an_error_is_as_documented(dsn):
    testing = pytest.importorskip("click.testing")
    from mvrefresh.cli.app import app

    answer = testing.CliRunner().invoke(app, ["plan", "nothing", "--json", "--dsn", dsn])
    assert set(keys_of(json.loads(answer.stdout))) == set(two_columns("Exit codes", "key"))

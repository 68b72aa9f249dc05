"""The pages are true: what they run runs, what they name exists, what exists they name."""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
from contextlib import closing, suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, get_args

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from tests import documents

import mvrefresh
from mvrefresh import RefreshPolicy, RefreshRecord, Schema, Status, errors, events
from mvrefresh.postgres import locks, schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.documents import Block

PAGES = documents.pages()
REFERENCE = documents.DOCS / "reference"

PREPARED = {
    # The README shows how a host embeds the library; it has views already.
    "README.md": """
        CREATE TABLE sales (region text, amount numeric);
        CREATE MATERIALIZED VIEW sales_by_region AS
        SELECT region, sum(amount) AS total FROM sales GROUP BY region;
        CREATE UNIQUE INDEX ON sales_by_region (region);
    """,
}

PROGRAMS = {"alembic", "export", "mvrefresh", "nox", "pip", "psql", "python"}


def name_of(page: Path) -> str:
    return page.relative_to(documents.ROOT).as_posix()


def all_blocks(*languages: str) -> list[Block]:
    return [b for page in PAGES for b in documents.blocks(page) if b.language in languages]


# -- what is run -----------------------------------------------------------------------------------


@pytest.fixture
def page_dsn(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page's database, and the environment that its reader has; roles go with the database."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MVREFRESH_DSN", dsn)
    given = conninfo_to_dict(dsn)
    for parameter, variable in (
        ("host", "PGHOST"),
        ("port", "PGPORT"),
        ("dbname", "PGDATABASE"),
        ("user", "PGUSER"),
        ("password", "PGPASSWORD"),
    ):
        if parameter in given:
            monkeypatch.setenv(variable, str(given[parameter]))
    with closing(psycopg.connect(dsn, autocommit=True)) as admin:
        roles = "SELECT rolname FROM pg_roles"
        before = set(admin.execute(roles).fetchall())
        yield dsn
        for (role,) in set(admin.execute(roles).fetchall()) - before:
            for statement in ("DROP OWNED BY {} CASCADE", "DROP ROLE {}"):
                admin.execute(sql.SQL(statement).format(sql.Identifier(role)))


class Reader:
    """Does what a page says, from its top to its end."""

    def __init__(self, dsn: str, major: int) -> None:
        self._dsn = dsn
        self._major = major
        self._printed = ""
        self._namespace: dict[str, Any] = {"__name__": "page", "dsn": dsn}

    def read(self, block: Block) -> None:
        if "no-run" in block.options or not self._applies(block):
            return
        if block.language == "sql":
            self.query(block.text)
        elif block.language == "python":
            self._run(block)
        elif block.language == "text" and "output" in block.options:
            check = doctest.OutputChecker().check_output
            assert check(block.text, self._printed, doctest.ELLIPSIS), (
                f"{block} shows\n{block.text}\nand the block before it prints\n{self._printed}"
            )

    def _applies(self, block: Block) -> bool:
        since, until = block.options.get("since", "0"), block.options.get("until", "99")
        return int(since) <= self._major <= int(until)

    def query(self, text: str) -> None:
        with closing(psycopg.connect(self._dsn, autocommit=True)) as connection:
            connection.execute(text.encode())

    def _run(self, block: Block) -> None:
        lines = "\n" * (block.line - 1)  # so that a traceback names the page's own
        code = compile(lines + block.text, name_of(block.page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self._namespace)  # noqa: S102 - our own pages
        self._printed = printed.getvalue()

    def close(self) -> None:
        """What a reader would do by ending Python."""
        for value in self._namespace.values():
            if isinstance(value, mvrefresh.Database | psycopg.Connection):
                value.close()


RUN = [
    page for page in PAGES if any(b.language in {"python", "sql"} for b in documents.blocks(page))
]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_page_runs(page, page_dsn, postgres):
    blocks = documents.blocks(page)
    for package in {b.options["needs"] for b in blocks if "needs" in b.options}:
        if importlib.util.find_spec(package) is None and not os.environ.get("CI"):
            pytest.skip(f"{package} is not installed")
    reader = Reader(page_dsn, postgres.version)
    with closing(reader):
        if name_of(page) in PREPARED:
            reader.query(PREPARED[name_of(page)])
        for block in blocks:
            reader.read(block)


def test_what_is_not_run_has_a_reason():
    for block in all_blocks("python", "sql"):
        assert block.options.get("no-run") != "", f"{block} is not run: say why"
        assert set(block.options) <= {"no-run", "needs", "since", "until"}, block
    for block in all_blocks("text"):
        assert set(block.options) <= {"output"}, block


def test_languages_are_known():
    known = {"python", "sql", "sh", "text", "toml", "yaml", "{toctree}", "{eval-rst}", "console"}
    for page in PAGES:
        for block in documents.blocks(page):
            assert block.language in known, block


def test_readme_embeds_in_fifteen_lines():
    first = next(
        b for b in documents.blocks(documents.ROOT / "README.md") if b.language == "python"
    )
    assert len(first.text.splitlines()) <= 15
    assert first.text == (documents.ROOT / "examples/embed.py").read_text().split('"""\n\n', 1)[1]


# -- commands --------------------------------------------------------------------------------------


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


CLI = REFERENCE / "cli.md"


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
    "command", ["list", "plan", "refresh", "status", "history", "schema --apply"]
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
    given = set(keys_of(json.loads(answer.stdout))) - {"outcomes[].error"}
    assert given == shown


def test_json_of_an_error_is_as_documented(dsn):
    testing = pytest.importorskip("click.testing")
    from mvrefresh.cli.app import app

    answer = testing.CliRunner().invoke(app, ["plan", "nothing", "--json", "--dsn", dsn])
    assert set(keys_of(json.loads(answer.stdout))) == set(two_columns("Exit codes", "key"))


# -- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for line, target in documents.links(page):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)}:{line}: {target}"
        if anchor:
            assert anchor in documents.anchors(there), f"{name_of(page)}:{line}: {target}"


def test_every_page_is_in_the_contents():
    index = documents.DOCS / "index.md"
    listed = {
        (documents.DOCS / line.strip()).with_suffix(".md")
        for block in documents.blocks(index)
        if block.language == "{toctree}"
        for line in block.text.splitlines()
        if line.strip() and not line.startswith(":")
    }
    assert listed == {p for p in PAGES if documents.DOCS in p.parents} - {index}


# -- completeness ----------------------------------------------------------------------------------


def documented(page: Path) -> set[str]:
    """The names for which a page has an auto directive."""
    text = page.read_text(encoding="utf-8")
    return set(
        re.findall(r"^\.\. auto(?:class|exception|function|data):: (\w+)$", text, re.MULTILINE)
    )


def error_classes() -> set[str]:
    return {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.MvrefreshError)
    }


def test_every_public_name_is_in_the_reference():
    assert documented(REFERENCE / "api.md") == set(mvrefresh.__all__)


def test_every_error_is_in_the_reference():
    page = REFERENCE / "errors.md"
    assert documented(page) == error_classes()
    tree = next(b.text for b in documents.blocks(page) if b.text.startswith("MvrefreshError"))
    assert tree in inspect.cleandoc(errors.__doc__ or "").replace("\n    ", "\n") + "\n"


def test_every_sqlstate_is_in_the_reference():
    from mvrefresh.postgres import faults

    shown = {
        state: names.replace("`", "")
        for states, names in documents.table(
            REFERENCE / "errors.md", "Which SQLSTATE becomes which error"
        )
        for state in re.findall(r"\b[0-9A-Z]{5}\b", states)
    }
    for state, kind in faults._MEANINGS.items():
        assert kind.__name__ in shown.pop(state)
    assert shown == {}


def test_every_event_is_in_the_reference():
    names = {event.__name__ for event in get_args(events.Event)}
    page = REFERENCE / "events.md"
    assert documented(page) == names
    assert {row[0] for row in documents.table(page, "Events")} == names


def test_every_status_is_explained():
    page = documents.DOCS / "explanation/statuses.md"
    rows = documents.table(page, "What a status means")
    said = {"null": None, "true": True, "false": False}
    for status, _, success, truthy, _ in rows:
        assert Status(status).success is said[success]
        outcome = mvrefresh.RefreshOutcome(view="v", status=Status(status), run_id=None)
        assert bool(outcome) is (truthy == "yes")
    missing = {status.value for status in Status} - {row[0] for row in rows}
    assert all(f"`{status}`" in page.read_text() for status in missing)


def test_every_setting_of_the_policy_is_explained():
    rows = documents.table(REFERENCE / "policy.md", "Settings")
    assert [(name, default) for name, default, _ in rows] == [
        (field.name, repr(field.default)) for field in dataclasses.fields(RefreshPolicy)
    ]
    arguments = documents.table(REFERENCE / "policy.md", "Arguments of refresh and plan")
    for function in (mvrefresh.plan, mvrefresh.refresh):
        parameters = inspect.signature(function).parameters
        for name, default, _ in arguments:
            assert repr(parameters[name].default) == default


# -- tables ----------------------------------------------------------------------------------------

COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'no' ELSE 'yes' END
  FROM pg_attribute
 WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
 ORDER BY attnum
"""


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("mvrefresh.state", "mvrefresh.state"),
        ("refresh_metrics", "mvrefresh.refresh_metrics"),
        ("mvrefresh.version", "mvrefresh.version"),
    ],
)
def test_tables_are_as_documented(conn, heading, table):
    Schema().apply(conn)
    shown = [tuple(row[:3]) for row in documents.table(REFERENCE / "tables.md", heading)]
    assert shown == conn.execute(COLUMNS, [table]).fetchall()


def test_every_table_is_documented(conn):
    Schema().apply(conn)
    headings = {h.replace("`", "") for h in documents.headings(REFERENCE / "tables.md")}
    relations = """
        SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE nspname = 'mvrefresh' AND relkind = 'r'
        UNION ALL
        SELECT nspname || '.' || proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
         WHERE nspname = 'mvrefresh'"""
    for (name,) in conn.execute(relations):
        assert name in headings or name.removeprefix("mvrefresh.") in headings


def test_record_and_table_have_the_same_fields():
    shown = {row[0] for row in documents.table(REFERENCE / "tables.md", "refresh_metrics")}
    assert shown == {field.name for field in dataclasses.fields(RefreshRecord)}


def test_lock_keys_are_as_documented():
    (view, install) = documents.table(REFERENCE / "tables.md", "Advisory locks")
    assert f"({locks.SPACE}, oid)" in view[1]
    assert f"({schema._LOCK})" in install[1]


# -- the changelog ---------------------------------------------------------------------------------


def test_changelog_names_its_versions():
    page = documents.ROOT / "CHANGELOG.md"
    versions = re.findall(r"^## \[(.+?)\]", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == "Unreleased"
    with suppress(IndexError):
        assert versions[1] == importlib.metadata.version("mvrefresh")


def test_sessions_are_as_contributing_says():
    nox = (documents.ROOT / "noxfile.py").read_text(encoding="utf-8")
    shown = {
        row[0] for row in documents.table(documents.ROOT / "CONTRIBUTING.md", "Check a change")
    }
    assert shown == set(re.findall(r"^@nox\.session.*\ndef (\w+)\(", nox, re.MULTILINE))

"""The pages run: what they show is what happens, in a database of their own."""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from tests import documents

import mvrefresh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.documents import Block

PAGES = documents.pages()

PREPARED = {
    # The README shows how a host embeds the library; it has views and a hierarchy already.
    "README.md": """
        CREATE TABLE sales (region text, amount numeric);
        CREATE MATERIALIZED VIEW sales_by_region AS
        SELECT region, sum(amount) AS total FROM sales GROUP BY region;
        CREATE UNIQUE INDEX ON sales_by_region (region);
        CREATE EXTENSION IF NOT EXISTS ltree;
        CREATE TABLE entities (id int PRIMARY KEY, path ltree UNIQUE, name text, entity_type text);
        INSERT INTO entities VALUES (1, 'earth', 'Earth', 'root'),
            (2, 'earth.EU', 'Europe', 'continent'), (3, 'earth.EU.CH', 'Switzerland', 'country');
    """,
}


def name_of(page: Path) -> str:
    return page.relative_to(documents.ROOT).as_posix()


def all_blocks(*languages: str) -> list[Block]:
    return [b for page in PAGES for b in documents.blocks(page) if b.language in languages]


@pytest.fixture
def page_dsn(dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page's database, and the environment that its reader has; roles go with the database."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MVREFRESH_DSN", dsn)
    monkeypatch.setenv("MVREFRESH_REDIS_URL", redis_url)
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
        ends = mvrefresh.OptimizedHierarchyResolver, mvrefresh.Database, psycopg.Connection
        for value in reversed(list(self._namespace.values())):
            if isinstance(value, ends):
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
    known = {
        "python", "sql", "sh", "text", "toml", "yaml", "{toctree}", "{eval-rst}", "console", "js",
    }  # fmt: skip
    for page in PAGES:
        for block in documents.blocks(page):
            assert block.language in known, block


def test_readme_embeds_in_fifteen_lines():
    first = next(
        b for b in documents.blocks(documents.ROOT / "README.md") if b.language == "python"
    )
    assert len(first.text.splitlines()) <= 15
    assert first.text == (documents.ROOT / "examples/embed.py").read_text().split('"""\n\n', 1)[1]


def test_the_alembic_page_shows_the_examples():
    """So that what is shown has been run."""
    page = documents.DOCS / "how-to/install-schema-alembic.md"
    shown = [b.text for b in documents.blocks(page) if "\nrevision = " in b.text]
    examples = sorted((documents.ROOT / "examples/alembic/versions").glob("*.py"))
    assert shown == [e.read_text(encoding="utf-8").split('"""\n\n', 1)[1] for e in examples]

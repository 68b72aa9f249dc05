"""The written pages, taken apart: what they tell the reader to run, and where they point.

What a fenced block is for stands after its language:

    python                    run, in the page's own namespace, in the page's own database
    python no-run="reason"    not run, and why
    python needs=alembic      run where that package is installed
    text output               exactly what the python block before it prints (... is a wildcard)
    sql                       run in the page's database
    sql since=17              run on that major and later
    sh                        every `mvrefresh` command in it is one that the CLI takes
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt  # comes with rich

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

_PARSER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line of text."""

    page: Path
    line: int
    language: str
    options: dict[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README first, then all of docs that is not the output of a build."""
    built = DOCS / "_build"
    found = sorted(page for page in DOCS.rglob("*.md") if built not in page.parents)
    others = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    return [ROOT / "README.md", *found, *others]


def tokens(page: Path) -> list[Token]:
    return _PARSER.parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    return [
        Block(page, token.map[0] + 2, *_language(token.info), token.content)
        for token in tokens(page)
        if token.type == "fence" and token.map is not None
    ]


def _language(info: str) -> tuple[str, dict[str, str]]:
    language, *words = shlex.split(info) or [""]
    pairs = (word.partition("=") for word in words)
    return language, {key: value for key, _, value in pairs}


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Line and target of every link and picture."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                yield (token.map or [0])[0] + 1, str(target)


def anchors(page: Path) -> set[str]:
    """The names that a link to a heading of the page may use."""
    return {anchor(heading) for heading in headings(page)}


def headings(page: Path) -> list[str]:
    found = tokens(page)
    return [found[at + 1].content for at, token in enumerate(found) if token.type == "heading_open"]


def anchor(heading: str) -> str:
    """As GitHub and MyST make it."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.strip().replace(" ", "-")


def tables(page: Path, heading: str) -> list[list[list[str]]]:
    """The tables below a heading and above the next, each with its head; code marks removed."""
    found: list[list[list[str]]] = []
    below = False
    stream = tokens(page)
    for at, token in enumerate(stream):
        if token.type == "heading_open":
            below = stream[at + 1].content.replace("`", "") == heading
        elif below and token.type == "table_open":
            found.append([])
        elif below and token.type == "tr_open":
            found[-1].append([])
        elif below and token.type in {"td_open", "th_open"}:
            cell = stream[at + 1].content.replace("`", "").replace("\\|", "|")
            found[-1][-1].append(cell)
    return found


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    return tables(page, heading)[0][1:]

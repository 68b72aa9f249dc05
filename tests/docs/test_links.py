"""The pages hang together: links lead somewhere, the contents are whole, names are up to date."""

from __future__ import annotations

import importlib.metadata
import re
from contextlib import suppress

import pytest
from tests import documents
from tests.docs.test_pages import PAGES, name_of


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

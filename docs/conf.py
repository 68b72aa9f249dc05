"""How the documentation is built: `sphinx-build -W -n docs docs/_build`."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from mvrefresh.errors import MvrefreshError

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "mvrefresh"
author = "The mvrefresh authors"
project_copyright = author
release = version = version_of("mvrefresh")
language = "en_GB"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"  # what single backticks mean in our docstrings

html_theme = "furo"
html_title = f"mvrefresh {release}"

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_mock_imports = ["pytest"]  # the suites of mvrefresh.testing need it, their pages do not
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "exclude-members": "fix"}  # see add_fix
napoleon_use_ivar = True

# The types in signatures that have no page here: those of other projects, and our own aliases.
nitpick_ignore_regex = [
    ("py:class", r"(psycopg|psycopg_pool|cachetools|collections|datetime|enum|typing|uuid)\..+"),
    ("py:class", r"(AbstractContextManager|Connection|Iterable|Iterator|Sequence)"),
    ("py:class", r"(Future|UUID|datetime|timedelta)"),
    (
        "py:class",
        r"(ViewLike|Method|Fallback|AnyConnection|AnyPool|AnyService|Callback|Run|Chain|Tag|V)",
    ),
    ("py:class", r"\w+\[.*"),  # what autodoc leaves whole: tuple[~mvrefresh..., Callable[[...
]


def split_attributes(  # the signature is Sphinx's, here and below
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: Any, lines: list[str]
) -> None:
    """Let `first, second: What both are.` in a docstring be a line for each: napoleon takes one."""
    for at in reversed(range(len(lines))):
        if match := re.fullmatch(r"(\s+)(\w+(?:, \w+)+)(?:, \.\.\.)?: (.*)", lines[at]):
            indent, names, text = match.groups()
            *others, last = names.split(", ")
            lines[at : at + 1] = [f"{indent}{name}: See {last}." for name in others]
            lines.insert(at + len(others), f"{indent}{last}: {text}")


def keep_prose(
    _app: Sphinx, what: str, _name: str, _obj: object, _options: Any, lines: list[str]
) -> None:
    """Let a property's docstring hold a colon: napoleon would take what precedes it for a type."""
    if what == "property":
        lines[:0] = ["..", ""]  # an empty comment


def add_fix(
    _app: Sphinx, _what: str, _name: str, obj: object, _options: Any, lines: list[str]
) -> None:
    """Let every error say on its page what to do about it, in its own words."""
    if isinstance(obj, type) and issubclass(obj, MvrefreshError) and obj.__dict__.get("fix"):
        lines += ["", f"**What to do:** {obj.fix.replace('`', '``')}", ""]


def setup(app: Sphinx) -> None:
    for before_napoleon in (split_attributes, keep_prose):
        app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", add_fix)

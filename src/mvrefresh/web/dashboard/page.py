"""The page, put together once: markup, style and script in one document, and what it may do.

The policy names the hashes of the one style and the one script: nothing else runs, wherever it came
from. The page asks its own host alone. What differs between hosts is in attributes, never in code.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Final

_HERE: Final = files("mvrefresh.web.dashboard")


@dataclass(frozen=True, slots=True)
class Page:
    """A document and the headers it goes out with."""

    body: bytes
    headers: dict[str, str]


def make_page(*, title: str, read_only: bool, urls: dict[str, str]) -> Page:
    """Put the page together.

    Args:
        title: Of the page, as text.
        read_only: Whether it has no buttons that refresh.
        urls: Of `data`, `events` and `refresh`, from the page's own address.
    """
    style, script = (_text(f"dashboard.{kind}") for kind in ("css", "js"))
    attributes = {"read-only": str(read_only).lower(), **urls}
    slots = {
        "title": escape(title),
        "attributes": " ".join(f'data-{k}="{escape(v)}"' for k, v in attributes.items()),
        "style": style,
        "script": script,
    }
    # In one pass: a title is no place for another slot.
    body = re.sub(r"\[\[(\w+)\]\]", lambda slot: slots[slot[1]], _text("dashboard.html"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    encoded = body.encode()
    return Page(
        encoded,
        {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
            "ETag": f'"{sha256(encoded).hexdigest()[:32]}"',
        },
    )


def _text(name: str) -> str:
    return _HERE.joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a browser takes it: of what stands between the tags."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

"""The advisory lock that makes a refresh of a view happen once at a time, fleet-wide.

Two-key advisory locks live in a number space of their own: (`SPACE`, oid of the view as a signed
32-bit integer). Transaction-scoped, so that it works behind a transaction pooler and a killed
process cannot keep it.
"""

from __future__ import annotations

SPACE = 0x6D767266  # "mvrf"


def key(oid: int) -> tuple[int, int]:
    """The lock's two keys for a view."""
    return SPACE, oid - (1 << 32) if oid >= 1 << 31 else oid

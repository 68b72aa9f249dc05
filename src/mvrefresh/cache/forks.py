"""What a forked child has to make anew: locks that a thread of the parent may have held.

That thread is not in the child, and would never let go.
"""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol


class Forkable(Protocol):
    """Knows what to do in a forked child."""

    def after_fork(self) -> None:
        """Called in the child, before anything else there."""
        ...


_OBJECTS: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()


def made_anew_after_fork(forkable: Forkable) -> None:
    """Call its `after_fork` in every child forked from now on, as long as it is there."""
    _OBJECTS.add(forkable)


def _after_fork() -> None:
    for forkable in list(_OBJECTS):
        forkable.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

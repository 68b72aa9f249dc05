"""The oracle: what has been right, and until when, in memory that all processes share.

Of each **fact** (the name of an entity, how many there are below it) the writer notes every value
before it writes it: from then on it *may* be seen. When the refresh that replaced it has returned
it is certainly over, and that moment is noted, too, by the machine's monotonic clock, which all
processes share. So an answer can be judged at once, and is never blamed for what nobody can know:
as long as a value's end is not noted it is right.

What a failover has lost is over when the standby is promoted; what was right before it may be seen
again from the promotion on.
"""

from __future__ import annotations

import mmap
from math import inf
from struct import unpack_from
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

BOUND: Final = 2.5  # seconds
GROUPS: Final = range(2, 9)
"""Entities below the root, which is 1."""
LEAVES: Final = range(9, 301)
GUESTS: Final = range(301, 317)
"""Entities that come and go."""
ABSENT: Final = 0
FIRST: Final = 1
"""The number in the first name of all."""
FACTS: Final = 400

_ENTRY: Final = "ddd"  # a value; until when it may be seen in the view, and of the table
_ROOM: Final = 1024  # of a fact's last values: more than come in many times the bound
_SIZE: Final = 24
_FACT: Final = 8 + _ROOM * _SIZE


def group_of(entity: int) -> int:
    """The parent of a leaf or a guest."""
    return GROUPS[entity % len(GROUPS)]


def count_of(entity: int) -> int:
    """The fact of how many there are below the root or a group."""
    return 320 + entity


class Truth:
    """The facts of one world. One writes, all read."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        size = 8 + FACTS * _FACT
        if new:
            with path.open("wb") as file:
                file.truncate(size)  # what nobody writes takes no room
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), size)
        # By these, a number is written at once: `pack_into` sets it to zero first, and a reader of
        # another process may see that.
        self._numbers = memoryview(self._memory).cast("q")
        self._moments = memoryview(self._memory).cast("d")

    # -- who writes ----------------------------------------------------------------------------

    def begin(self, fact: int, value: int) -> None:
        """From now on it may be seen: to be called before it is written."""
        base, count = self._of(fact)
        place = (base + 8 + count % _ROOM * _SIZE) // 8
        # Its end first: in the ring, a value of long ago stood there.
        self._moments[place + 1] = self._moments[place + 2] = inf
        self._moments[place] = value
        self._numbers[base // 8] = count + 1

    def settle(self, fact: int) -> None:
        """The last value is in the view, says a refresh that has returned: all before are over."""
        now = monotonic()
        for place in self._places(fact)[1:]:
            for until in (place + 8, place + 16):
                if unpack_from("d", self._memory, until)[0] == inf:
                    self._moments[until // 8] = now

    def lose(self, fact: int, known: int) -> None:
        """All but the last value are over by a failover, which has lost those after the `known`.

        Of the table, which is read for what the view does not have, an answer is kept until the
        next content, be it lost or not.
        """
        self.settle(fact)
        count = self.count(fact)
        for place in self._places(fact)[1 : count - known]:
            self._moments[(place + 16) // 8] = inf

    def count(self, fact: int) -> int:
        """How many values it has had."""
        return self._of(fact)[1]

    # -- who reads -----------------------------------------------------------------------------

    def last(self, fact: int) -> int:
        base, count = self._of(fact)
        return int(unpack_from("d", self._memory, base + 8 + (count - 1) % _ROOM * _SIZE)[0])

    def over_for(self, fact: int, value: int | None, began: float, *, live: bool = False) -> float:
        """Seconds for which a value had been over when a call began; infinite if it never was.

        Args:
            value: None: any but ABSENT.
            live: Whether the answer may be one that was read from the table.
        """
        base, count = self._of(fact)
        until = -inf
        for number in range(count - 1, max(-1, count - 1 - _ROOM), -1):
            place = base + 8 + number % _ROOM * _SIZE
            found, in_view, in_table = unpack_from(_ENTRY, self._memory, place)
            if found == value or (value is None and found != ABSENT):
                until = max(until, in_table if live else in_view)
                if until >= began:
                    return 0.0
        return began - until

    def _of(self, fact: int) -> tuple[int, int]:
        base = 8 + fact * _FACT
        return base, unpack_from("q", self._memory, base)[0]

    def _places(self, fact: int) -> list[int]:
        """Where its values stand, the last one first."""
        base, count = self._of(fact)
        numbers = range(count - 1, max(-1, count - 1 - _ROOM), -1)
        return [base + 8 + number % _ROOM * _SIZE for number in numbers]

    # -- what was seen -------------------------------------------------------------------------

    def raise_the_alarm(self) -> None:
        """Somebody has seen a stale answer: whoever waits for one need not wait any longer."""
        self._numbers[0] = 1

    @property
    def alarmed(self) -> bool:
        return bool(unpack_from("q", self._memory, 0)[0])

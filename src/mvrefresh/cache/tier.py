"""What a tier of the cache is: values by key, each valid under the tag it was read with.

A **tag** names the content of a materialized view (`refresh_no`, `content_token`). Tags are only
compared for equality. A value is valid under the tag that was read in the same statement: there is
no deleting by key that a slow writer could undo. It is as good under a later tag if the keys of all
rows that differ between the two contents are known, without a gap, and its own is not one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from uuid import UUID

K = TypeVar("K")
V = TypeVar("V")


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> Literal[False]:
        return False


MISSING: Final = _Missing.MISSING
"""No value: `None` is one."""

Missing: TypeAlias = Literal[_Missing.MISSING]


class Tag(NamedTuple):
    """Which content of a view a value was read from.

    Attributes:
        refresh_no: Counts contents, for people and gaps.
        content_token: Random; another token, other content.
    """

    refresh_no: int
    content_token: UUID


class Change(NamedTuple):
    """One refresh that changed few rows.

    Attributes:
        before, after: The tags of the contents before and after it.
        keys: Of the rows in which they differ: those that came, went, or were changed.
    """

    before: Tag
    after: Tag
    keys: frozenset[Any]


class Line(NamedTuple):
    """A content, and the contents that it came of by changes of few rows.

    Attributes:
        tag: None: nobody can tell which content it is.
        epoch: The token of the content with which the line began: all contents of a line have it.
        earlier: By the tag of an earlier content, the keys of the rows that differ from it now; of
            as many of them as are known.
    """

    tag: Tag | None
    epoch: UUID | None
    earlier: Mapping[Tag, frozenset[Any]]

    def changed_since(self, tag: Tag | None) -> frozenset[Any] | None:
        """The keys of the rows that differ from an earlier content; None: any may."""
        return None if tag is None else self.earlier.get(tag)


def line_of(tag: Tag | None, epoch: UUID | None = None, changes: Iterable[Change] = ()) -> Line:
    """The line of a content.

    Args:
        tag: Its tag.
        epoch: The token with which the line began; None: its own.
        changes: By which it came, the last of them first; a gap ends them.
    """
    if tag is None:
        return NO_LINE
    content, keys = tag, frozenset[Any]()
    earlier: dict[Tag, frozenset[Any]] = {}
    for change in changes:
        if change.after != content:
            break
        content, keys = change.before, keys | change.keys
        earlier[content] = keys
    return Line(tag, epoch or tag.content_token, earlier)


NO_LINE: Final = Line(None, None, {})


@dataclass(frozen=True, slots=True)
class Loaded(Generic[K, V]):
    """What a read of the database gave: values and tag of one statement.

    Attributes:
        values: By key; a key that is not in it does not exist.
        tag: Of the content; None where nobody can tell (the view was refreshed by somebody else,
            or is not tracked): such values are returned and not kept.
        as_of: The moment for which the content stands, on this process's monotonic clock: its age
            was read with it, so that no clock has to agree with another.
        passing: Keys of values that are not of the content: it does not hold them yet. They end
            with it, whatever rows the next one changes.
        tier: Where all of them are from; None: the passing ones from the table, the others from
            the view.
    """

    values: Mapping[K, V]
    tag: Tag | None
    as_of: float | None = None
    passing: Collection[K] = ()
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class TierStats:
    """What a tier has done since it was made.

    Attributes:
        hits, misses: Look-ups that it answered, and that it passed on.
        size: Entries that it holds; None where it cannot tell.
        errors: Times that it failed and was gone round.
        degraded_since: Unix seconds since when it has failed; None while it works.
    """

    hits: int = 0
    misses: int = 0
    size: int | None = None
    errors: int = 0
    degraded_since: float | None = None

    @property
    def hit_rate(self) -> float | None:
        """0 to 100; None before the first look-up."""
        total = self.hits + self.misses
        return 100.0 * self.hits / total if total else None


class Tier(Protocol[K, V]):
    """Holds values under one tag at a time. Safe to call from any thread.

    `mvrefresh.testing.TierContract` is the suite that a tier must pass.
    """

    @property
    def tag(self) -> Tag | None:
        """The tag under which values are held; None: none are."""
        ...

    def get(self, key: K) -> V | Missing:
        """The value under the current tag, or `MISSING`."""
        ...

    def get_many(self, keys: Sequence[K]) -> dict[K, V]:
        """Those of the keys that it has."""
        ...

    def put_many(self, values: Mapping[K, V], tag: Tag) -> None:
        """Keep values that were read under `tag`; without effect if that is not the current one."""
        ...

    def retag(self, tag: Tag | None) -> None:
        """From now on this tag is current: what is held under another is gone at once."""
        ...

    def advance(self, before: Tag, tag: Tag, keys: Collection[K]) -> None:
        """From now on `tag` is current: what is held under `before` is as good, but for some keys.

        What is held under any other tag is gone, as by `retag`.
        """
        ...

    def discard(self, keys: Sequence[K]) -> None:
        """Forget some keys."""
        ...

    def stats(self) -> TierStats:
        """What it has done."""
        ...

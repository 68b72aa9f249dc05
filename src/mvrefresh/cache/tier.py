"""What a tier of the cache is: values by key, each valid under the tag it was read with.

A **tag** names the content of a materialized view (`refresh_no`, `content_token`). Tags are only
compared for equality. A value is valid under the tag that was read in the same statement, and no
other: there is no deleting by key that a slow writer could undo.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Loaded(Generic[K, V]):
    """What a read of the database gave: values and tag of one statement.

    Attributes:
        values: By key; a key that is not in it does not exist.
        tag: Of the content; None where nobody can tell (the view was refreshed by somebody else,
            or is not tracked): such values are returned and not kept.
        as_of: The moment for which the content stands, on this process's monotonic clock: its age
            was read with it, so that no clock has to agree with another.
    """

    values: Mapping[K, V]
    tag: Tag | None
    as_of: float | None = None


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

    def discard(self, keys: Sequence[K]) -> None:
        """Forget some keys."""
        ...

    def stats(self) -> TierStats:
        """What it has done."""
        ...

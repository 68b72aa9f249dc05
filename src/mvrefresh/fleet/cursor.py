"""How far somebody has heard a fleet: what a client hands back to go on without gap or repetition.

The order of records is not that of their commits: one that was written earlier may show later. So
reading goes on from a little before the moment, and what was told of that time is left out by run
and view. Whoever comes back may come to another process, which has not told it anything: the cursor
itself has to say what was told. It does by a few bytes of a hash for each.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from mvrefresh.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mvrefresh.fleet.news import Key

OVERLAP: Final = timedelta(seconds=15)
"""A record shows at its commit, later than its time."""

MOST: Final = 128  # hashes: in a request's line or header there is room for them
_BYTES = 6  # of a hash: a collision would swallow an outcome, one in 2**48 / 128
_LETTERS = 8
_TEXT = re.compile(r"([0-9a-f]{1,14})-((?:[A-Za-z0-9_-]{8})*)\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A moment of the database's clock, and what was told of the time just before it."""

    moment: datetime
    told: frozenset[str] = frozenset()

    @property
    def since(self) -> datetime:
        """From when on to read."""
        return self.moment - OVERLAP

    def has_heard(self, key: Key) -> bool:
        """Whether this outcome was told."""
        return hash_of(key) in self.told

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read the `id` of a message, Unix seconds, or an ISO-8601 moment with its offset.

        Raises:
            ConfigurationError: It is none of them.
        """
        try:
            if match := _TEXT.match(text):
                told = match[2]
                hashes = (told[at : at + _LETTERS] for at in range(0, len(told), _LETTERS))
                return cls(_EPOCH + int(match[1], 16) * _MICROSECOND, frozenset(hashes))
            if re.fullmatch(r"\d{1,12}(\.\d*)?", text):
                return cls(_EPOCH + timedelta(seconds=float(text)))
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                raise ValueError  # noqa: TRY301 - said below
            cls(moment.astimezone(UTC)).since  # noqa: B018 - out of range?
            return cls(moment.astimezone(UTC))
        except (ValueError, OverflowError):
            raise ConfigurationError(
                f"{text[:80]!r} is not where to go on: give the id of a message, Unix seconds, or "
                "a moment such as 2025-01-13T10:30:00Z"
            ) from None


def cursor_text(moment: datetime, hashes: Iterable[str]) -> str:
    """The cursor as text; of a moment and the hashes of what was told."""
    return f"{(moment - _EPOCH) // _MICROSECOND:x}-{''.join(hashes)}"


def hash_of(key: Key) -> str:
    """A few letters for an outcome."""
    digest = blake2b("\0".join(key).encode(errors="surrogatepass"), digest_size=_BYTES).digest()
    return urlsafe_b64encode(digest).decode()

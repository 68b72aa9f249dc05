"""L2: Redis, shared by the processes of a fleet.

**A key names the line of contents** that its value was read from (`Line.epoch`): after a refresh
that may have changed anything, other keys. **A value says under which tag it was read.** It is an
answer if that is the current one, or an earlier one of the line and its key is none of those that
have changed since. Nothing is ever deleted because of a refresh: what is over is nobody's answer,
and expires or is written over. So a slow writer cannot bring anything back, and a refresh of few
rows leaves the others where they are.

**A value is checked**: before it stands its id, after it its tag and a checksum, which begins with
a version and the rest of the key. What does not fit, because it was damaged, or is another key's,
is a miss, counted and told of, never an answer and never an exception. Where many keys have the
same value, as siblings have the same ancestors, what was checked and read once is known again by
its bytes.

**Redis is not needed.** Where it fails, look-ups go on without it: after three failures in a row
nobody tries for half a second, then one does; the pause doubles up to half a minute. A Redis that
hangs costs each of those three its timeout.
"""

from __future__ import annotations

import random
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID
from zlib import crc32

import redis

from mvrefresh.cache.breaker import Breaker
from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.cache.tier import MISSING, NO_LINE, Line, Missing, Tag, TierStats, line_of
from mvrefresh.errors import ConfigurationError
from mvrefresh.events import TierDegraded, TierRecovered, ValuePoisoned

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mvrefresh.events import Event

K = TypeVar("K")
V = TypeVar("V")

NAME: Final = "l2_cache"
_VERSION: Final = 3  # of what is written; a checksum begins with it
_CHECK: Final = 4  # bytes of the checksum at the end
_MARK: Final = 4 + 16  # bytes before it, of the tag
_TAIL: Final = _MARK + _CHECK
# CRC-32 of anything with its own CRC-32 behind it, whatever it began with: so a value is checked
# without being cut up, in three quarters of the time.
_RESIDUE: Final = 0x2144DF1C
_ID_KINDS: Final[dict[type, str]] = {int: "i", str: "s", UUID: "u"}

_ALIKE: Final = 20_000  # values of one content that are known by their bytes, at most
_CONTENTS: Final = 4

TIMEOUT: Final = 0.05  # seconds
CONNECT_TIMEOUT: Final = 0.2


class Codec(Protocol[V]):
    """Values as bytes. Compact: what is small travels fast, and more of it fits."""

    def encode(self, value: V) -> bytes | None:
        """As bytes; None: it cannot be written."""
        ...

    def decode(self, data: bytes, tag: Tag) -> V:
        """The value again.

        Raises:
            ValueError: It is none.
        """
        ...


def connect(url: str) -> redis.Redis:
    """A client that gives up soon, and tries nothing twice: there is a database behind it."""
    client: redis.Redis = redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=CONNECT_TIMEOUT,
        retry=None,
        health_check_interval=0,
        client_name="mvrefresh",
    )
    return client


class Link:
    """The way to a Redis, which all tiers in it share: with it they fail, and come back.

    Args:
        client: The host's, or one by `connect`.
        breaker: When to keep away.
        tell: Called with an event when it fails, comes back, or holds what none of us has written.

    Raises:
        ConfigurationError: The client decodes what it reads.
    """

    def __init__(
        self,
        client: redis.Redis,
        breaker: Breaker | None = None,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        if client.get_encoder().decode_responses:
            raise ConfigurationError("redis= is a client that decodes: it has to return bytes")
        self.client = client
        self.breaker = breaker or Breaker()
        self.poisoned = 0
        self._tell = tell
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: redis-py gives it connections of its own."""
        self.breaker.after_fork()

    def try_to(self, work: Callable[[redis.Redis], V]) -> V | None:
        """What `work` gives; None where it failed, or is not tried."""
        breaker = self.breaker
        if not breaker.may_try():
            return None
        try:
            found = work(self.client)
        except (redis.RedisError, OSError) as error:
            if breaker.failed():
                self._tell(TierDegraded(NAME, f"{type(error).__name__}: {error}"))
            return None
        except BaseException:
            breaker.failed()
            raise
        if breaker.succeeded():
            self._tell(TierRecovered(NAME))
        return found

    def found_poison(self, key: str, why: str) -> None:
        """Somebody else has written there, or it was damaged."""
        self.poisoned += 1
        self._tell(ValuePoisoned(NAME, key, why))


class RedisTier(Generic[K, V]):
    """Values of one kind under one tag at a time, in Redis. Any thread may do anything.

    Args:
        link: The way there.
        space: Begins every key: of which database, view and kind the values are.
        codec: Values as bytes.
        ttl: Seconds that an entry lives at most; a tenth more or less, so that what was written
            together does not end together.
        alike: Whether many keys have the same value: then it is made once, and shared by them.
    """

    __slots__ = ("_alike", "_codec", "_hits", "_line", "_link", "_met", "_misses", "_space", "_ttl")

    def __init__(
        self,
        link: Link,
        space: str,
        codec: Codec[V],
        *,
        ttl: float = 3600.0,
        alike: bool = False,
    ) -> None:
        self._link = link
        self._space = space
        self._codec = codec
        self._ttl = ttl
        self._alike = alike
        self._met: dict[Tag, _Met[V]] = {}
        self._line = NO_LINE
        self._hits = self._misses = 0

    @property
    def tag(self) -> Tag | None:
        """The tag under which `get` looks."""
        return self._line.tag

    def retag(self, tag: Tag | None, *, park: bool = False) -> None:  # noqa: ARG002 - nothing to park
        """From now on look under this tag; what is under another stays there until it expires."""
        if tag != self._line.tag:
            self._line = line_of(tag)

    def advance(self, before: Tag, tag: Tag, keys: Collection[K]) -> None:
        """From now on look under `tag`, on the line of `before` if that is the tag of now."""
        line, changed = self._line, frozenset(keys)
        if before != line.tag:
            self._line = line_of(tag)
            return
        earlier = {each: known | changed for each, known in line.earlier.items()}
        self._line = Line(tag, line.epoch, {**earlier, before: changed})

    def after_fork(self) -> None:
        """It holds no lock."""

    def _start(self, line: Line) -> bytes:
        """How all names of this line begin; an id ends them."""
        return f"{self._space}:{'' if line.epoch is None else line.epoch.hex}:".encode()

    def get(self, key: K) -> V | Missing:
        """The value under the current tag, or `MISSING`."""
        return self.get_many([key]).get(key, MISSING)

    def get_many(self, keys: Sequence[K]) -> dict[K, V]:
        """Those of the keys that it has under the current tag, by one MGET."""
        return self.under(self._line, keys)

    def put_many(self, values: Mapping[K, V], tag: Tag) -> None:
        """Keep values that were read under `tag`; without effect if that is not the current one."""
        if tag == self._line.tag:
            self.keep(self._line, values)

    def under(self, line: Line, keys: Sequence[K]) -> dict[K, V]:
        """Those of the keys whose value it has for this content."""
        tag = line.tag
        if tag is None:
            return {}
        named, ids = _ids(keys)
        start = self._start(line)
        names: Any = [start + each for each in ids]  # as bytes: 6 % off redis-py's part
        data: Any = self._link.try_to(lambda client: client.mget(names)) if names else None
        found, hits = self._read(line, tag, named, ids, data) if data else ({}, 0)
        self._hits += hits
        self._misses += len(keys) - hits
        return found

    def _read(
        self,
        line: Line,
        tag: Tag,
        keys: Sequence[K],
        ids: Sequence[bytes],
        data: Sequence[bytes | None],
    ) -> tuple[dict[K, V], int]:
        """The values of what was found, and how many were, each as often as it was asked for."""
        values = [value for value in data if value is not None]
        if len(values) < len(data):
            there = [value is not None for value in data]
            keys, ids = list(compress(keys, there)), list(compress(ids, there))
        # Mostly all are equal to some that were checked and read. To find one of them by its bytes
        # takes 0.2 us; to check and read ancestors, 4.
        bodies = list(map(bytes.removeprefix, values, ids))
        met = self._met_under(line, tag)
        try:
            return dict(zip(keys, map(met.now.__getitem__, bodies), strict=True)), len(values)
        except KeyError:
            return self._read_each(line, tag, zip(keys, ids, bodies, strict=True), met)

    def _read_each(
        self, line: Line, tag: Tag, found: Iterable[tuple[K, bytes, bytes]], met: _Met[V]
    ) -> tuple[dict[K, V], int]:
        """The same where some were not met, are of earlier contents, or do not fit at all."""
        values: dict[K, V] = {}
        hits = 0
        start = self._start(line)
        seed, decode, marks = _seed(start), self._codec.decode, met.marks
        for key, each, body in found:
            changed = marks.get(body[-_TAIL:-_CHECK])
            of_now = changed is not None and key not in changed
            known = met.before if changed else met.now
            try:
                if not of_now:
                    _check(body, seed)  # if it fits, it is of a content that is over: no more
                    continue
                value = known.get(body, MISSING)
                if value is MISSING:
                    _check(body, seed)
                    value = known[body] = decode(body[:-_TAIL], tag)
            except Exception as error:  # noqa: BLE001 - whatever it holds, it is a miss
                name = (start + each).decode(errors="replace")
                self._link.found_poison(name, str(error) or type(error).__name__)
                continue
            values[key] = value
            hits += 1
        return values, hits

    def _met_under(self, line: Line, tag: Tag) -> _Met[V]:
        """Values for this content that were checked, by their bytes."""
        met = self._met.get(tag) if self._alike else None
        if met is None or len(met.now) + len(met.before) > _ALIKE:
            met = _met(line, tag)
            if self._alike:
                if len(self._met) >= _CONTENTS:
                    self._met = {}  # most of them are over
                self._met[tag] = met
        return met

    def keep(self, line: Line, values: Mapping[K, V]) -> None:
        """Keep values that were read under this content's tag, whatever the current one is."""
        if line.tag is None or self._link.breaker.failing:
            return  # who has waited for a read in vain would wait again
        start, mark = self._start(line), _mark(line.tag)
        seed, written = _seed(start), []
        for key, each in zip(*_ids(list(values)), strict=True):
            body = self._codec.encode(values[key])
            if body is not None:
                body += mark
                check = crc32(body, seed).to_bytes(_CHECK, "little")
                written.append((start + each, each + body + check))
        if written:
            self._link.try_to(lambda client: self._write(client, written))

    def _write(self, client: redis.Redis, written: list[tuple[bytes, bytes]]) -> bool:
        with client.pipeline(transaction=False) as pipeline:
            for name, value in written:
                lifetime = self._ttl * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
                pipeline.set(name, value, px=max(1, int(1000 * lifetime)))
            pipeline.execute()
        return True

    def discard(self, keys: Sequence[K]) -> None:
        """Forget some keys of the current line."""
        line = self._line
        if line.tag is not None and (ids := _ids(keys)[1]):
            start = self._start(line)
            self._link.try_to(lambda client: client.delete(*[start + each for each in ids]))

    def stats(self) -> TierStats:
        """What it has done; errors and since when are those of the link, which the tiers share."""
        breaker = self._link.breaker
        return TierStats(
            hits=self._hits,
            misses=self._misses,
            errors=breaker.errors + self._link.poisoned,
            degraded_since=breaker.degraded_since,
        )


class _Met(NamedTuple, Generic[V]):
    """Values that were checked and read once, for one content.

    Attributes:
        marks: Of the contents whose values are as good, each with the keys that have changed since:
            none of the content's own.
        now: By their bytes, those of the content itself: any key's answers.
        before: Those of earlier ones: answers of keys that have not changed.
    """

    marks: dict[bytes, frozenset[Any]]
    now: dict[bytes, V]
    before: dict[bytes, V]


def _met(line: Line, tag: Tag) -> _Met[V]:
    marks = {_mark(earlier): keys for earlier, keys in line.earlier.items()}
    return _Met({**marks, _mark(tag): frozenset()}, {}, {})


def _mark(tag: Tag) -> bytes:
    """As it stands in a value."""
    return (tag.refresh_no % 2**32).to_bytes(4, "little") + tag.content_token.bytes


def _ids(keys: Sequence[K]) -> tuple[Sequence[K], list[bytes]]:
    """Those of the keys that can be an id, and each as it ends a name and begins a value."""
    if not _ID_KINDS.keys() >= set(map(type, keys)):
        keys = [key for key in keys if type(key) in _ID_KINDS]
    return keys, [f"{_ID_KINDS[type(key)]}{key}".encode("utf-8", "surrogatepass") for key in keys]


def _seed(start: bytes) -> int:
    """With what the checksum of a value begins whose name starts so."""
    return crc32(start, _VERSION)


def _check(body: bytes, seed: int) -> None:
    """Raises ValueError: It is damaged, or was not written by us under this name."""
    if crc32(body, seed) != _RESIDUE:
        raise ValueError("id, version or checksum do not fit")

"""L2: Redis, shared by the processes of a fleet.

**A key names the content** that its value was read from: another tag, other keys. Nothing is ever
deleted because of a refresh: what is under an earlier tag is found by nobody, and expires. So a
slow writer cannot bring anything back.

**A value is checked**: a version and a checksum stand around it. What does not fit is a miss,
counted and told of, never an answer and never an exception.

**Redis is not needed.** Where it fails, look-ups go on without it: after three failures in a row
nobody tries for half a second, then one does; the pause doubles up to half a minute. A Redis that
hangs costs each of those three its timeout.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar
from uuid import UUID
from zlib import crc32

import redis

from mvrefresh.cache.breaker import Breaker
from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.cache.tier import MISSING, Missing, Tag, TierStats
from mvrefresh.errors import ConfigurationError
from mvrefresh.events import TierDegraded, TierRecovered, ValuePoisoned

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mvrefresh.events import Event

K = TypeVar("K")
V = TypeVar("V")

NAME: Final = "l2_cache"
_VERSION: Final = b"\x01"
_CHECK: Final = 4  # bytes of the checksum at the end
_ID_KINDS: Final[dict[type, str]] = {int: "i", str: "s", UUID: "u"}

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
    """

    __slots__ = ("_codec", "_hits", "_link", "_misses", "_space", "_tag", "_ttl")

    def __init__(self, link: Link, space: str, codec: Codec[V], *, ttl: float = 3600.0) -> None:
        self._link = link
        self._space = space
        self._codec = codec
        self._ttl = ttl
        self._tag: Tag | None = None
        self._hits = self._misses = 0

    @property
    def tag(self) -> Tag | None:
        """The tag under which `get` looks."""
        return self._tag

    def retag(self, tag: Tag | None, *, park: bool = False) -> None:  # noqa: ARG002 - nothing to park
        """From now on look under this tag; what is under another stays there until it expires."""
        self._tag = tag

    def advance(self, before: Tag, tag: Tag, keys: Collection[K]) -> None:
        """TODO."""
        self._tag = tag

    def after_fork(self) -> None:
        """It holds no lock."""

    def _names(self, keys: Iterable[K], tag: Tag) -> list[str | None]:
        start = f"{self._space}:{tag.refresh_no}.{tag.content_token.hex}:"
        kinds = _ID_KINDS
        return [f"{start}{kind}{key}" if (kind := kinds.get(type(key))) else None for key in keys]

    def get(self, key: K) -> V | Missing:
        """The value under the current tag, or `MISSING`."""
        return self.get_many([key]).get(key, MISSING)

    def get_many(self, keys: Sequence[K]) -> dict[K, V]:
        """Those of the keys that it has under the current tag, by one MGET."""
        tag = self._tag
        return {} if tag is None else self.under(tag, keys)

    def under(self, tag: Tag, keys: Sequence[K]) -> dict[K, V]:
        """Those of the keys that it has under this tag."""
        names = self._names(keys, tag)
        asked: Any = names if None not in names else [name or self._space for name in names]
        data: Any = self._link.try_to(lambda client: client.mget(asked)) if asked else []
        found: dict[K, V] = {}
        if data:
            decode = self._codec.decode
            for key, name, value in zip(keys, names, data, strict=True):
                if value is None or name is None:
                    continue
                try:
                    found[key] = decode(_unwrapped(value), tag)
                except Exception as error:  # noqa: BLE001 - whatever it holds, it is a miss
                    self._link.found_poison(name, str(error) or type(error).__name__)
        hits = sum(key in found for key in keys)  # each as often as it was asked for
        misses = len(keys) - hits
        self._hits += hits
        self._misses += misses
        return found

    def put_many(self, values: Mapping[K, V], tag: Tag) -> None:
        """Keep values under the tag that they were read with, whatever the current one is."""
        written = []
        for name, value in zip(self._names(values, tag), values.values(), strict=True):
            body = None if name is None else self._codec.encode(value)
            if name is not None and body is not None:
                written.append((name, _VERSION + body + _checksum(body)))
        if written:
            self._link.try_to(lambda client: self._write(client, written))

    def _write(self, client: redis.Redis, written: list[tuple[str, bytes]]) -> bool:
        with client.pipeline(transaction=False) as pipeline:
            for name, value in written:
                lifetime = self._ttl * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
                pipeline.set(name, value, px=max(1, int(1000 * lifetime)))
            pipeline.execute()
        return True

    def discard(self, keys: Sequence[K]) -> None:
        """Forget some keys of the current tag."""
        tag = self._tag
        names = [] if tag is None else [name for name in self._names(keys, tag) if name]
        if names:
            self._link.try_to(lambda client: client.delete(*names))

    def stats(self) -> TierStats:
        """What it has done; errors and since when are those of the link, which the tiers share."""
        breaker = self._link.breaker
        return TierStats(
            hits=self._hits,
            misses=self._misses,
            errors=breaker.errors + self._link.poisoned,
            degraded_since=breaker.degraded_since,
        )


def _checksum(body: bytes) -> bytes:
    return crc32(body).to_bytes(_CHECK, "little")


def _unwrapped(value: bytes) -> bytes:
    """The body of a value that we have written.

    Raises:
        ValueError: Somebody else has, or it was damaged.
    """
    body = value[1:-_CHECK]
    if not value.startswith(_VERSION) or value[-_CHECK:] != _checksum(body):
        raise ValueError("version or checksum do not fit")
    return body

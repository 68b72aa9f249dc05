"""What L2 costs on top of Redis.

    python -m bench --only shared

A hundred ancestors at once, as a resolver finds them that another one has written, by its tier of
L2: keys made, one MGET, values checked and decoded. The rival is redis-py's own MGET of the same
keys, which does nothing with what it gets; as texts, and as bytes, as we hand them to it. Both by a
client of redis-py over a Unix socket. What is promised is for redis-py as it is installed with us.
With hiredis, which it takes by itself where it is there, both are faster, and the ratio is higher:
its MGET takes less than half, and what we add is the same.

First with the ancestors' families known, as they are after the first look-ups of a content; then
with none of them.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import UUID

from redis import Redis
from redis.utils import HIREDIS_AVAILABLE
from tests.servers import RedisServer

from bench.measure import Row, compare
from mvrefresh.cache.redis import Link, RedisTier
from mvrefresh.cache.tier import Change, Line, Tag, line_of
from mvrefresh.hierarchy.codec import ChainCodec
from mvrefresh.hierarchy.node import HierarchyNode

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mvrefresh.hierarchy.node import Chain

TAG, LATER = Tag(1, UUID(int=1)), Tag(2, UUID(int=2))
SPACE = "mvrefresh:app:public.mv_entity_ancestors:a"
BATCH = 100
LEVELS = 8


def chains(size: int) -> dict[int, Chain]:
    """Of entities eight levels deep, five with the same parent."""
    found = {}
    for key in range(size):
        ids = [level * 1_000_000 + key // 5 ** (LEVELS - level) for level in range(LEVELS)]
        labels = [f"n{entity}" for entity in ids]
        found[key] = tuple(
            HierarchyNode(entity, ".".join(labels[: level + 1]), f"entity {entity}")
            for level, entity in enumerate(ids)
        )
    return found


def run(dsn: str, *, quick: bool = False) -> list[Row]:  # noqa: ARG001 - it needs no database
    """With families known, and without."""
    size, rounds = (500, 2) if quick else (10_000, 31)
    values = chains(size)
    batches = [list(range(begin, begin + BATCH)) for begin in range(0, size, BATCH)]
    known: dict[Any, Chain] = {}
    # A client without limits: what is given up is fast.
    with RedisServer() as server, closing(Redis.from_url(server.url)) as client:
        tier: RedisTier[int, Chain] = RedisTier(
            Link(client), SPACE, ChainCodec(lambda _: known), alike=True
        )
        now = line_of(TAG)
        tier.keep(now, values)
        start = tier._start(now).decode()  # noqa: SLF001 - the same keys
        if tier.under(now, list(values)) != values:
            raise AssertionError("not all of them came back")
        names = [[f"{start}i{key}" for key in batch] for batch in batches]
        later = line_of(LATER, TAG.content_token, [Change(TAG, LATER, frozenset({-1}))])

        def of(line: Line) -> Callable[[], object]:
            return lambda: deque((tier.under(line, batch) for batch in batches), 0)

        ours, carried = of(now), of(later)

        def afresh() -> None:
            known.clear()
            tier._met.clear()  # noqa: SLF001 - nothing was met
            ours()

        def mget(names: list[list[Any]]) -> Callable[[], object]:
            return lambda: deque(map(client.mget, names), 0)

        what = f"{BATCH} ancestors from L2"
        rival, bound = (
            ("redis-py MGET", 1.3) if not HIREDIS_AVAILABLE else ("its MGET, hiredis", None)
        )
        texts, as_bytes = mget(names), mget([[name.encode() for name in each] for each in names])
        found = [
            compare(what, ours, rival, texts, rounds=rounds, bound=bound),
            compare(what, ours, f"{rival}, keys as bytes", as_bytes, rounds=rounds),
            compare(f"{what}, of an earlier content", carried, rival, texts, rounds=rounds),
            compare(f"{what}, none met before", afresh, rival, texts, rounds=rounds),
        ]
        if tier.stats().errors:
            raise AssertionError("Redis has failed meanwhile")
        return found

"""What L2 costs on top of Redis.

    python -m bench --only shared

A hundred ancestors at once, as a resolver finds them that another one has written, by its tier of
L2: keys made, one MGET, values checked and decoded. The rival is redis-py's own MGET of the same
keys, which does nothing with what it gets. Both by a client of redis-py over a Unix socket. First
with the ancestors' families known, as they are after the first look-ups of a content; then with
none of them.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING
from uuid import UUID

from tests.servers import RedisServer

from bench.measure import Row, compare
from mvrefresh.cache.redis import Link, RedisTier, connect
from mvrefresh.cache.tier import Tag
from mvrefresh.hierarchy.codec import ChainCodec
from mvrefresh.hierarchy.node import HierarchyNode

if TYPE_CHECKING:
    from typing import Any

    from mvrefresh.hierarchy.node import Chain

TAG = Tag(1, UUID(int=1))
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
    with RedisServer() as server, closing(connect(server.url)) as client:
        tier: RedisTier[int, Chain] = RedisTier(Link(client), "bench", ChainCodec(lambda _: known))
        tier.put_many(values, TAG)
        if tier.under(TAG, list(values)) != values:
            raise AssertionError("not all of them came back")
        names = [tier._names(batch, TAG) for batch in batches]  # noqa: SLF001 - the same keys

        def ours() -> None:
            for batch in batches:
                tier.under(TAG, batch)

        def afresh() -> None:
            known.clear()
            ours()

        def bare() -> None:
            for batch in names:
                client.mget(batch)

        what = f"{BATCH} ancestors from L2"
        return [
            compare(what, ours, "redis-py MGET", bare, rounds=rounds, bound=1.3),
            compare(f"{what}, none met before", afresh, "redis-py MGET", bare, rounds=rounds),
        ]

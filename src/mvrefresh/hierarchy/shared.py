"""The kinds of answers that a resolver keeps in Redis, beside what they are written as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvrefresh.cache.redis import Link, RedisTier, connect
from mvrefresh.cache.tier import TierStats
from mvrefresh.hierarchy.codec import ChainCodec, CountsCodec, NodeCodec

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from mvrefresh.events import Event
    from mvrefresh.hierarchy.node import Chain, HierarchyCounts, HierarchyNode
    from mvrefresh.hierarchy.reader import HierarchyReader
    from mvrefresh.hierarchy.source import HierarchySource


@dataclass(frozen=True, slots=True)
class SharedTiers:
    """L2 of ancestors, nodes and counts, over one link.

    Attributes:
        ours: Whether the client is the library's to close.
    """

    link: Link
    ancestors: RedisTier[Any, Chain]
    nodes: RedisTier[Any, HierarchyNode]
    counts: RedisTier[Any, HierarchyCounts]
    ours: bool

    def stats(self) -> TierStats:
        """Of all of them."""
        each = [tier.stats() for tier in (self.ancestors, self.nodes, self.counts)]
        return TierStats(
            hits=sum(stats.hits for stats in each),
            misses=sum(stats.misses for stats in each),
            errors=each[0].errors,
            degraded_since=each[0].degraded_since,
        )

    def close(self) -> None:
        """Hang up, where the client is ours."""
        if self.ours:
            self.link.client.close()


def shared_tiers(
    redis: Redis | str,
    space: str,
    source: HierarchySource,
    reader: HierarchyReader,
    *,
    ttl: float,
    tell: Callable[[Event], None],
) -> SharedTiers:
    """Tiers in this Redis, a client or its URL."""
    ours = isinstance(redis, str)
    link = Link(connect(redis) if isinstance(redis, str) else redis, tell=tell)
    tree, counts, _ = source.views
    return SharedTiers(
        link,
        RedisTier(link, f"{space}:{tree}:a", ChainCodec(reader.known_of), ttl=ttl, alike=True),
        RedisTier(link, f"{space}:{tree}:n", NodeCodec(), ttl=ttl),
        RedisTier(link, f"{space}:{counts}:c", CountsCodec(), ttl=ttl),
        ours,
    )

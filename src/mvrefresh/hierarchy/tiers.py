"""What a resolver holds: its tiers, which content they are of, and how they are read through.

A look-up falls through process memory (L1), Redis (L2), one statement on the materialized view (L4)
through PostgreSQL's buffers (L3), and the table itself for what the view does not hold yet. What is
found is kept under the tag that was read in the same statement.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from mvrefresh.cache.buffer import BufferMeter
from mvrefresh.cache.chosen import ChosenTier
from mvrefresh.cache.content import Content
from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.sweeper import SWEEPER
from mvrefresh.cache.tier import MISSING, Loaded, TierStats
from mvrefresh.cache.tiered import TieredCache
from mvrefresh.events import TierDegraded, TierRecovered
from mvrefresh.hierarchy.reader import KEY, HierarchyReader
from mvrefresh.hierarchy.replica import NO_FIGURES, ReplicaFirst
from mvrefresh.hierarchy.residence import Residence
from mvrefresh.hierarchy.teller import Teller

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import cachetools
    from redis import Redis

    from mvrefresh.cache.redis import RedisTier
    from mvrefresh.cache.sweeper import Swept
    from mvrefresh.cache.tier import Line, Tag
    from mvrefresh.events import Event
    from mvrefresh.hierarchy.node import Chain, HierarchyCounts, HierarchyNode
    from mvrefresh.hierarchy.resident import ResidentHierarchy
    from mvrefresh.hierarchy.shared import SharedTiers
    from mvrefresh.hierarchy.source import HierarchySource
    from mvrefresh.postgres.database import Database

V = TypeVar("V")

LEASE: Final = 2.4
"""Seconds for which the database's word on what is current holds: what is answered was current less
than 2.5 seconds ago, with what the thread that ends it may be late."""


class Settings(NamedTuple):
    """How a resolver keeps what it has read; as its parameters of these names say.

    Attributes:
        tracked: Whether the library's tables tell which content a view has.
    """

    tracked: bool
    capacity: int
    resident: int
    cache: Callable[[int], cachetools.Cache[Any, Any]] | None
    ttl: float | None
    negative_ttl: float
    meter_every: int
    watch: bool
    strict: bool
    ask: bool
    redis: Redis | str | None
    redis_prefix: str
    redis_ttl: float


class _Kind:
    """How often the view had what was asked of it, and the table instead."""

    __slots__ = ("found", "passed_on", "source")

    def __init__(self) -> None:
        self.found = self.passed_on = self.source = 0


class _Then:
    """The last of a content's followers: does what is to be done when the others have changed."""

    __slots__ = ("_do",)

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def retag(self, tag: Tag | None, *, park: bool = False) -> None:  # noqa: ARG002 - a follower
        self._do()

    def advance(self, before: Tag, tag: Tag, keys: Collection[Any]) -> None:  # noqa: ARG002
        self._do()

    def discard(self, keys: Collection[Any]) -> None:
        """Other rows, the same dict."""

    def after_fork(self) -> None:
        """It holds no lock."""


class HierarchyTiers:
    """The tiers of a resolver. Any thread may ask.

    Args:
        database: Where the views and the table are.
        source: Their names.
        settings: What the resolver was made with.
        tell: Called with events.

    Attributes:
        tree, tally: The contents of the ancestors view and of the counts view.
        memory: L1 of the ancestors.
        ancestors, nodes, counts, subtrees: Read-through, by id; the last by (id, depth, limit,
            last of the page before).
        shared: L2, if there is one.
        residence: Where the whole hierarchy is, if it is in memory.
        replica: Another way to the views, if there is one.
        views: Who reads them.
        watch: Of the database, if it is to tell.
    """

    __slots__ = (
        "_buffers", "_caches", "_database", "_settings", "_swept", "_tell", "_tell_soon",
        "ancestors", "counts", "counts_kind", "lineage_kind", "memory", "nodes", "reader",
        "replica", "residence", "shared", "subtrees", "tally", "tree", "views", "watch",
    )  # fmt: skip

    def __init__(
        self,
        database: Database,
        source: HierarchySource,
        settings: Settings,
        tell: Callable[[Event], None],
    ) -> None:
        self._database = database
        self._settings = settings
        self._tell = tell
        self._tell_soon = Teller(tell)
        self._buffers = BufferMeter(settings.meter_every)
        self.reader = HierarchyReader(
            database, source, tracked=settings.tracked, meter=self._buffers
        )
        self.watch = database.watch if settings.watch and settings.tracked else None
        self.tree, self.tally = (
            self._content(place, str(view)) for place, view in enumerate(source.views[:2])
        )
        self.replica = self._replica(source)
        self.views: HierarchyReader | ReplicaFirst = self.replica or self.reader
        self.shared = self._shared(source)
        self.lineage_kind, self.counts_kind = _Kind(), _Kind()
        # Apart from each other, so that a hit is the answer and not a part of one.
        l2 = self.shared
        self.ancestors: TieredCache[Any, Chain] = self._read_through(
            self._load_ancestors, self.tree, None if l2 is None else l2.ancestors
        )
        self.memory = self.ancestors.memory
        self.nodes: TieredCache[Any, HierarchyNode] = self._read_through(
            self._load_nodes, self.tree, None if l2 is None else l2.nodes
        )
        self.counts: TieredCache[Any, HierarchyCounts] = self._read_through(
            self._load_counts, self.tally, None if l2 is None else l2.counts
        )
        self.subtrees: TieredCache[Any, Chain] = TieredCache(
            self._memory(max(1, settings.capacity // 10)),
            self._load_subtrees,
            self.tree,
            negative_ttl=settings.negative_ttl,
            together=False,
        )
        self._caches: tuple[TieredCache[Any, Any], ...] = (
            self.ancestors, self.nodes, self.counts, self.subtrees,
        )  # fmt: skip
        self.residence = Residence(
            self.tree,
            lambda go_on: self.views.everything(settings.resident, settings.capacity, go_on),
            wanted=settings.resident > 0 and settings.tracked,
        )
        self._swept: list[Swept] = [self.tree, self.tally] if settings.tracked else []
        if settings.ttl is not None or settings.cache is not None:
            self._swept += [cache.memory for cache in self._caches]
        for each in self._swept:
            SWEEPER.add(each)
        if self.watch is not None:
            for view, content in zip(source.views, (self.tree, self.tally), strict=False):
                self.watch.add(content, view, KEY)

    def when_moved(self, do: Callable[[], None]) -> None:
        """Call this at once, and whenever look-ups are to read another dict from then on."""
        self.residence.moved_in = do
        self.tree.follow(_Then(do))  # the last of its followers: the others have changed by then

    def _content(self, place: int, view: str) -> Content:
        return Content(
            partial(self._current, place),
            lease=LEASE if self._settings.tracked else None,
            strict=self._settings.strict,
            ask=self._settings.ask,
            went_blind=partial(self._went_blind, view),
            saw_again=self._saw_again,
        )

    def _replica(self, source: HierarchySource) -> ReplicaFirst | None:
        replica = self._database.replica
        if replica is None or not self._settings.tracked:  # without tags it cannot be judged
            return None
        ancestors, counts, _ = map(str, source.views)
        contents = self.tree, self.tally
        return ReplicaFirst(self.reader, replica, contents, (ancestors, counts), self._tell_soon)

    def _shared(self, source: HierarchySource) -> SharedTiers | None:
        settings = self._settings
        if settings.redis is None or not settings.tracked:
            return None
        from mvrefresh.hierarchy.shared import shared_tiers  # noqa: PLC0415 - redis-py is heavy

        space = f"{settings.redis_prefix}:{self._database.name}"
        return shared_tiers(
            settings.redis, space, source, self.reader, ttl=settings.redis_ttl, tell=self._tell
        )

    def _memory(self, room: int) -> MemoryTier[Any, Any] | ChosenTier[Any, Any]:
        make = self._settings.cache
        if make is None:
            return MemoryTier(room, self._settings.ttl)
        return ChosenTier(lambda: make(room))

    def _read_through(
        self,
        load: Callable[[Sequence[Any]], Loaded[Any, V]],
        content: Content,
        shared: RedisTier[Any, V] | None,
    ) -> TieredCache[Any, V]:
        return TieredCache(
            self._memory(self._settings.capacity),
            load,
            content,
            negative_ttl=self._settings.negative_ttl,
            shared=shared,
        )

    @property
    def resident(self) -> ResidentHierarchy | None:
        """The whole hierarchy, where it is in memory and may be answered from."""
        if self.tree.strict:
            self.tree.check()
        return self.residence.current

    # -- reading through -----------------------------------------------------------------------

    def _load_ancestors(self, ids: Sequence[Any]) -> Loaded[Any, Chain]:
        self.residence.want()
        return self._and_live(
            self.views.ancestors(ids), ids, self.lineage_kind, self.reader.live_ancestors
        )

    def _load_nodes(self, ids: Sequence[Any]) -> Loaded[Any, HierarchyNode]:
        self.residence.want()
        loaded = self._and_live(
            self.views.lineages(ids), ids, self.lineage_kind, self.reader.live_lineages
        )
        above = {entity: ancestors for entity, (_, ancestors) in loaded.values.items()}
        self.memory.put_many(above, loaded.tag, loaded.passing)
        nodes = {entity: node for entity, (node, _) in loaded.values.items()}
        return Loaded(nodes, loaded.tag, loaded.as_of, loaded.passing)

    def _load_counts(self, ids: Sequence[Any]) -> Loaded[Any, HierarchyCounts]:
        return self._and_live(
            self.views.counts(ids), ids, self.counts_kind, self.reader.live_counts
        )

    @staticmethod
    def _and_live(
        loaded: Loaded[Any, V],
        ids: Sequence[Any],
        kind: _Kind,
        live: Callable[[Sequence[Any]], dict[Any, V]],
    ) -> Loaded[Any, V]:
        """What the view does not hold yet, from the table."""
        missing = (
            [entity for entity in ids if entity not in loaded.values]
            if len(loaded.values) < len(ids)
            else ()
        )
        kind.found += len(ids) - len(missing)
        kind.passed_on += len(missing)
        if missing:
            found = live(missing)
            kind.source += len(found)
            loaded = Loaded({**loaded.values, **found}, loaded.tag, loaded.as_of, found.keys())
        return loaded

    def _load_subtrees(self, keys: Sequence[Any]) -> Loaded[Any, Chain]:
        ((entity, depth, limit, after),) = keys  # one at a time: each is a range of its own
        # They are passing: which rows of the view a subtree is made of, no key says.
        resident = self.resident
        if resident is not None:
            tag = resident.tag  # before it is asked, as in `look_up`
            below = resident.descendants(entity, max_depth=depth, limit=limit, after=after)
            if below is not MISSING:
                return Loaded({keys[0]: below}, tag, passing=keys, tier="l1")
            self.residence.mend()
        loaded = self.reader.subtree(entity, depth=depth, limit=limit, after=after)
        values = {keys[0]: loaded.values[entity]} if entity in loaded.values else {}
        return Loaded(values, loaded.tag, loaded.as_of, keys, tier="l4")

    # -- what is current --------------------------------------------------------------------------

    def _current(self, view: int, known: Tag | None) -> tuple[Line, float | None]:
        if self.watch is not None:
            self.watch.go_on()  # in a forked child there is none yet
        return self.reader.current(view, known)

    def _went_blind(self, view: str) -> None:
        if self.watch is not None:  # else nobody has promised to tell
            why = f"nobody has said for {LEASE:g} s which content of {view} is current"
            self._tell_soon(TierDegraded("l1_cache", why))

    def _saw_again(self) -> None:
        if self.watch is not None:
            self._tell_soon(TierRecovered("l1_cache"))

    def look_again(self) -> None:
        """Ask which content is current, and hold nothing of any other."""
        for content in (self.tree, self.tally):
            content.look()

    # -- figures -------------------------------------------------------------------------------

    def figures(self, hits: int) -> dict[str, dict[str, Any]]:
        """What each tier has done, as the resolver's `cache_metrics` gives it.

        Args:
            hits: Those that were counted outside.
        """
        memories = [cache.memory.stats() for cache in self._caches]
        resident = self.resident
        entities = 0 if resident is None else len(resident)
        hits += sum(tier.hits for tier in memories)
        misses = sum(tier.misses for tier in memories)
        kinds = (self.lineage_kind, self.counts_kind)
        found, passed_on = sum(k.found for k in kinds), sum(k.passed_on for k in kinds)
        size = entities + sum(tier.size or 0 for tier in memories)
        shared = TierStats() if self.shared is None else self.shared.stats()
        return {
            "l1_cache": _figures(TierStats(hits, misses, size))
            | {
                "resident": entities,
                "blind": self.tree.blind or self.tally.blind,
                "watch": "off" if self.watch is None else self.watch.state,
            },
            "l2_cache": _figures(shared),
            "l3_cache": _figures(self._buffers.stats()),
            "l4_cache": _figures(TierStats(found, passed_on))
            | (NO_FIGURES if self.replica is None else self.replica.figures()),
            "overall": _figures(TierStats(hits + shared.hits + found, passed_on))
            | {"source_reads": sum(k.source for k in kinds)},
        }

    def close(self) -> None:
        """Forget everything."""
        if self.watch is not None:
            for content in (self.tree, self.tally):
                self.watch.remove(content)
        self.residence.close(self._database.sever)
        for each in self._swept:
            SWEEPER.remove(each)
        for cache in self._caches:
            cache.memory.retag(None)
        if self.shared is not None:
            self.shared.close()


def _figures(stats: TierStats) -> dict[str, Any]:
    return asdict(stats) | {"hit_rate": stats.hit_rate}

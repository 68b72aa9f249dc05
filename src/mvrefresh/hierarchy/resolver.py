"""OptimizedHierarchyResolver: ancestors, subtrees and counts at the speed of memory.

A look-up falls through its tiers: process memory (L1), later Redis (L2), one statement on the
materialized view (L4) through PostgreSQL's buffers (L3), and the table itself for what the view
does not hold yet. What is found is kept under the tag that was read in the same statement.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from mvrefresh import api
from mvrefresh.cache.buffer import BufferMeter
from mvrefresh.cache.chosen import ChosenTier
from mvrefresh.cache.content import Content
from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.sweeper import SWEEPER
from mvrefresh.cache.tier import MISSING, Loaded, Missing, TierStats
from mvrefresh.cache.tiered import TieredCache
from mvrefresh.errors import ConfigurationError, ContentTooOld, UnknownEntity
from mvrefresh.events import EventBus, TierDegraded, TierRecovered
from mvrefresh.hierarchy.node import Answer, HierarchyNode
from mvrefresh.hierarchy.reader import HierarchyReader
from mvrefresh.hierarchy.residence import Residence
from mvrefresh.hierarchy.source import HierarchySource
from mvrefresh.postgres import definition
from mvrefresh.refreshing.policy import RefreshPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    import cachetools
    from redis import Redis

    from mvrefresh.cache.sweeper import Swept
    from mvrefresh.cache.tier import Tag
    from mvrefresh.hierarchy.node import Chain, HierarchyCounts
    from mvrefresh.hierarchy.resident import ResidentHierarchy
    from mvrefresh.hierarchy.shared import SharedTiers
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import ViewLike
    from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport

V = TypeVar("V")

_MOST: Final = 2**31 - 1

RESIDENT: Final = 100_000
"""Entities up to which a hierarchy is kept in memory by default."""

LEASE: Final = 2.4
"""Seconds for which the database's word on what is current holds: what is answered was current less
than 2.5 seconds ago, with what the thread that ends it may be late."""


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

    def after_fork(self) -> None:
        """It holds no lock."""


class OptimizedHierarchyResolver:
    """Answers questions about a hierarchy from memory, and from PostgreSQL what memory lacks.

    Safe to call from any thread, and from callbacks of its own refreshes.

    Args:
        database: Where the table, its views and the library's tables are.
        source: Their names.
        capacity: Entries of each kind that are kept in memory at most.
        resident: Entities up to which the whole hierarchy is kept in memory, 0: never; by
            default 100,000, and 0 with a `cache`.
        cache: Makes a cache of cachetools' for a capacity (`cachetools.LRUCache`, say), to be used
            instead of the library's own; `ttl` is then for it to keep.
        ttl: Seconds for which one is kept at most; None: until the view's content changes.
        negative_ttl: Seconds for which an id that does not exist is remembered as such.
        stale: What a call with `max_staleness` does where the view is older: "live" reads the
            table itself, "raise" refuses.
        watch: Hear of refreshes by other processes on a connection of the database's own; else
            a look-up asks, every two seconds or so.
        strict: Every look-up compares the clock with the lease. Else a thread does, and a process
            that was suspended as a whole may answer from before for the moment it takes to run.
        blind: What look-ups do where the watch has not heard for 2.4 seconds what is current:
            "ask" the database, and go on with what is in memory if it still is; or "bypass"
            the memory until the watch has heard again.
        meter_every: One read of a view in so many is metered for L3; 0: none.
        redis: L2, shared by all processes: a URL, or a client of redis-py that returns bytes.
        redis_prefix: Begins all keys there.
        redis_ttl: Seconds that an entry lives there at most.
        events: The bus of its events, and of its refreshes.
        metrics, policy: For its refreshes, as `mvrefresh.refresh` takes them.

    Raises:
        ConfigurationError: A parameter cannot be meant.
    """

    __slots__ = (
        "_ancestors", "_buffers", "_caches", "_counts", "_counts_content", "_counts_kind",
        "_database", "_entries", "_hits", "_lineage_kind", "_memory", "_metrics", "_nodes",
        "_policy", "_reader", "_residence", "_shared", "_source", "_stale", "_subtrees", "_swept",
        "_tree_content", "_watch", "events",
    )  # fmt: skip

    def __init__(
        self,
        database: Database,
        source: HierarchySource | None = None,
        *,
        capacity: int = 100_000,
        resident: int | None = None,
        cache: Callable[[int], cachetools.Cache[Any, Any]] | None = None,
        ttl: float | None = 300.0,
        negative_ttl: float = 5.0,
        stale: Literal["live", "raise"] = "live",
        meter_every: int = 100,
        watch: bool = True,
        strict: bool = False,
        blind: Literal["ask", "bypass"] = "ask",
        redis: Redis | str | None = None,
        redis_prefix: str = "mvrefresh",
        redis_ttl: float = 3600.0,
        events: EventBus | None = None,
        metrics: MetricsStore | None = None,
        policy: RefreshPolicy | None = None,
    ) -> None:
        resident = (RESIDENT if cache is None else 0) if resident is None else resident
        _check_settings(stale, blind, resident, watch=watch)
        self._database = database
        self._source = source or HierarchySource()
        self._policy = policy or RefreshPolicy()
        self._metrics = metrics
        self._stale = stale
        self._buffers = BufferMeter(meter_every)
        self._reader = HierarchyReader(
            database,
            self._source,
            tracked=self._policy.coordination == "schema",
            meter=self._buffers,
        )
        self._lineage_kind, self._counts_kind = _Kind(), _Kind()
        tracked = self._policy.coordination == "schema"
        lease = LEASE if tracked else None
        self._watch = database.watch if watch and tracked else None
        self.events = events or EventBus()
        self._tree_content, self._counts_content = (
            Content(
                partial(self._current, place),
                lease=lease,
                strict=strict,
                ask=blind == "ask",
                went_blind=partial(self._went_blind, str(view)),
                saw_again=self._saw_again,
            )
            for place, view in enumerate(self._source.views[:2])
        )

        # Apart from each other, so that a hit is the answer and not a part of one.
        def memory(room: int = capacity) -> MemoryTier[Any, Any] | ChosenTier[Any, Any]:
            return MemoryTier(room, ttl) if cache is None else ChosenTier(lambda: cache(room))

        self._shared: SharedTiers | None = None
        if redis is not None and tracked:
            from mvrefresh.hierarchy.shared import shared_tiers  # noqa: PLC0415 - redis-py is heavy

            space = f"{redis_prefix}:{database.name}"
            self._shared = shared_tiers(
                redis,
                space,
                self._source,
                self._reader,
                ttl=redis_ttl,
                tell=self.events.publish,
            )
        self._memory: MemoryTier[Any, Chain] | ChosenTier[Any, Chain] = memory()
        self._ancestors: TieredCache[Any, Chain] = TieredCache(
            self._memory,
            self._load_ancestors,
            self._tree_content,
            negative_ttl=negative_ttl,
            shared=None if self._shared is None else self._shared.ancestors,
        )
        self._nodes: TieredCache[Any, HierarchyNode] = TieredCache(
            memory(),
            self._load_nodes,
            self._tree_content,
            negative_ttl=negative_ttl,
            shared=None if self._shared is None else self._shared.nodes,
        )
        self._counts: TieredCache[Any, HierarchyCounts] = TieredCache(
            memory(),
            self._load_counts,
            self._counts_content,
            negative_ttl=negative_ttl,
            shared=None if self._shared is None else self._shared.counts,
        )
        self._subtrees: TieredCache[Any, Chain] = TieredCache(
            memory(max(1, capacity // 10)),
            self._load_subtrees,
            self._tree_content,
            negative_ttl=negative_ttl,
            together=False,
        )
        self._residence = Residence(
            self._tree_content,
            lambda go_on: self._reader.everything(resident, capacity, go_on),
            moved_in=self._at_hand,
            wanted=resident > 0 and tracked,
        )
        self._hits = 0
        self._tree_content.follow(_Then(self._at_hand))
        self._caches: tuple[TieredCache[Any, Any], ...] = (
            self._ancestors, self._nodes, self._counts, self._subtrees,
        )  # fmt: skip
        self._swept: list[Swept] = [self._tree_content, self._counts_content] if tracked else []
        if ttl is not None or cache is not None:
            self._swept += [cache.memory for cache in self._caches]
        for each in self._swept:
            SWEEPER.add(each)
        if self._watch is not None:
            contents = (self._tree_content, self._counts_content)
            for view, content in zip(self._source.views, contents, strict=False):
                self._watch.add(content, definition.identifier(view).as_string(None))

    # -- ancestors -----------------------------------------------------------------------------

    def ancestors(self, entity_id: Any, max_staleness: float | None = None) -> Chain:
        """The entities above one, from the root down; empty for a root.

        Args:
            entity_id: Its key.
            max_staleness: Seconds; an answer that may be older is read from the table, or refused.

        Raises:
            UnknownEntity: There is none of that id.
            ContentTooOld: With `stale="raise"`.
            ConfigurationError: The id is of another type than the column.
            DatabaseUnavailable: It is not in memory, and the database cannot be reached.
        """
        if max_staleness is None:  # the hot path: all of it is here
            try:
                record = self._entries[entity_id]
            except KeyError:
                return self._not_at_hand(entity_id)
            except TypeError:
                raise _no_id(entity_id) from None
            record.visited = True
            self._hits += 1
            return record.value
        _check_id(entity_id)
        if self._is_fresh(self._tree_content, max_staleness):
            return self.ancestors(entity_id)
        return _known(self._reader.live_ancestors([entity_id]).get(entity_id), entity_id)

    def ancestors_many(self, entity_ids: Iterable[Any]) -> dict[Any, Chain]:
        """The ancestors of many entities by id, without those that do not exist.

        What is not in memory is read in one statement.
        """
        ids = _ids(entity_ids)
        resident = self._resident()
        if resident is None:
            chains = self._memory.all_of(ids)
            return self._ancestors.get_many(ids) if chains is None else _paired(ids, chains)
        found = resident.ancestors_many(ids)
        self._hits += len(found)
        unknown = [entity for entity in ids if entity not in found] if len(found) < len(ids) else ()
        return found | self._ancestors.get_many(unknown) if unknown else found

    def node(self, entity_id: Any) -> HierarchyNode:
        """An entity's id, path and name; raises as `ancestors`."""
        _check_id(entity_id)
        resident = self._resident()
        if resident is not None and (node := resident.node(entity_id)) is not MISSING:
            self._nodes.memory.hits += 1
            return node
        return _known(self._nodes.get(entity_id), entity_id)

    def nodes_many(self, entity_ids: Iterable[Any]) -> dict[Any, HierarchyNode]:
        """The nodes of many entities by id, without those that do not exist."""
        ids = _ids(entity_ids)
        resident, found = self._resident(), {}
        if resident is not None:
            nodes = ((entity, resident.node(entity)) for entity in ids)
            found = {entity: node for entity, node in nodes if node is not MISSING}
            self._nodes.memory.hits += len(found)
        unknown = [entity for entity in ids if entity not in found]
        return found | self._nodes.get_many(unknown) if unknown else found

    def path(self, entity_id: Any) -> str | None:
        """An entity's path; None if it has none. Raises as `ancestors`."""
        return self.node(entity_id).path

    def is_ancestor(self, ancestor_id: Any, entity_id: Any) -> bool:
        """Whether the first is above the second; nobody is above itself."""
        return any(node.id == ancestor_id for node in self.ancestors(entity_id))

    def lowest_common_ancestor(self, entity_ids: Iterable[Any]) -> HierarchyNode | None:
        """The lowest entity that is above, or is, each of them; None if they share no root.

        Raises:
            UnknownEntity: One of them does not exist.
            ConfigurationError: None were given.
        """
        entity_ids = _ids(entity_ids)
        if not entity_ids:
            raise ConfigurationError("lowest_common_ancestor() needs at least one id")
        nodes = self.nodes_many(entity_ids)  # first: a read of nodes brings their ancestors too
        above = self.ancestors_many(entity_ids)
        common: HierarchyNode | None = None
        chains = []
        for entity in entity_ids:
            if entity not in above or entity not in nodes:
                raise UnknownEntity(entity)
            chains.append((*above[entity], nodes[entity]))
        for level in zip(*chains, strict=False):
            if any(node.id != level[0].id for node in level):
                break
            common = level[0]
        return common

    def look_up(self, entity_id: Any) -> Answer[Chain]:
        """As `ancestors`, with the tier that answers, the tag and the age of the content.

        For people who look at what goes on: it counts nowhere, and keeps nothing.
        """
        _check_id(entity_id)
        age = _age(self._tree_content.as_of)
        resident = self._resident()
        if resident is not None and (chain := resident.ancestors(entity_id)) is not MISSING:
            return Answer(chain, "l1", resident.tag, age)
        record = self._memory.entries.get(entity_id)
        if record is not None:
            return Answer(record.value, "l1", self._memory.tag, age)
        tag = self._tree_content.tag
        if self._shared is not None and tag is not None:
            found = self._shared.ancestors.under(tag, [entity_id])
            if entity_id in found:
                return Answer(found[entity_id], "l2", tag, age)
        loaded = self._reader.ancestors([entity_id])
        if entity_id in loaded.values:
            return Answer(loaded.values[entity_id], "l4", loaded.tag, _age(loaded.as_of))
        live = self._reader.live_ancestors([entity_id])
        return Answer(_known(live.get(entity_id), entity_id), "source", None, 0.0)

    # -- what is below -------------------------------------------------------------------------

    def descendants(
        self,
        entity_id: Any,
        *,
        max_depth: int | None = None,
        limit: int | None = None,
        after: HierarchyNode | None = None,
    ) -> Chain:
        """The entities below one, in the order of their paths: each before what is below it.

        Args:
            entity_id: Its key.
            max_depth: Levels below it at most; 1 are its children by the path.
            limit: How many at most: a page.
            after: The last of the page before; it need not exist any more.

        Raises:
            UnknownEntity, ConfigurationError, DatabaseUnavailable: As `ancestors`.
        """
        _check_id(entity_id)
        for name, value in (("max_depth", max_depth), ("limit", limit)):
            is_number = isinstance(value, int)  # hosts do not all have their types checked
            if value is not None and not (is_number and 0 < value <= _MOST):
                raise ConfigurationError(f"{name}={value!r} is no number from 1 to {_MOST}")
        is_place = isinstance(after, HierarchyNode) and after.path is not None
        if after is not None and not is_place:
            raise ConfigurationError(f"after={after!r:.200} is no node below the entity")
        return _known(self._subtrees.get((entity_id, max_depth, limit, after)), entity_id)

    def children(self, entity_id: Any) -> Chain:
        """The entities one level below one; raises as `ancestors`."""
        return self.descendants(entity_id, max_depth=1)

    def counts(self, entity_id: Any, max_staleness: float | None = None) -> HierarchyCounts:
        """How much lies below an entity; arguments and errors as of `ancestors`."""
        _check_id(entity_id)
        if max_staleness is not None and not self._is_fresh(self._counts_content, max_staleness):
            live = self._reader.live_counts([entity_id])
            return _known(live.get(entity_id), entity_id)
        return _known(self._counts.get(entity_id), entity_id)

    def counts_many(self, entity_ids: Iterable[Any]) -> dict[Any, HierarchyCounts]:
        """The counts of many entities by id, without those that do not exist."""
        return self._counts.get_many(_ids(entity_ids))

    # -- reading through -----------------------------------------------------------------------

    def _load_ancestors(self, ids: Sequence[Any]) -> Loaded[Any, Chain]:
        self._residence.want()
        return self._and_live(
            self._reader.ancestors(ids), ids, self._lineage_kind, self._reader.live_ancestors
        )

    def _load_nodes(self, ids: Sequence[Any]) -> Loaded[Any, HierarchyNode]:
        self._residence.want()
        loaded = self._and_live(
            self._reader.lineages(ids), ids, self._lineage_kind, self._reader.live_lineages
        )
        above = {entity: ancestors for entity, (_, ancestors) in loaded.values.items()}
        self._memory.put_many(above, loaded.tag)
        nodes = {entity: node for entity, (node, _) in loaded.values.items()}
        return Loaded(nodes, loaded.tag, loaded.as_of)

    def _at_hand(self) -> None:
        """Whose records a look-up reads: those of the whole hierarchy where it is in memory."""
        resident = self._residence.current
        entries = self._memory.entries if resident is None else resident.entries
        # Where it is strict, every look-up looks at the clock first: none finds anything here.
        self._entries = {} if self._tree_content.strict else entries

    def _resident(self) -> ResidentHierarchy | None:
        """The whole hierarchy, where it is in memory and may be answered from."""
        if self._tree_content.strict:
            self._tree_content.check()
        return self._residence.current

    def _not_at_hand(self, entity_id: Any) -> Chain:
        """What was not asked for lately, of a resident hierarchy; or is too new to be in it."""
        resident = self._resident()
        if resident is not None and (chain := resident.ancestors(entity_id)) is not MISSING:
            self._hits += 1
            return chain
        return _known(self._ancestors.get(entity_id), entity_id)

    def _load_counts(self, ids: Sequence[Any]) -> Loaded[Any, HierarchyCounts]:
        return self._and_live(
            self._reader.counts(ids), ids, self._counts_kind, self._reader.live_counts
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
            loaded = Loaded({**loaded.values, **found}, loaded.tag, loaded.as_of)
        return loaded

    def _load_subtrees(self, keys: Sequence[Any]) -> Loaded[Any, Chain]:
        ((entity, depth, limit, after),) = keys  # one at a time: each is a range of its own
        resident = self._resident()
        if resident is not None:
            below = resident.descendants(entity, max_depth=depth, limit=limit, after=after)
            if below is not MISSING:
                return Loaded({keys[0]: below}, resident.tag)
        loaded = self._reader.subtree(entity, depth=depth, limit=limit, after=after)
        values = {keys[0]: loaded.values[entity]} if entity in loaded.values else {}
        return Loaded(values, loaded.tag, loaded.as_of)

    def _current(self, view: int) -> tuple[Tag | None, float | None]:
        if self._watch is not None:
            self._watch.go_on()  # in a forked child there is none yet
        return self._reader.current(view)

    def _went_blind(self, view: str) -> None:
        if self._watch is not None:  # else nobody has promised to tell
            why = f"nobody has said for {LEASE:g} s which content of {view} is current"
            self.events.publish(TierDegraded("l1_cache", why))

    def _saw_again(self) -> None:
        if self._watch is not None:
            self.events.publish(TierRecovered("l1_cache"))

    # -- freshness -----------------------------------------------------------------------------

    def _is_fresh(self, content: Content, max_staleness: float) -> bool:
        """Whether what is held is young enough; asks the database before it says no."""
        age = _age(content.as_of)
        if age is None or age > max_staleness:
            content.look()  # a refresh may have found nothing changed since
            age = _age(content.as_of)
        if age is not None and age <= max_staleness:
            return True
        if self._stale == "raise":
            said = "unknown" if age is None else f"{age:.1f} s"
            raise ContentTooOld(f"the content's age is {said}, more than {max_staleness:g} s")
        return False

    # -- refreshing ----------------------------------------------------------------------------

    def refresh_materialized_view(self, name: ViewLike) -> RefreshOutcome:
        """Refresh one view; this process is fresh at once. Errors as of `mvrefresh.refresh`."""
        try:
            return api.refresh_materialized_view(
                self._database,
                name,
                policy=self._policy,
                metrics=self._metrics,
                events=self.events,
            )
        finally:
            self.look_again()

    def refresh_all_materialized_views(self) -> RefreshReport:
        """Refresh the three views of the source, each after what it reads."""
        try:
            return api.refresh(
                self._database,
                self._source.views,
                policy=self._policy,
                metrics=self._metrics,
                events=self.events,
            )
        finally:
            self.look_again()

    def look_again(self) -> None:
        """Ask which content is current, and hold nothing of any other."""
        for content in (self._tree_content, self._counts_content):
            content.look()

    # -- figures -------------------------------------------------------------------------------

    def cache_metrics(self) -> dict[str, dict[str, Any]]:
        """What each tier has done; `hit_rate` 0 to 100, None before the first look-up.

        Of "l1_cache" `resident` is the number of entities where the whole hierarchy is in memory,
        else 0; `blind` is whether the next look-up has to ask what is current; `watch` is the
        `state` of the database's watch. Of "l3_cache" hits and misses are blocks of the reads that
        were metered.
        """
        memories = [cache.memory.stats() for cache in self._caches]
        resident = self._resident()
        entities = 0 if resident is None else len(resident)
        hits = self._hits + sum(tier.hits for tier in memories)
        misses = sum(tier.misses for tier in memories)
        kinds = (self._lineage_kind, self._counts_kind)
        found, passed_on = sum(k.found for k in kinds), sum(k.passed_on for k in kinds)
        buffers = self._buffers.stats()
        shared = TierStats() if self._shared is None else self._shared.stats()
        return {
            "l1_cache": _figures(hits, misses, entities + sum(m.size or 0 for m in memories))
            | {
                "resident": entities,
                "blind": self._tree_content.blind or self._counts_content.blind,
                "watch": "off" if self._watch is None else self._watch.state,
            },
            "l2_cache": _figures(shared.hits, shared.misses, None)
            | {"errors": shared.errors, "degraded_since": shared.degraded_since},
            "l3_cache": _figures(buffers.hits, buffers.misses, None),
            "l4_cache": _figures(found, passed_on, None),
            "overall": _figures(hits + shared.hits + found, passed_on, None)
            | {"source_reads": sum(k.source for k in kinds)},
        }

    def preload(self, timeout: float | None = None) -> bool:
        """Load the whole hierarchy into memory now, if it fits; else look-ups do, unasked.

        Args:
            timeout: Seconds to wait at most; loading goes on.

        Returns:
            Whether it is in memory now. It is not if there are more than `resident` entities, or
            if nobody can tell which content the view has.
        """
        return self._residence.wait(timeout)

    def warm(self) -> int | None:
        """Read the views into PostgreSQL's buffers, as after a restart of the server.

        Returns:
            Blocks read; None where the extension pg_prewarm is not installed.
        """
        return self._reader.warm()

    def residency(self) -> float | None:
        """The share of the views, with indexes, that is in PostgreSQL's buffers: 0 to 1.

        None where the extension pg_buffercache is not installed, or they are empty.
        """
        return self._reader.residency()

    def close(self) -> None:
        """Forget everything; the database stays the host's to close."""
        if self._watch is not None:
            for content in (self._tree_content, self._counts_content):
                self._watch.remove(content)
        self._residence.close(self._database.sever)
        for each in self._swept:
            SWEEPER.remove(each)
        for cache in self._caches:
            cache.memory.retag(None)
        self._at_hand()
        if self._shared is not None:
            self._shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _known(found: V | Missing | None, entity_id: Any) -> V:
    if found is MISSING or found is None:
        raise UnknownEntity(entity_id)
    return found


def _check_settings(stale: str, blind: str, resident: int, *, watch: bool) -> None:
    if stale not in ("live", "raise"):
        raise ConfigurationError(f"stale={stale!r} is neither 'live' nor 'raise'")
    if blind not in ("ask", "bypass") or (blind == "bypass" and not watch):
        raise ConfigurationError(f"blind={blind!r} is neither 'ask' nor, with watch, 'bypass'")
    if resident < 0:
        raise ConfigurationError(f"resident={resident} is negative; 0 is never")


def _no_id(entity_id: object) -> ConfigurationError:
    return ConfigurationError(f"{entity_id!r:.200} is of a type that no id has")


def _check_id(entity_id: object) -> None:
    try:
        hash(entity_id)
    except TypeError:
        raise _no_id(entity_id) from None


def _ids(entity_ids: Iterable[Any]) -> list[Any]:
    ids = list(entity_ids)
    try:
        set(ids)
    except TypeError:
        for each in ids:
            _check_id(each)
    return ids


def _paired(ids: Sequence[Any], chains: Sequence[V]) -> dict[Any, V]:
    return dict(zip(ids, chains, strict=True))


def _age(as_of: float | None) -> float | None:
    return None if as_of is None else monotonic() - as_of


def _figures(hits: int, misses: int, size: int | None) -> dict[str, Any]:
    total = hits + misses
    return {
        "hits": hits,
        "misses": misses,
        "hit_rate": 100.0 * hits / total if total else None,
        "size": size,
        "errors": 0,
        "degraded_since": None,
    }

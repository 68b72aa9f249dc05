"""OptimizedHierarchyResolver: ancestors, subtrees and counts at the speed of memory.

What can be asked. A hit in process memory is answered here; `tiers` holds the rest of the way.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from mvrefresh import api
from mvrefresh.cache.tier import MISSING, Missing
from mvrefresh.errors import ConfigurationError, ContentTooOld, UnknownEntity
from mvrefresh.events import EventBus
from mvrefresh.expected import DATABASE, expect
from mvrefresh.hierarchy.node import Answer, HierarchyNode
from mvrefresh.hierarchy.source import HierarchySource
from mvrefresh.hierarchy.tiers import HierarchyTiers, Settings
from mvrefresh.refreshing.policy import RefreshPolicy
from mvrefresh.refreshing.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    import cachetools
    from redis import Redis

    from mvrefresh.cache.chosen import Entries
    from mvrefresh.cache.content import Content
    from mvrefresh.cache.memory import Record
    from mvrefresh.cache.tiered import TieredCache
    from mvrefresh.hierarchy.node import Chain, HierarchyCounts
    from mvrefresh.metrics.store import MetricsStore
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.plan import ViewLike
    from mvrefresh.refreshing.report import RefreshOutcome, RefreshReport

V = TypeVar("V")

_MOST: Final = 2**31 - 1

RESIDENT: Final = 100_000
"""Entities up to which a hierarchy is kept in memory by default."""


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
        "_database", "_entries", "_hits", "_metrics", "_policy", "_source", "_stale", "_tiers",
        "events",
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
        expect(database, DATABASE, "OptimizedHierarchyResolver(database, source)")
        _check_settings(stale, blind, resident, watch=watch)
        self._database = database
        self._source = source or HierarchySource()
        self._policy = policy or RefreshPolicy()
        self._metrics = metrics
        self._stale = stale
        self.events = events or EventBus()
        self._hits = 0
        self._entries: dict[Any, Record[Chain]] | Entries[Any, Chain] = {}
        settings = Settings(
            tracked=self._policy.coordination == "schema",
            capacity=capacity,
            resident=resident,
            cache=cache,
            ttl=ttl,
            negative_ttl=negative_ttl,
            meter_every=meter_every,
            watch=watch,
            strict=strict,
            ask=blind == "ask",
            redis=redis,
            redis_prefix=redis_prefix,
            redis_ttl=redis_ttl,
        )
        self._tiers = HierarchyTiers(database, self._source, settings, self.events.publish)
        self._tiers.when_moved(self._at_hand)

    @property
    def source(self) -> HierarchySource:
        """The table, and the views over it."""
        return self._source

    def _at_hand(self) -> None:
        """Whose records a look-up reads: those of the whole hierarchy where it is in memory."""
        tiers = self._tiers
        resident = tiers.residence.current
        entries = tiers.memory.entries if resident is None else resident.entries
        # Where it is strict, every look-up looks at the clock first: none finds anything here.
        self._entries = {} if tiers.tree.strict else entries

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
        if self._is_fresh(self._tiers.tree, max_staleness):
            return self.ancestors(entity_id)
        return _known(self._tiers.reader.live_ancestors([entity_id]).get(entity_id), entity_id)

    def _not_at_hand(self, entity_id: Any) -> Chain:
        """What was not asked for lately, of a resident hierarchy; or is too new to be in it."""
        resident = self._tiers.resident
        if resident is not None and (chain := resident.ancestors(entity_id)) is not MISSING:
            self._hits += 1
            return chain
        return _known(self._tiers.ancestors.get(entity_id), entity_id)

    def from_memory(self, entity_id: Any) -> Chain | None:
        """The ancestors of an entity if they are in memory: nobody is asked, nothing waited for.

        Returns:
            None if they are not, or the entity does not exist; then nothing is counted.
        """
        _check_id(entity_id)
        resident = self._tiers.resident
        if resident is not None and (chain := resident.ancestors(entity_id)) is not MISSING:
            self._hits += 1
            return chain
        record = self._tiers.memory.entries.get(entity_id)
        if record is None:
            return None
        record.visited = True
        self._hits += 1
        return record.value

    def ancestors_many(self, entity_ids: Iterable[Any]) -> dict[Any, Chain]:
        """The ancestors of many entities by id, without those that do not exist.

        What is not in memory is read in one statement.
        """
        ids = _ids(entity_ids)
        resident = self._tiers.resident
        if resident is None:
            chains = self._tiers.memory.all_of(ids)
            if chains is None:
                return self._tiers.ancestors.get_many(ids)
            return dict(zip(ids, chains, strict=True))
        found = resident.ancestors_many(ids)
        self._hits += len(found)
        unknown = [entity for entity in ids if entity not in found] if len(found) < len(ids) else ()
        return found | self._tiers.ancestors.get_many(unknown) if unknown else found

    def many_from_memory(self, entity_ids: Iterable[Any]) -> dict[Any, Chain]:
        """As `from_memory`, of those of many entities that are there."""
        ids = _ids(entity_ids)
        resident = self._tiers.resident
        found = {} if resident is None else resident.ancestors_many(ids)
        self._hits += len(found)
        if len(found) < len(ids):
            for entity in ids:
                if entity not in found and (chain := self.from_memory(entity)) is not None:
                    found[entity] = chain
        return found

    def node(self, entity_id: Any) -> HierarchyNode:
        """An entity's id, path and name; raises as `ancestors`."""
        _check_id(entity_id)
        resident = self._tiers.resident
        if resident is not None and (node := resident.node(entity_id)) is not MISSING:
            self._tiers.nodes.memory.hits += 1
            return node
        return _known(self._tiers.nodes.get(entity_id), entity_id)

    def nodes_many(self, entity_ids: Iterable[Any]) -> dict[Any, HierarchyNode]:
        """The nodes of many entities by id, without those that do not exist."""
        ids = _ids(entity_ids)
        resident, found = self._tiers.resident, {}
        if resident is not None:
            nodes = ((entity, resident.node(entity)) for entity in ids)
            found = {entity: node for entity, node in nodes if node is not MISSING}
            self._tiers.nodes.memory.hits += len(found)
        unknown = [entity for entity in ids if entity not in found]
        return found | self._tiers.nodes.get_many(unknown) if unknown else found

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
        age = _age(self._tiers.tree.as_of)
        resident = self._tiers.resident
        # Each tag before the answer: it may be of the next content then, and is never of the last.
        tag = None if resident is None else resident.tag
        if resident is not None and (chain := resident.ancestors(entity_id)) is not MISSING:
            return Answer(chain, "l1", tag, age)
        tag = self._tiers.memory.tag
        record = self._tiers.memory.entries.get(entity_id)
        if record is not None:
            return Answer(record.value, "l1", tag, age)
        line = self._tiers.tree.line
        if self._tiers.shared is not None:
            found = self._tiers.shared.ancestors.under(line, [entity_id])
            if entity_id in found:
                return Answer(found[entity_id], "l2", line.tag, age)
        loaded = self._tiers.reader.ancestors([entity_id])
        if entity_id in loaded.values:
            return Answer(loaded.values[entity_id], "l4", loaded.tag, _age(loaded.as_of))
        live = self._tiers.reader.live_ancestors([entity_id])
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
        return _known(self._tiers.subtrees.get((entity_id, max_depth, limit, after)), entity_id)

    def children(self, entity_id: Any) -> Chain:
        """The entities one level below one; raises as `ancestors`."""
        return self.descendants(entity_id, max_depth=1)

    def counts(self, entity_id: Any, max_staleness: float | None = None) -> HierarchyCounts:
        """How much lies below an entity; arguments and errors as of `ancestors`."""
        _check_id(entity_id)
        if max_staleness is not None and not self._is_fresh(self._tiers.tally, max_staleness):
            live = self._tiers.reader.live_counts([entity_id])
            return _known(live.get(entity_id), entity_id)
        return _known(self._tiers.counts.get(entity_id), entity_id)

    def counts_many(self, entity_ids: Iterable[Any]) -> dict[Any, HierarchyCounts]:
        """The counts of many entities by id, without those that do not exist."""
        return self._tiers.counts.get_many(_ids(entity_ids))

    def counts_from_memory(self, entity_id: Any) -> HierarchyCounts | None:
        """As `from_memory`, of the counts."""
        _check_id(entity_id)
        return _at_hand(self._tiers.counts, entity_id)

    def descendants_from_memory(
        self,
        entity_id: Any,
        *,
        max_depth: int | None = None,
        limit: int | None = None,
        after: HierarchyNode | None = None,
    ) -> Chain | None:
        """As `from_memory`, of a subtree or a page of it that was asked for before."""
        _check_id(entity_id)
        return _at_hand(self._tiers.subtrees, (entity_id, max_depth, limit, after))

    def origin(self, kind: Literal["ancestors", "counts", "descendants"], key: Any) -> str | None:
        """Which tier a look-up that memory could not answer was answered by, right after it.

        Args:
            kind: Of the look-up.
            key: The id; for a subtree (id, max_depth, limit, after).

        Returns:
            "l1" (out of the resident hierarchy), "l2", "l4", "source"; None where it is not known.
        """
        caches: dict[str, TieredCache[Any, Any]] = {
            "ancestors": self._tiers.ancestors,
            "counts": self._tiers.counts,
            "descendants": self._tiers.subtrees,
        }
        return caches[kind].origin(key)

    # -- freshness -----------------------------------------------------------------------------

    @property
    def age_seconds(self) -> float | None:
        """Seconds since the moment for which the ancestors in memory stand; None if unknown."""
        return _age(self._tiers.tree.as_of)

    @property
    def counts_age_seconds(self) -> float | None:
        """The same, of the counts."""
        return _age(self._tiers.tally.as_of)

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
        return self.refresh_with(self.runner(), [name]).outcomes[0]

    def refresh_all_materialized_views(self) -> RefreshReport:
        """Refresh the three views of the source, each after what it reads."""
        return self.refresh_with(self.runner())

    def runner(self) -> Runner:
        """One for a refresh as this resolver makes it, which its `cancel` can end."""
        return Runner(
            self._database, metrics=self._metrics, policy=self._policy, events=self.events
        )

    def refresh_with(
        self, runner: Runner, views: Iterable[ViewLike] | None = None
    ) -> RefreshReport:
        """Refresh views by a runner of `runner()`; None: those of the source."""
        try:
            names = self._source.views if views is None else views
            return runner.run(api.plan(self._database, names))
        finally:
            self.look_again()

    def look_again(self) -> None:
        """Ask which content is current, and hold nothing of any other."""
        self._tiers.look_again()

    # -- figures -------------------------------------------------------------------------------

    def cache_metrics(self) -> dict[str, dict[str, Any]]:
        """What each tier has done; `hit_rate` 0 to 100, None before the first look-up.

        Of "l1_cache" `resident` is the number of entities where the whole hierarchy is in memory,
        else 0; `blind` is whether the next look-up has to ask what is current; `watch` is the
        `state` of the database's watch. Of "l3_cache" hits and misses are blocks of the reads that
        were metered. Of "l4_cache" `replica_reads` and those beside it are what the database's
        replica did.
        """
        return self._tiers.figures(self._hits)

    def preload(self, timeout: float | None = None) -> bool:
        """Load the whole hierarchy into memory now, if it fits; else look-ups do, unasked.

        Args:
            timeout: Seconds to wait at most; loading goes on.

        Returns:
            Whether it is in memory now. It is not if there are more than `resident` entities, or
            if nobody can tell which content the view has.
        """
        return self._tiers.residence.wait(timeout)

    def warm(self) -> int | None:
        """Read the views into PostgreSQL's buffers, as after a restart of the server.

        Returns:
            Blocks read; None where the extension pg_prewarm is not installed.
        """
        return self._tiers.reader.warm()

    def residency(self) -> float | None:
        """The share of the views, with indexes, that is in PostgreSQL's buffers: 0 to 1.

        None where the extension pg_buffercache is not installed, or they are empty.
        """
        return self._tiers.reader.residency()

    def close(self) -> None:
        """Forget everything; the database stays the host's to close."""
        self._tiers.close()
        self._at_hand()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _at_hand(cache: TieredCache[Any, V], key: Any) -> V | None:
    """What L1 has of the content that is current, and counted; None if it has nothing."""
    if cache.content.strict:
        cache.content.check()
    record = cache.memory.entries.get(key)
    if record is None:
        return None
    record.visited = True
    cache.memory.hits += 1
    return record.value


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


def _age(as_of: float | None) -> float | None:
    return None if as_of is None else monotonic() - as_of

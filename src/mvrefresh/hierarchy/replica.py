"""Reads the views at a replica first, and at the database itself where that does not do.

**The tag that comes with the rows decides.** If it is the one known to be current, the rows are its
content, whichever server gave them. If not, the replica is behind, or this process has not heard of
a refresh yet: the same read is made at the database itself, and that one counts. So a replica that
lags costs a second read, and never an old answer.

**It is left alone while it does not help.** Behind: until a look-up that may try finds it caught
up; the pauses grow from a hundredth of a second to one. Failing: until a thread of its own, which
no look-up waits for, has read there again; the pauses grow from half a second to half a minute.

Nothing else is asked of it. Which content is current, since when, and what the table holds, only
the database itself can say.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from threading import Lock
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import psycopg

from mvrefresh.cache.breaker import Breaker
from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.errors import ConfigurationError, MvrefreshError
from mvrefresh.events import TierDegraded, TierRecovered
from mvrefresh.hierarchy.reader import OtherContent, Way
from mvrefresh.hierarchy.residence import Load
from mvrefresh.postgres.faults import message_of
from mvrefresh.postgres.patient import Patience
from mvrefresh.postgres.replica import PATIENCE
from mvrefresh.refreshing.threads import current_crew, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mvrefresh.cache.content import Content
    from mvrefresh.cache.tier import Loaded, Tag
    from mvrefresh.events import Event
    from mvrefresh.hierarchy.node import Chain, HierarchyCounts
    from mvrefresh.hierarchy.reader import HierarchyReader, Lineage
    from mvrefresh.postgres.replica import Replica

V = TypeVar("V")

NAME: Final = "l4_replica"
_PER_ID: Final = 0.0001  # seconds more for each id of a batch, which takes some microseconds
_LOAD_PATIENCE: Final = 10.0  # seconds without a sign of life, of a read of the whole view
_SHORTLY_BEHIND, _LONG_BEHIND = 0.01, 1.0  # seconds between two tries
_CATCH_UP: Final = 1.0  # seconds that a load in the background waits for a refresh to arrive there
_LAGS: Final = 10.0  # seconds of another content: that is no moment any more
_ITSELF: Final = "the replica"


class _Sight(NamedTuple):
    """A view, as the replica shows it.

    Attributes:
        view: Its name, for messages.
        content: What is known of it.
        read: Reads some of it.
        behind: Open while the replica has shown another content than the current one.
    """

    view: str
    content: Content
    read: Callable[[Sequence[Any], Way], object]
    behind: Breaker


class ReplicaFirst:
    """Reads ancestors and counts as `HierarchyReader`, at a replica where it does. Any thread may.

    Args:
        reader: Reads at either.
        replica: The way there.
        tree, tally: The contents of the ancestors view and of the counts view.
        views: Their names, for messages.
        tell: Called with an event when it is gone round, and when it is asked again.

    Attributes:
        degraded_since: Unix seconds since when it fails, or lags for long; None while it does not.
    """

    def __init__(
        self,
        reader: HierarchyReader,
        replica: Replica,
        contents: tuple[Content, Content],
        views: tuple[str, str],
        tell: Callable[[Event], None],
    ) -> None:
        self._reader = reader
        self._replica = replica
        self._tell = tell
        self._tree, self._tally = (
            _Sight(view, content, read, Breaker(1, pause=_SHORTLY_BEHIND, longest=_LONG_BEHIND))
            for view, content, read in zip(
                views, contents, (reader.ancestors, reader.counts), strict=True
            )
        )
        self._breaker = Breaker(1)  # what hangs costs half a second each time
        self._suspect = self._tree
        self._answered = 0
        self._troubles: set[str] = set()
        self.degraded_since: float | None = None
        self._lock = Lock()
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: nobody is in the middle of anything."""
        self._lock = Lock()
        for breaker in (self._breaker, self._tree.behind, self._tally.behind):
            breaker.after_fork()

    # -- reads ---------------------------------------------------------------------------------

    def ancestors(self, ids: Sequence[Any]) -> Loaded[Any, Chain]:
        """As `HierarchyReader.ancestors`."""
        return self._read(self._tree, self._reader.ancestors, ids)

    def lineages(self, ids: Sequence[Any]) -> Loaded[Any, Lineage]:
        """As `HierarchyReader.lineages`."""
        return self._read(self._tree, self._reader.lineages, ids)

    def counts(self, ids: Sequence[Any]) -> Loaded[Any, HierarchyCounts]:
        """As `HierarchyReader.counts`."""
        return self._read(self._tally, self._reader.counts, ids)

    def _read(
        self, sight: _Sight, read: Callable[..., Loaded[Any, V]], ids: Sequence[Any]
    ) -> Loaded[Any, V]:
        way = self._way(sight, len(ids))
        if way is None:
            return read(ids)
        try:
            return self._there_or_here(sight, read, ids, way)
        except BaseException:
            sight.behind.gave_up()
            raise

    def _way(self, sight: _Sight, ids: int) -> Way | None:
        """The way to the replica, if it is to be asked."""
        if self._breaker.is_open:
            if self._breaker.may_try():
                in_thread("mvrefresh-replica", self._probe)
            return None
        tag = sight.content.tag
        if tag is None or not sight.behind.may_try():
            return None
        return Way(partial(self._replica.reader, PATIENCE + _PER_ID * ids), tag)

    def _there_or_here(
        self,
        sight: _Sight,
        read: Callable[..., Loaded[Any, V]],
        ids: Sequence[Any],
        way: Way,
    ) -> Loaded[Any, V]:
        try:
            loaded = read(ids, way)
        except OtherContent as other:
            loaded = read(ids)
            if other.tag == loaded.tag:  # it is this process that had not heard of a refresh
                self._caught_up(sight)
            else:
                self._fell_behind(sight)
            return loaded
        except ConfigurationError as no:
            loaded = read(ids)  # which says no, too, if it is for what was asked
            self._failed(sight, no)
            return loaded
        except (MvrefreshError, psycopg.Error) as error:
            self._failed(sight, error)
            return read(ids)
        self._caught_up(sight)
        if not _is_current(sight.content, way.tag):  # a refresh has come meanwhile
            return read(ids)
        self._answered += 1
        return loaded

    def everything(self, limit: int, keep: int, go_on: Callable[[], bool]) -> Load:
        """As `HierarchyReader.everything`.

        It is not in a hurry: a refresh that has made it necessary may take a moment to arrive at
        the replica, and a whole fleet would read the whole view from one server.
        """
        content, pause = self._tree.content, _SHORTLY_BEHIND
        content.see()
        if content.tag is None and not content.blind:
            content.look()
        since = self._tree.behind.degraded_since
        until = monotonic() + (_CATCH_UP if since is None or time() - since < _CATCH_UP else 0.0)
        while go_on() and content.tag is not None and not self._breaker.is_open:
            try:
                load = self._load(limit, keep, go_on, content.tag)
            except OtherContent:
                if monotonic() >= until:
                    break
                sleep(pause)
                pause *= 2
            except (MvrefreshError, psycopg.Error) as error:
                if not go_on():  # somebody has hung up, because nobody wants it any more
                    return Load(None, None, None)
                self._failed(self._tree, error)
            else:
                if load.hierarchy is not None and load.tag == content.tag:
                    self._caught_up(self._tree)
                    self._answered += 1
                    return load._replace(as_of=None)
                break
        return self._reader.everything(limit, keep, go_on)

    def _load(self, limit: int, keep: int, go_on: Callable[[], bool], tag: Tag) -> Load:
        with Patience(_LOAD_PATIENCE, partial(self._replica.sever, current_crew())) as patience:

            def alive() -> bool:
                patience.heard()
                return go_on()

            return self._reader.everything(limit, keep, alive, Way(self._replica.dedicated, tag))

    # -- what it is like -----------------------------------------------------------------------

    def _probe(self) -> None:
        """Read a little of what has failed last."""
        sight = self._suspect
        try:
            with suppress(OtherContent):  # which is an answer
                sight.read((), Way(self._replica.reader, sight.content.tag))
        except Exception:  # noqa: BLE001 - whatever it is, it is not well
            self._breaker.failed()
        else:
            if self._breaker.succeeded():
                self._mended(_ITSELF)

    def _failed(self, sight: _Sight, error: Exception) -> None:
        sight.behind.gave_up()
        self._suspect = sight
        if self._breaker.failed():
            self._troubled(_ITSELF, message_of(error))

    def _fell_behind(self, sight: _Sight) -> None:
        sight.behind.failed()
        since = sight.behind.degraded_since
        if since is not None and (lag := time() - since) >= _LAGS:
            self._troubled(
                sight.view,
                f"it shows another content of {sight.view} than the current one for {lag:.0f} s: "
                "its replay lags, or it is no standby of this server",
            )

    def _caught_up(self, sight: _Sight) -> None:
        if sight.behind.succeeded():
            self._mended(sight.view)

    def _troubled(self, what: str, why: str) -> None:
        with self._lock:
            first = not self._troubles
            self._troubles.add(what)
            if first:
                self.degraded_since = time()
        if first:
            self._tell(TierDegraded(NAME, why))

    def _mended(self, what: str) -> None:
        with self._lock:
            last = self._troubles == {what}
            self._troubles.discard(what)
            if last:
                self.degraded_since = None
        if last:
            self._tell(TierRecovered(NAME))

    def figures(self) -> dict[str, Any]:
        """What it has done, as part of the figures of L4."""
        return {
            "replica_reads": self._answered,
            "replica_too_old": self._tree.behind.errors + self._tally.behind.errors,
            "replica_errors": self._breaker.errors,
            "replica_degraded_since": self.degraded_since,
        }


NO_FIGURES: Final = {
    "replica_reads": 0,
    "replica_too_old": 0,
    "replica_errors": 0,
    "replica_degraded_since": None,
}
"""Where there is no replica."""


def _is_current(content: Content, tag: Tag | None) -> bool:
    if content.strict:
        content.check()
    return tag == content.tag

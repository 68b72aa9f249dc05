"""Keeps the whole hierarchy in memory where it fits, loaded in the background after each change.

Until it is loaded, and from the moment at which another content becomes current until that is,
look-ups go the usual way: nobody waits for a load, and nobody gets an answer of an earlier content.
Where few rows have changed, the hierarchy stays, with **gaps**: only what is asked of those rows,
and subtrees, go the usual way. It is loaded again when many are missing, or a subtree is asked for.
"""

from __future__ import annotations

import logging
from sys import getrefcount
from threading import Lock
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mvrefresh.refreshing.threads import crew_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mvrefresh.cache.content import Content
    from mvrefresh.cache.tier import Tag
    from mvrefresh.hierarchy.resident import ResidentHierarchy
    from mvrefresh.refreshing.threads import Work

log = logging.getLogger("mvrefresh")

_TRIES: Final = 3  # against a view that is refreshed while it is read
_AGAIN_AFTER_FAILURE: Final = 10.0  # seconds
_LOOKS, _GLANCE = 100, 0.01  # times, seconds: for who reads what is over
_SHARE: Final = 4  # the pause after loads in vain is so many times as long as they took
_GAPS: Final = 0.02  # the share of the entities that may be missing


class Load(NamedTuple):
    """What a read of the whole view gave.

    Attributes:
        hierarchy: None: it is too big.
        tag, as_of: As in `Loaded`.
    """

    hierarchy: ResidentHierarchy | None
    tag: Tag | None
    as_of: float | None


class Residence:
    """Where the resident hierarchy is, if it is there. Any thread may ask.

    Args:
        content: Of the view.
        load: Reads all of it; asks its argument now and then whether to go on.
        wanted: False: it is never loaded.

    Attributes:
        current: The hierarchy of the current content; None while it is not in memory.
        loads: How often it was loaded.
        moved_in: Called when it is there, before another content can be current.
    """

    __slots__ = (
        "_closed", "_content", "_leaving", "_load", "_loading", "_lock", "_mended_until",
        "_not_before", "_parked", "_refused", "_work", "current", "loads", "moved_in",
    )  # fmt: skip

    def __init__(
        self,
        content: Content,
        load: Callable[[Callable[[], bool]], Load],
        *,
        wanted: bool = True,
    ) -> None:
        self.current: ResidentHierarchy | None = None
        self.loads = 0
        self.moved_in: Callable[[], None] = lambda: None
        self._content = content
        self._load = load
        self._lock = Lock()
        self._loading = False
        self._leaving: list[ResidentHierarchy] = []
        self._not_before = 0.0
        self._mended_until = 0.0  # until then, gaps are borne
        self._refused: Tag | None = None  # the content that was too big
        self._closed = not wanted
        self._work: Work[None] | None = None
        self._parked: ResidentHierarchy | None = None
        content.follow(self)

    def retag(self, tag: Tag | None, *, park: bool = False) -> None:
        """Forget what is of another content, and load this one if there was one before."""
        there, self.current = self.current, None
        if park:
            self._parked = self._parked if there is None else there
            return
        parked, self._parked = self._parked, None
        if parked is not None and tag is not None and parked.tag == tag:
            self.current = parked
            return
        self._leaving += [each for each in (there, parked) if each is not None]
        if self._leaving and tag is not None:
            self.want()

    def advance(self, before: Tag, tag: Tag, keys: Collection[Any]) -> None:
        """Keep it, with gaps where rows differ."""
        there = self._parked if self.current is None else self.current
        if there is None or there.tag != before:
            self.retag(tag)
            return
        there.forget(keys, tag)
        self.current, self._parked = there, None
        if there.gaps > _GAPS * len(there):
            self.mend()

    def discard(self, keys: Collection[Any]) -> None:
        """Forget some rows."""
        there = self.current
        if there is not None and there.tag is not None:
            there.forget(keys, there.tag)

    def after_fork(self) -> None:
        """In a forked child: nobody is in the middle of anything."""
        self._lock = Lock()
        self._loading = False
        for each in (self.current, self._parked):
            if each is not None:
                each.after_fork()

    def want(self) -> None:
        """Load it, if that is not being done and there is hope; returns at once."""
        if self.current is None:
            self._begin()

    def mend(self) -> None:
        """Load it again if it has gaps, but not all the time; returns at once."""
        current = self.current
        if current is not None and current.gaps and monotonic() >= self._mended_until:
            self._begin()

    def _begin(self) -> None:
        if self._may_begin():
            with self._lock:
                if self._may_begin():
                    self._loading = True
                    self._work = crew_thread(self, "mvrefresh-resident", self._run)

    def _may_begin(self) -> bool:
        return (
            not self._loading
            and not self._closed
            and monotonic() >= self._not_before
            and (self._refused is None or self._refused != self._content.tag)
        )

    def wait(self, timeout: float | None = None) -> bool:
        """Load it now, and wait for it; whether it is there then."""
        self.want()
        work = self._work
        if work is not None:
            work.thread.join(timeout)
        return self.current is not None

    def _run(self) -> None:
        began = monotonic()
        try:
            settled = any(self._settled() for _ in range(_TRIES))
            pause = monotonic() + _SHARE * (monotonic() - began)
            self._mended_until = pause
            if not settled:
                # It is refreshed faster than it is loaded: the usual way is better then.
                self._not_before = pause
        except Exception as error:  # noqa: BLE001 - look-ups go on without
            self._not_before = monotonic() + _AGAIN_AFTER_FAILURE
            if not self._closed:
                log.warning("the hierarchy could not be loaded into memory: %s", error)
        finally:
            while self._leaving:
                _take_apart(self._leaving.pop())
            self._loading = False

    def _settled(self) -> bool:
        """Load once; whether that decided it."""
        found = self._load(lambda: not self._closed)
        if self._closed:
            return True
        self._content.settle(found.tag)
        hierarchy = found.hierarchy
        if hierarchy is None or found.tag is None:
            self._refused = found.tag
            self._not_before = monotonic() + _AGAIN_AFTER_FAILURE
            return True

        def move_in(tag: Tag, changed: Collection[Any]) -> None:
            hierarchy.forget(changed, tag)
            if self.current is not None:
                self._leaving.append(self.current)
            self.current = hierarchy
            self.moved_in()

        if not self._content.publish(found.tag, move_in):
            return False
        self._content.stand(found.tag, found.as_of)
        self.loads += 1
        return True

    def close(self, hang_up: Callable[[object], None]) -> None:
        """Forget it, and load it no more.

        Args:
            hang_up: Ends what the threads of a crew wait for in the database.
        """
        with self._lock:
            self._closed = True
            work = self._work
        if work is not None:
            while work.thread.is_alive():
                hang_up(self)
                work.thread.join(0.05)
        self.current = self._parked = None


def _references(found: object) -> int:
    return getrefcount(found)


def _references_of_an_argument(found: object) -> int:
    return _references(found)


_ALONE: Final = _references_of_an_argument(object())
"""As many references as `_take_apart` has to an argument that nobody else has."""


def _take_apart(hierarchy: ResidentHierarchy) -> None:
    """Free what is over in small parts: at once, it would hold all threads up meanwhile."""
    for _ in range(_LOOKS):
        if _references(hierarchy) <= _ALONE:  # no look-up is in the middle of it any more
            hierarchy.take_apart()
            return
        sleep(_GLANCE)

"""One thread that ends what has lived long enough, for all tiers and leases of the process."""

from __future__ import annotations

import os
import weakref
from threading import Condition
from typing import Final, Protocol

from mvrefresh.refreshing.threads import OurThread

_OFTEN: Final = 0.05  # seconds between two rounds at least
_SELDOM: Final = 5.0  # and at most


class Swept(Protocol):
    """Holds what ends by itself: entries of a tier, the lease of a content."""

    def sweep(self) -> float | None:
        """End what is over; seconds until it is to be asked again, None: when it is convenient."""
        ...


class Sweeper:
    """Sweeps the tiers that it knows, for as long as there are any. Any thread may add one."""

    def __init__(self) -> None:
        self._tiers: weakref.WeakSet[Swept] = weakref.WeakSet()
        self._changed = Condition()
        self._thread: OurThread | None = None

    def add(self, tier: Swept) -> None:
        """Sweep this tier from now on, until it is removed or gone."""
        with self._changed:
            self._tiers.add(tier)
            if self._thread is None:
                self._thread = OurThread(target=self._run, name="mvrefresh-sweeper")
                self._thread.start()
            self._changed.notify()

    def remove(self, tier: Swept) -> None:
        """Sweep it no more; with the last one the thread ends, and this waits for it."""
        with self._changed:
            self._tiers.discard(tier)
            thread = self._thread if not self._tiers else None
            self._changed.notify()
        if thread is not None:
            thread.join(_SELDOM)

    def _run(self) -> None:
        while True:
            with self._changed:
                tiers = list(self._tiers)
                if not tiers:
                    self._thread = None
                    return
            pauses = [pause for tier in tiers if (pause := tier.sweep()) is not None]
            del tiers  # a weak reference must be able to end while we wait
            with self._changed:
                self._changed.wait(max(_OFTEN, min([_SELDOM, *pauses])))

    def forget_parent(self) -> None:
        """In a forked child there is no such thread; the tiers that are here need one."""
        tiers = list(self._tiers)
        self.__init__()  # type: ignore[misc]
        for tier in tiers:
            self.add(tier)


SWEEPER: Final = Sweeper()
"""That of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SWEEPER.forget_parent)

"""One read for many keys that are missed at the same time.

Who comes while one is under way waits for it to end, and all who came are served by the next.
A read costs its round trip far more than its keys. A single thread never waits here: without
company, its key is read at once. With sixteen, one statement brings what sixteen would.
"""

from __future__ import annotations

from threading import Event, Lock
from typing import TYPE_CHECKING, Generic, TypeVar

from mvrefresh.cache.tier import MISSING, Missing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

K = TypeVar("K")
V = TypeVar("V")

_PATIENCE = 0.01  # seconds that a batch waits for the read before it: that one may hang


class _Batch(Generic[K, V]):
    """Keys that are read together.

    Attributes:
        turn: The read before it has ended: who opened it is to read.
        over: It was read.
        values: By key; None: it failed.
    """

    __slots__ = ("keys", "over", "turn", "values")

    def __init__(self, key: K) -> None:
        self.keys = [key]
        self.turn = Event()
        self.over = Event()
        self.values: Mapping[K, V] | None = None


class Gather(Generic[K, V]):
    """Reads keys, those together that are asked for at the same time. Any thread may ask.

    Args:
        read: Reads many keys; those that do not exist are not in what it gives.
    """

    __slots__ = ("_lock", "_open", "_read", "_reading")

    def __init__(self, read: Callable[[Sequence[K]], Mapping[K, V]]) -> None:
        self._read = read
        self._lock = Lock()
        self._reading = 0
        self._open: _Batch[K, V] | None = None  # the one that is read next: it takes keys

    def load(self, key: K) -> V | Missing:
        """The value of a key.

        Raises:
            Exception: What reading it raised: it alone, where it failed with others.
        """
        with self._lock:
            batch, opened = self._open, False
            if batch is not None:
                batch.keys.append(key)
            elif self._reading:
                batch = self._open = _Batch(key)
                opened = True
            else:
                self._reading += 1
        if batch is None:
            try:
                return self._read([key]).get(key, MISSING)
            finally:
                self._end()
        if opened:
            self._serve(batch)
        else:
            batch.over.wait()
        if batch.values is None:  # one of them may have spoilt it for all
            return self._read([key]).get(key, MISSING)
        return batch.values.get(key, MISSING)

    def _serve(self, batch: _Batch[K, V]) -> None:
        """Read a batch when its turn has come; what goes wrong is each key's own affair."""
        batch.turn.wait(_PATIENCE)
        with self._lock:
            self._open = None
            self._reading += 1
        try:
            batch.values = self._read(batch.keys)
        except Exception:  # noqa: BLE001, S110 - each of them reads again, and gets its own
            pass
        finally:
            batch.over.set()
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._reading -= 1
            if self._open is not None:
                self._open.turn.set()

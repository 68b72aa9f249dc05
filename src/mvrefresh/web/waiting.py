"""How a route waits: for a future, on the event loop, never on a thread of the framework's.

The threads are this package's own, so that a hundred callers who wait keep nobody of the host's
other endpoints waiting.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, wait
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Final, Generic, ParamSpec, TypeVar

from mvrefresh.aio import AsyncHierarchyResolver, Threads, joined
from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.errors import RefreshTimeout, Stopping
from mvrefresh.refreshing.threads import crew_thread, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
PATIENCE: Final = 15.0  # seconds for an answer: to connect to a server that hangs takes ten
_AGAIN: Final = 0.1  # seconds; what was about to begin when it was cancelled
_PATIENCE: Final = 2.0  # seconds for the server to end what is cancelled


def on_a_thread(name: str, work: Callable[[], T]) -> Future[T]:
    """Call `work` on a new thread, for what may take as long as a refresh.

    A daemon, so that a process ends without it; and a stranger to the service, whose own threads
    cannot wait for it to stop.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    Thread(target=settle, args=(future, work), name=name, daemon=True).start()
    return future


async def within(future: Future[T], timeout: float | None) -> T:  # noqa: ASYNC109 - of the future
    """What comes of a future that others may wait for, too.

    Raises:
        RefreshTimeout: Nothing did in so many seconds; it goes on.
    """
    try:
        async with asyncio.timeout(timeout):
            return await joined(future)
    except TimeoutError:
        if future.done():
            return future.result()
        raise RefreshTimeout(f"the refresh was not done within {timeout:g} s") from None


class Together(Generic[T]):
    """A long call: who asks while it runs waits for the same one."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        self._name = name
        self._work = work
        self._future: Future[T] | None = None

    @property
    def pending(self) -> bool:
        """Whether it runs."""
        return self._future is not None and not self._future.done()

    async def __call__(self, *, anew: bool = False) -> tuple[T, bool]:
        """What it gives, and whether it was begun for this caller; `anew`: join no other."""
        future, begun = self._future, False
        if anew or future is None or future.done():
            future, begun = on_a_thread(self._name, self._work), True
            self._future = future
        return await joined(future), begun


class InTurn(Generic[T]):
    """A long call, one at a time: who asks while it runs waits for the next one, with all others.

    So that what a caller gets was begun after he asked, and a crowd costs two calls.

    Args:
        name: Of the thread.
        work: The call.
        cancel: Ends it early in the server, in so many seconds, and says whether that was enough;
            None: nothing can.
        sever: Hangs up on a server that does not answer, for the threads of a crew.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], T],
        cancel: Callable[[float], bool] | None = None,
        sever: Callable[[object], object] = lambda _: None,
    ) -> None:
        self._name = name
        self._work = work
        self._cancel = cancel
        self._sever = sever
        self._crew = object()
        self.after_fork()
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: the thread and its callers are the parent's."""
        self._lock = Lock()
        self._running: Future[None] | None = None
        self._next: Future[T] | None = None

    def ask(self) -> Future[T]:
        """Begin it, or join the next; waits for nothing."""
        with self._lock:
            if self._next is None:
                self._next = Future()
            future = self._next
            if self._running is None:
                self._running = crew_thread(self._crew, self._name, self._serve)
        return future

    def close(self) -> None:
        """End what runs, and return when nothing does that can be ended; asking begins anew."""
        with self._lock:
            running, waiting, self._next = self._running, self._next, None
        if waiting is not None and waiting.set_running_or_notify_cancel():
            waiting.set_exception(Stopping("the application stops"))
        if self._cancel is None or running is None:
            return
        since = monotonic()
        while not running.done():
            if not self._cancel(_PATIENCE) or monotonic() - since > _PATIENCE:
                self._sever(self._crew)
            wait([running], timeout=_AGAIN)

    def _serve(self) -> None:
        while True:
            with self._lock:
                future, self._next = self._next, None
                if future is None:
                    self._running = None
                    return
            if future.set_running_or_notify_cancel():
                settle(future, self._work)


class Waiting:
    """The threads of one router: made when they are needed, gone with the app.

    Args:
        resolver: Whose look-ups are waited for.
        threads: For each of its two uses, at most.
        patience: Seconds for a call; by default `PATIENCE`.
    """

    def __init__(
        self,
        resolver: OptimizedHierarchyResolver | None = None,
        *,
        threads: int = THREADS,
        patience: float | None = None,
    ) -> None:
        self._resolver = resolver
        self._count = threads
        self._patience = PATIENCE if patience is None else patience
        self._face: AsyncHierarchyResolver | None = None
        self._threads: Threads | None = None

    @property
    def face(self) -> AsyncHierarchyResolver:
        """The resolver, for the event loop."""
        if self._face is None:
            assert self._resolver is not None  # noqa: S101 - its routes are not there without
            self._face = AsyncHierarchyResolver(self._resolver, threads=self._count)
        return self._face

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` gives, on a thread; for what takes milliseconds as a rule.

        Raises:
            DatabaseUnavailable: It took longer than the patience.
        """
        if self._threads is None:
            self._threads = Threads("mvrefresh-web", self._count)
        return await self._threads.within(self._patience, work, *args, **kwargs)

    async def close(self) -> None:
        """Wait for what runs, or end it; another call makes them anew."""
        face, self._face = self._face, None
        threads, self._threads = self._threads, None
        if face is not None:
            await face.close()
        if threads is not None:
            await threads.close()

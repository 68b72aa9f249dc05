"""The asynchronous face, for hosts on an event loop.

The engine is synchronous: a statement of minutes gains nothing from an event loop, and a hit in
memory must not pay for one. So **what is in memory is answered at once**, without a thread and
without a pause. All else is done on threads of the face's own: never on those of the host's
framework, which its other endpoints need.

**A task that is cancelled ends its work in the server**, too: its statement is cancelled there.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import psycopg

from mvrefresh.errors import ConfigurationError, DatabaseUnavailable, Stopping
from mvrefresh.postgres.reach import REACH
from mvrefresh.refreshing.cancellation import Cancellation
from mvrefresh.refreshing.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import Self

    from mvrefresh.hierarchy.node import Answer, Chain, HierarchyCounts, HierarchyNode
    from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver
    from mvrefresh.refreshing.plan import ViewLike
    from mvrefresh.refreshing.report import FinalMetrics, RefreshOutcome, RefreshReport
    from mvrefresh.service.health import ServiceHealth
    from mvrefresh.service.service import RefreshService
    from mvrefresh.service.status import ServiceStatus

__all__ = ["AsyncHierarchyResolver", "AsyncRefreshService"]

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
PATIENCE: Final = 2.0  # seconds for a server to end what is cancelled, before it is hung up on
CLOSING: Final = 5.0  # seconds for what runs, before it is ended


class _BrokenOffError(BaseException):
    """A look-up ended because its task was cancelled.

    Not an `Exception`: those who wait for the same look-up are not to have it, but to look again.
    """


class Threads:
    """So many threads, on which work can be waited for, and ended."""

    def __init__(self, name: str, threads: int) -> None:
        if threads < 1:
            raise ConfigurationError(f"threads={threads} is less than 1")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._ends: dict[Future[Any], Callable[[], object]] = {}

    async def within(
        self, seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `call`, and no longer than so: a server that hangs never answers.

        Raises:
            DatabaseUnavailable: It took longer.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self.call(work, *args, **kwargs)
        except TimeoutError:
            if not limit.expired():  # the work's own
                raise
            raise DatabaseUnavailable(f"there was no answer within {seconds:g} s") from None

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` gives, on one of the threads; if the task is cancelled, the server is."""
        cancellation = Cancellation()

        @contextmanager
        def reaches(connection: psycopg.Connection[Any]) -> Iterator[None]:
            with cancellation.reaches(connection):
                if cancellation.requested:  # while it had none in hand
                    raise _BrokenOffError
                try:
                    yield
                except psycopg.errors.QueryCanceled:
                    if cancellation.requested:
                        raise _BrokenOffError from None
                    raise

        def reachable() -> T:
            REACH.set(reaches)
            return work(*args, **kwargs)

        return await self.until_cancelled(
            partial(copy_context().run, reachable), partial(_end, cancellation)
        )

    async def until_cancelled(self, work: Callable[[], T], cancel: Callable[[], object]) -> T:
        """What `work` gives; if the task is cancelled, `cancel` is called, which is to end it."""
        future = self._pool.submit(work)
        self._ends[future] = cancel
        future.add_done_callback(self._ends.pop)
        try:
            return await asyncio.wrap_future(future)
        except _BrokenOffError:  # by `close`
            raise Stopping("the application stops") from None
        except asyncio.CancelledError:
            if not future.cancel() and not future.done():
                # On a thread of its own: all of ours may be waiting in the server.
                await joined(in_thread("mvrefresh-cancel", cancel))
            raise

    async def close(self) -> None:
        """Wait for what runs, for some seconds; then end it in the server."""
        self._pool.shutdown(wait=False)
        left = await self._left(CLOSING)
        for future in left:
            end = self._ends.get(future)
            if end is not None:
                in_thread("mvrefresh-cancel", end)
        await self._left(CLOSING)

    async def _left(self, seconds: float) -> list[Future[Any]]:
        """What still runs after so many seconds."""
        if running := list(self._ends):
            await asyncio.wrap_future(in_thread("mvrefresh-close", wait, running, seconds))
        return [future for future in running if not future.done()]


def heard(future: Future[T]) -> asyncio.Future[T]:
    """The same, for the event loop. If nobody waits for it any more, its error is no fault."""
    theirs = asyncio.wrap_future(future)
    theirs.add_done_callback(lambda done: done.cancelled() or done.exception())
    return theirs


def joined(future: Future[T]) -> asyncio.Future[T]:
    """What can be awaited, and left without an end to it."""
    return asyncio.shield(heard(future))


def _end(cancellation: Cancellation) -> None:
    """In the server, and if that does not answer, here."""
    if not cancellation.cancel(PATIENCE):
        cancellation.sever()


class AsyncHierarchyResolver:
    """A resolver for an event loop: what looks up and refreshes, as `OptimizedHierarchyResolver`.

    Args:
        resolver: Who answers; it stays the host's to close.
        threads: For what is not in memory, at most.

    Raises:
        ConfigurationError: `threads` is less than 1.
    """

    def __init__(self, resolver: OptimizedHierarchyResolver, *, threads: int = THREADS) -> None:
        self._resolver = resolver
        self._threads = Threads("mvrefresh-aio", threads)

    async def ancestors(self, entity_id: Any, max_staleness: float | None = None) -> Chain:
        """See `OptimizedHierarchyResolver.ancestors`; at once, if they are in memory."""
        if max_staleness is None:
            found = self._resolver.from_memory(entity_id)
            if found is not None:
                return found
        return await self._threads.call(self._resolver.ancestors, entity_id, max_staleness)

    async def ancestors_many(self, entity_ids: Iterable[Any]) -> dict[Any, Chain]:
        """See `OptimizedHierarchyResolver.ancestors_many`."""
        ids = list(entity_ids)
        found = {}
        for entity in ids:
            chain = self._resolver.from_memory(entity)
            if chain is not None:
                found[entity] = chain
        missing = [entity for entity in ids if entity not in found]
        if missing:
            found |= await self._threads.call(self._resolver.ancestors_many, missing)
        return found

    async def node(self, entity_id: Any) -> HierarchyNode:
        """See `OptimizedHierarchyResolver.node`."""
        return await self._threads.call(self._resolver.node, entity_id)

    async def nodes_many(self, entity_ids: Iterable[Any]) -> dict[Any, HierarchyNode]:
        """See `OptimizedHierarchyResolver.nodes_many`."""
        return await self._threads.call(self._resolver.nodes_many, list(entity_ids))

    async def path(self, entity_id: Any) -> str | None:
        """See `OptimizedHierarchyResolver.path`."""
        return (await self.node(entity_id)).path

    async def is_ancestor(self, ancestor_id: Any, entity_id: Any) -> bool:
        """See `OptimizedHierarchyResolver.is_ancestor`."""
        return any(node.id == ancestor_id for node in await self.ancestors(entity_id))

    async def lowest_common_ancestor(self, entity_ids: Iterable[Any]) -> HierarchyNode | None:
        """See `OptimizedHierarchyResolver.lowest_common_ancestor`."""
        return await self._threads.call(self._resolver.lowest_common_ancestor, list(entity_ids))

    async def look_up(self, entity_id: Any) -> Answer[Chain]:
        """See `OptimizedHierarchyResolver.look_up`."""
        return await self._threads.call(self._resolver.look_up, entity_id)

    async def descendants(
        self,
        entity_id: Any,
        *,
        max_depth: int | None = None,
        limit: int | None = None,
        after: HierarchyNode | None = None,
    ) -> Chain:
        """See `OptimizedHierarchyResolver.descendants`."""
        return await self._threads.call(
            self._resolver.descendants, entity_id, max_depth=max_depth, limit=limit, after=after
        )

    async def children(self, entity_id: Any) -> Chain:
        """See `OptimizedHierarchyResolver.children`."""
        return await self.descendants(entity_id, max_depth=1)

    async def counts(self, entity_id: Any, max_staleness: float | None = None) -> HierarchyCounts:
        """See `OptimizedHierarchyResolver.counts`."""
        return await self._threads.call(self._resolver.counts, entity_id, max_staleness)

    async def counts_many(self, entity_ids: Iterable[Any]) -> dict[Any, HierarchyCounts]:
        """See `OptimizedHierarchyResolver.counts_many`."""
        return await self._threads.call(self._resolver.counts_many, list(entity_ids))

    async def refresh_materialized_view(self, name: ViewLike) -> RefreshOutcome:
        """See `OptimizedHierarchyResolver.refresh_materialized_view`; cancelled with the task."""
        return (await self._refresh([name])).outcomes[0]

    async def refresh_all_materialized_views(self) -> RefreshReport:
        """See `OptimizedHierarchyResolver.refresh_all_materialized_views`; the same."""
        return await self._refresh(None)

    async def _refresh(self, views: Sequence[ViewLike] | None) -> RefreshReport:
        runner = self._resolver.runner()
        return await self._threads.until_cancelled(
            partial(self._resolver.refresh_with, runner, views), runner.cancel
        )

    async def look_again(self) -> None:
        """See `OptimizedHierarchyResolver.look_again`."""
        await self._threads.call(self._resolver.look_again)

    def cache_metrics(self) -> dict[str, dict[str, Any]]:
        """See `OptimizedHierarchyResolver.cache_metrics`; it waits for nobody."""
        return self._resolver.cache_metrics()

    async def close(self) -> None:
        """Wait for what runs. The resolver stays the host's to close."""
        await self._threads.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncRefreshService:
    """A service for an event loop: nothing of it waits on the loop's thread.

    Args:
        service: Who works; `async with` starts and stops it.
    """

    def __init__(self, service: RefreshService) -> None:
        self._service = service
        self._threads = Threads("mvrefresh-aio-service", 2)

    async def start(self) -> bool:
        """See `RefreshService.start`; if the task is cancelled, what it has begun is stopped."""
        left, began = Event(), list[bool]()

        def start() -> bool:
            began.append(self._service.start())
            if began[0] and left.is_set():
                self._service.stop(0)
            return began[0]

        try:
            return await self._threads.call(start)
        except asyncio.CancelledError:
            left.set()
            if began and began[0]:
                in_thread("mvrefresh-aio-stop", self._service.stop, 0)
            raise

    async def stop(self, timeout: float | None = None) -> FinalMetrics:  # noqa: ASYNC109
        """See `RefreshService.stop`; the timeout is the service's: it cancels what runs then."""
        return await self._threads.call(self._service.stop, timeout)

    async def force(
        self, views: Iterable[ViewLike] | None = None, *, cascade: bool = False
    ) -> RefreshReport:
        """See `RefreshService.force`.

        A task that is cancelled gives up waiting, and no more: callers share refreshes, and others
        may wait for this one.
        """

        def begin() -> Future[RefreshReport]:
            return self._service.force(views, cascade=cascade, wait=False)

        future = await self._threads.call(begin)
        return await joined(future)

    async def status(self) -> ServiceStatus:
        """See `RefreshService.status`."""
        return await self._threads.call(self._service.status)

    def health(self) -> ServiceHealth:
        """See `RefreshService.health`; it waits for nobody."""
        return self._service.health()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        await self._threads.close()

"""Starts and stops with the app what the app uses.

Each worker process runs its own lifespan, after any fork. So a service that is started here runs
in every worker; the fleet sees to it that a view that is due is refreshed by one of them.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mvrefresh.errors import ConfigurationError
from mvrefresh.postgres.database import Database
from mvrefresh.web.waiting import on_a_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager


def lifespan(
    *resources: Any, stop_timeout: float | None = 20.0
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan for `FastAPI(lifespan=...)` that starts and stops services, and closes the rest.

    Nothing of it waits on the event loop. If one cannot be started, those before it are stopped
    and closed, and the app does not start.

    Args:
        resources: In the order in which they need each other, `lifespan(db, resolver, service)`:
            what has `start` and `stop` is started, in this order, and stopped; what has `close`
            is closed. All of it in the reverse order, at the end.
        stop_timeout: Seconds after which a refresh that still runs is cancelled in the server.

    Raises:
        ConfigurationError: One of them can neither be stopped nor be closed; at the start, the
            database is closed: an application is started once.
    """
    for each in resources:
        if not _has(each, "start", "stop") and not _has(each, "close"):
            raise ConfigurationError(f"{each!r:.200} has neither start() and stop() nor close()")

    @asynccontextmanager
    async def span(_app: Any) -> AsyncIterator[None]:
        for each in resources:
            if isinstance(each, Database) and each.closed:
                raise ConfigurationError(
                    f"{each!r:.200} is closed, as at the end of every lifespan: make it in the"
                    " function that makes the application, for each start anew"
                )
        async with AsyncExitStack() as stack:
            for each in resources:
                if _has(each, "start", "stop"):
                    stop = partial(each.stop, stop_timeout)
                    stack.push_async_callback(_elsewhere, stop)  # also if it starts by half
                    await _elsewhere(each.start)
                else:
                    stack.push_async_callback(_elsewhere, each.close)
            yield

    return span


def _has(resource: object, *names: str) -> bool:
    return all(callable(getattr(resource, name, None)) for name in names)


async def _elsewhere(work: Callable[[], object]) -> None:
    await asyncio.shield(asyncio.wrap_future(on_a_thread("mvrefresh-lifespan", work)))

"""How the process is, looked at every 30 seconds in the background: a request only reads it.

What a service notices in between (`HealthChanged`) is looked at, too. One look at a time. A look
that does not come back is a finding of its own: the database does not answer. Then the next one
waits for it, so that a server that hangs is not asked again and again.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from time import time
from typing import TYPE_CHECKING, Any, Final

from mvrefresh.aio import heard, joined
from mvrefresh.events import HealthChanged, ServiceStarted, ServiceStopped
from mvrefresh.service.health import Check, ServiceHealth, pool_check
from mvrefresh.web.waiting import on_a_thread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from redis import Redis

    from mvrefresh.events import Event
    from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver
    from mvrefresh.postgres.database import Database
    from mvrefresh.service.service import RefreshService

EVERY: Final = 30.0
PATIENCE: Final = 10.0
REDIS_PATIENCE: Final = 3.0
_FIRST: Final = 2.0  # seconds that a request waits for the first look of all

_OF_THE_SERVICE: Final = ("service", "overdue", "suspended", "unknown")


class HealthWatch:
    """Looks in the background. Its methods are the event loop's.

    Args:
        database: Asked for a sign of life, and the use of its pool.
        service, resolver, redis: Looked at where there is one.
        every: Seconds between two looks.
        patience: Seconds after which a look counts as not coming back.
    """

    def __init__(
        self,
        database: Database,
        *,
        service: RefreshService | None = None,
        resolver: OptimizedHierarchyResolver | None = None,
        redis: Redis | None = None,
        every: float = EVERY,
        patience: float = PATIENCE,
    ) -> None:
        self._database = database
        self._service = service
        self._resolver = resolver
        self._redis = redis
        self._every = every
        self._patience = patience
        self._found: ServiceHealth | None = None
        self._first = asyncio.Event()
        self._bell = asyncio.Event()
        self._ping: Future[Any] | None = None
        self._heard: ExitStack | None = None  # the subscription to the service
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.looks = 0

    # -- the background ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look, unless it is done already on this event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._task is None or self._task.done():
            self._loop, self._first, self._bell = loop, asyncio.Event(), asyncio.Event()
            if self._service is not None and self._heard is None:
                self._heard = ExitStack()
                self._heard.enter_context(self._service.subscribe(self._hear))
            self._task = loop.create_task(self._run(), name="mvrefresh-health")

    async def stop(self) -> None:
        """Look no more."""
        task, self._task = self._task, None
        if self._heard is not None:
            self._heard.close()
            self._heard = None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._found = None

    def _hear(self, event: Event) -> None:
        """On whatever thread the service says so."""
        if isinstance(event, HealthChanged | ServiceStarted | ServiceStopped):
            loop = self._loop
            if loop is not None:
                with suppress(RuntimeError):  # it is closed
                    loop.call_soon_threadsafe(self._bell.set)

    async def _run(self) -> None:
        while True:
            future = on_a_thread("mvrefresh-health", self.look)
            try:
                async with asyncio.timeout(self._patience):
                    self._found = await joined(future)
            except TimeoutError:
                self._found = self._silence()
                self._first.set()
                # What comes late is of then: the next look says what is now.
                await asyncio.wait([heard(future)])
            except Exception as error:  # noqa: BLE001 - a look must not end the looking
                self._found = self._silence(f"the look itself failed: {type(error).__name__}")
            self._first.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._bell.wait()
            self._bell.clear()

    def _silence(self, why: str = "") -> ServiceHealth:
        known = {} if self._found is None else dict(self._found.checks)
        why = why or f"the database has not answered for {self._patience:g} s"
        return ServiceHealth(
            {**_unknown("not looked at"), **known, "database": Check("unhealthy", why)}, time()
        )

    @property
    def checked_at(self) -> float | None:
        """Unix seconds of the last look; None before the first."""
        return None if self._found is None else self._found.checked_at

    async def latest(self) -> ServiceHealth:
        """What the last look found; before the first one has, wait for it a little."""
        self.start()
        if self._found is None:
            try:
                async with asyncio.timeout(_FIRST):
                    await self._first.wait()
            except TimeoutError:
                pass
        if self._found is None:
            return ServiceHealth(_unknown("not looked at yet", "unhealthy"))
        return self._found

    # -- one look, on a thread -----------------------------------------------------------------

    def look(self) -> ServiceHealth:
        """Look at everything once; it asks the servers."""
        self.looks += 1
        found = self._database.health()
        checks = {
            "database": Check("unhealthy", "the database does not answer")
            if found.status == "unhealthy"
            else Check(),
            "redis": self._look_at_redis(),
            "pool": pool_check(self._database.pool_use()),
            "listener": self._look_at_listener(),
            "service": self._look_at_service(),
        }
        return ServiceHealth(checks, time())

    def _look_at_redis(self) -> Check:
        if self._redis is not None:
            # On a thread of its own: a client without a timeout is not to accuse the database.
            if self._ping is None or self._ping.done():
                self._ping = on_a_thread("mvrefresh-health-redis", self._redis.ping)
            try:
                self._ping.result(REDIS_PATIENCE)
            except Exception as error:  # noqa: BLE001 - whatever a client of the host's raises
                return Check("degraded", f"Redis does not answer: {type(error).__name__}")
        figures = self._figures("l2_cache")
        if figures.get("degraded_since") is not None:
            return Check("degraded", "look-ups go round Redis, which failed")
        return Check()

    def _look_at_listener(self) -> Check:
        figures = self._figures("l1_cache")
        watch = figures.get("watch", "off")
        if watch == "connecting":
            return Check("degraded", "refreshes by other processes are not heard of at present")
        if figures.get("blind"):
            return Check("degraded", "nobody has said lately which content is current")
        return Check()

    def _figures(self, tier: str) -> Mapping[str, Any]:
        return {} if self._resolver is None else self._resolver.cache_metrics()[tier]

    def _look_at_service(self) -> Check:
        if self._service is None:
            return Check()
        if not self._service.running:
            return Check("degraded", "the refresh service is not running in this process")
        found = self._service.health().checks
        ours = ServiceHealth({name: found[name] for name in _OF_THE_SERVICE if name in found})
        return Check(ours.status, ours.detail)


def _unknown(why: str, status: str = "degraded") -> dict[str, Check]:
    names = ("database", "redis", "pool", "listener", "service")
    return {name: Check(status, why) for name in names}

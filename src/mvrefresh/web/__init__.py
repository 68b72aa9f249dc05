"""Routers that a FastAPI application mounts: the extra `fastapi`.

Read `refresh` first (the factory of the first router), then `automated` and `hierarchy` (its other
routes), `usage` and `ops`, `events` and `dashboard`. What they stand on: `models` (the shapes),
`errors` (which error is which answer), `waiting` (how a route waits), `lifespan`.
"""

from mvrefresh.web.dashboard.router import dashboard_router
from mvrefresh.web.events import events_router
from mvrefresh.web.lifespan import lifespan
from mvrefresh.web.ops import ops_router
from mvrefresh.web.refresh import refresh_router
from mvrefresh.web.usage import usage_router

__all__ = [
    "dashboard_router", "events_router", "lifespan", "ops_router", "refresh_router", "usage_router",
]  # fmt: skip

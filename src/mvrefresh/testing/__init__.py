"""For the tests of those who build on the library: a fake service, and contract suites.

`FakeRefreshService` stands in for a service where a host's tests have no database. A store, a
service or a cache tier of your own is one when it passes its suite: `MetricsStoreContract`,
`RefreshServiceContract`, `TierContract`. The suites need pytest, the rest does not; nothing else of
the library imports this package.

Reading order: `records`, `imagined` (views without a database), `fake`; `stores`, `services`,
`tiers`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from mvrefresh.testing.fake import FakeRefreshService
from mvrefresh.testing.records import a_record

if TYPE_CHECKING:
    from mvrefresh.testing.services import RefreshServiceContract, ServiceWorld
    from mvrefresh.testing.stores import MetricsStoreContract
    from mvrefresh.testing.tiers import TierContract

__all__ = [
    "FakeRefreshService",
    "MetricsStoreContract",
    "RefreshServiceContract",
    "ServiceWorld",
    "TierContract",
    "a_record",
]

_SUITES = {
    "MetricsStoreContract": "mvrefresh.testing.stores",
    "RefreshServiceContract": "mvrefresh.testing.services",
    "ServiceWorld": "mvrefresh.testing.services",
    "TierContract": "mvrefresh.testing.tiers",
}


def __getattr__(name: str) -> object:
    """Import a suite, and pytest with it, when it is asked for."""
    if (suite := _SUITES.get(name)) is not None:
        if suite not in sys.modules:
            import_module("pytest").register_assert_rewrite(suite)  # so that failures explain
        return getattr(import_module(suite), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

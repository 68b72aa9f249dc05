"""What a parameter takes: checked where it is given, so that a mistake is named there and at once.

By what is needed and not by class: a host's own, or one of `mvrefresh.testing`, does as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mvrefresh.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing that is passed around.

    Attributes:
        noun: What a message calls it.
        parameter: The name that a parameter for it has.
        has: Attributes by which it is known.
    """

    noun: str
    parameter: str
    has: tuple[str, ...]


DATABASE: Final = Kind("a Database", "database", ("connection", "dedicated", "schema"))
SERVICE: Final = Kind("a RefreshService", "service", ("force", "status", "events"))
RESOLVER: Final = Kind(
    "an OptimizedHierarchyResolver", "resolver", ("from_memory", "runner", "cache_metrics")
)
USAGE_SOURCE: Final = Kind("a UsageSource", "source", ("views", "function", "log"))
METRICS_STORE: Final = Kind("a metrics store", "metrics", ("record", "recent", "summary"))

_KINDS: Final = (DATABASE, SERVICE, RESOLVER, USAGE_SOURCE, METRICS_STORE)


def expect(value: object, kind: Kind, way: str, *needs: str) -> None:
    """Refuse what is not of a kind.

    Args:
        value: What was given.
        kind: What is meant.
        way: How the call is written, with the names of its parameters: it ends the message.
        needs: Attributes that are needed here; by default those by which the kind is known.

    Raises:
        ConfigurationError: It is of another kind. The message does not show the value, which may
            hold a password.
    """
    if not _has(value, needs or kind.has):
        found = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        what = f"{kind.parameter}= takes {kind.noun}, not {found}"
        raise ConfigurationError(f"{what}{_hint(value, kind, way)}: write {way}")


def _has(value: object, names: tuple[str, ...]) -> bool:
    return not isinstance(value, type) and all(hasattr(value, name) for name in names)


def _hint(value: object, kind: Kind, way: str) -> str:
    if kind is DATABASE and isinstance(value, str):
        return ", and Database(dsn) makes one"
    for other in _KINDS:
        if _has(value, other.has) and re.search(rf"\b{other.parameter}\b", way):
            return f", which goes to {other.parameter}="
    return ""

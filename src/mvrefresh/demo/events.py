"""The event table's content: tool calls of the last 200 days, generated from a seed."""

from __future__ import annotations

import random
from bisect import bisect
from datetime import datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from psycopg import Connection

COUNT: Final = 100_000
SPAN: Final = timedelta(days=200)
"""Longer than the roll-ups' window of 180 days, so that some events are too old to count."""

_SEED: Final = 20_250_113


class Tool(NamedTuple):
    """A tool, and how it is used: its share of the calls, its median time, its failures."""

    category: str
    name: str
    weight: int
    median_ms: float
    failures: float


TOOLS: Final = (
    Tool("rag", "rag_search_knowledge_base", 30, 420.0, 0.02),
    Tool("rag", "rag_search_code_examples", 14, 380.0, 0.02),
    Tool("rag", "rag_get_available_sources", 5, 25.0, 0.001),
    Tool("task", "find_tasks", 18, 35.0, 0.005),
    Tool("task", "manage_task", 12, 60.0, 0.015),
    Tool("project", "find_projects", 7, 30.0, 0.005),
    Tool("project", "manage_project", 3, 75.0, 0.02),
    Tool("document", "find_documents", 6, 45.0, 0.005),
    Tool("document", "manage_document", 3, 90.0, 0.03),
    Tool("session", "health_check", 2, 4.0, 0.0),
)

_BUSY_HOURS: Final = (
    1,
    1,
    1,
    1,
    1,
    2,
    4,
    9,
    14,
    16,
    15,
    13,
    12,
    15,
    16,
    15,
    13,
    9,
    6,
    5,
    4,
    3,
    2,
    1,
)


class UsageEvent(NamedTuple):
    """A row of the event table, but for its id."""

    ts: datetime
    tool_category: str
    tool_name: str
    success: bool
    duration_ms: float


def usage_events(
    now: datetime, *, count: int = COUNT, span: timedelta = SPAN, seed: int = _SEED
) -> Iterator[UsageEvent]:
    """Calls of tools in the `span` before `now`, the same ones for the same arguments.

    Args:
        now: The end; none is later.
        count: How many.
        span: How far back they go. From a day on, nights and weekends are quiet.
        seed: Other seeds, other events.
    """
    chance = random.Random(seed)  # noqa: S311 - a demo, not a secret
    until = list(accumulate(tool.weight for tool in TOOLS))
    for _ in range(count):
        tool = TOOLS[bisect(until, chance.random() * until[-1])]
        yield UsageEvent(
            ts=now - _ago(chance, now, span),
            tool_category=tool.category,
            tool_name=tool.name,
            success=chance.random() >= tool.failures,
            duration_ms=round(tool.median_ms * chance.lognormvariate(0.0, 0.6), 1),
        )


def _ago(chance: random.Random, now: datetime, span: timedelta) -> timedelta:
    """A time before now that office hours make likely."""
    while True:
        ago = span * chance.random()
        when = now - ago
        weekend = 0.25 if when.weekday() >= 5 else 1.0  # noqa: PLR2004 - Saturday
        likely = _BUSY_HOURS[when.hour] / max(_BUSY_HOURS) * weekend
        if span < timedelta(days=1) or chance.random() < likely:
            return ago


def load_events(connection: Connection[Any], events: Iterable[UsageEvent]) -> int:
    """Append events to the event table; how many they were."""
    count = 0
    with connection.cursor().copy(
        "COPY archon_mcp_usage_events (ts, tool_category, tool_name, success, duration_ms)"
        " FROM STDIN"
    ) as copy:
        for event in events:
            copy.write_row(event)
            count += 1
    connection.execute("ANALYZE archon_mcp_usage_events")
    return count

"""The chapters of the demo, in the order in which they are played.

A new feature brings a function of its own, in the file where it belongs, and a line here:
`building` (server, data, views), `refreshing` (plans and refreshes), `resolving` (look-ups through
the cache), `looking` (history, answers).
"""

from __future__ import annotations

from typing import Final

from mvrefresh.demo.chapters import building, looking, refreshing, resolving
from mvrefresh.demo.stage import Chapter

__all__ = ["CHAPTERS"]

CHAPTERS: Final = (
    Chapter("server", "A database", building.introduce),
    Chapter("data", "A world, and its use", building.load),
    Chapter("views", "Five materialized views, still empty", building.create_views),
    Chapter("first_plan", "What a refresh would do, in which order, and why", refreshing.plan),
    Chapter("first_refresh", "The first refresh", refreshing.refresh),
    Chapter("changes", "The world changes", refreshing.change),
    Chapter("second_plan", "The plan now: readers go on", refreshing.plan),
    Chapter("second_refresh", "The second refresh: only what differs", refreshing.refresh),
    Chapter("third_refresh", "The third: nothing has changed", refreshing.refresh_again),
    Chapter("lookups", "Look-ups, from memory", resolving.look_up),
    Chapter("history", "The history", looking.history),
    Chapter("answers", "What the views say", looking.answers),
)

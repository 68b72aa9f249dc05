"""Mechanisms of the library, to be switched off in a reader: then something stale has to be seen.

chain   a content that is not on the line of the next is taken to differ in no row
lease   nobody ends it
passing what was read from the table is kept on when few rows change
poll    the watch asks when it is notified, and when it has connected
reread  a new connection that listens is believed to have missed nothing, until the next poll
tags    what was read is kept under the tag that is known when it is there, not that read with it
token   a tag is a number
watch   there is none: a look-up asks when the lease has ended

Each gives settings of the resolver, or changes the library in this process for good.
"""

from __future__ import annotations

from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING, Any
from uuid import UUID

from mvrefresh.cache import content as content_module, tiered
from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.tier import NO_LINE, Line, Tag
from mvrefresh.hierarchy import reader as reader_module, residence
from mvrefresh.postgres import tags as tags_module, watch as watch_module

if TYPE_CHECKING:
    from collections.abc import Callable


def without_chain() -> None:
    Line.changed_since = (  # type: ignore[method-assign]
        lambda line, tag: None if tag is None else line.earlier.get(tag, frozenset())
    )


def without_passing() -> None:
    put_many = MemoryTier.put_many
    MemoryTier.put_many = (  # type: ignore[method-assign]
        lambda tier, values, tag, _=(): put_many(tier, values, tag)
    )


def without_lease() -> None:
    content_module.Content.sweep = lambda _: None  # type: ignore[method-assign]


def without_poll() -> None:
    watch_module.TagWatch.__init__.__kwdefaults__["every"] = 3600.0


def without_reread() -> None:
    known: dict[content_module.Content, Line] = {}
    ask = watch_module._Visit._ask_and_tell
    begun: set[watch_module._Visit] = set()

    def believe(visit: watch_module._Visit) -> None:
        contents = [each.content for each in visit._watch.whom_to_tell()]
        if visit in begun or not all(known.get(content, NO_LINE).tag for content in contents):
            ask(visit)
            known.update({content: content.line for content in contents})
        else:
            for content in contents:
                line = content.line if content.tag else known[content]
                content.tell(content.ask(), line, None)
            visit._watch.asked += 1  # else it comes back later and later
        begun.add(visit)

    watch_module._Visit._ask_and_tell = believe  # type: ignore[method-assign]


def without_tags() -> None:
    """Each read takes a moment longer, so that a refresh comes between often enough."""

    def begin(cache: Any, memory: Any, load: Any, content: Any, **settings: Any) -> None:
        def careless(keys: Any) -> Any:
            loaded = load(keys)
            sleep(0.3)
            return replace(loaded, tag=content.tag)

        begin_cache(cache, memory, careless, content, **settings)

    def move_in(home: Any, content: Any, load: Any, **settings: Any) -> None:
        def careless(go_on: Any) -> Any:
            loaded = load(go_on)
            sleep(0.3)
            if loaded.hierarchy is not None:
                loaded.hierarchy.tag = content.tag
            return loaded._replace(tag=content.tag)

        begin_residence(home, content, careless, **settings)

    begin_cache, begin_residence = tiered.TieredCache.__init__, residence.Residence.__init__
    tiered.TieredCache.__init__ = begin  # type: ignore[method-assign]
    residence.Residence.__init__ = move_in  # type: ignore[method-assign]


def without_token() -> None:
    def number_alone(number: int, _: UUID) -> Tag:
        return Tag(number, UUID(int=0))

    tags_module.Tag = reader_module.Tag = number_alone  # type: ignore[misc, assignment]
    tags_module._uuid = lambda _: UUID(int=0)


def without_watch() -> dict[str, Any]:
    return {"watch": False}


SWITCHES: dict[str, Callable[[], dict[str, Any] | None]] = {
    "chain": without_chain,
    "lease": without_lease,
    "passing": without_passing,
    "poll": without_poll,
    "reread": without_reread,
    "tags": without_tags,
    "token": without_token,
    "watch": without_watch,
}

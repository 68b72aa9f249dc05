"""What somebody has missed, from where he was: each outcome with the place to go on from."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from mvrefresh.fleet.cursor import MOST, OVERLAP, Cursor, cursor_text, hash_of
from mvrefresh.fleet.news import News, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from mvrefresh.fleet.ledger import Page


@dataclass(eq=False)
class Ask:
    """Somebody asks what he has missed."""

    cursor: Cursor | None
    future: Future[list[News]]
    tries: int = 0


def missed(page: Page, cursor: Cursor) -> Iterator[News]:
    """What a cursor has not heard; whoever is cut off in the middle can go on from there."""
    if page.cut:
        yield gap(page)
    told = OrderedDict.fromkeys(cursor.told, cursor.moment)
    moment = cursor.moment
    for row in page.rows:
        news = recorded(row)
        if news.key is None or cursor.has_heard(news.key):
            continue
        moment = max(moment, news.at)
        told[hash_of(news.key)] = news.at
        while next(iter(told.values())) < moment - OVERLAP:  # they are in the order of their times
            told.popitem(last=False)
        yield replace(news, id=cursor_text(moment, islice(reversed(told), MOST)))


def gap(page: Page) -> News:
    """That what was before this page is not told."""
    return News("Gap", page.now, {"before": page.rows[0]["at"] if page.rows else None})

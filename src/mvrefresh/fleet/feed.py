"""The news of a whole fleet: what this process does as it happens, what others do at their commit.

One thread and one connection a feed, and only while somebody listens. A notification makes it read
history and state at once, and it reads every second besides: a failure sends no notification, nor
does a refresh that begins. What this process has told by its own event is not told again out of the
history, nor the other way.
"""

from __future__ import annotations

import logging
import selectors
import socket
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Final

import psycopg

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.errors import MvrefreshError
from mvrefresh.events import EventBus
from mvrefresh.fleet import ledger
from mvrefresh.fleet.cursor import MOST, OVERLAP, cursor_text, hash_of
from mvrefresh.fleet.going import GoingOn
from mvrefresh.fleet.missed import Ask, gap, missed
from mvrefresh.fleet.news import News, news_of, recorded
from mvrefresh.postgres.faults import message_of
from mvrefresh.postgres.wire import Stopped, Wire, drain
from mvrefresh.refreshing.threads import OurThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mvrefresh.events import Event
    from mvrefresh.fleet.cursor import Cursor
    from mvrefresh.fleet.news import Key
    from mvrefresh.postgres.database import Database

log = logging.getLogger("mvrefresh")

EVERY: Final = 1.0  # seconds between two looks
AWAY: Final = "the database is not available"  # where it is, and why, is for the log
PATIENCE: Final = 5.0  # seconds until an answer has to be there
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before the next connection
_TRIES: Final = 3  # to read what somebody has missed
_KEPT: Final = 2 * OVERLAP  # what was told longer ago is not read again


class FleetFeed:
    """Tells what happens in a fleet to whoever listens. Safe to call from any thread.

    Args:
        database: Where the fleet's views are.
        events: Of this process: the bus of a service, of a resolver, or several.
        every: Seconds between two looks at the history, where no notification asks for one.
        patience: Seconds until an answer of the database has to be there.

    Attributes:
        state: "off", "connecting", "listening", or "polling" (behind a transaction pooler, or on a
            standby).
    """

    def __init__(
        self,
        database: Database,
        events: EventBus | Iterable[EventBus] = (),
        *,
        every: float = EVERY,
        patience: float = PATIENCE,
    ) -> None:
        self.state = "off"
        self._database = database
        self._buses = (events,) if isinstance(events, EventBus) else tuple(dict.fromkeys(events))
        self._every = every
        self._patience = patience
        self._heard: ExitStack | None = None  # subscriptions to buses
        self._forget()
        made_anew_after_fork(self)

    def __repr__(self) -> str:
        return f"<FleetFeed of {self._database!r}, {self.state}>"

    def after_fork(self) -> None:
        """In a forked child: thread and listeners are the parent's.

        The subscriptions stay: a thread of the parent may have held a bus's lock.
        """
        self._forget()

    def _forget(self) -> None:
        self.state = "off"
        self._lock = RLock()
        self._listeners: tuple[Callable[[News], None], ...] = ()
        self._thread: OurThread | None = None
        self._bell: socket.socket | None = None
        self._asked: list[Ask] = []
        self._moment: datetime | None = None  # of the database's clock: the last look
        self._told: dict[Key, datetime | None] = {}  # by their moment; None: before the first look
        self._known: dict[str, str] = {}  # view -> run, of the state
        self._going = GoingOn()
        self._lost = False

    # -- who is told ---------------------------------------------------------------------------

    def listen(self, listener: Callable[[News], None]) -> None:
        """Tell `listener` from now on; the first one starts the thread.

        It is called on whatever thread has news, one call at a time, and must return at once.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)
            if self._heard is None:
                self._heard, self._going = ExitStack(), GoingOn()
                for bus in self._buses:
                    self._heard.enter_context(bus.subscribe(self._take))
            if (lost := self.lost) is not None:
                listener(lost)
            if self._thread is None:
                try:
                    self._begin()
                except BaseException:
                    self.leave(listener)
                    raise

    @property
    def lost(self) -> News | None:
        """That the database does not answer, for as long as it does not."""
        return _lost_news() if self._lost else None

    def leave(self, listener: Callable[[News], None]) -> None:
        """Tell it no more; after the last one the thread ends by itself."""
        with self._lock:
            left = list(self._listeners)
            with suppress(ValueError):  # in a forked child
                left.remove(listener)
            self._listeners = tuple(left)
            if not left and self._heard is not None:
                self._heard.close()
                self._heard = None
                self._ring()

    def since(self, cursor: Cursor | None) -> Future[list[News]]:
        """The outcomes that somebody has missed, oldest first; those of a cursor are left out.

        A `Gap` comes first where there are more than are read at a time. The last is always
        `Joined`: from there on one can go on. There has to be a listener: whoever listened before
        he asked misses nothing.
        """
        future: Future[list[News]] = Future()
        with self._lock:
            self._asked = [ask for ask in self._asked if not ask.future.cancelled()]
            self._asked.append(Ask(cursor, future))
            self._ring()
        return future

    def _begin(self) -> None:
        ours, bell = socket.socketpair()
        for end in (ours, bell):
            end.setblocking(False)  # noqa: FBT003 - the standard library's way
        self._bell, self.state = bell, "connecting"
        self._moment, self._told, self._known, self._going = None, {}, {}, GoingOn()
        thread = OurThread(crew=self, target=self._run, args=(ours, bell), name="mvrefresh-feed")
        try:
            thread.start()
        except BaseException:  # the system has no threads left
            self._bell, self.state = None, "off"
            ours.close()
            bell.close()
            raise
        self._thread = thread

    def _ring(self) -> None:
        if self._bell is not None:
            with suppress(BlockingIOError, OSError):  # rung often enough, or closed by its thread
                self._bell.send(b"\0")

    # -- telling -------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        """Called by a bus, on the thread that did the work."""
        with self._lock:
            self._going.hear(event)
        self._tell(news_of(event))

    def _tell(self, news: News) -> None:
        with self._lock:
            if news.key is not None:
                if news.key in self._told:
                    return
                self._told[news.key] = self._moment
            news = replace(news, id=self._cursor())
            for listener in self._listeners:
                listener(news)

    def _cursor(self) -> str | None:
        if self._moment is None:
            return None
        latest = islice(reversed(self._told), MOST)
        return cursor_text(self._moment, map(hash_of, latest))

    # -- the thread ----------------------------------------------------------------------------

    def _run(self, ours: socket.socket, bell: socket.socket) -> None:
        pause = _FIRST_PAUSE
        with closing(ours), closing(bell), selectors.DefaultSelector() as selector:
            selector.register(ours, selectors.EVENT_READ)
            while not self._ended():
                moment = self._moment
                try:
                    with self._database.listening() as connection:
                        wire = Wire(
                            connection,
                            selector,
                            ours,
                            patience=self._patience,
                            ended=lambda: not self._listeners,
                        )
                        with wire.open():
                            self.state = "listening" if wire.listen() else "polling"
                            self._stay(wire)
                except Stopped:
                    continue
                except Exception as error:  # noqa: BLE001 - whatever it is, it goes on trying
                    foreseen = isinstance(error, MvrefreshError | psycopg.Error | OSError)
                    self._lose(message_of(error), unforeseen=not foreseen)
                self.state = "connecting"
                pause = _FIRST_PAUSE if self._moment != moment else min(2 * pause, _LONGEST_PAUSE)
                selector.select(pause)
                drain(ours)

    def _ended(self) -> bool:
        """Whether nobody listens any more; then another thread may be the next."""
        with self._lock:
            if self._listeners:
                return False
            self._thread = self._bell = None
            self.state, self._lost = "off", False
            asked, self._asked = self._asked, []
        for ask in asked:
            ask.future.cancel()
        return True

    def _lose(self, why: str, *, unforeseen: bool) -> None:
        if not self._lost:  # once an outage
            log.warning("other processes cannot be heard: %s", why, exc_info=unforeseen)
            with self._lock:
                self._lost = True
                self._tell(_lost_news())

    def _stay(self, wire: Wire) -> None:
        while True:
            if not self._listeners:
                raise Stopped
            began = monotonic()
            self._look(wire)
            self._answer(wire)
            if not self._asked:
                wire.wait_until(began + self._every)

    def _look(self, wire: Wire) -> None:
        first = self._moment is None
        pids = self._database.dedicated_pids()
        since = None if self._moment is None else self._moment - OVERLAP
        page = ledger.read(wire, self._database.schema, since, () if first else self._runs())
        pids |= self._database.dedicated_pids()  # before, or since
        with self._lock:
            self._moment = page.now
            if self._lost:
                self._lost = False
                self._tell(News("FeedRestored", datetime.now(UTC), {}))
            if page.cut and not first:
                self._tell(gap(page))
            for news in self._going.new_among(page.going, page.now, pids):
                self._tell(news)
            for row in page.rows:
                news = recorded(row)
                if row["content_token"] is not None and row["run_id"] is not None:
                    self._known[row["view"]] = row["run_id"]
                key = news.key
                if key is None:
                    continue
                if first:
                    self._told.setdefault(key, news.at)
                elif key not in self._told:
                    self._tell(news)
                # To the end: what was read last is in the cursor.
                self._told[key] = max(self._told.pop(key) or news.at, news.at)
            self._told = {
                key: at or page.now
                for key, at in self._told.items()
                if at is None or at > page.now - _KEPT
            }

    def _runs(self) -> list[str]:
        return list(self._known.values())

    def _answer(self, wire: Wire) -> None:
        with self._lock:
            asked, self._asked = self._asked, []
        while asked:
            ask = asked[0]
            if ask.future.cancelled():
                asked.remove(ask)
                continue
            try:
                missed = self._missed(wire, ask.cursor)
            except BaseException as error:
                ask.tries += 1
                if ask.tries == _TRIES and not isinstance(error, Stopped):
                    asked.remove(ask)
                    ask.future.set_exception(error)
                with self._lock:  # on the next connection
                    self._asked = asked + self._asked
                raise
            asked.remove(ask)
            with self._lock:
                joined = News("Joined", datetime.now(UTC), {"feed": self.state}, self._cursor())
            if ask.future.set_running_or_notify_cancel():
                ask.future.set_result([*missed, joined])

    def _missed(self, wire: Wire, cursor: Cursor | None) -> list[News]:
        if cursor is None:
            return []
        page = ledger.read(wire, self._database.schema, cursor.since, None)
        return list(missed(page, cursor))


def _lost_news() -> News:
    return News("FeedLost", datetime.now(UTC), {"why": AWAY})

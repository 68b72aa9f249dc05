"""Watches which contents are current, so that no look-up has to ask.

One thread and one connection a database, whatever number of views. It asks for all tags every
second, in one statement, and tells each `Content`, whose lease that renews. That is the guarantee.
A notification of a refresh makes it ask at once: that is the accelerator. Notifications alone would
not do: a server that is stopped, or a proxy that goes silent, looks from here like one on which
nobody refreshes anything.

The connection is its own and goes straight to the primary: a transaction pooler accepts LISTEN and
hands the connection to somebody else. Where one is noticed, tags are asked for and nothing is
listened to.
"""

from __future__ import annotations

import logging
import selectors
import socket
from contextlib import closing, suppress
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import orjson
import psycopg

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.errors import MvrefreshError
from mvrefresh.postgres import definition
from mvrefresh.postgres.faults import message_of
from mvrefresh.postgres.tags import Asked, answer, question
from mvrefresh.postgres.wire import Stopped, Wire, drain
from mvrefresh.refreshing.threads import OurThread

if TYPE_CHECKING:
    from mvrefresh.cache.content import Content
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.view import ViewName

log = logging.getLogger("mvrefresh")

EVERY: Final = 1.0  # seconds between two questions
PATIENCE: Final = 1.0  # seconds until an answer has to be there
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before the next connection

_UUID: Final = 36  # letters


class Watched(NamedTuple):
    """A content, of which view it is, and by which column its rows have their keys.

    Attributes:
        label: The view's in notifications.
        asked: As SQL reads its name.
    """

    content: Content
    label: str
    asked: str
    key: str


class TagWatch:
    """Tells contents of a database what is current. Any thread may add one.

    Args:
        database: Where the views are.
        every: Seconds between two questions.
        patience: Seconds until an answer has to be there.

    Attributes:
        state: "off", "connecting", "listening", or "polling" (behind a transaction pooler, or on a
            standby).
        asked: How many times it has asked.
    """

    def __init__(
        self, database: Database, *, every: float = EVERY, patience: float = PATIENCE
    ) -> None:
        self.state = "off"
        self.asked = 0
        self._database = database
        self._every = every
        self._patience = patience
        self._contents: dict[Content, Watched] = {}
        self._lock = Lock()
        self._thread: OurThread | None = None
        self._bell: socket.socket | None = None
        made_anew_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: the thread is the parent's. The next look-up there begins anew."""
        self._lock = Lock()
        self._thread = self._bell = None
        self.state = "off"

    # -- who is told ---------------------------------------------------------------------------

    def add(self, content: Content, view: ViewName, key: str) -> None:
        """Tell a content of this view from now on.

        Args:
            content: To be told.
            view: Its name.
            key: The column of the keys by which it is held.
        """
        with self._lock:
            name = definition.identifier(view).as_string(None)
            self._contents[content] = Watched(content, str(view), name, key)
            self._ring()
        self.go_on()

    def remove(self, content: Content) -> None:
        """Tell it no more; with the last one the thread ends, and this waits for it."""
        with self._lock:
            self._contents.pop(content, None)
            thread = None if self._contents else self._thread
            self._ring()
        if thread is not None:
            thread.join(2 * self._patience)

    def go_on(self) -> None:
        """See that there is a thread, as in a child that was forked since."""
        if self._thread is None:
            with self._lock:
                self._begin()

    def _begin(self) -> None:
        if self._thread is not None or not self._contents:
            return
        ours, bell = socket.socketpair()
        for end in (ours, bell):
            end.setblocking(False)  # noqa: FBT003 - the standard library's way
        self._bell, self.state = bell, "connecting"
        self._thread = OurThread(
            crew=self, target=self._run, args=(ours, bell), name="mvrefresh-watch"
        )
        self._thread.start()

    def _ring(self) -> None:
        if self._bell is not None:
            with suppress(BlockingIOError):  # it has been rung often enough
                self._bell.send(b"\0")

    # -- the thread ----------------------------------------------------------------------------

    def _run(self, ours: socket.socket, bell: socket.socket) -> None:
        pause, said = _FIRST_PAUSE, False
        with closing(ours), closing(bell), selectors.DefaultSelector() as selector:
            selector.register(ours, selectors.EVENT_READ)
            while not self._ended():
                asked = self.asked
                try:
                    with self._database.listening() as connection:
                        _Visit(self, connection, selector, ours).stay()
                except Stopped:
                    continue
                except Exception as error:  # whatever it is, it goes on trying
                    said = said and self.asked == asked
                    if not said:  # once an outage
                        why = message_of(error)
                        foreseen = isinstance(error, MvrefreshError | psycopg.Error | OSError)
                        log.warning(
                            "the tags of the views cannot be watched: %s",
                            why,
                            exc_info=not foreseen,
                        )
                        said = True
                self.state = "connecting"
                pause = _FIRST_PAUSE if self.asked > asked else min(2 * pause, _LONGEST_PAUSE)
                selector.select(pause)
                drain(ours)

    def _ended(self) -> bool:
        """Whether nobody is to be told any more; then another thread may be the next."""
        with self._lock:
            if self._contents:
                return False
            self._thread = self._bell = None
            self.state = "off"
            return True

    def whom_to_tell(self) -> list[Watched]:
        """The contents, and their views."""
        with self._lock:
            return list(self._contents.values())

    def statement(self, asked: list[Asked]) -> bytes:
        """The question for their tags, in one statement."""
        return question(self._database.schema, asked).as_bytes(None)


class _Visit:
    """One connection, for as long as it lasts."""

    def __init__(
        self,
        watch: TagWatch,
        connection: psycopg.Connection[object],
        selector: selectors.BaseSelector,
        bell: socket.socket,
    ) -> None:
        self._watch = watch
        self._wire = Wire(
            connection,
            selector,
            bell,
            patience=watch._patience,  # noqa: SLF001 - one object in two parts
            ended=lambda: not watch.whom_to_tell(),
            heard=self._heard,
        )
        self._asked: list[Asked] = []
        self._statement = b""

    def stay(self) -> None:
        """Ask and tell, again and again.

        Raises:
            DatabaseUnavailable: An answer did not come in time.
            psycopg.Error, OSError: The connection broke.
            Stopped: Nobody is to be told any more.
        """
        watch, wire = self._watch, self._wire
        with wire.open():
            watch.state = "listening" if wire.listen() else "polling"
            while True:
                asked = monotonic()
                self._ask_and_tell()
                wire.wait_until(asked + watch._every)  # noqa: SLF001 - one object in two parts

    def _ask_and_tell(self) -> None:
        watched = self._watch.whom_to_tell()
        if not watched:
            raise Stopped
        began = monotonic()
        questions = [each.content.ask() for each in watched]
        asked = [
            Asked(each.asked, each.key, question.known)
            for each, question in zip(watched, questions, strict=True)
        ]
        if asked != self._asked:
            self._asked, self._statement = asked, self._watch.statement(asked)
        rows = self._wire.answer(self._statement)
        self._watch.asked += 1
        for place, line, age in answer(asked, rows):
            moment = None if age is None else began - age
            watched[place].content.tell(questions[place], line, moment)

    def _heard(self, payload: bytes) -> None:
        """Let go of what has changed before it is asked: an answer takes several turns.

        With four busy threads each of them takes milliseconds, in which what is over was answered.
        """
        try:
            said = orjson.loads(payload)
            label, keys = said["view"], frozenset(said["k"])
            # What type the column has, only the state row says.
            keys |= {UUID(key) for key in keys if isinstance(key, str) and len(key) == _UUID}
        except (ValueError, TypeError, KeyError):
            return  # all may have changed; or nobody of ours has said that
        for watched in self._watch.whom_to_tell():
            if watched.label == label and keys:
                watched.content.discard(keys)

"""Watches which contents are current, so that no look-up has to ask.

One thread and one connection a database, whatever number of views. It asks for all tags every
second, in one statement, and tells each `Content`, whose lease that renews. That is the guarantee.
A notification of a refresh makes it ask at once: that is the accelerator. Notifications alone would
not do: a server that is stopped, or a proxy that goes silent, looks from here like one on which
nobody refreshes anything.

The connection is its own and goes straight to the primary: a transaction pooler accepts LISTEN and
hands the connection to somebody else. Where one is noticed, tags are asked for and nothing is
listened to. The protocol is libpq's own, without waiting in it: every wait here has an end.
"""

from __future__ import annotations

import logging
import selectors
import socket
from contextlib import closing, contextmanager, suppress
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import orjson
import psycopg
from psycopg import pq, sql

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.errors import DatabaseUnavailable, MvrefreshError
from mvrefresh.postgres import definition
from mvrefresh.postgres.faults import message_of
from mvrefresh.postgres.notify import CHANNEL
from mvrefresh.postgres.tags import Asked, answer, question
from mvrefresh.refreshing.threads import OurThread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mvrefresh.cache.content import Content
    from mvrefresh.postgres.database import Database
    from mvrefresh.refreshing.view import ViewName

log = logging.getLogger("mvrefresh")

EVERY: Final = 1.0  # seconds between two questions
PATIENCE: Final = 1.0  # seconds until an answer has to be there
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before the next connection

_UUID: Final = 36  # letters

Row = tuple[bytes | None, ...]


class Stopped(Exception):  # noqa: N818 - what happened
    """The watch is to end."""


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
                _drain(ours)

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
        self._pgconn = connection.pgconn
        self._selector = selector
        self._bell = bell
        self._asked: list[Asked] = []
        self._statement = b""

    def stay(self) -> None:
        """Ask and tell, again and again.

        Raises:
            DatabaseUnavailable: An answer did not come in time.
            psycopg.Error, OSError: The connection broke.
            Stopped: Nobody is to be told any more.
        """
        watch, pgconn = self._watch, self._pgconn
        with _registered(self._selector, pgconn.socket):
            ((pid,),) = self._answer(b"SELECT pg_backend_pid()")
            is_ours = pid is not None and int(pid) == pgconn.backend_pid
            watch.state = "listening" if is_ours and self._listen() else "polling"
            while True:
                asked = monotonic()
                self._ask_and_tell()
                self._wait_until(asked + watch._every)  # noqa: SLF001 - one object in two parts

    def _listen(self) -> bool:
        """Whether the server takes it: a standby does not."""
        try:
            self._answer(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)).as_bytes(None))
        except psycopg.errors.ReadOnlySqlTransaction:
            return False
        return True

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
        rows = self._answer(self._statement)
        self._watch.asked += 1
        for place, line, age in answer(asked, rows):
            moment = None if age is None else began - age
            watched[place].content.tell(questions[place], line, moment)

    def _wait_until(self, moment: float) -> None:
        """Wait for the moment, for a notification, or for the bell."""
        pgconn = self._pgconn
        while (said := pgconn.notifies()) is None:
            left = moment - monotonic()
            if left <= 0:
                return
            ready = {key.fileobj for key, _ in self._selector.select(left)}
            if self._bell in ready:
                _drain(self._bell)
                return
            if ready:
                pgconn.consume_input()
        while said is not None:  # one question answers them all
            self._heard(said.extra)
            said = pgconn.notifies()

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

    def _answer(self, statement: bytes) -> list[Row]:
        """The rows that a statement gives, as text; within the patience."""
        pgconn, deadline = self._pgconn, monotonic() + self._watch._patience  # noqa: SLF001
        pgconn.send_query(statement)
        rows: list[Row] = []
        while True:
            while pgconn.is_busy():
                left = deadline - monotonic()
                if left <= 0:
                    raise DatabaseUnavailable("the server did not answer in time")
                pgconn.flush()
                ready = {key.fileobj for key, _ in self._selector.select(left)}
                if self._bell in ready:
                    _drain(self._bell)
                    if not self._watch.whom_to_tell():
                        raise Stopped
                if ready - {self._bell}:
                    pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return rows
            if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                raise psycopg.errors.error_from_result(result)
            rows += [
                tuple(result.get_value(row, column) for column in range(result.nfields))
                for row in range(result.ntuples)
            ]


@contextmanager
def _registered(selector: selectors.BaseSelector, fd: int) -> Iterator[None]:
    selector.register(fd, selectors.EVENT_READ)
    try:
        yield
    finally:
        selector.unregister(fd)


def _drain(bell: socket.socket) -> None:
    with suppress(BlockingIOError):
        while bell.recv(1024):
            pass

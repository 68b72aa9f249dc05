"""`watch`: look at the fleet again and again, and show what goes on."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager, nullcontext
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

import click
import psycopg
from rich.live import Live

from mvrefresh.cli.board import board
from mvrefresh.cli.changes import Change, Changes, record_change
from mvrefresh.cli.documents import picture_document
from mvrefresh.cli.exits import Exit, error_document, message
from mvrefresh.cli.options import Limit, View, global_options
from mvrefresh.cli.output import console, write_json
from mvrefresh.cli.session import Session, pass_session
from mvrefresh.cli.tables import STYLES, name
from mvrefresh.cli.wording import moment, plural
from mvrefresh.errors import DatabaseUnavailable
from mvrefresh.fleet.glance import LATEST
from mvrefresh.fleet.onlooker import Onlooker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from rich.console import Console, RenderableType

    from mvrefresh.fleet.picture import Picture

_AFTER_A_FAILURE: Final = 1.0  # seconds at least until the next look
_FRAMES_A_SECOND: Final = 2
_REMEMBERED: Final = 50  # changes on the board; it shows those that it has room for


class Face(Protocol):
    """What shows the looks."""

    def show(self, picture: Picture) -> None:
        """The database answered."""
        ...

    def away(self, error: Exception) -> None:
        """The database did not answer."""
        ...


@click.command("watch")
@click.argument("views", nargs=-1, type=View())
@click.option(
    "--interval", type=Limit(), default=1.0, help="From one look to the next.  [default: 1s]"
)
@click.option("--once", is_flag=True, help="Show one picture, and end.")
@global_options
@pass_session
@click.pass_context
def watch(
    ctx: click.Context, session: Session, *, views: tuple[str, ...], interval: float, once: bool
) -> None:
    """Watch the whole fleet: what is refreshed now, what is due next, what fails.

    VIEWS: those that are meant; all of the database without any. It starts nothing and refreshes
    nothing. Ctrl-C ends it. Where there is no terminal: a line for every change; with --json a
    document, on one line, for every look.
    """
    with session.database() as database:
        onlooker = Onlooker(database, views)
        first = onlooker.look()  # what is wrong from the start is an error, as in other commands
        if once:
            _show_once(session, first)
            return
        try:
            with _face(session) as face:
                face.show(first)
                keep_watching(onlooker, face, interval=interval)
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)  # the way to end it: no error, so nothing is said


def keep_watching(
    onlooker: Onlooker,
    face: Face,
    *,
    interval: float,
    pause: Callable[[float], object] = time.sleep,  # Windows' Ctrl-C ends this, no Event's wait
) -> None:
    """Look again and again, until an exception ends it; a database that is away is none.

    Args:
        onlooker: Who looks.
        face: What shows it.
        interval: Seconds between two looks.
        pause: Waits so many seconds.
    """
    wait = interval
    while True:
        pause(wait)
        try:
            picture = onlooker.look()
        except (DatabaseUnavailable, psycopg.OperationalError) as error:
            face.away(error)
            wait = max(interval, _AFTER_A_FAILURE)
        else:
            face.show(picture)
            wait = interval


def _show_once(session: Session, picture: Picture) -> None:
    if session.json:
        write_json(picture_document(picture), on_one_line=True)
        return
    people = console()
    people.print(board(picture, [*map(record_change, picture.records)], width=people.width))


def _face(session: Session) -> AbstractContextManager[Face]:
    if session.json:
        return nullcontext(Documents())
    people = console()
    if session.verbose or not people.is_terminal or people.is_dumb_terminal:
        return nullcontext(Lines(people))
    return _on_screen(people)


class Documents:
    """A JSON document for every look, each on a line."""

    def show(self, picture: Picture) -> None:
        """The picture."""
        write_json(picture_document(picture), on_one_line=True)

    def away(self, error: Exception) -> None:
        """The error, as other commands give it."""
        write_json(error_document(error), on_one_line=True)


class Lines:
    """A line for every change."""

    def __init__(self, people: Console) -> None:
        self._console = people
        self._changes = Changes()
        self._away: bool | None = None  # None: nothing was said yet

    def show(self, picture: Picture) -> None:
        """What is new."""
        if self._away is None:
            words = f"{plural(len(picture.views), 'view')} of {picture.where}"
            self._say(f"{moment(picture.now)}  Watching {words}.")
        elif self._away:
            self._say(f"{moment(picture.now)}  The database answers again.")
        self._away = False
        for change in self._changes.of(picture):
            self._say(str(change), change.style)

    def away(self, error: Exception) -> None:
        """Once, however often it is tried again."""
        if not self._away:
            self._say(f"No answer, trying again: {message(error)}", STYLES["failed"])
        self._away = True

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(name(text, style), soft_wrap=True)


class Screen:
    """The board of the last look, with clocks that go on until the next."""

    def __init__(self, people: Console) -> None:
        self._console = people
        self._lock = Lock()  # the screen is drawn by a thread of its own
        self._picture: Picture | None = None
        self._looked = monotonic()
        self._changes = Changes()
        self._latest: deque[Change] = deque(maxlen=_REMEMBERED)
        self._away: str | None = None

    def show(self, picture: Picture) -> None:
        """Take a new picture."""
        with self._lock:
            changes = self._changes.of(picture)
            if self._picture is None:  # what goes on from before is in the table
                changes = [record_change(record) for record in picture.records]
            self._latest.extend(changes)
            self._picture, self._looked, self._away = picture, monotonic(), None

    def away(self, error: Exception) -> None:
        """Keep the last picture, and say that it is old."""
        with self._lock:
            self._away = message(error)

    def render(self, *, whole: bool = False) -> RenderableType:
        """The board as it stands; `whole`: however high it is."""
        with self._lock:
            picture, changes, away = self._picture, list(self._latest), self._away
            later = monotonic() - self._looked
        if picture is None:
            return ""
        return board(
            picture,
            changes[-LATEST:] if whole else changes,
            width=self._console.width,
            height=None if whole else self._console.height,
            later=later,
            away=away,
        )


@contextmanager
def _on_screen(people: Console) -> Iterator[Face]:
    """A screen of its own for as long as the block lasts; the last board stays behind."""
    screen = Screen(people)
    try:
        with Live(
            console=people,
            get_renderable=screen.render,
            refresh_per_second=_FRAMES_A_SECOND,
            screen=True,
        ):
            yield screen
    finally:
        people.print(screen.render(whole=True))

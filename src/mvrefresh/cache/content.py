"""Which content of a view is current, as far as this process knows: one place for all that hold it.

Who reads a value reads its tag with it. Where that is another than the one known here, somebody has
refreshed the view, or the read was of an old snapshot: `settle` asks which it is. Whoever watches
the tags says what it has seen by `tell`. What is held of an earlier content is gone before either
returns; where it is known which rows differ, those alone are, and the others are held on under the
new tag.

**A lease** bounds what is not noticed: every answer of the database renews it, from the moment at
which it was *asked*. Without an answer the content goes **blind** when the lease ends: what is held
is parked, and nothing is answered from it. The next answer ends that, whoever asked: the same tag,
and what was parked comes back; another, and it is dropped. So nothing is ever answered that was
not current within the lease, whatever fails. A watch asks before the lease ends, so that no
look-up has to.
"""

from __future__ import annotations

from itertools import count
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mvrefresh.cache.forks import made_anew_after_fork
from mvrefresh.cache.tier import NO_LINE, Line, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class Follower(Protocol):
    """Holds values under the content's tag."""

    def retag(self, tag: Tag | None, *, park: bool = False) -> None:
        """Hold what is of this tag, and nothing else.

        Args:
            tag: None: hold nothing.
            park: Put aside what is held; it comes back if its tag is the next.
        """
        ...

    def advance(self, before: Tag, tag: Tag, keys: Collection[Any]) -> None:
        """Hold what is of `before`, or was put aside under it, under `tag` from now on.

        What is held of the rows that differ (their keys) goes first.
        """
        ...

    def discard(self, keys: Collection[Any]) -> None:
        """Hold nothing of these rows; the tag stays."""
        ...

    def after_fork(self) -> None:
        """Called in a forked child: a lock that is held now is held for ever."""
        ...


class Question(NamedTuple):
    """One that is about to be put to the database.

    Attributes:
        number: Of two, the later one has the higher.
        at: When it was asked, by the content's clock.
        known: The tag of what was held then; the answer may leave out how this one came about.
    """

    number: int
    at: float
    known: Tag | None


class Content:
    """The tag of a view's content, and those who hold values under it. Any thread may ask.

    Args:
        current: Reads which content is current, and the moment it stands for; it is given the tag
            of what is held.
        lease: Seconds for which an answer of the database holds; None: until the next one.
        strict: Whether every look-up compares the clock with the lease. Else a thread does, which
            may be late where the whole process was suspended.
        ask: Whether a look-up that finds it blind asks. Else it reads the database each time, and
            keeps nothing, until somebody else says what is current.
        went_blind: Called when it has gone blind, on any thread; not in a forked child.
        saw_again: Called when that has ended.
        clock: Seconds; for tests.

    Attributes:
        line: The content that is current, and what is known of earlier ones.
        blind: Whether the lease has ended.
    """

    __slots__ = (
        "__weakref__", "_ask", "_changing", "_clock", "_current", "_followers", "_held", "_lease",
        "_looking", "_numbers", "_saw_again", "_seen", "_standing", "_standing_lock", "_until",
        "_went_blind", "blind", "line", "strict",
    )  # fmt: skip

    def __init__(
        self,
        current: Callable[[Tag | None], tuple[Line, float | None]],
        *,
        lease: float | None = None,
        strict: bool = False,
        ask: bool = True,
        went_blind: Callable[[], None] = lambda: None,
        saw_again: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.line = NO_LINE
        self._held = NO_LINE  # the same; while blind, that of what was put aside
        self.blind = False
        self._current = current
        self._lease = lease
        self.strict = strict
        self._ask = ask
        self._went_blind = went_blind
        self._saw_again = saw_again
        self._clock = clock
        self._until: float | None = None
        self._followers: list[Follower] = []
        self._numbers = count(1)
        self._seen = 0
        self._standing: tuple[Tag | None, float | None] = (None, None)
        self._make_locks()
        made_anew_after_fork(self)

    def _make_locks(self) -> None:
        self._looking = Lock()  # one asks the database; who comes meanwhile waits for the answer
        self._changing = Lock()  # one tag after the other
        self._standing_lock = Lock()

    def after_fork(self) -> None:
        """In a forked child: nobody is in the middle of anything, and nobody watches."""
        self._make_locks()
        for follower in self._followers:
            follower.after_fork()
        self._go_blind()

    @property
    def tag(self) -> Tag | None:
        """The tag of the content that is current; None while it is unknown."""
        return self.line.tag

    @property
    def as_of(self) -> float | None:
        """The moment for which the content stands, by the monotonic clock; None if unknown."""
        tag, moment = self._standing
        return moment if tag == self.tag else None

    def follow(self, follower: Follower) -> None:
        """Tell it the tag at once, and every other that comes to be current."""
        with self._changing:
            self._followers.append(follower)
            follower.retag(self.tag)

    # -- what the database says ----------------------------------------------------------------

    def ask(self) -> Question:
        """To be called before the database is asked which content is current; for `tell`."""
        return Question(next(self._numbers), self._clock(), self._held.tag)

    def tell(self, question: Question, line: Line, moment: float | None) -> None:
        """What the database answered: this content is current.

        Of no effect where a later question has been answered: its answer is not older than this.
        """
        with self._changing:
            if question.number < self._seen:
                return
            self._seen = question.number
            if self._lease is not None:
                self._until = question.at + self._lease
            was_blind, self.blind = self.blind, False
            if line.tag != self.tag:
                self._move(line)
        self.stand(line.tag, moment)
        if was_blind:
            self._saw_again()

    def discard(self, keys: Collection[Any]) -> None:
        """Have nothing held of these rows: somebody has said that they have changed.

        Only an answer of the database moves the tag. This takes his word for nothing but that there
        is something to be read again, a few moments earlier.
        """
        with self._changing:
            for follower in self._followers:
                follower.discard(keys)

    def _move(self, line: Line) -> None:
        held = self._held
        if line.tag == held.tag:  # it was blind, and the answer need not say what is known
            line = held
        changed = line.changed_since(held.tag)
        self.line = self._held = line
        for follower in self._followers:
            if changed is None or held.tag is None or line.tag is None:
                follower.retag(line.tag)
            else:
                follower.advance(held.tag, line.tag, changed)

    def look(self) -> None:
        """Ask which content is current; with the same, all that is held stays."""
        with self._looking:
            self._look()

    def settle(self, tag: Tag | None) -> None:
        """Find out which is current, `tag` or the one that is known; many may find it at once."""
        if tag != self.tag and (self._ask or not self.blind):
            with self._looking:
                if tag != self.tag:  # nobody else has found out meanwhile
                    self._look()

    def see(self) -> None:
        """If it is blind, ask: so that nobody is sent to the database for what is parked."""
        if self.blind and self._ask:
            with self._looking:
                if self.blind:
                    self._look()

    def _look(self) -> None:
        question = self.ask()
        self.tell(question, *self._current(question.known))

    def stand(self, tag: Tag | None, moment: float | None) -> None:
        """The content `tag` stands for this moment at least, if it is the current one."""
        with self._standing_lock:
            if tag != self.tag:
                return
            known, before = self._standing
            if tag != known or (moment is not None and (before is None or before < moment)):
                self._standing = (tag, moment)

    def publish(self, tag: Tag | None, hold: Callable[[Tag, Collection[Any]], None]) -> bool:
        """Let be held what was read under `tag`, before another content can be current.

        `hold` is called with the current tag, and the keys of the rows that differ from what was
        read; not if any of them may. Whether it was called is returned.
        """
        with self._changing:
            line = self.line
            changed = () if tag == line.tag else line.changed_since(tag)
            if line.tag is None or changed is None:
                return False
            hold(line.tag, changed)
            return True

    # -- the lease -----------------------------------------------------------------------------

    def check(self) -> None:
        """What a look-up does first where it is strict."""
        if self._until is not None and self._clock() >= self._until:
            self.sweep()

    def sweep(self) -> float | None:
        """Go blind where the lease has ended.

        Returns:
            Seconds until that has to be looked at again.
        """
        with self._changing:
            if self.blind or self._until is None:
                return self._lease  # one that begins from now on
            left = self._until - self._clock()
            if left > 0:
                return left
            self._go_blind()
        self._went_blind()
        return self._lease

    def _go_blind(self) -> None:
        self.blind = True
        self.line = NO_LINE
        for follower in self._followers:
            follower.retag(None, park=True)

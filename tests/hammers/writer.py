"""Who changes a world and refreshes its views, and tells the oracle of both.

Changes are of several kinds, so that a refresh writes all rows or few: another name for the root
(which all entities have above them), a group or a leaf; a guest that comes or goes; a guest that
was there between two refreshes only, so that the view never had it and a look-up may have.

Bursts of refreshes alternate with rests that are longer than the bound: what was kept wrongly would
be gone with the next content, and nobody would see it.

Most refreshes are those of a resolver; some are regular ones, after which nobody can tell what has
changed, and some come from outside the library, by its function in SQL.
"""

from __future__ import annotations

import threading
from contextlib import closing
from random import Random
from time import monotonic, sleep
from typing import TYPE_CHECKING

import psycopg
from tests.hammers.truth import (
    ABSENT,
    FIRST,
    GROUPS,
    GUESTS,
    LEAVES,
    Truth,
    count_of,
    group_of,
)

from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, Schema, refresh
from mvrefresh.errors import MvrefreshError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from mvrefresh import RefreshReport, ViewName

ROOT = 1
SETUP = """
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);
CREATE INDEX ON entities (path)
"""
PATIENCE = 60.0  # seconds until a change has to be done, whatever happens meanwhile


class Writer:
    """Changes one world, on a thread of its own.

    Args:
        letter: Begins all names of this world.
        dsn: Of its database, on whatever server is the primary now.

    Attributes:
        writing: Held while a change is made; whoever holds it makes all changes.
        refreshes: How many changes are in the views.
        behind: Answers of the resolver that has refreshed which were not what it has refreshed.
    """

    def __init__(self, letter: str, truth: Truth, dsn: Callable[[], str], seed: int) -> None:
        self.letter = letter
        self.truth = truth
        self.writing = threading.Lock()
        self.refreshes = 0
        self.behind: list[str] = []
        self._dsn = dsn
        self._random = Random(seed)  # noqa: S311
        self._number = FIRST
        self._there: dict[int, int] = {}  # facts that are so
        self._unsettled: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        with closing(psycopg.connect(self._dsn(), autocommit=True)) as connection:
            connection.execute(SETUP)
            Schema().apply(connection)
            for entity in (ROOT, *GROUPS, *LEAVES):
                self._begin(entity, FIRST)
                self._insert(connection, entity, FIRST)
            for entity in GUESTS:
                self._begin(entity, ABSENT)
            for entity in (ROOT, *GROUPS):
                self._begin(count_of(entity), self._below(entity))
            HierarchySource().create(connection)
        self._database = Database(connect=lambda: psycopg.connect(self._dsn(), connect_timeout=2))
        self._resolver = OptimizedHierarchyResolver(self._database, resident=0)
        self.change()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._resolver.close()
        self._database.close()

    def check(self) -> None:
        """Raise what has ended the thread."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        random = self._random
        try:
            while not self._over.is_set():
                for left in reversed(range(random.randint(1, 6))):
                    with self.writing:
                        # What all answers show comes last: it would be wrong for all of a rest.
                        self.change(of_all=not left and random.random() < 0.6)
                    if self._over.wait(random.uniform(0.0, 0.3)):
                        return
                if random.random() < 0.6:
                    self._over.wait(random.uniform(2.7, 3.7))
        except BaseException as error:  # noqa: BLE001 - told to who asks
            self._error = error

    # -- changes -------------------------------------------------------------------------------

    def change(self, *, of_all: bool = False) -> None:
        """Change something, by the seed, and see that it is in the views.

        Args:
            of_all: The name of the root, which is in the answers for all.
        """
        self._number += 1
        random, number = self._random, self._number
        kind = random.choices(
            (self._name_root, self._name_group, self._name_leaf, self._call, self._call_in_vain),
            (3, 2, 4, 3, 1),
        )[0]
        if of_all:
            kind = self._name_root
        facts = kind(number)
        counted = kind in (self._call, self._call_in_vain) or random.random() < 0.2
        self._refresh(counted=counted)
        for fact in {*facts, *self._unsettled}:
            self.truth.settle(fact)
        self._unsettled.clear()
        self.refreshes += 1

    def _name_root(self, number: int) -> Iterable[int]:
        return self._name(ROOT, number)

    def _name_group(self, number: int) -> Iterable[int]:
        return self._name(self._random.choice(GROUPS), number)

    def _name_leaf(self, number: int) -> Iterable[int]:
        return self._name(self._random.choice(LEAVES), number)

    def _name(self, entity: int, number: int) -> Iterable[int]:
        self._begin(entity, number)
        self._write("UPDATE entities SET name = %s WHERE id = %s", f"{self.letter}{number}", entity)
        return [entity]

    def _call(self, number: int) -> Iterable[int]:
        """A guest comes, or goes."""
        guest = self._random.choice(GUESTS)
        return self._set(guest, ABSENT if self._there[guest] else number)

    def _call_in_vain(self, number: int) -> Iterable[int]:
        """A guest comes and goes, and something else is different afterwards."""
        free = [guest for guest in GUESTS if not self._there[guest]]
        facts: set[int] = set()
        if free:
            guest = self._random.choice(free)
            facts |= set(self._set(guest, number))
            sleep(0.2)  # let it be looked up
            facts |= set(self._set(guest, ABSENT))
        return facts | set(self._name_leaf(number))

    def _set(self, guest: int, number: int) -> Iterable[int]:
        """Have a guest of this number, or none."""
        self._begin(guest, number)
        above = (ROOT, group_of(guest))
        for entity in above:
            self._begin(count_of(entity), self._below(entity))
        if number == ABSENT:
            self._write("DELETE FROM entities WHERE id = %s", guest)
        else:
            self._until_done(lambda connection: self._insert(connection, guest, number))
        return [guest, *map(count_of, above)]

    def _begin(self, fact: int, value: int) -> None:
        self.truth.begin(fact, value)
        self._there[fact] = value

    def _below(self, entity: int) -> int:
        """How many there are right below the root or a group, in the order of their numbers."""
        if entity == ROOT:
            return len(GROUPS) + len(LEAVES) + sum(bool(self._there[each]) for each in GUESTS)
        leaves = sum(group_of(each) == entity for each in LEAVES)
        return leaves + sum(self._there[each] > 0 for each in GUESTS if group_of(each) == entity)

    # -- what the database is told -------------------------------------------------------------

    def _insert(self, connection: psycopg.Connection, entity: int, number: int) -> None:
        if entity == ROOT:
            path = "r"
        elif entity in GROUPS:
            path = f"r.g{entity}"
        else:
            path = f"r.g{group_of(entity)}.e{entity}"
        connection.execute(
            "INSERT INTO entities VALUES (%s, %s, %s, 'x') ON CONFLICT DO NOTHING",
            (entity, path, f"{self.letter}{number}"),
        )

    def _write(self, statement: str, *values: object) -> None:
        self._until_done(lambda connection: connection.execute(statement, values))

    def _until_done(self, deed: Callable[[psycopg.Connection], object]) -> None:
        """Again and again: what is done twice is as if it was done once."""
        deadline = monotonic() + PATIENCE
        while True:
            try:
                with closing(psycopg.connect(self._dsn(), autocommit=True)) as connection:
                    deed(connection)
            except psycopg.Error:
                if monotonic() > deadline:
                    raise
                sleep(0.02)
            else:
                return

    def _refresh(self, *, counted: bool) -> None:
        views = HierarchySource().views[: 2 if counted else 1]
        ways = (self._by_resolver, self._wholly, self._by_sql)
        way = self._random.choices(ways, (14, 2, 4))[0]
        deadline = monotonic() + PATIENCE
        while True:
            try:
                way(views)
                break
            except (MvrefreshError, psycopg.Error):
                if monotonic() > deadline:
                    raise
            sleep(0.02)
        self._look()

    def _by_resolver(self, views: Sequence[ViewName]) -> None:
        _raise_for(self._resolver.refresh_with(self._resolver.runner(), views))

    def _wholly(self, views: Sequence[ViewName]) -> None:
        """So that nobody can tell which rows have changed."""
        _raise_for(refresh(self._database, views, method="regular"))
        self._resolver.look_again()

    def _by_sql(self, views: Sequence[ViewName]) -> None:
        """As from outside the library."""
        with closing(psycopg.connect(self._dsn(), autocommit=True)) as connection:
            for view in views:
                row = connection.execute(
                    "SELECT error_message FROM mvrefresh.refresh_view(%s)", (str(view),)
                ).fetchone()
                if row != (None,):
                    raise psycopg.OperationalError(f"{row}")
        self._resolver.look_again()

    def _look(self) -> None:
        """Who has refreshed is fresh at once."""
        entity = self._random.choice(LEAVES)
        try:
            chain = (*self._resolver.ancestors(entity), self._resolver.node(entity))
        except MvrefreshError:  # the server is being restarted
            return
        for node in chain:
            if node.name != f"{self.letter}{self._there[node.id]}":
                self.behind.append(f"{node} where {self._there[node.id]} was refreshed")

    # -- failover ------------------------------------------------------------------------------

    def change_what_will_be_lost(self, times: int) -> Callable[[], Callable[[], None]]:
        """Change so many things that the next primary will not have; `writing` is held.

        Returns:
            To be called before the standby is promoted; and what that returns when it has been.
        """
        before = dict(self._there)
        known = {fact: self.truth.count(fact) for fact in before}
        for _ in range(times):
            self.change()
        lost = [fact for fact in before if self.truth.count(fact) > known[fact]]

        def what_was_right_is_right_again() -> Callable[[], None]:
            for fact in lost:
                self._begin(fact, before[fact])
            return what_was_lost_is_over

        def what_was_lost_is_over() -> None:
            for fact in lost:
                self.truth.lose(fact, known[fact])
            self._unsettled |= set(lost)

        return what_was_right_is_right_again


def _raise_for(report: RefreshReport) -> None:
    for outcome in report:
        if outcome.error is not None:
            raise outcome.error

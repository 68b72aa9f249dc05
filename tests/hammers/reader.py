"""A process with a resolver that asks and asks, and has the oracle judge each answer.

Each process reads one world. A **narrow** one asks only for what is always there, and so comes to
have all of it in memory: nothing tells it of a refresh but what is there for that. A **wide** one
asks for guests, subtrees and counts, too, which often are not in memory; what it then reads brings
the tag along.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import TYPE_CHECKING

import psycopg
from tests.hammers.switches import SWITCHES
from tests.hammers.truth import (
    ABSENT,
    BOUND,
    GROUPS,
    GUESTS,
    LEAVES,
    Truth,
    count_of,
    group_of,
)

from mvrefresh import Database, OptimizedHierarchyResolver
from mvrefresh.errors import MvrefreshError, UnknownEntity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mvrefresh import HierarchyNode

ROOT = 1


@dataclass
class Reading:
    """What one thread has seen."""

    answers: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    stale: list[str] = field(default_factory=list)
    oldest: float = 0.0


class Reader:
    """One thread that asks.

    Args:
        letter: Begins all names of its world.
    """

    def __init__(
        self, resolver: OptimizedHierarchyResolver, truth: Truth, letter: str, seed: int
    ) -> None:
        self.found = Reading()
        self._resolver = resolver
        self._truth = truth
        self._letter = letter
        self._random = Random(seed)  # noqa: S311
        self._began = 0.0
        self._asking = ""

    def read(self, *, wide: bool, over: threading.Event) -> None:
        random, questions = self._random, [self._ask, self._ask_many]
        weights = [16, 3]
        if wide:
            questions += [self._ask_guest, self._ask_subtree, self._ask_counts]
            weights += [2, 1, 2]
        while not over.is_set():
            question = random.choices(questions, weights)[0]
            self._asking = question.__name__
            self._began = monotonic()
            try:
                question()
            except UnknownEntity as error:
                self._blame(str(error))
            except MvrefreshError as error:
                self.found.errors[type(error).__name__] += 1
                sleep(0.01)
            if random.random() < 0.03:
                sleep(0.001)  # so that one process does not take all

    # -- questions -----------------------------------------------------------------------------

    def _ask(self) -> None:
        entity = self._random.choice(LEAVES)
        if self._random.random() < 0.7:
            self._judge_chain(entity, self._resolver.ancestors(entity))
        else:
            self._judge(self._resolver.node(entity), entity)

    def _ask_many(self) -> None:
        first = self._random.choice(LEAVES)
        entities = range(first, min(first + 9, LEAVES.stop))
        if self._random.random() < 0.5:
            chains = self._resolver.ancestors_many(entities)
            for entity in entities:
                self._judge_chain(entity, chains.get(entity, ()))
        else:
            nodes = self._resolver.nodes_many([*entities, *GROUPS])
            for entity in (*entities, *GROUPS):
                self._judge(nodes.get(entity), entity)

    def _ask_guest(self) -> None:
        guest = self._random.choice(GUESTS)
        try:
            if self._random.random() < 0.5:
                self._judge_chain(guest, self._resolver.ancestors(guest))
                self._hold(guest, None, live=True)
            else:
                self._judge(self._resolver.node(guest), guest, live=True)
        except UnknownEntity:
            self._hold(guest, ABSENT, live=True)

    def _ask_subtree(self) -> None:
        group = self._random.choice(GROUPS)
        found = {node.id: node for node in self._resolver.descendants(group)}
        for entity in (*LEAVES, *GUESTS):
            if group_of(entity) == group:
                self._judge(found.pop(entity, None), entity, live=True)
        if found:
            self._blame(f"{found} below {group}")

    def _ask_counts(self) -> None:
        entity = self._random.choice((ROOT, *GROUPS))
        counts = self._resolver.counts(entity)
        # The root is asked for another figure, so that both are seen.
        number = counts.descendant_count if entity == ROOT else counts.direct_children
        self._hold(count_of(entity), number)

    # -- answers -------------------------------------------------------------------------------

    def _judge_chain(self, entity: int, chain: Iterable[HierarchyNode]) -> None:
        """Of a guest, too, those above are always there; but who is read live has live ones."""
        live = entity in GUESTS
        above = list(chain)
        if [node.id for node in above] != [ROOT, group_of(entity)]:
            self._blame(f"{above} above {entity}")
            return
        for node in above:
            self._judge(node, node.id, live=live)

    def _judge(self, node: HierarchyNode | None, entity: int, *, live: bool = False) -> None:
        if node is None:
            self._hold(entity, ABSENT, live=live)
        elif node.name[0] != self._letter or node.id != entity:
            self._blame(f"{node} for {entity} in world {self._letter}")
        else:
            self._hold(entity, int(node.name[1:]), live=live)

    def _hold(self, fact: int, value: int | None, *, live: bool = False) -> None:
        """Hold a value against what is known."""
        self.found.answers += 1
        over_for = self._truth.over_for(fact, value, self._began, live=live)
        if over_for:
            self.found.oldest = max(self.found.oldest, over_for)
            if over_for > BOUND:
                last = self._truth.last(fact)
                self._blame(f"{value} for {fact}, over for {over_for:.2f} s: it is {last}")

    def _blame(self, what: str) -> None:
        self.found.stale.append(f"{self._asking}: {what}")
        self._truth.raise_the_alarm()


def main() -> None:
    """Read until stdin ends, and say what was seen."""
    logging.disable()  # of the pool, say, that the server is away
    dsn, redis_url, path, letter, seed, threads, said = sys.argv[1:]
    settings = json.loads(said)
    off, wide = settings.pop("off"), settings.pop("wide")
    for mechanism in off:
        settings |= SWITCHES[mechanism]() or {}
    truth, over = Truth(Path(path)), threading.Event()
    # By a function, so that nobody knows the database's name: the worlds' keys in Redis are alike.
    with Database(connect=lambda: psycopg.connect(dsn), timeout=2) as database:
        resolver = OptimizedHierarchyResolver(database, redis=redis_url, **settings)
        with resolver:
            readers = [Reader(resolver, truth, letter, int(seed) + n) for n in range(int(threads))]
            workers = [
                threading.Thread(target=each.read, kwargs={"wide": wide, "over": over})
                for each in readers
            ]
            for worker in workers:
                worker.start()
            resolver.ancestors(LEAVES[0])
            print("ready", flush=True)
            sys.stdin.read()
            ended = [not worker.is_alive() for worker in workers]
            over.set()
            for worker in workers:
                worker.join()
            figures = resolver.cache_metrics()
    found = [each.found for each in readers]
    errors: Counter[str] = sum((each.errors for each in found), Counter())
    if any(ended):  # by an error that is none of the library's: it is on stderr
        errors["ended"] += sum(ended)
    print(
        json.dumps(
            {
                "answers": sum(each.answers for each in found),
                "errors": errors,
                "stale": [line for each in found for line in each.stale[:20]],
                "stale_answers": sum(len(each.stale) for each in found),
                "oldest": max(each.oldest for each in found),
                "l1": figures["l1_cache"]["hits"],
                "l2": figures["l2_cache"]["hits"],
                "l4": figures["l4_cache"]["hits"],
            }
        )
    )


if __name__ == "__main__":
    main()

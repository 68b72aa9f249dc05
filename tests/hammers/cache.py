"""Readers of one cache, while all that can happen to it happens: no answer is from before its call.

The **database** is a number that every refresh raises; the value of a key is (key, number) by the
refresh that changed it last. One refresh in seven changes all of them, the others a few, and say
which; some keys are not of the content (`passing`), and no refresh names them. The **oracle**: when
a call begins, a refresh of our own whose `look` has ended is known; the answer is of that content
or of a newer one that the database has had by the end of the call, and what is held under a tag is
of that tag.

    python -m tests.hammers --only cache [--seconds 30]
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from random import Random
from time import monotonic, sleep
from typing import TYPE_CHECKING
from uuid import UUID

from mvrefresh.cache.content import Content
from mvrefresh.cache.memory import _SLACK, MemoryTier
from mvrefresh.cache.tier import MISSING, Change, Line, Loaded, Missing, Tag, line_of
from mvrefresh.cache.tiered import TieredCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

READERS = 16
KEYS = 400
ABSENT = 20
"""So many of the keys do not exist in contents with an even number."""
PASSING = KEYS - 20
"""The keys from here on are not of the content: they have another value in each."""
CAPACITY = 60
TTL = 0.02
NEGATIVE_TTL = 0.05
FAILING = 0.02

Value = tuple[int, int]
Answer = Value | Missing


class Away(Exception):  # noqa: N818 - what happened
    """A load that failed."""


class Base:
    """The database: reads are of one moment, and sometimes last."""

    def __init__(self, seed: int) -> None:
        self.number = 1
        self.failures = self.loads = 0
        self._random = Random(seed)  # noqa: S311
        self._lock = threading.Lock()

    def tag(self, number: int) -> Tag | None:
        """Now and then nobody can tell the tag."""
        return None if number % 50 == 0 else tag_of(number)

    def load(self, keys: Sequence[int]) -> Loaded[int, Value]:
        with self._lock:
            number = self.number
            chance = self._random.random()
            self.loads += 1
            failing = chance < FAILING
            self.failures += failing
        if chance > 0.7:
            sleep(0.001 * self._random.random())
        if failing:
            raise Away
        values = {key: (key, version(key, number)) for key in keys if exists(key, number)}
        passing = {key for key in values if key >= PASSING}
        return Loaded(values, self.tag(number), passing=passing)

    def current(self, known: Tag | None) -> tuple[Line, None]:
        number = self.number
        tag, changes = self.tag(number), []
        if tag != known:
            while number % 7 and (number - 1) % 50:
                changes.append(Change(tag_of(number - 1), tag_of(number), CHANGED[number % 7]))
                number -= 1
        return line_of(tag, None, changes), None


def tag_of(number: int) -> Tag:
    return Tag(number, UUID(int=number))


CHANGED = {
    n: frozenset(key for key in range(PASSING) if key < ABSENT or (7 * key + n) % 11 == 0)
    for n in range(1, 7)
}
"""What a refresh changes that does not change all, by its number modulo 7."""


def version(key: int, number: int) -> int:
    """The refresh that changed it last, of the content of this number."""
    while key < PASSING and number > 1 and number % 7 and key not in CHANGED[number % 7]:
        number -= 1
    return number


def exists(key: int, number: int) -> bool:
    return key >= ABSENT or number % 2 == 1


@dataclass
class Audit:
    """What was asked, and what was wrong."""

    calls: int = 0
    look_ups: int = 0
    hits: int = 0
    misses: int = 0
    loads: int = 0
    failed: int = 0
    refreshes: int = 0
    evicted: int = 0
    expired: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.calls:,} calls, {self.look_ups:,} look-ups = {self.hits:,} hits"
            f" + {self.misses:,} misses; {self.loads:,} loads, {self.failed:,} answers were errors;"
            f" {self.refreshes:,} refreshes, {self.evicted:,} evicted, {self.expired:,} expired;"
            f" {len(self.wrong)} wrong"
        )


class Hammer:
    """One cache, and those who use it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.base = Base(seed)
        self.memory: MemoryTier[int, Value] = MemoryTier(CAPACITY, TTL)
        self.content = Content(self.base.current)
        self.cache: TieredCache[int, Value] = TieredCache(
            self.memory, self.base.load, self.content, negative_ttl=NEGATIVE_TTL
        )
        self.known = 1
        self.over = threading.Event()
        self.audit = Audit()
        self._lock = threading.Lock()

    # -- readers -------------------------------------------------------------------------------

    def check(self, key: int, answer: Answer, since: int) -> str | None:
        """What is wrong with an answer to a call that began when `since` was known."""
        now = self.base.number
        if answer is MISSING:
            if any(not exists(key, number) for number in range(since, now + 1)):
                return None
            return f"key {key} does not exist, says an answer of {since} to {now}"
        found, number = answer
        if found != key:
            return f"the value of key {found} for key {key}"
        # Backwards: mostly it is of the present.
        if not any(
            exists(key, each) and version(key, each) == number for each in range(now, since - 1, -1)
        ):
            return f"key {key}: a value of {number}, while {since} to {now} were current"
        return None

    def inline(self, key: int) -> Answer:
        """As the resolver does it."""
        memory = self.memory
        try:
            record = memory.entries[key]
        except KeyError:
            return self.cache.get(key)
        record.visited = True
        memory.hits += 1
        return record.value

    def batch(self, keys: list[int]) -> dict[int, Answer]:
        """As the resolver does it."""
        values = self.memory.all_of(keys)
        if values is not None:
            return dict(zip(keys, values, strict=True))
        found = self.cache.get_many(keys)
        return {key: found.get(key, MISSING) for key in keys}

    def read(self, number: int) -> None:
        random = Random(self.seed * 1000 + number)  # noqa: S311
        calls = look_ups = failed = 0
        wrong: list[str] = []
        popular = [min(int(random.paretovariate(0.6)) - 1, KEYS - 1) for _ in range(5000)]
        while not self.over.is_set():
            calls += 1
            chance, key = random.random(), popular[calls % 5000]
            keys = [key] if chance < 0.9 else list(dict.fromkeys(random.sample(popular, 8)))
            look_ups += len(keys)
            since = self.known
            try:
                if chance < 0.5:
                    answers = {key: self.inline(key)}
                elif chance < 0.9:
                    answers = {key: self.cache.get(key)}
                else:
                    answers = self.batch(keys)
            except Away:
                failed += 1
                continue
            for asked, answer in answers.items():
                if fault := self.check(asked, answer, since):
                    wrong.append(fault)
        with self._lock:
            self.audit.calls += calls
            self.audit.look_ups += look_ups
            self.audit.failed += failed
            self.audit.wrong += wrong

    # -- what happens to it --------------------------------------------------------------------

    def refresh_ourselves(self, random: Random) -> None:
        """Two of these threads: they may look in another order than they refreshed."""
        with self._lock:
            self.base.number += 1
            mine = self.base.number
            self.audit.refreshes += 1
        if random.random() < 0.3:
            return  # somebody else did, and nobody tells us
        sleep(0.001 * random.random())
        self.content.look()
        with self._lock:
            self.known = max(self.known, mine)

    def disturb(self, random: Random) -> None:
        chance = random.random()
        if chance < 0.4:
            self.cache.discard(random.sample(range(KEYS), 5))
        elif chance < 0.8:
            self.memory.sweep()
        elif chance < 0.85:
            self.content.look()
        elif chance < 0.9:
            with self.content._changing:  # as when the lease has ended
                self.content._go_blind()
        else:
            self.inspect()

    def inspect(self) -> None:
        """What is held is of the tag, within its bounds."""
        memory = self.memory
        with memory._lock:
            tag, entries = memory.tag, dict(memory.entries)
            queued = len(memory._small) + len(memory._main)
            born = len(memory._born)
        wrong = [
            f"{record.value} is held as {key} under {tag}"
            for key, record in entries.items()
            if tag is None or record.value != (key, version(key, tag.refresh_no))
        ]
        if len(entries) > CAPACITY:
            wrong.append(f"{len(entries)} entries")
        if max(queued, born) > 2 * len(entries) + _SLACK:
            wrong.append(f"{queued} and {born} in queues, {len(entries)} entries")
        with self._lock:
            self.audit.wrong += wrong

    def again_and_again(self, deed: Callable[[Random], None], pause: float, number: int) -> None:
        random = Random(self.seed * 1000 + 500 + number)  # noqa: S311
        while not self.over.wait(2 * pause * random.random()):
            deed(random)

    # -- all of it -----------------------------------------------------------------------------

    def run(self, *, seconds: float, calls: int) -> Audit:
        """For so long at least, and until so many look-ups were counted."""
        deeds = [(self.refresh_ourselves, 0.04)] * 2 + [(self.disturb, 0.004)] * 2
        faults: list[BaseException] = []

        def guarded(work: Callable[..., None], *arguments: object) -> None:
            try:
                work(*arguments)
            except BaseException as fault:  # noqa: BLE001 - told below
                faults.append(fault)
                self.over.set()

        threads = [
            threading.Thread(target=guarded, args=(self.read, number)) for number in range(READERS)
        ]
        threads += [
            threading.Thread(target=guarded, args=(self.again_and_again, deed, pause, number))
            for number, (deed, pause) in enumerate(deeds)
        ]
        end = monotonic() + seconds
        for thread in threads:
            thread.start()
        while not self.over.wait(0.05):
            stats = self.memory.stats()
            if monotonic() >= end and stats.hits + stats.misses >= 1.8 * calls:
                self.over.set()
        for thread in threads:
            thread.join()
        if faults:
            raise faults[0]
        self.inspect()
        stats = self.memory.stats()
        audit = self.audit
        audit.hits, audit.misses, audit.loads = stats.hits, stats.misses, self.base.loads
        audit.evicted, audit.expired = self.memory._evicted, self.memory._expired
        return audit


def run(*, seed: int = 1, seconds: float = 30, calls: int = 1_000_000) -> Audit:
    """Threads change at every chance; what was done, after it was found right."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        audit = Hammer(seed).run(seconds=seconds, calls=calls)
    finally:
        sys.setswitchinterval(before)
    assert not audit.wrong, f"{audit}, as: {audit.wrong[:5]}"
    assert audit.hits + audit.misses == audit.look_ups, f"counted wrongly: {audit}"
    assert audit.calls >= calls, f"too few: {audit}"
    assert min(audit.hits, audit.refreshes, audit.evicted, audit.expired, audit.failed) > 0, audit
    return audit

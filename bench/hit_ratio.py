"""Of a hundred look-ups, how many L1 answers: on traces with a seed, against LRU and W-TinyLFU.

    python -m bench --only hit_ratio

100,000 keys whose popularity falls by Zipf's law, to three exponents. **plain**: nothing else.
**scans**: after every 20,000 look-ups somebody reads 5,000 keys in a row, as a report does.
**shifting**: after every 50,000 look-ups other keys are the popular ones. A cache of 1 % and of
10 % of the keys. All look-ups count, those of the empty cache too; what is not found is put.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING
from uuid import UUID

import cachetools

from mvrefresh.cache.memory import MemoryTier
from mvrefresh.cache.tier import MISSING, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EXPONENTS = (0.8, 0.99, 1.2)
SHARES = (0.01, 0.1)
SEED = 20_250_113
SCAN_EVERY, SCAN = 20_000, 5_000
SHIFT_EVERY, SHIFT = 50_000, 1_000
TAG = Tag(1, UUID(int=1))


@dataclass(frozen=True, slots=True)
class Score:
    """Hit ratios of two policies on the same trace.

    Attributes:
        ours, theirs: 0 to 100.
        promised: Whether ours was promised not to be the lower one.
    """

    what: str
    rival: str
    ours: float
    theirs: float
    promised: bool

    @property
    def verdict(self) -> str:
        """Whether the promise holds."""
        if not self.promised:
            return ""
        return "holds" if self.ours >= self.theirs else "BROKEN"


def plain(exponent: float, keys: int, length: int) -> list[int]:
    """Ranks by Zipf's law."""
    weights = list(accumulate(1 / rank**exponent for rank in range(1, keys + 1)))
    return Random(SEED).choices(range(keys), cum_weights=weights, k=length)  # noqa: S311


def with_scans(trace: Sequence[int], keys: int) -> list[int]:
    """Now and then, keys in a row among them."""
    found: list[int] = []
    scanned = 0
    for begin in range(0, len(trace), SCAN_EVERY):
        found += trace[begin : begin + SCAN_EVERY]
        found += [number % keys for number in range(scanned, scanned + SCAN)]
        scanned += SCAN
    return found


def shifting(trace: Sequence[int], keys: int) -> list[int]:
    """Now and then, others are the popular ones: all of the first 1,000."""
    return [(rank + number // SHIFT_EVERY * SHIFT) % keys for number, rank in enumerate(trace)]


def traces(keys: int, length: int) -> Iterator[tuple[str, list[int]]]:
    """All that are tried, with their names; which key has which rank is shuffled."""
    shuffled = list(range(keys))
    Random(SEED).shuffle(shuffled)  # noqa: S311
    for exponent in EXPONENTS:
        ranks = plain(exponent, keys, length)
        named = (("", ranks), (", shifting", shifting(ranks, keys)))
        for name, trace in named:
            yield f"Zipf {exponent:g}{name}", [shuffled[rank] for rank in trace]
        popular = [shuffled[rank] for rank in ranks]
        yield f"Zipf {exponent:g}, scans", with_scans(popular, keys)


def of_memory(capacity: int, trace: Sequence[int]) -> float:
    """The hit ratio of L1."""
    tier: MemoryTier[int, int] = MemoryTier(capacity)
    tier.retag(TAG)
    for key in trace:
        if tier.get(key) is MISSING:
            tier.put_many({key: key}, TAG)
    return tier.stats().hit_rate or 0.0


def of_lru(capacity: int, trace: Sequence[int]) -> float:
    """That of cachetools' LRUCache."""
    cache: cachetools.LRUCache[int, int] = cachetools.LRUCache(capacity)
    hits = 0
    for key in trace:
        if cache.get(key) is None:
            cache[key] = key
        else:
            hits += 1
    return 100.0 * hits / len(trace)


def of_theine(capacity: int, trace: Sequence[int]) -> float:
    """That of theine: W-TinyLFU, as Caffeine has it."""
    from theine import Cache  # noqa: PLC0415 - starts a thread when it is imported

    cache: Cache[int, int] = Cache(capacity)
    hits = 0
    for key in trace:
        _, found = cache.get(key)
        if found:
            hits += 1
        else:
            cache.set(key, key)
    cache.close()
    return 100.0 * hits / len(trace)


RIVALS: dict[str, Callable[[int, Sequence[int]], float]] = {
    "LRU (cachetools)": of_lru,
    "W-TinyLFU (theine)": of_theine,
}


def run(_dsn: str, *, quick: bool = False) -> list[Score]:
    """Every trace at every capacity, and the means."""
    keys, length = (5_000, 60_000) if quick else (100_000, 500_000)
    found: list[Score] = []
    for name, trace in traces(keys, length):
        for share in SHARES:
            capacity = int(keys * share)
            ours = of_memory(capacity, trace)
            found.extend(
                Score(f"{name}; {share:.0%}", rival, ours, of(capacity, trace), of is of_lru)
                for rival, of in RIVALS.items()
            )
    for rival in RIVALS:
        mine = fmean(score.ours for score in found if score.rival == rival)
        theirs = fmean(score.theirs for score in found if score.rival == rival)
        found.append(Score("mean of all", rival, mine, theirs, promised=True))
    return found

"""Keys that are missed together are read together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, strategies as st

from mvrefresh.cache.gather import Gather
from mvrefresh.cache.tier import MISSING

PATIENCE = 20


class Source:
    """Reads keys below 100; can be held up, and fails at key 13."""

    def __init__(self):
        self.reads = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def read(self, keys):
        self.reads.append(sorted(keys))
        self.began.set()
        self.go_on.wait(PATIENCE)
        if 13 in keys:
            raise ValueError("thirteen")
        return {key: key * 10 for key in keys if key < 100}


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(40) as pool:
        yield pool


def test_alone_a_key_is_read_at_once(source):
    gather = Gather(source.read)
    assert [gather.load(1), gather.load(2), gather.load(200)] == [10, 20, MISSING]
    assert source.reads == [[1], [2], [200]]


def together(source, pool, gather, first, others):
    """`first` is being read while the others come."""
    source.go_on.clear()
    loads = [pool.submit(gather.load, first)]
    source.began.wait(PATIENCE)
    loads += [pool.submit(gather.load, key) for key in others]
    while gather._open is None or len(gather._open.keys) < len(others):
        if len(source.reads) > 1:
            break  # the first of them has lost its patience
    source.go_on.set()
    return loads


def test_many_keys_are_few_reads(source, pool):
    gather = Gather(source.read)
    keys = [key for key in range(2, 30) if key != 13]
    loads = together(source, pool, gather, 1, keys)
    assert [load.result(PATIENCE) for load in loads[1:]] == [key * 10 for key in keys]
    assert sorted(key for read in source.reads for key in read) == [1, *keys]
    assert len(source.reads) <= 10


def test_a_key_that_fails_fails_alone(source, pool):
    gather = Gather(source.read)
    loads = together(source, pool, gather, 1, [12, 13, 14])
    assert loads[1].result(PATIENCE) == 120
    assert loads[3].result(PATIENCE) == 140
    with pytest.raises(ValueError, match="thirteen"):
        loads[2].result(PATIENCE)
    assert gather.load(5) == 50


def test_a_read_that_hangs_holds_nobody_else_up(source, pool):
    gather = Gather(source.read)
    hangs, released = threading.Event(), threading.Event()

    def read(keys):
        if 1 in keys:
            hangs.set()
            released.wait(PATIENCE)
        return {key: key for key in keys}

    gather = Gather(read)
    first = pool.submit(gather.load, 1)
    hangs.wait(PATIENCE)
    assert gather.load(2) == 2
    assert not first.done()
    released.set()
    assert first.result(PATIENCE) == 1


def test_what_ends_a_thread_is_no_answer_to_others(source, pool):
    def read(keys):
        source.reads.append(list(keys))  # `together` waits for it, where it comes before the others
        source.began.set()
        source.go_on.wait(PATIENCE)
        if len(keys) > 1:
            raise SystemExit
        return {key: key for key in keys}

    gather = Gather(read)
    loads = together(source, pool, gather, 1, [2, 3])
    found = [load.exception(PATIENCE) or load.result() for load in loads]
    assert found[0] == 1
    assert sum(isinstance(each, SystemExit) for each in found) <= 1
    assert sum(isinstance(each, int) for each in found) >= 2


@given(st.lists(st.lists(st.integers(0, 120), max_size=8), min_size=1, max_size=12))
def test_everybody_gets_what_they_asked_for(asked):
    source = Source()
    gather = Gather(source.read)

    def ask(keys):
        found = []
        for key in keys:
            try:
                found.append(gather.load(key))
            except ValueError:
                found.append("thirteen")
        return found

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, asked))
    for keys, found in zip(asked, answers, strict=True):
        for key, value in zip(keys, found, strict=True):
            expected = "thirteen" if key == 13 else key * 10 if key < 100 else MISSING
            assert value == expected

"""The hammers, short: what they find in seconds. The long ones are `nox -s hammer`."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from math import inf
from time import monotonic

import pytest
from tests.conftest import required
from tests.hammers import coherence, fleet
from tests.hammers.faults import PACK, Dealer
from tests.hammers.truth import BOUND, Truth
from tests.pooler import PgBouncer


def test_a_slot_succeeds_once_in_the_fleet(dsn):
    fleet.run(dsn, count=4, seconds=3, every=0.5)


def test_a_slot_succeeds_once_behind_a_transaction_pooler(dsn):
    with ExitStack() as stack:
        with required():
            pooler = stack.enter_context(PgBouncer(dsn))
        fleet.run(dsn, through=pooler.pooled(), count=4, seconds=3, every=0.5)


def test_another_takes_over_from_one_that_was_killed(dsn):
    assert fleet.kill_the_worker(dsn, work=5) < 2 + 1


def test_a_suspended_process_does_no_double_work(dsn):
    fleet.suspend_the_worker(dsn, pause=3, count=2)


def test_a_crowd_that_forces_shares_a_handful_of_refreshes(dsn):
    assert fleet.crowd(dsn, processes=2, threads=32, work=1) <= 16


def test_the_fleet_goes_on_after_restarts_of_the_server(restartable):
    fleet.restarts(restartable, rounds=1)


SHORT = {kind: 1 for kind in PACK if kind not in ("fail_over", "refresh_unheard")}


def coherent(server, **settings):
    """A Redis is needed, and each run has one of its own."""
    with required():
        audit = coherence.run(server, processes=2, **settings)
    assert not audit.stale_answers, audit.stale
    assert audit.answers > 500
    assert audit.refreshes > 3
    assert "ended" not in audit.errors
    return audit


def test_no_answer_is_older_than_promised(restartable):
    coherent(restartable, seconds=5, faults=4, pack=SHORT, once=True)


def test_no_answer_is_of_a_refresh_that_a_failover_has_lost(restartable):
    coherent(restartable, seconds=1, faults=1, pack={"fail_over": 1}, once=True)


def test_faults_are_replayed_by_their_seed():
    one, same, other = (Dealer(seed, PACK) for seed in (1, 1, 2))
    dealt = [one.deal() for _ in range(2 * sum(PACK.values()))]
    assert dealt == [same.deal() for _ in dealt]
    assert dealt != [other.deal() for _ in dealt]
    first = dealt[: len(dealt) // 2]
    assert Counter(fault.kind for fault in first) == PACK


@pytest.fixture
def truth(tmp_path):
    """Of fact 1 the oracle knows that it was 10, and then 11."""
    truth = Truth(tmp_path / "truth", new=True)
    truth.begin(1, 10)
    truth.begin(1, 11)
    return truth


def test_both_values_are_right_until_a_refresh_has_returned(truth):
    began = monotonic()
    assert truth.over_for(1, 10, began) == truth.over_for(1, 11, began) == 0
    truth.settle(1)
    assert truth.over_for(1, 10, began) == 0
    assert truth.over_for(1, 10, monotonic() + BOUND) > BOUND
    assert truth.over_for(1, 11, monotonic() + BOUND) == 0
    assert truth.over_for(1, 12, began) == inf


def test_what_was_lost_is_over_and_what_was_before_it_right_again(truth):
    truth.settle(1)
    later = monotonic() + 10
    assert truth.over_for(1, 10, later) > BOUND
    truth.begin(1, 10)
    assert truth.over_for(1, 10, later) == truth.over_for(1, 11, later) == 0
    truth.lose(1, known=1)
    assert truth.over_for(1, 10, later) == 0
    assert truth.over_for(1, 11, later) > BOUND
    # An answer of the table is kept until the next content.
    assert truth.over_for(1, 11, later, live=True) == 0
    truth.settle(1)
    assert truth.over_for(1, 11, later, live=True) > BOUND


def test_values_are_known_longer_than_the_bound_allows(truth):
    for number in range(12, 3000):
        truth.begin(1, number)
    truth.settle(1)
    assert truth.last(1) == 2999
    assert truth.over_for(1, 2998, monotonic()) < BOUND
    assert truth.over_for(1, 11, monotonic()) == inf

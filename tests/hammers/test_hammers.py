"""The hammers, short: what they find in seconds. The long ones are `nox -s hammer`."""

from __future__ import annotations

from contextlib import ExitStack

from tests.conftest import required
from tests.hammers import coherence, fleet
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


def test_no_answer_is_older_than_promised(restartable, redis_url):
    """A Redis is needed, and each run has one of its own."""
    audit = coherence.run(restartable, "postgres", seconds=5, faults=4, processes=2, threads=2)
    assert not audit.stale_answers, audit.stale
    assert audit.answers > 1000
    assert audit.refreshes > 3

"""A COMMIT that arrived and whose answer did not: nothing has failed, and nothing is done twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.proxy import LosesTheAnswer
from tests.refreshing.conftest import QUICK

import mvrefresh
from mvrefresh import Database, InMemoryMetricsStore, Status


@pytest.fixture
def tcp_dsn(postgres, conn):
    return postgres.dsn(conn.info.dbname, tcp=True)


@pytest.mark.parametrize("attempts", [1, 3], ids=["on_the_last_attempt", "with_another_to_come"])
def test_it_is_found_out(database, conn, tcp_dsn, state, history, attempts):
    conn.execute("INSERT INTO base VALUES (4, 'new')")
    plan = mvrefresh.plan(database, ["mv"])
    with LosesTheAnswer(tcp_dsn, b"COMMIT\0") as proxy, Database(proxy.dsn) as cut:
        runner = mvrefresh.Runner(cut, policy=replace(QUICK, attempts=attempts))
        (outcome,) = runner.run(plan)
    assert outcome.status is Status.SUCCEEDED
    assert state() == (1, outcome.content_token)
    assert history() == [("mv", "succeeded", "concurrent", None)]
    assert outcome.record_id is not None
    assert outcome.rows_inserted == 1
    assert conn.execute("SELECT count(*) FROM mv").fetchone() == (4,)


def test_without_the_schema_nobody_can_tell_and_nothing_is_claimed(database, conn, tcp_dsn):
    conn.execute("INSERT INTO base VALUES (4, 'new')")
    plan, store = mvrefresh.plan(database, ["mv"]), InMemoryMetricsStore()
    with LosesTheAnswer(tcp_dsn, b"COMMIT\0") as proxy, Database(proxy.dsn) as cut:
        policy = replace(QUICK, coordination="local")
        (outcome,) = mvrefresh.Runner(cut, policy=policy, metrics=store).run(plan)
    assert outcome
    assert outcome.content_changed is True  # the lost attempt may have changed it

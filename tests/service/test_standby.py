"""A server that takes no writes is left alone, until it is promoted."""

from __future__ import annotations

import os
from contextlib import closing

import psycopg
import pytest
from tests.refreshing.test_transaction import wait_until
from tests.servers import _account
from tests.service.conftest import POLICY, Heard

import mvrefresh
from mvrefresh import Database, Every, RefreshService, Schema
from mvrefresh.events import RefreshFinished, RefreshStarted, ServiceStarted
from mvrefresh.service import dispatcher


@pytest.fixture
def standby(restartable):
    """A server in recovery, with the schema and a view that is due."""
    with closing(psycopg.connect(restartable.dsn(), autocommit=True)) as connection:
        Schema().apply(connection)
        connection.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")
        with Database(restartable.dsn()) as database:
            mvrefresh.refresh_due(database, schedule=Every(seconds=0.1))
    restartable.stop()
    sign = restartable._directory / "data/standby.signal"
    sign.touch()
    if (account := _account()) is not None:
        os.chown(sign, account.pw_uid, account.pw_gid)
    restartable.start()
    return restartable


def test_it_is_left_alone_until_promoted(standby, monkeypatch):
    monkeypatch.setattr(dispatcher, "STANDBY", 0.1)
    heard = Heard()
    with (
        Database(standby.dsn()) as database,
        closing(psycopg.connect(standby.dsn(), autocommit=True)) as connection,
    ):
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        assert mvrefresh.refresh_due(database, schedule=Every(seconds=0.1)).results == {}
        service = RefreshService(database, ["mv"], Every(seconds=0.1), policy=POLICY)
        with service.subscribe(heard), service:
            heard.wait(ServiceStarted)
            wait_until(lambda: service.status()["state"] == "standby")
            assert heard.of(RefreshStarted) == []
            report = service.force()
            assert isinstance(report["mv"].error, mvrefresh.errors.ServerReadOnly)
            assert service.health().status == "healthy"
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)
            (_, finished) = heard.wait(RefreshFinished, 2)[:2]
            assert finished.outcome
            assert service.status()["state"] == "running"

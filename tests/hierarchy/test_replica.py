"""Look-ups that read at a streaming standby: never an old answer, whatever the standby does."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest
import redis
from psycopg.conninfo import make_conninfo
from tests.conftest import Databases, required
from tests.hierarchy.test_resolver import TREE, Changes, Oracle, fill
from tests.proxy import GoesSilent
from tests.servers import PostgresServer, StandbyServer, postgres_bin_dir

import mvrefresh
from mvrefresh import (
    Database,
    EventBus,
    HierarchySource,
    OptimizedHierarchyResolver,
    RefreshPolicy,
    Schema,
    errors,
)
from mvrefresh.aio import AsyncHierarchyResolver
from mvrefresh.events import TierDegraded, TierRecovered
from mvrefresh.hierarchy import replica as module
from mvrefresh.postgres.reach import REACH

KEYS = list(TREE)
ORACLE = Oracle(TREE)
HANGS = 0.5  # seconds that a look-up waits for a replica, as the pages say
SLACK = 1.5  # seconds, of a busy machine
OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mvrefresh' AND datname = %s"


@pytest.fixture(scope="module")
def pair(pg_major):
    """A primary, its standby, and what makes databases on both."""
    if pg_major is None:
        pytest.skip("the server of MVREFRESH_TEST_DSN has no standby of ours")
    with ExitStack() as stack:
        with required():
            primary = stack.enter_context(PostgresServer(postgres_bin_dir(pg_major)))
            databases = stack.enter_context(Databases(primary))
            standby = stack.enter_context(StandbyServer(primary))
        yield primary, standby, databases


class World:
    """A database with the views, on both servers; and who refreshes there, without a replica."""

    def __init__(self, stack, primary, standby, name="postgres"):
        self._stack = stack
        self.primary, self.standby, self.name = primary, standby, name
        self.dsn = primary.dsn(name)
        self.conn = stack.enter_context(closing(psycopg.connect(self.dsn, autocommit=True)))
        Schema().apply(self.conn)
        self.conn.execute(
            "CREATE EXTENSION IF NOT EXISTS ltree;"
            "CREATE TABLE entities (id int PRIMARY KEY, path ltree, name text, entity_type text);"
            "CREATE INDEX ON entities (path)"
        )
        fill(self.conn, TREE)
        HierarchySource().create(self.conn)
        self.other = stack.enter_context(Database(self.dsn))
        self.refresh()

    def refresh(self, method="auto"):
        views = HierarchySource().views
        mvrefresh.refresh(self.other, views, method=method).raise_for_failures()

    def rename(self, name, method="auto"):
        """By the method "regular", a resident hierarchy has to be loaded again."""
        self.conn.execute("UPDATE entities SET name = %s WHERE id = 2", [name])
        self.refresh(method)

    def block(self):
        """From now on refreshes hold up who reads: they cannot be concurrent."""
        unique = self.conn.execute(
            "SELECT indexrelid::regclass::text FROM pg_index"
            " WHERE indisunique AND indrelid = 'mv_entity_ancestors'::regclass"
        )
        for (index,) in unique.fetchall():
            self.conn.execute(f"DROP INDEX {index}")

    def catch_up(self):
        self.standby.wait_for(self.primary)

    def make(self, *, read_dsn=None, known=True, **given):
        """A resolver that knows which content is current, and a standby that has it."""
        self.catch_up()
        read_dsn = read_dsn or self.standby.dsn(self.name)
        database = self._stack.enter_context(Database(self.dsn, read_dsn=read_dsn))
        given = {"resident": 0, "watch": False} | given
        resolver = self._stack.enter_context(OptimizedHierarchyResolver(database, **given))
        if known:
            resolver.look_again()
        return resolver

    def on_the_standby(self):
        """Backends of ours there."""
        with closing(psycopg.connect(self.standby.dsn(self.name), autocommit=True)) as conn:
            return conn.execute(OURS, [self.name]).fetchone()[0]


@pytest.fixture(autouse=True)
def patience(request, monkeypatch):
    """A machine may be busy: where nothing is to hang, a replica has more time."""
    if request.cls is not TestFailing:
        monkeypatch.setattr(module, "PATIENCE", 20.0)


@pytest.fixture
def world(pair):
    primary, standby, databases = pair
    with ExitStack() as stack:
        made = World(stack, primary, standby, databases.create())
        yield made
        standby.query("SELECT pg_wal_replay_resume()")
    wait_until(lambda: made.on_the_standby() == 0)


@pytest.fixture
def impatient(world):
    """Sets how long the standby's replay waits for who reads there."""

    def wait(delay):
        world.standby.query(f"ALTER SYSTEM SET max_standby_streaming_delay = '{delay}'")
        world.standby.query("SELECT pg_reload_conf()")

    yield wait
    wait("30s")


@pytest.fixture
def fragile(restartable, standby):
    """As `world`, of servers of the test's own."""
    with ExitStack() as stack:
        yield World(stack, restartable, standby)


def wait_until(done, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def figures(resolver):
    found = resolver.cache_metrics()["l4_cache"]
    return {key: found[f"replica_{key}"] for key in ("reads", "too_old", "errors")}


def names(resolver, key=3):
    return [node.name for node in resolver.ancestors(key)]


@contextmanager
def timed(most):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < most


@contextmanager
def heard_by(events):
    told = queue.Queue()
    with events.subscribe(told.put):
        yield told


def reading_there(resolver):
    """Ask until the replica answers again."""

    def answered():
        before = figures(resolver)["reads"]
        resolver._tiers.memory.discard(KEYS)
        resolver.ancestors(4)
        return figures(resolver)["reads"] > before

    wait_until(answered)


class TestWhereAnswersComeFrom:
    def test_the_views_are_read_at_the_standby(self, world):
        resolver = world.make()
        backends = world.conn.execute(OURS, [world.name]).fetchone()
        for key in KEYS:
            assert resolver.ancestors(key) == ORACLE.ancestors(key)
            assert resolver.node(key) == ORACLE.nodes[key]
        assert resolver.counts_many(KEYS)[1].descendant_count == 7
        assert figures(resolver) == {"reads": 2 * len(KEYS) + 1, "too_old": 0, "errors": 0}
        assert world.on_the_standby() == 1
        # And whatever else was done, it was on the connections that `look_again` had needed.
        assert world.conn.execute(OURS, [world.name]).fetchone() == backends

    def test_whoever_holds_the_views_on_the_primary(self, world):
        resolver = world.make()
        world.standby.hold_replay()
        with world.conn.transaction(force_rollback=True):
            world.conn.execute("REFRESH MATERIALIZED VIEW mv_entity_ancestors")
            assert resolver.ancestors(4) == ORACLE.ancestors(4)
            assert resolver.node(4) == ORACLE.nodes[4]

    def test_the_whole_hierarchy_too(self, world):
        resolver = world.make(resident=10_000)
        assert resolver.preload() is True
        assert figures(resolver) == {"reads": 1, "too_old": 0, "errors": 0}
        assert resolver.ancestors(4) == ORACLE.ancestors(4)
        assert resolver.descendants(1) == ORACLE.descendants(1)

    def test_a_process_that_knows_nothing_yet_asks_the_primary_first(self, world):
        resolver = world.make(known=False)
        assert resolver.ancestors(4) == ORACLE.ancestors(4)
        assert figures(resolver)["reads"] == 0
        resolver.ancestors(3)
        assert figures(resolver)["reads"] == 1
        fresh = world.make(known=False, resident=10_000)
        assert fresh.preload() is True
        assert figures(fresh)["reads"] == 1

    def test_the_moment_is_the_primarys_alone(self, world):
        resolver = world.make()
        tiers = resolver._tiers
        known = tiers.tree.as_of
        assert known is not None
        assert tiers.views.ancestors([4]).as_of is None
        assert tiers.views.counts([4]).as_of is None
        assert tiers.views.everything(100, 100, lambda: True).as_of is None
        assert figures(resolver)["reads"] == 3
        resolver.ancestors(4)
        assert tiers.tree.as_of == known
        assert resolver.look_up(99 - 95).age_seconds >= 0

    def test_what_the_table_is_asked_for_is_asked_of_the_primary(self, world):
        resolver = world.make()
        resolver.ancestors(3)
        world.standby.hold_replay()
        world.conn.execute(
            "INSERT INTO entities VALUES (31, 'a.b.new', 'N', 'x');"
            "UPDATE entities SET name = 'live' WHERE id = 2"
        )
        assert [node.id for node in resolver.ancestors(31)] == [1, 2]
        assert [node.name for node in resolver.ancestors(3, 0.0)] == ["A", "live"]
        assert resolver.descendants(2)[-1].name == "below a gap"
        assert 31 in {node.id for node in resolver.descendants(2)}
        assert resolver.counts(2, 0.0).direct_children == 3
        with pytest.raises(errors.UnknownEntity):
            resolver.ancestors(99)

    def test_without_tags_it_is_not_asked(self, world):
        resolver = world.make(policy=RefreshPolicy(coordination="local"))
        assert resolver.ancestors(4) == ORACLE.ancestors(4)
        world.conn.execute("REFRESH MATERIALIZED VIEW mv_entity_ancestors")
        untagged = world.make()
        assert untagged.ancestors(4) == ORACLE.ancestors(4)
        assert figures(resolver)["reads"] == figures(untagged)["reads"] == 0


class TestBehind:
    def test_nothing_of_the_old_content_is_given_or_kept(self, world, redis_url):
        resolver = world.make(redis=redis_url, redis_prefix=world.name)
        assert names(resolver) == ["A", "B"]
        old = resolver._tiers.tree.tag
        world.standby.hold_replay()
        world.rename("renamed")
        resolver.look_again()
        for key in (3, 4, 9):
            assert names(resolver, key)[:2] == ["A", "renamed"]
            assert resolver.node(2).name == "renamed"
        assert resolver.nodes_many(KEYS)[2].name == "renamed"
        new = resolver._tiers.tree.tag
        assert new != old
        assert figures(resolver)["reads"] == 1  # that of before
        assert figures(resolver)["too_old"] >= 1
        for key in (3, 4, 9):
            assert resolver._tiers.memory.get(key)[1].name == "renamed"
        with closing(redis.Redis.from_url(redis_url)) as client:
            keys = list(client.scan_iter(f"{world.name}:*:{old.refresh_no}.*"))
            assert {key.rpartition(b":")[2] for key in keys} == {b"i3", b"3"} & {
                key.rpartition(b":")[2] for key in keys
            }
            assert all(
                b"renamed" not in client.get(key) and b"B" in client.get(key) for key in keys
            )

    def test_nor_is_it_the_whole_hierarchy(self, world, monkeypatch):
        monkeypatch.setattr(module, "_CATCH_UP", 0.05)
        resolver = world.make(resident=10_000)
        assert resolver.preload()
        world.standby.hold_replay()
        world.rename("renamed")
        resolver.look_again()
        assert resolver.preload() is True
        assert names(resolver) == ["A", "renamed"]
        assert resolver.descendants(1)[0].name == "renamed"
        assert figures(resolver)["reads"] == 1

    def test_a_load_waits_a_moment_for_the_refresh_to_arrive(self, world, monkeypatch):
        monkeypatch.setattr(module, "_CATCH_UP", 20.0)
        resolver = world.make(resident=10_000)
        assert resolver.preload()
        world.standby.hold_replay()
        world.rename("renamed", "regular")
        resolver.look_again()
        assert names(resolver) == ["A", "renamed"]  # the usual way meanwhile
        assert resolver.preload(timeout=0.1) is False
        world.standby.go_on_replaying()
        assert resolver.preload() is True
        assert figures(resolver)["reads"] >= 2
        assert names(resolver) == ["A", "renamed"]

    def test_it_is_not_asked_for_each_look_up_and_again_when_it_has_caught_up(
        self, world, monkeypatch
    ):
        resolver = world.make()
        world.standby.hold_replay()
        world.rename("renamed")
        resolver.look_again()
        monkeypatch.setattr(resolver._tiers.replica._tree.behind, "_clock", lambda: 0.0)
        for key in KEYS:
            resolver.ancestors(key)
        assert figures(resolver) == {"reads": 0, "too_old": 1, "errors": 0}
        monkeypatch.undo()
        world.standby.go_on_replaying()
        world.catch_up()
        reading_there(resolver)

    def test_views_are_behind_each_for_itself(self, world):
        resolver = world.make()
        world.standby.hold_replay()
        world.conn.execute("UPDATE entities SET name = 'renamed' WHERE id = 2")
        mvrefresh.refresh(world.other, ["mv_entity_ancestors"]).raise_for_failures()
        resolver.look_again()
        assert names(resolver) == ["A", "renamed"]
        assert resolver.counts(1).direct_children == 4
        assert figures(resolver) == {"reads": 1, "too_old": 1, "errors": 0}

    def test_who_has_not_heard_of_a_refresh_does_not_blame_the_replica(self, world):
        resolver = world.make()
        world.rename("renamed")
        world.catch_up()
        assert names(resolver) == ["A", "renamed"]  # the replica had it, the primary says so
        assert figures(resolver) == {"reads": 0, "too_old": 0, "errors": 0}
        resolver.ancestors(4)
        assert figures(resolver)["reads"] == 1

    def test_when_the_lease_is_over_the_old_content_is_no_answer(self, world):
        resolver = world.make()
        world.standby.hold_replay()
        world.rename("renamed")
        resolver._tiers.tree._until = 0.0
        resolver._tiers.tree.sweep()
        assert names(resolver) == ["A", "renamed"]

    def test_nor_when_it_ends_while_the_replica_is_asked(self, world):
        """As where the process was suspended just then: strict sees it."""
        resolver = world.make(strict=True)
        world.standby.hold_replay()
        world.rename("renamed")
        tiers = resolver._tiers
        way = tiers.replica._replica.reader

        @contextmanager
        def suspended(patience):
            with way(patience) as connection:
                yield connection
            tiers.tree._until = 0.0

        tiers.replica._replica.reader = suspended
        assert names(resolver) == ["A", "renamed"]
        assert figures(resolver)["reads"] == 0

    def test_after_a_refresh_of_ones_own_one_is_fresh_at_once(self, world):
        resolver = world.make()
        for number in range(20):
            world.conn.execute("UPDATE entities SET name = %s WHERE id = 2", [f"n{number}"])
            resolver.refresh_all_materialized_views()
            assert names(resolver) == ["A", f"n{number}"]

    def test_lasting_lag_is_told_once(self, world, monkeypatch):
        monkeypatch.setattr(module, "_LAGS", 0.05)
        events = EventBus()
        resolver = world.make(events=events)
        world.standby.hold_replay()
        world.rename("renamed")
        resolver.look_again()

        def look_up():
            resolver._tiers.memory.discard(KEYS)
            resolver.ancestors(4)
            return not told.empty()

        with heard_by(events) as told:
            wait_until(look_up)
            degraded = resolver.cache_metrics()["l4_cache"]["replica_degraded_since"]
            assert abs(degraded - time.time()) < 20
            world.standby.go_on_replaying()
            world.catch_up()
            reading_there(resolver)
            first, second = told.get(timeout=20), told.get(timeout=20)
            assert told.empty()
        assert first == TierDegraded("l4_replica", first.why)
        assert "replay lags" in first.why
        assert "mv_entity_ancestors" in first.why
        assert second == TierRecovered("l4_replica")
        assert resolver.cache_metrics()["l4_cache"]["replica_degraded_since"] is None


class TestFailing:
    def test_it_is_stopped_and_comes_back(self, fragile, monkeypatch):
        events = EventBus()
        resolver = fragile.make(events=events)
        resolver.ancestors(3)
        with heard_by(events) as told:
            fragile.standby.stop()
            with timed(HANGS + SLACK):
                assert resolver.ancestors(4) == ORACLE.ancestors(4)
            with timed(HANGS):  # nobody waits for it again
                assert resolver.ancestors(9) == ORACLE.ancestors(9)
            assert figures(resolver) == {"reads": 1, "too_old": 0, "errors": 1}
            lost = told.get(timeout=20)
            assert lost == TierDegraded("l4_replica", lost.why)
            fragile.standby.start()
            reading_there(resolver)
            assert told.get(timeout=20) == TierRecovered("l4_replica")
            assert told.empty()

    def test_it_was_never_there(self, world):
        events = EventBus()
        gone = make_conninfo("", host="127.0.0.1", port=1, password="hunter2", dbname="x")  # noqa: S106
        resolver = world.make(events=events, read_dsn=gone)
        with heard_by(events) as told, timed(HANGS + SLACK):
            assert resolver.ancestors_many(KEYS) == {k: ORACLE.ancestors(k) for k in KEYS}
            why = told.get(timeout=20).why
        assert "127.0.0.1" in why
        assert "hunter2" not in why

    @pytest.mark.parametrize("meter_every", [0, 1])
    def test_it_hangs(self, world, meter_every):
        events = EventBus()
        with GoesSilent(world.standby.dsn(world.name, tcp=True)) as proxy:
            resolver = world.make(events=events, read_dsn=proxy.dsn, meter_every=meter_every)
            assert resolver.ancestors(3) == ORACLE.ancestors(3)
            assert figures(resolver)["reads"] == 1
            with heard_by(events) as told:
                proxy.go_silent()
                with timed(HANGS + SLACK):
                    assert resolver.ancestors(4) == ORACLE.ancestors(4)
                with timed(HANGS):
                    for key in KEYS:
                        assert resolver.counts(key)
                lost = told.get(timeout=20)
                assert "did not answer in time" in lost.why
                proxy.speak()
                reading_there(resolver)
                assert told.get(timeout=20) == TierRecovered("l4_replica")
                assert told.empty()

    def test_many_wait_for_it_at_once_and_none_for_long(self, world):
        with GoesSilent(world.standby.dsn(world.name, tcp=True)) as proxy:
            resolver = world.make(read_dsn=proxy.dsn)
            resolver.ancestors(3)
            proxy.go_silent()
            took = []

            def ask(key):
                began = time.monotonic()
                assert resolver.counts(key)
                took.append(time.monotonic() - began)

            threads = [threading.Thread(target=ask, args=(key,)) for key in KEYS]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(took) == len(KEYS)
            assert max(took) < HANGS + SLACK
            proxy.speak()

    def test_a_task_that_is_cancelled_meanwhile_does_not_wait_longer(self, world):
        with GoesSilent(world.standby.dsn(world.name, tcp=True)) as proxy:
            resolver = world.make(read_dsn=proxy.dsn)
            resolver.ancestors(3)
            read, asked = resolver._tiers.reader._statements.text, threading.Event()
            resolver._tiers.reader._statements.text = lambda *given: (asked.set(), read(*given))[1]

            async def cancelled():
                async with AsyncHierarchyResolver(resolver) as face:
                    task = asyncio.create_task(face.ancestors(4))
                    await asyncio.to_thread(asked.wait, 20)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task

            proxy.go_silent()
            with timed(2 * HANGS + SLACK):
                asyncio.run(cancelled())
            proxy.speak()

    def test_it_hangs_in_the_middle_of_a_load(self, world, monkeypatch):
        monkeypatch.setattr(module, "_LOAD_PATIENCE", 0.2)
        with GoesSilent(world.standby.dsn(world.name, tcp=True)) as proxy:
            resolver = world.make(read_dsn=proxy.dsn)
            replica = resolver._tiers.replica
            asked = []

            def go_on():
                asked.append(None)
                if len(asked) == 2:  # the first was before anything was asked of it
                    proxy.go_silent()
                return True

            with timed(10 * SLACK):
                load = replica.everything(10_000, 100, go_on)
            assert load.hierarchy.ancestors(4) == ORACLE.ancestors(4)
            assert load.as_of is not None  # the primary's
            assert figures(resolver) == {"reads": 0, "too_old": 0, "errors": 1}
            proxy.speak()

    def test_who_is_closed_meanwhile_does_not_blame_it(self, world):
        events = EventBus()
        with GoesSilent(world.standby.dsn(world.name, tcp=True)) as proxy:
            resolver = world.make(read_dsn=proxy.dsn, resident=10_000, events=events)
            assert resolver.preload()
            proxy.go_silent()
            world.rename("renamed", "regular")
            resolver.look_again()
            residence = resolver._tiers.residence
            wait_until(lambda: residence._loading)
            with heard_by(events) as told, timed(10 * SLACK):
                resolver.close()
            assert told.empty()
            proxy.speak()

    @pytest.mark.parametrize("idle", ["statement", "load"])
    def test_it_cancels_for_its_replay(self, world, impatient, idle):
        """What is read there stands in the way of a refresh that is replayed."""
        impatient("0")
        world.block()
        resolver = world.make()
        replica = resolver._tiers.replica
        resolver.ancestors(3)

        def replay():
            world.rename("renamed")
            world.catch_up()

        @contextmanager
        def in_the_way(connection):
            if connection.info.port == int(world.standby._port):
                connection.execute("BEGIN")
                connection.execute("SELECT FROM mv_entity_ancestors")
                replay()
            yield

        if idle == "statement":
            token = REACH.set(in_the_way)
            try:
                assert names(resolver, 4)[:2] == ["A", "renamed"]
            finally:
                REACH.reset(token)
        else:
            gone = iter([lambda: None, replay])
            load = replica.everything(100, 100, lambda: next(gone, lambda: None)() is None)
            assert load.hierarchy.ancestors(3)[1].name == "renamed"
        assert figures(resolver)["errors"] == 1
        reading_there(resolver)

    def test_it_lacks_something(self, world, pair):
        """Another database, without any of this: the primary answers, and it is told once."""
        events = EventBus()
        empty = world.standby.dsn(pair[2].create())
        resolver = world.make(events=events, read_dsn=empty)
        with heard_by(events) as told:
            for key in KEYS:
                assert resolver.ancestors(key) == ORACLE.ancestors(key)
            assert "does not exist" in told.get(timeout=20).why
        probed = figures(resolver)["errors"]

        def probed_again():
            resolver._tiers.memory.discard(KEYS)
            resolver.ancestors(4)
            return figures(resolver)["errors"] > probed

        wait_until(probed_again)
        assert told.empty()

    def test_who_asks_in_the_wrong_way_does_not_make_it_so(self, world):
        resolver = world.make()
        with pytest.raises(errors.ConfigurationError):
            resolver.ancestors("three")
        assert figures(resolver)["errors"] == 0
        resolver.ancestors(4)
        assert figures(resolver)["reads"] == 1

    def test_who_is_broken_off_does_not_either(self, world):
        class Stop(BaseException):
            pass

        @contextmanager
        def stopped(connection):
            raise Stop
            yield

        resolver = world.make()
        world.standby.hold_replay()
        world.rename("renamed")
        resolver.look_again()
        resolver.ancestors(3)
        behind = resolver._tiers.replica._tree.behind
        behind._clock = lambda: time.monotonic() + 100  # now one may try
        token = REACH.set(stopped)
        try:
            with pytest.raises(Stop):
                resolver.ancestors(4)
        finally:
            REACH.reset(token)
        assert figures(resolver)["errors"] == 0
        assert behind.may_try()  # another one


class TestOtherServers:
    def test_the_primary_itself_does_as_well(self, world):
        resolver = world.make(read_dsn=world.dsn)
        assert names(resolver) == ["A", "B"]
        world.rename("renamed")
        resolver.look_again()
        assert names(resolver) == ["A", "renamed"]
        assert figures(resolver) == {"reads": 2, "too_old": 0, "errors": 0}

    def test_another_cluster_is_never_believed(self, world, new_dsn, monkeypatch):
        monkeypatch.setattr(module, "_LAGS", 0.05)
        events = EventBus()
        foreign = new_dsn()
        with ExitStack() as stack:
            conn = stack.enter_context(closing(psycopg.connect(foreign, autocommit=True)))
            Schema().apply(conn)
            conn.execute(
                "CREATE TABLE entities"
                " (id int PRIMARY KEY, path ltree, name text, entity_type text)"
            )
            fill(conn, {key: (path, f"not {name}") for key, (path, name) in TREE.items()})
            HierarchySource().create(conn)
            with Database(foreign) as database:
                mvrefresh.refresh(database).raise_for_failures()
            resolver = world.make(read_dsn=foreign, events=events)

            def look_up():
                resolver._tiers.memory.discard(KEYS)
                for key in KEYS:
                    assert resolver.ancestors(key) == ORACLE.ancestors(key)
                return not told.empty()

            with heard_by(events) as told:
                wait_until(look_up)
            assert "no standby of this server" in told.get().why
            assert figures(resolver)["reads"] == 0
            resolver._database.close()

    def test_a_standby_that_was_promoted_is_another_server(self, fragile):
        resolver = fragile.make()
        assert names(resolver) == ["A", "B"]
        fragile.standby.promote()
        with closing(psycopg.connect(fragile.standby.dsn(), autocommit=True)) as conn:
            conn.execute("UPDATE entities SET name = 'theirs' WHERE id = 2")
        with Database(fragile.standby.dsn()) as there:
            mvrefresh.refresh(there, HierarchySource().views).raise_for_failures()
        assert names(resolver, 4)[:2] == ["A", "B"]
        fragile.rename("ours")
        resolver.look_again()
        for key in (3, 4, 9):
            assert names(resolver, key)[:2] == ["A", "ours"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(world):
    resolver = world.make(resident=10_000)
    assert resolver.preload()
    resolver.counts(1)
    before = figures(resolver)["reads"]
    there = world.on_the_standby()
    if not (child := os.fork()):
        wrong = 1
        try:
            assert resolver.counts(2)
            assert resolver.ancestors(4) == ORACLE.ancestors(4)
            assert figures(resolver)["reads"] > before
            resolver._database.close()
            wrong = 0
        finally:
            os._exit(wrong)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert world.on_the_standby() == there  # the child has not closed them
    resolver.counts(3)
    assert figures(resolver)["reads"] == before + 1
    assert world.on_the_standby() == there


def test_it_is_closed_with_the_database(world):
    resolver = world.make(resident=10_000)
    resolver.counts(1)
    resolver.preload()
    assert world.on_the_standby() == 2
    resolver._database.close()
    wait_until(lambda: world.on_the_standby() == 0)
    with pytest.raises(errors.DatabaseUnavailable, match="closed"):
        resolver.counts(2)


def test_no_repr_and_no_error_shows_a_password():
    database = Database("host=a dbname=d", read_dsn="postgresql://me:hunter2@b:5433/d")
    assert repr(database) == "Database(host=a dbname=d, Replica(host=b port=5433 dbname=d))"
    with pytest.raises(errors.ConfigurationError) as caught:
        Database("host=a", read_dsn="password=hunter2 x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("blocking", [False, True])
def test_tag_and_rows_are_of_one_content_while_refreshes_are_replayed(world, blocking):
    """Read at the standby alone, all the time: a tag never comes with rows of another."""
    if blocking:
        world.block()
    world.catch_up()
    contents, seen, over = {}, [], threading.Event()
    with (
        Database(world.standby.dsn(world.name)) as there,
        OptimizedHierarchyResolver(there, resident=0, watch=False) as looking,
        world.make() as knowing,
    ):

        def look():
            while not over.is_set():
                loaded = looking._tiers.reader.ancestors([3])
                whole = looking._tiers.reader.everything(100, 100, lambda: True)
                seen.append((loaded.tag, loaded.values[3][1].name))
                seen.append((whole.tag, whole.hierarchy.ancestors(3)[1].name))

        looker = threading.Thread(target=look)
        looker.start()
        for number in range(25):
            world.rename(f"n{number}")
            knowing.look_again()
            contents[knowing._tiers.tree.tag] = f"n{number}"
        world.catch_up()
        over.set()
        looker.join()
    assert len(contents) == 25
    kept = [(tag, name) for tag, name in seen if tag in contents]
    assert len({tag for tag, _ in kept}) > 3
    assert [(tag, name) for tag, name in kept if contents[tag] != name] == []


class Follower:
    """Looks up on a thread, and writes down what is older than it may be."""

    BOUND = 2.5

    def __init__(self, resolver):
        self._resolver = resolver
        self._committed = [(0.0, 0)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.looks = 0
        self.wrong = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._over.set()
        self._thread.join()

    def committed(self, number):
        self._committed.append((time.monotonic(), number))

    def _run(self):
        while not self._over.is_set():
            for key in (3, 4, 9):
                before = time.monotonic() - self.BOUND
                least = max(number for at, number in self._committed if at <= before)
                self.looks += 1
                if (found := number_of(self._resolver, key)) < least:
                    self.wrong.append((key, found, least))


def number_of(resolver, key):
    """What is read now."""
    resolver._tiers.memory.discard(KEYS)
    return int(names(resolver, key)[1][1:])


def test_against_an_oracle_while_the_standby_lags_and_catches_up(world):
    """Nobody sees less than was committed 2.5 s before; who has refreshed, less than its own."""
    world.rename("n0")
    following, own = world.make(watch=True), world.make()
    changes = Changes(following._tiers.tree)
    began, count = time.monotonic(), 0
    with Follower(following) as follower:
        while time.monotonic() - began < 4.0:
            count += 1
            if count % 8 == 1:
                world.standby.hold_replay()
            world.conn.execute("UPDATE entities SET name = %s WHERE id = 2", [f"n{count}"])
            own.refresh_all_materialized_views()
            follower.committed(count)
            assert [number_of(own, key) for key in (3, 4)] == [count, count]
            changes.wait()
            if count % 8 == 5:
                world.standby.go_on_replaying()
                world.catch_up()
    assert follower.wrong == []
    assert min(count, follower.looks) > 8
    assert figures(following)["reads"] > 0
    assert figures(following)["too_old"] > 0
    assert figures(following)["errors"] == 0

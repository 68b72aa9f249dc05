"""Something else than a parameter takes: refused at once, by an error that says what to write."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import mvrefresh
from mvrefresh import (
    Database,
    Every,
    HierarchySource,
    InMemoryMetricsStore,
    OptimizedHierarchyResolver,
    RefreshService,
    UsageSource,
)
from mvrefresh.errors import ConfigurationError
from mvrefresh.expected import DATABASE, USAGE_SOURCE, expect
from mvrefresh.prometheus import MvrefreshCollector
from mvrefresh.testing import FakeRefreshService
from mvrefresh.web import ops_router, refresh_router

DSN = "host=127.0.0.1 port=1 dbname=x password=secret"


@pytest.fixture
def database():
    with Database(DSN) as database:
        yield database


@pytest.fixture
def service(database):
    return RefreshService(database, ["mv"])


@pytest.fixture
def resolver(database):
    with OptimizedHierarchyResolver(database, HierarchySource(), watch=False) as resolver:
        yield resolver


@pytest.fixture
def given(database, service, resolver):
    metrics, usage = InMemoryMetricsStore(), UsageSource()
    return SimpleNamespace(
        db=database, service=service, resolver=resolver, metrics=metrics, usage=usage
    )


MISTAKES = {
    "a service first": (
        lambda x: refresh_router(x.service),
        "not RefreshService, which goes to service=: write refresh_router(resolver, service, data",
    ),
    "a database first": (
        lambda x: refresh_router(x.db),
        "not Database, which goes to database=: write refresh_router(",
    ),
    "swapped": (
        lambda x: refresh_router(x.service, x.resolver),
        "not RefreshService, which goes to service=",
    ),
    "a resolver as the service": (
        lambda x: refresh_router(service=x.resolver),
        "service= takes a RefreshService, not OptimizedHierarchyResolver, which goes to resolver=",
    ),
    "a DSN as the database": (
        lambda _: refresh_router(database=DSN),
        "database= takes a Database, not str, and Database(dsn) makes one",
    ),
    "Prometheus' metrics as the store": (
        lambda x: refresh_router(x.resolver, metrics=lambda: (b"", "text/plain")),
        "metrics= takes a metrics store, not function: write",
    ),
    "a class": (
        lambda x: refresh_router(x.resolver, metrics=InMemoryMetricsStore),
        "not the class InMemoryMetricsStore",
    ),
    "ops of a service": (
        lambda x: ops_router(x.service),
        "database= takes a Database, not RefreshService, which goes to service=: write ops_router(",
    ),
    "ops, swapped": (
        lambda x: ops_router(x.db, service=x.resolver),
        "service= takes a RefreshService, not OptimizedHierarchyResolver, which goes to resolver=",
    ),
    "ops of another resolver": (
        lambda x: ops_router(x.db, resolver=x.service),
        "not RefreshService, which goes to service=",
    ),
    "ops' metrics": (
        lambda x: ops_router(x.db, metrics=object()),
        "metrics= takes a function, not object: write metrics=lambda: exposition(registry)",
    ),
    "ops' Redis": (
        lambda x: ops_router(x.db, redis="redis://localhost"),
        "redis= takes a client of redis-py, not str: Redis.from_url(",
    ),
    "a schedule for views": (
        lambda x: RefreshService(x.db, Every(seconds=5)),
        "is a schedule: pass it by name, schedule=Every(seconds=5",
    ),
    "schedules for views": (
        lambda x: RefreshService(x.db, {"mv": Every(seconds=5)}),
        "is a schedule: pass it by name, schedule={'mv': Every(seconds=5",
    ),
    "no names": (lambda x: RefreshService(x.db, 5), 'views=5 is no list of names: pass ["mv"]'),
    "a schedule for the views of a fake": (
        lambda _: FakeRefreshService(Every(seconds=5)),
        "pass it by name, schedule=",
    ),
    "a service of a DSN": (
        lambda _: RefreshService(DSN),
        "database= takes a Database, not str, and Database(dsn) makes one: write RefreshService(",
    ),
    "a resolver of a DSN": (
        lambda _: OptimizedHierarchyResolver(DSN),
        "and Database(dsn) makes one: write OptimizedHierarchyResolver(",
    ),
    "a refresh of a DSN": (
        lambda _: mvrefresh.refresh(DSN, ["mv"]),
        "and Database(dsn) makes one: write",
    ),
    "what is due of a DSN": (
        lambda _: mvrefresh.refresh_due(DSN, ["mv"]),
        "and Database(dsn) makes one: write refresh_due(",
    ),
    "a collector of a service": (
        lambda x: MvrefreshCollector(x.service),
        "not RefreshService, which goes to service=: write MvrefreshCollector(database, service=",
    ),
    "a collector's service": (
        lambda x: MvrefreshCollector(x.db, service=x.resolver),
        "service= takes a RefreshService, not OptimizedHierarchyResolver",
    ),
    "one resolver": (
        lambda x: MvrefreshCollector(x.db, resolvers=x.resolver),
        "takes a list of resolvers, not OptimizedHierarchyResolver: write MvrefreshCollector(",
    ),
    "services for resolvers": (
        lambda x: MvrefreshCollector(x.db, resolvers=[x.service]),
        "resolver= takes an OptimizedHierarchyResolver, not RefreshService",
    ),
    "named services for resolvers": (
        lambda x: MvrefreshCollector(x.db, resolvers={"world": x.service}),
        "resolver= takes an OptimizedHierarchyResolver, not RefreshService",
    ),
    "a source for the database": (
        lambda x: expect(x.usage, DATABASE, "usage_router(database, source)"),
        "database= takes a Database, not UsageSource, which goes to source=",
    ),
    "another source": (
        lambda _: expect(HierarchySource(), USAGE_SOURCE, "usage_router(database, source)"),
        "source= takes a UsageSource, not HierarchySource: write usage_router(database, source)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_what_to_write(given, mistake):
    make, words = MISTAKES[mistake]
    with pytest.raises(ConfigurationError) as raised:
        make(given)
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)


def test_what_does_as_well_is_taken(given):
    fake = FakeRefreshService(["mv"])
    refresh_router(service=fake, metrics=given.metrics)
    refresh_router(given.resolver, given.service, database=given.db)
    ops_router(given.db, service=fake, resolver=given.resolver, metrics=lambda: (b"", "text/plain"))
    MvrefreshCollector(given.db, service=fake, resolvers=(given.resolver,)).close()
    expect(given.usage, USAGE_SOURCE, "usage_router(database, source)")
    RefreshService(given.db, iter(["mv"]))

"""The routes that read the hierarchy: shapes, tiers, pages, ids of every type."""

from __future__ import annotations

import threading
from uuid import UUID

import pytest
from tests.web import shapes
from tests.web.conftest import ENTITIES, app_of, ask, visit

from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, Schema
from mvrefresh.web import refresh_router

TIER, AGE = "x-mvrefresh-tier", "x-mvrefresh-age"


def read(app, *paths):
    async def talk(client):
        return [await client.get(f"{ENTITIES}{path}") for path in paths]

    return visit(app, talk)


@pytest.mark.parametrize("resident", [False, True])
def test_every_read_has_its_shape_and_says_which_tier_answered(make, conn, resident):
    resolver = make(resident=1000 if resident else 0)
    resolver.refresh_all_materialized_views()
    assert resolver.preload() is resident
    app = app_of(refresh_router(resolver))
    wanted = {
        "/3/ancestors": shapes.ANCESTORS,
        "/2/descendants": shapes.DESCENDANTS,
        "/2/counts": shapes.COUNTS,
    }
    for path, shape in wanted.items():
        first, second = read(app, path, path)
        for answer in (first, second):
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            assert 0 <= float(answer.headers[AGE]) < 60
            shapes.check(shape, answer.json())
        in_memory = resident and not path.endswith("counts")
        assert first.headers[TIER] == ("l1" if in_memory else "l4")
        assert second.headers[TIER] == "l1"
    (answer,) = read(app, "/3/ancestors")
    assert [node["id"] for node in answer.json()["ancestors"]] == [1, 2]
    (answer,) = read(app, "/3/counts")
    assert answer.json()["descendant_count"] == resolver.counts(3).descendant_count


def test_the_table_and_redis_are_told_apart(make, conn, redis_url):
    prefix = f"web{id(conn)}"
    one = make(resident=0, redis=redis_url, redis_prefix=prefix)
    one.refresh_all_materialized_views()
    conn.execute("INSERT INTO entities VALUES (50, 'a.b.new', 'new', 'x')")
    (answer, missing) = read(app_of(refresh_router(one)), "/50/ancestors", "/3/ancestors")
    assert answer.headers[TIER] == "source"
    assert answer.headers[AGE] == "0.000"
    assert missing.headers[TIER] == "l4"
    other = make(resident=0, redis=redis_url, redis_prefix=prefix)
    other.look_again()
    (answer,) = read(app_of(refresh_router(other)), "/3/ancestors")
    assert answer.headers[TIER] == "l2"


def test_a_hit_needs_no_thread(resolver):
    app = app_of(refresh_router(resolver))
    resolver.ancestors(3), resolver.counts(3), resolver.descendants(3, limit=1000)

    async def talk(client):
        before = set(threading.enumerate())
        for path in ("/3/ancestors", "/3/counts", "/3/descendants"):
            answer = await client.get(f"{ENTITIES}{path}")
            assert answer.headers[TIER] == "l1"
        answer = await client.post(f"{ENTITIES}/ancestors:batch", json={"ids": [3]})
        assert answer.headers[TIER] == "l1"
        assert set(threading.enumerate()) <= before

    visit(app, talk)


def test_a_batch(resolver):
    app = app_of(refresh_router(resolver))
    path = f"{ENTITIES}/ancestors:batch"

    async def talk(client):
        first = await client.post(path, json={"ids": [4, 99, 1, 4]})
        assert first.status_code == 200
        shapes.check(shapes.BATCH, first.json())
        assert [each["id"] for each in first.json()["entities"]] == [4, 1]
        assert [node["id"] for node in first.json()["entities"][0]["ancestors"]] == [1, 2, 3]
        assert first.json()["unknown"] == [99]
        assert first.headers[TIER] == "l4"
        assert (await client.post(path, json={"ids": [4, 1]})).headers[TIER] == "l1"
        assert (await client.post(path, json={"ids": []})).json() == {"entities": [], "unknown": []}
        for wrong in (
            {},
            {"ids": "4"},
            {"ids": ["4"]},
            {"ids": [True]},
            {"ids": [1.5]},
            {"ids": [2**63]},
            [],
            4,
        ):
            answer = await client.post(path, json=wrong)
            assert answer.status_code == 422, wrong
            shapes.check({"detail": str}, answer.json())
        assert (await client.post(path, content=b"{nonsense")).status_code == 422
        assert (await client.post(path, json={"ids": list(range(10_001))})).status_code == 422

    visit(app, talk)


def test_pages_are_the_whole(resolver):
    app = app_of(refresh_router(resolver))
    whole = [node.id for node in resolver.descendants(1)]

    async def talk(client):
        found, after = [], None
        while True:
            params = {"limit": 3} | ({"after": after} if after else {})
            answer = await client.get(f"{ENTITIES}/1/descendants", params=params)
            shapes.check(shapes.DESCENDANTS, answer.json())
            found += [node["id"] for node in answer.json()["descendants"]]
            after = answer.json()["next"]
            if after is None:
                break
        assert found == whole
        one = await client.get(f"{ENTITIES}/1/descendants", params={"max_depth": 1})
        assert [n["id"] for n in one.json()["descendants"]] == [n.id for n in resolver.children(1)]
        for wrong in (
            {"limit": 0},
            {"limit": 10_001},
            {"max_depth": 0},
            {"limit": "x"},
            {"after": "nonsense"},
            {"after": "WzEsImEuLi5iIl0"},  # a path that is none
            {"after": "WzEsMl0"},
            {"after": "é"},
        ):
            answer = await client.get(f"{ENTITIES}/1/descendants", params=wrong)
            assert answer.status_code == 422, wrong
            shapes.check({"detail": str}, answer.json())

    visit(app, talk)


@pytest.mark.parametrize("what", ["ancestors", "descendants", "counts"])
def test_who_is_not_there_and_what_is_no_id(resolver, what):
    app = app_of(refresh_router(resolver))
    unknown, huge, word = read(app, f"/99/{what}", f"/{2**70}/{what}", f"/x/{what}")
    assert unknown.status_code == 404
    assert unknown.json() == {"detail": "there is no entity 99"}
    assert huge.status_code == 422
    assert word.status_code == 422
    assert word.json() == {"detail": "'x' is no id"}


def test_an_error_is_no_longer_than_it_needs_to_be(resolver):
    app = app_of(refresh_router(resolver))
    status, document = ask(app, "POST", f"{ENTITIES}/ancestors:batch", json={"ids": ["x"] * 9000})
    assert status == 422
    assert len(document["detail"]) < 1100


def test_a_batch_of_many_is_as_one_of_few(resolver, monkeypatch):
    app, ids = app_of(refresh_router(resolver)), {"ids": [3, 1, 99, 3, 2]}
    few = ask(app, "POST", f"{ENTITIES}/ancestors:batch", json=ids)
    monkeypatch.setattr("mvrefresh.web.hierarchy.MANY", 0)
    assert ask(app, "POST", f"{ENTITIES}/ancestors:batch", json=ids) == few
    assert few[1]["unknown"] == [99]


@pytest.mark.parametrize(
    ("column", "id_type", "ids"),
    [
        ("uuid", UUID, [f"00000000-0000-4000-8000-00000000000{n}" for n in range(3)]),
        ("text", str, ["world", "refresh", "ä b:c"]),
        ("bigint", int, [2**40, 2**40 + 1, 2**40 + 2]),
    ],
)
def test_ids_of_every_type(dsn, conn, column, id_type, ids):
    Schema().apply(conn)
    conn.execute(
        f"CREATE TABLE things (id {column} PRIMARY KEY, path ltree, name text, entity_type text);"
        "CREATE INDEX ON things USING gist (path); CREATE INDEX ON things (path)"
    )
    for key, path in zip(ids, ("a", "a.b", "a.b.c"), strict=True):
        conn.execute("INSERT INTO things VALUES (%s, %s, 'n', 'x')", (key, path))
    source = HierarchySource("things")
    source.create(conn)
    with (
        Database(dsn) as database,
        OptimizedHierarchyResolver(database, source, resident=0) as resolver,
    ):
        resolver.refresh_all_materialized_views()
        app = app_of(refresh_router(resolver, id_type=id_type))

        async def talk(client):
            for _ in range(2):
                answer = await client.get(f"{ENTITIES}/{ids[2]}/ancestors")
                assert answer.status_code == 200
                assert answer.json()["id"] == ids[2]
                assert [node["id"] for node in answer.json()["ancestors"]] == ids[:2]
                answer = await client.post(f"{ENTITIES}/ancestors:batch", json={"ids": ids})
                assert [each["id"] for each in answer.json()["entities"]] == ids
            page = await client.get(f"{ENTITIES}/{ids[0]}/descendants?limit=1")
            params = {"limit": 1, "after": page.json()["next"]}
            page = await client.get(f"{ENTITIES}/{ids[0]}/descendants", params=params)
            assert [node["id"] for node in page.json()["descendants"]] == [ids[2]]
            answer = await client.get(f"{ENTITIES}/{ids[1]}/counts")
            assert answer.json()["descendant_count"] == 1

        visit(app, talk)


def test_an_id_type_of_the_hosts_own(resolver):
    def hexadecimal(text):
        return int(text, 16)

    app = app_of(refresh_router(resolver, id_type=hexadecimal))
    good, bad = read(app, "/0x3/ancestors", "/zz/ancestors")
    assert good.json()["id"] == 3
    assert bad.status_code == 422
    status, document = ask(app, "POST", f"{ENTITIES}/ancestors:batch", json={"ids": ["3"]})
    assert status == 200
    assert document["entities"][0]["id"] == 3


def test_no_route_stands_before_another_that_is_meant(resolver):
    """The paths that are fixed, and those that begin with an id: each finds its own."""
    app = app_of(refresh_router(resolver))
    fixed = [path for path in app.openapi()["paths"] if "{" not in path and "post" not in path]
    assert f"{ENTITIES}/refresh/status" in fixed
    for path in fixed:
        assert not path.endswith(("/ancestors", "/descendants", "/counts")), path
    status, document = ask(app, "GET", f"{ENTITIES}/refresh/status")
    assert status == 200
    assert document["status"] == "available"


def test_views_that_are_not_there_are_the_servers_fault(make, conn):
    resolver = make(resident=0)
    conn.execute("DROP MATERIALIZED VIEW mv_entity_ancestors CASCADE")
    (answer,) = read(app_of(refresh_router(resolver)), "/3/ancestors")
    assert answer.status_code == 503
    shapes.check({"detail": lambda found: "mv_" not in found}, answer.json())

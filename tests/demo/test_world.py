from __future__ import annotations

import re
from collections import Counter

import pytest

from mvrefresh.demo.world import load_world, world

LABEL = re.compile(r"[A-Za-z0-9_]{1,255}")


@pytest.fixture(scope="module", params=[False, True], ids=["countries", "cities"])
def entities(request):
    return world(cities=request.param)


def test_size(entities):
    kinds = Counter(entity.entity_type for entity in entities)
    assert kinds["root"] == 1
    assert kinds["continent"] == 7
    assert kinds["country"] >= 249
    assert kinds["subdivision"] >= 5000
    assert len(entities) >= 5000
    assert kinds["city"] == 0 or kinds["city"] > 30_000


def test_labels_are_valid(entities):
    for entity in entities:
        assert all(LABEL.fullmatch(label) for label in entity.path.split("."))
        assert entity.name


def test_one_root_and_every_parent_before_its_children(entities):
    seen = {}
    for entity in entities:
        above, dot, _ = entity.path.rpartition(".")
        if dot:
            assert seen[entity.parent_id] == above
        else:
            assert entity.parent_id is None
            assert not seen
        seen[entity.id] = entity.path
    assert len(seen) == len(set(seen.values())) == len(entities)


def test_places(entities):
    by_path = {entity.path: entity for entity in entities}
    assert by_path["earth.NA.US.US_CA"].name == "California"
    assert by_path["earth.EU.FR.FR_GES.FR_6AE.FR_67"].name == "Bas-Rhin"
    assert by_path["earth.EU.IS"].entity_type == "country"
    cities = [entity for entity in entities if entity.entity_type == "city"]
    assert any(city.path.startswith("earth.NA.US.US_CA.") for city in cities) == bool(cities)


def test_the_same_every_time():
    assert world() == world()


def test_loaded(conn):
    entities = world()
    load_world(conn, entities)
    assert conn.execute("SELECT count(*) FROM entities").fetchone() == (len(entities),)
    assert conn.execute(
        "SELECT count(*) FROM entities c JOIN entities p ON p.id = c.parent_id"
        " WHERE subpath(c.path, 0, -1) <> p.path"
    ).fetchone() == (0,)

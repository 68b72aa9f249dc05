"""When the hierarchy is loaded, when it is forgotten, and what happens where that fails."""

from __future__ import annotations

import threading
from uuid import UUID

import pytest

from mvrefresh.cache.content import Content
from mvrefresh.cache.tier import Tag, line_of
from mvrefresh.hierarchy import residence as module
from mvrefresh.hierarchy.residence import Load, Residence
from mvrefresh.hierarchy.resident import ResidentHierarchy

PATIENCE = 20


def tag_of(number):
    return Tag(number, UUID(int=number))


class World:
    """A view of one entity, whose name is the number of the refresh."""

    def __init__(self, **given):
        self.number = 1
        self.loads = 0
        self.too_big = False
        self.during = lambda: None
        self.content = Content(lambda _: (line_of(tag_of(self.number)), None))
        self.residence = Residence(self.content, self.load, **given)

    def load(self, go_on):
        self.loads += 1
        number = self.number
        self.during()
        if self.too_big or not go_on():
            return Load(None, tag_of(number), None)
        hierarchy = ResidentHierarchy([[(1, "a", str(number), None)]])
        hierarchy.tag = tag_of(number)
        return Load(hierarchy, hierarchy.tag, None)

    def refresh(self):
        self.number += 1
        self.content.look()

    @property
    def name(self):
        there = self.residence.current
        return None if there is None else there.node(1).name


@pytest.fixture
def world():
    world = World()
    yield world
    world.residence.close(lambda _: None)


def test_it_is_loaded_when_it_is_wanted(world):
    assert world.name is None
    assert world.residence.wait(PATIENCE)
    assert (world.name, world.loads, world.residence.loads) == ("1", 1, 1)
    world.residence.want()
    assert world.loads == 1


def test_after_a_refresh_the_old_one_is_gone_at_once_and_the_new_one_comes(world):
    world.residence.wait(PATIENCE)
    go_on = threading.Event()
    world.during = lambda: go_on.wait(PATIENCE)
    world.refresh()
    assert world.name is None
    go_on.set()
    assert world.residence.wait(PATIENCE)
    assert world.name == "2"


def test_nobody_who_wants_it_waits(world):
    go_on = threading.Event()
    world.during = lambda: go_on.wait(PATIENCE)
    for _ in range(5):
        world.residence.want()
    assert world.name is None
    go_on.set()
    assert world.residence.wait(PATIENCE)
    assert world.loads == 1


def test_what_a_refresh_overtakes_is_loaded_again(world):
    def overtake():
        world.during = lambda: None
        world.number += 1

    world.during = overtake
    assert world.residence.wait(PATIENCE)
    assert (world.name, world.loads) == ("2", 2)


def test_what_is_refreshed_faster_than_it_is_loaded_is_left_alone_for_a_while(world):
    world.during = world.refresh
    assert not world.residence.wait(PATIENCE)
    assert world.loads == 3
    world.residence._not_before = float("inf")
    world.residence.want()
    assert world.loads == 3


def test_what_is_too_big_is_not_tried_again_before_it_changes(world):
    world.too_big = True
    assert not world.residence.wait(PATIENCE)
    world.residence._not_before = 0.0
    world.residence.want()
    assert world.loads == 1
    world.too_big = False
    world.refresh()
    assert world.residence.wait(PATIENCE)


def test_a_load_that_fails_is_told_and_tried_again_later(world, caplog):
    def fail():
        raise ConnectionError("gone")

    world.during = fail
    assert not world.residence.wait(PATIENCE)
    assert "gone" in caplog.text
    world.residence.want()
    assert world.loads == 1
    world.residence._not_before = 0.0
    world.during = lambda: None
    assert world.residence.wait(PATIENCE)


def test_when_blind_it_is_parked(world):
    world.residence.wait(PATIENCE)
    world.residence.retag(None, park=True)
    assert world.name is None
    world.residence.retag(tag_of(1))
    assert world.name == "1"
    assert world.loads == 1


def test_closing_ends_a_load(world):
    hung_up, entered = threading.Event(), threading.Event()

    def hang():
        entered.set()
        hung_up.wait(PATIENCE)

    world.during = hang
    world.residence.want()
    entered.wait(PATIENCE)
    world.residence.close(lambda _: hung_up.set())
    assert world.name is None
    world.residence.want()
    assert world.loads == 1


def test_unwanted_it_is_never_loaded():
    world = World(wanted=False)
    assert not world.residence.wait(PATIENCE)
    assert world.loads == 0


def test_what_is_over_is_freed_in_parts_and_not_while_somebody_reads_it(world, monkeypatch):
    world.residence.wait(PATIENCE)
    old = world.residence.current
    monkeypatch.setattr(module, "_LOOKS", 2)
    world.refresh()
    world.residence.wait(PATIENCE)
    assert old.node(1).name == "1"
    holder = [ResidentHierarchy([[(n, f"a{n}", "x", None) for n in range(25_000)]])]
    holder[0].ancestors(7)
    names = holder[0]._names
    module._take_apart(holder.pop())
    assert names == []

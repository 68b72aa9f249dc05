"""A database with data and views: what a user of the library has already."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mvrefresh.cli.wording import duration
from mvrefresh.demo.events import SPAN, load_events, usage_events
from mvrefresh.demo.world import load_world, world

if TYPE_CHECKING:
    from mvrefresh.demo.stage import Stage

_PLURALS = {
    "root": "root",
    "continent": "continents",
    "country": "countries",
    "subdivision": "subdivisions",
    "city": "cities",
}


def introduce(stage: Stage) -> dict[str, Any]:
    """Say where all this takes place. JSON: `what`, `version`, `started_ms`."""
    place = stage.place
    stage.say(f"PostgreSQL {place.version} {place.what}.")
    stage.say(f"Ready after {duration(place.started_ms)}.")
    return {"what": place.what, "version": place.version, "started_ms": place.started_ms}


def load(stage: Stage) -> dict[str, Any]:
    """Fill the base tables. JSON: `entities`, `by_type`, `levels`, `events`, `too_old`."""
    entities = world(cities=stage.cities)
    by_type = Counter(entity.entity_type for entity in entities)
    levels = max(entity.path.count(".") for entity in entities) + 1
    with stage.database.dedicated() as connection:
        load_world(connection, entities)
        stage.usage.create_events(connection)
        events = load_events(connection, usage_events(stage.now()))
    (old,) = stage.rows(
        "SELECT count(*) AS events FROM archon_mcp_usage_events WHERE ts < now() - %s",
        stage.usage.window,
    )
    kinds = ", ".join(f"{count:,} {_PLURALS[kind]}" for kind, count in by_type.items())
    stage.say(f"entities: {len(entities):,} in {levels} levels ({kinds})")
    stage.say(
        f"archon_mcp_usage_events: {events:,} tool calls of {SPAN.days} days"
        f" ({old['events']:,} before the window of {stage.usage.window.days} days)"
    )
    return {
        "entities": len(entities),
        "by_type": dict(by_type),
        "levels": levels,
        "events": events,
        "too_old": old["events"],
    }


def create_views(stage: Stage) -> dict[str, Any]:
    """Install the library's tables and make the views. JSON: `schema_version`, `views`."""
    with stage.database.dedicated() as connection:
        _, version = stage.database.schema.apply(connection)
        stage.hierarchy.create(connection, with_data=False)
        stage.usage.create(connection, with_data=False)
    labels = [str(view) for view in (*stage.hierarchy.views, *stage.usage.views)]
    stage.say(f"The library's tables are in schema mvrefresh, at version {version}. The views:")
    for label in labels:
        stage.say(f"  {label}")
    return {"schema_version": version, "views": labels}

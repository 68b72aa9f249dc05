"""Plans and refreshes: what the library is for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mvrefresh.cli.documents import plan_document
from mvrefresh.cli.wording import number
from mvrefresh.demo.events import load_events, usage_events

if TYPE_CHECKING:
    from mvrefresh.demo.stage import Stage

_NEW_EVENTS = 500


def plan(stage: Stage) -> dict[str, Any]:
    """Show the plan. JSON: `cli.documents.plan_document`."""
    return plan_document(stage.plan())


def refresh(stage: Stage) -> dict[str, Any]:
    """Refresh all views. JSON: `cli.documents.report_document`."""
    return stage.refresh()


def change(stage: Stage) -> dict[str, Any]:
    """Write to the base tables. JSON: `moved`, `inserted`, `events`."""
    with stage.database.dedicated() as connection:
        with connection.transaction():
            # Its people need not worry: it sits on the ridge between the two plates anyway.
            moved = connection.execute(
                "UPDATE entities SET path = 'earth.NA' || subpath(path, nlevel('earth.EU'))"
                " WHERE path <@ 'earth.EU.IS'"
            ).rowcount
            connection.execute(
                "UPDATE entities SET parent_id = (SELECT id FROM entities WHERE path = 'earth.NA')"
                " WHERE path = 'earth.NA.IS'"
            )
            connection.execute(
                "INSERT INTO entities (id, path, name, entity_type, parent_id)"
                " SELECT (SELECT max(id) + 1 FROM entities), path || 'Atlantis', 'Atlantis',"
                " 'country', id FROM entities WHERE path = 'earth.EU'"
            )
        fresh = usage_events(stage.now(), count=_NEW_EVENTS, span=timedelta(hours=1), seed=1)
        events = load_events(connection, fresh)
    stage.say(f"Iceland drifts to North America, with all its regions: {number(moved)} paths.")
    stage.say("Atlantis rises from the sea: 1 new country.")
    stage.say(f"People go on working: {number(events)} new tool calls in the last hour.")
    return {"moved": moved, "inserted": 1, "events": events}


def refresh_again(stage: Stage) -> dict[str, Any]:
    """Refresh what did not change. JSON: `cli.documents.report_document`, and `kept` (views)."""
    document = stage.refresh()
    kept = [o["view"] for o in document["outcomes"] if o["content_changed"] is False]
    stage.say(f"{len(kept)} views kept their token: what is cached under it stays valid.")
    return document | {"kept": kept}

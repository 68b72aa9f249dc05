"""Look-ups in the hierarchy: from which tier they are answered, and how fresh they are."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from mvrefresh.cli.wording import number
from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver
from mvrefresh.refreshing.policy import RefreshPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mvrefresh.demo.stage import Stage

_PLACES: Final = {
    "Europe": "earth.EU",
    "Iceland": "earth.NA.IS",
    "Bas-Rhin": "earth.EU.FR.FR_GES.FR_6AE.FR_67",
    "California": "earth.NA.US.US_CA",
    "Atlantis": "earth.EU.Atlantis",
}
_BATCH: Final = 1_000
_TIERS: Final = {
    "l1_cache": "process memory",
    "l3_cache": "PostgreSQL's buffers, in blocks",
    "l4_cache": "the materialized views",
}


def look_up(stage: Stage) -> dict[str, Any]:
    """Ask a resolver before and after a change.

    JSON: `tiers` (from which the same place was answered, one time after the other), `resident`
    (entities in memory), `answers`, `batch` (`asked`, `found`, `look_ups`, `elapsed_ms`), `change`
    (`before`, `written`, `after`, `results`), `metrics` (`cache_metrics()`).
    """
    with OptimizedHierarchyResolver(
        stage.database,
        stage.hierarchy,
        meter_every=1,  # so few reads are made here that one in a hundred would be none
        policy=RefreshPolicy(trigger="demo"),
    ) as resolver:
        found = stage.rows(
            "SELECT path::text, id FROM entities WHERE path::text = ANY (%s)",
            list(_PLACES.values()),
        )
        by_path = {row["path"]: row["id"] for row in found}
        places = {name: by_path[path] for name, path in _PLACES.items()}
        document = {
            "tiers": _tiers(stage, resolver, places["Bas-Rhin"]),
            "resident": _resident(stage, resolver),
            "answers": _answers(stage, resolver, places),
            "batch": _batch(stage, resolver),
            "change": _change(stage, resolver, places),
        }
        return document | {"metrics": _metrics(stage, resolver)}


def _tiers(stage: Stage, resolver: OptimizedHierarchyResolver, place: int) -> list[str]:
    """Ask for one place twice: the first answer is kept."""
    first = resolver.look_up(place)
    resolver.ancestors(place)
    again = resolver.look_up(place)
    stage.say(f"The ancestors of Bas-Rhin are {_names(first.value)}.")
    stage.say(f"The first answer was from tier {first.tier}, the next one from {again.tier}.")
    return [first.tier, again.tier]


def _resident(stage: Stage, resolver: OptimizedHierarchyResolver) -> int:
    """Load the whole hierarchy now; a look-up has begun that in the background anyway."""
    resolver.preload()
    entities: int = resolver.cache_metrics()["l1_cache"]["resident"]
    stage.say(f"The whole hierarchy is small enough to stay in memory: {number(entities)} places.")
    stage.say("")
    return entities


def _answers(
    stage: Stage, resolver: OptimizedHierarchyResolver, places: dict[str, int]
) -> list[dict[str, Any]]:
    """A few questions, each as it would be written."""
    below = resolver.descendants(places["Iceland"])
    counts = resolver.counts(places["Europe"])
    common = resolver.lowest_common_ancestor([places["Bas-Rhin"], places["California"]])
    rows = [
        {
            "asked": "ancestors(California)",
            "answer": _names(resolver.ancestors(places["California"])),
        },
        {
            "asked": "descendants(Iceland)",
            "answer": f"{len(below)}: {', '.join(node.name for node in below[:2])}, ...",
        },
        {
            "asked": "counts(Europe)",
            "answer": f"{counts.direct_children} countries,"
            f" {number(counts.descendant_count)} places in all",
        },
        {
            "asked": "lowest_common_ancestor([Bas-Rhin, California])",
            "answer": "none" if common is None else common.name,
        },
    ]
    stage.show("A few questions:", rows)
    return rows


def _batch(stage: Stage, resolver: OptimizedHierarchyResolver) -> dict[str, Any]:
    """Many at once, then each by itself, timed: by then the answers are in memory."""
    ids = [row["id"] for row in stage.rows("SELECT id FROM entities ORDER BY id LIMIT %s", _BATCH)]
    found = resolver.ancestors_many([*ids, -1])
    began = perf_counter()
    for each in ids:
        resolver.ancestors(each)
    elapsed = 1000 * (perf_counter() - began)
    stage.say("")
    stage.say(
        f"Of {number(len(ids) + 1)} places asked for at once {number(len(found))} exist."
        f" Asked for again, one by one, they took {elapsed:.1f} ms in this run."
    )
    return {
        "asked": len(ids) + 1,
        "found": len(found),
        "look_ups": len(ids),
        "elapsed_ms": elapsed,
    }


def _change(
    stage: Stage, resolver: OptimizedHierarchyResolver, places: dict[str, int]
) -> dict[str, Any]:
    """Write, ask, refresh, ask again. The answer is fresh at once."""
    atlantis = places["Atlantis"]
    before = resolver.counts(atlantis).descendant_count
    (city,) = stage.rows(
        "INSERT INTO entities (id, path, name, entity_type, parent_id)"
        " SELECT (SELECT max(id) + 1 FROM entities), path || 'Poseidonia', 'Poseidonia',"
        " 'subdivision', id FROM entities WHERE id = %s RETURNING id",
        atlantis,
    )
    written = resolver.look_up(city["id"])
    resolver.ancestors(city["id"])
    stage.say("")
    stage.say(
        f"Atlantis founds Poseidonia. No view holds it yet, and still it is answered for,"
        f" from the table: {_names(written.value)}."
    )
    report = resolver.refresh_all_materialized_views()
    stage.reports.append(report)
    after = resolver.counts(atlantis).descendant_count
    stage.say(
        f"Places below Atlantis: {before} before the refresh of its views,"
        f" {after} in the first look-up after it."
    )
    return {
        "before": before,
        "written": {"id": city["id"], "tier": written.tier},
        "after": after,
        "results": report.results,
    }


def _metrics(stage: Stage, resolver: OptimizedHierarchyResolver) -> dict[str, Any]:
    """What each tier has done until now."""
    metrics = resolver.cache_metrics()
    rows: list[dict[str, Any]] = [
        {"tier": tier.partition("_")[0], "what it is": what}
        | {key: metrics[tier][key] for key in ("hits", "misses")}
        | {"of 100": metrics[tier]["hit_rate"]}
        for tier, what in _TIERS.items()
    ]
    stage.say("")
    stage.show("Who has answered?", rows)
    sources = metrics["overall"]["source_reads"]
    stage.say("")
    stage.say(f"What the views did not hold was asked of the table, which had {number(sources)}.")
    return metrics


def _names(nodes: Sequence[Any]) -> str:
    return " > ".join(str(node.name) for node in nodes)

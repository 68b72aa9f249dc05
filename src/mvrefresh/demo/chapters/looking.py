"""What there is to see afterwards: the history, and the views' own answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from mvrefresh.cli.history import summaries
from mvrefresh.cli.tables import summary_table
from mvrefresh.metrics.postgres import PostgresMetricsStore

if TYPE_CHECKING:
    from typing import LiteralString

    from mvrefresh.demo.stage import Stage


def history(stage: Stage) -> dict[str, Any]:
    """Show the percentiles of each view. JSON: {view: fields of `MetricsSummary`}."""
    labels = [str(view) for view in (*stage.hierarchy.views, *stage.usage.views)]
    figures = summaries(PostgresMetricsStore(stage.database), labels)
    stage.console.print(summary_table(figures))
    return {label: asdict(summary) for label, summary in figures.items()}


def answers(stage: Stage) -> dict[str, Any]:
    """Ask the views. JSON: the rows of each answer, by the keys of `_QUESTIONS`."""
    found: dict[str, Any] = {}
    for key, (question, query) in _QUESTIONS.items():
        if found:
            stage.say("")
        found[key] = stage.look(question, query)
    return found


_ANCESTORS = """
SELECT entity_name AS entity, depth, ancestor_names AS ancestors
  FROM mv_entity_ancestors
 WHERE entity_path::text ~ '[.](FR_67|US_CA|IS_AKU|Atlantis)$'
 ORDER BY depth DESC, entity_name
"""
_DESCENDANTS = """
SELECT a.entity_name AS country, c.direct_children, c.descendant_count, c.height
  FROM mv_descendant_counts c JOIN mv_entity_ancestors a USING (entity_id)
 WHERE c.entity_type = 'country'
 ORDER BY c.descendant_count DESC, country LIMIT 5
"""
_LEVELS = """
SELECT depth, entity_type, entity_count, leaf_count, average_fan_out, largest_fan_out
  FROM mv_entity_hierarchy_stats
 ORDER BY depth, entity_type
"""
_TOOLS = """
SELECT tool_category, tool_name, sum(call_count)::bigint AS calls,
       sum(error_count)::bigint AS errors,
       sum(avg_duration_ms * call_count) / sum(call_count) AS average_ms
  FROM archon_mcp_usage_daily
 WHERE day_bucket >= now() - interval '30 days'
 GROUP BY tool_category, tool_name
 ORDER BY calls DESC LIMIT 5
"""
_HOURS = """
SELECT hour_bucket, count(*) AS tools, sum(call_count)::bigint AS calls,
       sum(error_count)::bigint AS errors, max(p95_duration_ms) AS slowest_p95_ms
  FROM archon_mcp_usage_hourly
 WHERE hour_bucket >= now() - interval '24 hours'
 GROUP BY hour_bucket
 ORDER BY hour_bucket DESC LIMIT 5
"""

_QUESTIONS: Final[dict[str, tuple[str, LiteralString]]] = {
    "ancestors": ("Where are they? Ancestors, root first:", _ANCESTORS),
    "descendants": ("Which countries have most below them?", _DESCENDANTS),
    "levels": ("How is the world built, level by level?", _LEVELS),
    "tools": ("Which tools were busiest in the last 30 days?", _TOOLS),
    "hours": ("And in the last hours?", _HOURS),
}

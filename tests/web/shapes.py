"""The shapes that are promised, written down, and what an answer has to do to be of one.

A dict has exactly these keys; a type or a tuple of types is that of the value; a list has elements
of its one shape; a function says yes; anything else is the value itself.
"""

from __future__ import annotations

import re
from datetime import datetime


def check(shape, found, place="answer"):
    if isinstance(shape, dict):
        assert isinstance(found, dict), place
        assert found.keys() == shape.keys(), place
        for key, inner in shape.items():
            check(inner, found[key], f"{place}.{key}")
    elif isinstance(shape, list):
        assert isinstance(found, list), place
        for number, each in enumerate(found):
            check(shape[0], each, f"{place}[{number}]")
    elif isinstance(shape, type | tuple):
        assert isinstance(found, shape), f"{place}: {found!r}"
        assert not isinstance(found, bool) or shape is bool or bool in shape, place
    elif callable(shape):
        assert shape(found), f"{place}: {found!r}"
    else:
        assert found == shape, place


NULL = type(None)
NUMBER = (int, float)
MAYBE = (int, float, NULL)


def results(found):
    return isinstance(found, dict) and all(isinstance(each, bool) for each in found.values())


def utc(found):
    """ISO-8601, in UTC, with Z."""
    fits = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", found)
    return fits and datetime.fromisoformat(found).utcoffset().total_seconds() == 0


def rate(found):
    return found is None or 0 <= found <= 100


def tier(found):
    """These keys, and what the tier alone knows."""
    promised = {"hits", "misses", "hit_rate", "size", "errors", "degraded_since"}
    return promised <= found.keys() and rate(found["hit_rate"])


REFRESHED = {
    "status": "success",
    "message": "All materialized views refreshed successfully",
    "results": results,
    "duration_ms": NUMBER,
}
PARTIAL = REFRESHED | {
    "status": "partial_success",
    "message": str,
    "failed_views": [str],
}
NOTHING_REFRESHED = {"detail": str, "results": results}

AUTOMATED = {
    "enabled": bool,
    "last_run": MAYBE,
    "next_run": MAYBE,
    "interval_seconds": MAYBE,
    "success_count": int,
    "failure_count": int,
}
GAINED = {"state": str, "views": list, "fleet": (list, NULL), "error": (str, NULL)}
STATUS = {
    "status": "available",
    "last_refresh": MAYBE,
    "cache_metrics": {
        "l1_cache": tier,
        "l2_cache": tier,
        "l3_cache": tier,
        "l4_cache": tier,
        "overall": tier,
    },
    "automated_refresh_status": AUTOMATED | GAINED,
    "message": "LTREE materialized view refresh service is operational",
}
STARTED = {
    "status": "success",
    "message": "Automated refresh service started successfully",
    "config": {"interval_seconds": 300, "concurrent_refresh": True, "views": ["mv"]},
}
RUNNING_ALREADY = STARTED | {"message": "Automated refresh service is already running"}
STOPPED = {
    "status": "success",
    "message": "Automated refresh service stopped successfully",
    "final_metrics": {
        "total_refreshes": int,
        "successful_refreshes": int,
        "failed_refreshes": int,
        "average_duration_ms": MAYBE,
        "uptime_seconds": NUMBER,
    },
}
NOT_RUNNING = {"detail": "Automated refresh service is not running"}
FORCED = {
    "status": "success",
    "result": {"duration_ms": NUMBER, "views_refreshed": int, "success": True, "results": results},
    "message": "Forced refresh completed successfully",
}
HISTORY = {
    "status": "success",
    "metrics": [
        {
            "id": int,
            "view_name": str,
            "refresh_duration_ms": NUMBER,
            "success": (bool, NULL),
            "created_at": utc,
            "error_message": (str, NULL),
        }
    ],
    "summary": {
        "total_count": int,
        "success_count": int,
        "failure_count": int,
        "success_rate": rate,
        "average_duration_ms": MAYBE,
        "p95_duration_ms": MAYBE,
        "p99_duration_ms": MAYBE,
        "min_duration_ms": MAYBE,
        "max_duration_ms": MAYBE,
    },
}
USAGE_REFRESHED = {
    "success": True,
    "message": "Materialized views refreshed successfully",
    "refreshed_at": utc,
}
USAGE_FAILED = {
    "success": False,
    "message": str,
    "refreshed_at": utc,
    "detail": str,
    "results": results,
}
CHECK = {"status": lambda found: found in {"healthy", "degraded", "unhealthy"}, "detail": str}
HEALTH = {
    "status": lambda found: found in {"healthy", "degraded", "unhealthy"},
    "checks": dict.fromkeys(("database", "redis", "pool", "listener", "service"), CHECK),
    "checked_at": MAYBE,
}
NODE = {"id": int, "path": (str, NULL), "name": (str, NULL)}
ANCESTORS = {"id": int, "ancestors": [NODE]}
DESCENDANTS = {"id": int, "descendants": [NODE], "next": (str, NULL)}
COUNTS = {
    "id": int,
    "direct_children": int,
    "descendant_count": int,
    "leaf_descendants": int,
    "height": int,
    "depth": (int, NULL),
    "entity_type": str,
}
BATCH = {"entities": [ANCESTORS], "unknown": [int]}

"""Hourly and daily roll-ups of usage: made over a table of events, refreshed, read."""

from __future__ import annotations

import os
from datetime import timedelta

from mvrefresh import Database, RefreshPolicy, UsageSource, refresh

USAGE = UsageSource(events="example_usage.events", window=timedelta(days=30))

FRESH = "DROP SCHEMA IF EXISTS example_usage CASCADE; CREATE SCHEMA example_usage"

EVENTS = """
INSERT INTO example_usage.events (ts, tool_category, tool_name, success, duration_ms)
SELECT now() - hours * interval '1 hour', 'search', 'find', hours % 10 > 0, 10 + hours % 7
  FROM generate_series(0, 2000) hours
"""

LAST_DAYS = """
SELECT day_bucket::date, sum(call_count), sum(error_count)
  FROM example_usage.archon_mcp_usage_daily GROUP BY 1 ORDER BY 1 DESC LIMIT 3
"""


def main() -> None:
    with Database(os.environ["MVREFRESH_DSN"]) as db:
        with db.dedicated() as connection:
            db.schema.apply(connection)
            connection.execute(FRESH)
            USAGE.create_events(connection)
            USAGE.create(connection)
            connection.execute(EVENTS)

        report = refresh(db, USAGE.views, policy=RefreshPolicy(trigger="example"))
        for outcome in report:
            print(f"{outcome.view}: {outcome.status}, {outcome.rows_inserted} rows written")
        report.raise_for_failures()

        with db.dedicated() as connection:
            for day, calls, errors in connection.execute(LAST_DAYS):
                print(f"{day}: {calls} calls, {errors} of them failed")


if __name__ == "__main__":
    main()

"""Hear of a refresh while it runs, from another process too, and read its history afterwards."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import psycopg

from mvrefresh import Database, EventBus, PostgresMetricsStore, RefreshPolicy, refresh
from mvrefresh.events import RecordLost, RefreshFellBack, RefreshFinished, RefreshRetried

if TYPE_CHECKING:
    from mvrefresh import Event

VIEWS = """
CREATE SCHEMA IF NOT EXISTS example_events;
CREATE TABLE IF NOT EXISTS example_events.orders (customer int, amount numeric);
CREATE MATERIALIZED VIEW IF NOT EXISTS example_events.spent AS
SELECT customer, sum(amount) AS total FROM example_events.orders GROUP BY customer;
CREATE UNIQUE INDEX IF NOT EXISTS spent_customer ON example_events.spent (customer);
CREATE MATERIALIZED VIEW IF NOT EXISTS example_events.average AS
SELECT avg(total) AS average FROM example_events.spent;
"""

MINE = ["example_events.spent", "example_events.average"]


def tell(event: Event) -> None:
    """Say what happens. It runs on the thread that did the work: be quick."""
    match event:
        case RefreshFinished(outcome=outcome):
            written = f"+{outcome.rows_inserted} -{outcome.rows_deleted or 0} rows"
            print(f"  {outcome.view}: {outcome.status}, {outcome.strategy}, {written}")
        case RefreshRetried(view=view, attempt=attempt, error=error):
            print(f"  {view}: attempt {attempt} failed: {error}")
        case RefreshFellBack(view=view, reason=reason):
            print(f"  {view}: blocks its readers now: {reason}")
        case RecordLost(view=view, error=error):
            print(f"  {view}: its record was lost: {error}")


def main() -> None:
    dsn = os.environ["MVREFRESH_DSN"]
    bus = EventBus()
    policy = RefreshPolicy(trigger="example")
    with (
        Database(dsn) as db,
        psycopg.connect(dsn, autocommit=True) as elsewhere,  # as another process would
        bus.subscribe(tell),
    ):
        with db.dedicated() as connection:
            db.schema.apply(connection)
            connection.execute(VIEWS)
        elsewhere.execute("LISTEN mvrefresh")

        for amount in (10, 20):
            print(f"A new order of {amount}:")
            with db.dedicated() as connection:
                connection.execute("INSERT INTO example_events.orders VALUES (1, %s)", [amount])
            refresh(db, MINE, policy=policy, events=bus).raise_for_failures()

        print("Heard on the other connection:")
        for notification in elsewhere.notifies(timeout=5, stop_after=4):
            payload = json.loads(notification.payload)
            print(f"  {payload['view']} has content no. {payload['n']}")

        history = PostgresMetricsStore(db)
        for view in MINE:
            summary = history.summary(view_name=view)
            print(f"{view}: {summary.success_count} of {summary.total_count} runs succeeded")


if __name__ == "__main__":
    main()

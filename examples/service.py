"""A small host: it starts the service, writes, asks for a refresh, hears of it, stops."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mvrefresh import Cron, Database, Every, RefreshService
from mvrefresh.events import RefreshFinished, ServiceStarted, ServiceStopped

if TYPE_CHECKING:
    from mvrefresh import Event

VIEWS = """
CREATE SCHEMA IF NOT EXISTS example_service;
CREATE TABLE IF NOT EXISTS example_service.orders (customer int, amount numeric);
CREATE MATERIALIZED VIEW IF NOT EXISTS example_service.spent AS
SELECT customer, sum(amount) AS total FROM example_service.orders GROUP BY customer;
CREATE UNIQUE INDEX IF NOT EXISTS spent_customer ON example_service.spent (customer);
CREATE MATERIALIZED VIEW IF NOT EXISTS example_service.average AS
SELECT avg(total) AS average FROM example_service.spent;
"""

SCHEDULE = {
    "example_service.spent": Every(seconds=300, jitter=20),
    "example_service.average": Cron("0 6 * * mon-fri", "Europe/Berlin"),
}


def tell(event: Event) -> None:
    """Say what happens. It runs on a thread of the service: be quick."""
    match event:
        case ServiceStarted(views=views):
            print("The service cares for", ", ".join(views))
        case RefreshFinished(outcome=outcome):
            shared = ", by another" if outcome.shared else ""
            print(f"  {outcome.view}: {outcome.status}{shared}")
        case ServiceStopped(metrics=metrics):
            print(f"The service has stopped; {metrics.failed_refreshes} refreshes failed")


def main() -> None:
    with Database(os.environ["MVREFRESH_DSN"]) as db:
        with db.dedicated() as connection:
            db.schema.apply(connection)
            connection.execute(VIEWS)

        service = RefreshService(db, schedule=SCHEDULE)
        with service.subscribe(tell):
            service.start()

            with db.dedicated() as connection:
                connection.execute("INSERT INTO example_service.orders VALUES (1, 10)")
            report = service.force(["example_service.average"], timeout=60)
            print("The average holds that order now:", bool(report))

            for view in service.status()["views"]:
                print(f"{view['view']}: {view['schedule']}, {view['failures']} failures")
            print("Health:", service.health().status)

            service.stop(timeout=10)


if __name__ == "__main__":
    main()

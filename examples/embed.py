"""The example of the README: refresh every materialized view of the database."""

import os

from mvrefresh import Database, refresh

with Database(os.environ["MVREFRESH_DSN"]) as db:
    with db.dedicated() as connection:
        db.schema.apply(connection)  # once per database: at deploy time, or in a migration

    report = refresh(db)  # every view, each after those that it reads
    for outcome in report:
        print(outcome.view, outcome.status, outcome.strategy, f"{outcome.duration_ms:.0f} ms")

report.raise_for_failures()

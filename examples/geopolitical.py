"""The three views of a hierarchy: made, refreshed after a change, asked."""

from __future__ import annotations

import os

from mvrefresh import Database, HierarchySource, RefreshPolicy, refresh

HIERARCHY = HierarchySource(table="example_world.entities")

WORLD = """
CREATE EXTENSION IF NOT EXISTS ltree;
DROP SCHEMA IF EXISTS example_world CASCADE;
CREATE SCHEMA example_world;
CREATE TABLE example_world.entities (
    id integer PRIMARY KEY, path ltree NOT NULL UNIQUE, name text, entity_type text
);
INSERT INTO example_world.entities VALUES
    (1, 'earth', 'Earth', 'root'),
    (2, 'earth.EU', 'Europe', 'continent'),
    (3, 'earth.NA', 'North America', 'continent'),
    (4, 'earth.EU.CH', 'Switzerland', 'country'),
    (5, 'earth.EU.CH.ZH', 'Zürich', 'region'),
    (6, 'earth.NA.CA', 'Canada', 'country');
"""

COUNTS = """
SELECT entity_path::text, direct_children, descendant_count
  FROM example_world.mv_descendant_counts WHERE direct_children > 0 ORDER BY entity_path
"""


def main() -> None:
    with Database(os.environ["MVREFRESH_DSN"]) as db:
        with db.dedicated() as connection:
            db.schema.apply(connection)
            connection.execute(WORLD)
            HIERARCHY.create(connection)
            connection.execute(
                "INSERT INTO example_world.entities VALUES (7, 'earth.EU.CH.BE', 'Bern', 'region')"
            )

        report = refresh(db, HIERARCHY.views, policy=RefreshPolicy(trigger="example"))
        for outcome in report:
            print(f"{outcome.view}: {outcome.status}, {outcome.rows_inserted} rows written")
        report.raise_for_failures()

        with db.dedicated() as connection:
            for path, children, descendants in connection.execute(COUNTS):
                print(f"{path}: {children} children, {descendants} in all below")


if __name__ == "__main__":
    main()

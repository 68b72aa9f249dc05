"""Look-ups in a hierarchy: from memory, in batches, and fresh after a refresh by somebody else."""

from __future__ import annotations

import os
import time

from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver, refresh

SHOP = HierarchySource(table="example_shop.categories", path="tree", name="title", entity_type=None)

TABLE = """
CREATE EXTENSION IF NOT EXISTS ltree;
DROP SCHEMA IF EXISTS example_shop CASCADE;
CREATE SCHEMA example_shop;
CREATE TABLE example_shop.categories (
    id integer PRIMARY KEY, tree ltree NOT NULL UNIQUE, title text NOT NULL
);
INSERT INTO example_shop.categories VALUES
    (1, 'all', 'Everything'),
    (2, 'all.kitchen', 'Kitchen'),
    (3, 'all.kitchen.knives', 'Knives'),
    (4, 'all.kitchen.pans', 'Pans'),
    (5, 'all.garden', 'Garden');
"""


def main() -> None:
    dsn = os.environ["MVREFRESH_DSN"]
    with Database(dsn) as db, Database(dsn) as elsewhere:  # the latter as in another process
        with db.dedicated() as connection:
            db.schema.apply(connection)
            connection.execute(TABLE)
            SHOP.create(connection)

        with OptimizedHierarchyResolver(db, SHOP) as resolver:
            resolver.refresh_all_materialized_views().raise_for_failures()
            resolver.preload()
            print("Knives are in:", " > ".join(node.name for node in resolver.ancestors(3)))
            print("In the kitchen:", ", ".join(node.name for node in resolver.descendants(2)))
            shown = resolver.ancestors_many([3, 4, 5])
            print("Crumbs of a page:", {key: len(nodes) for key, nodes in shown.items()})

            with elsewhere.dedicated() as connection:
                connection.execute(
                    "UPDATE example_shop.categories SET title = 'Cooking' WHERE id = 2"
                )
            refresh(elsewhere, SHOP.views).raise_for_failures()
            began = time.monotonic()
            while resolver.ancestors(3)[-1].name != "Cooking" and time.monotonic() < began + 2.5:
                time.sleep(0.01)
            print("After a refresh elsewhere:", resolver.ancestors(3)[-1].name)

            memory = resolver.cache_metrics()["l1_cache"]
            print(f"Look-ups from memory: {memory['hits']}; not in memory: {memory['misses']}")


if __name__ == "__main__":
    main()

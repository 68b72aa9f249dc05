"""A full build of `mv_descendant_counts`, by path and by parent, against the GiST self-join.

    python -m bench.hierarchy_build DSN [SIZE ...]

A build is REFRESH without CONCURRENTLY, with its unique index. All three views hold the same
entities; the rival has no `leaf_descendants`, which a self-join gets only by a second one. It is
given its GiST index for nothing: that takes about a minute to build at 1,000,000 entities.
"""

from __future__ import annotations

import random
import sys
from contextlib import closing
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg

from bench.measure import Row, seconds
from mvrefresh import HierarchySource, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIZES = (10_000, 100_000, 1_000_000)
LARGE = 1_000_000
"""From here on one round, without one that does not count: the rival takes minutes."""

WORK_MEM = "64MB"
ROOTS = 7
PROMISED = 0.1
"""Of the rival's time, by either way, at `LARGE` and above on the random tree."""

SHAPES = {
    # a random recursive tree: half of the entities are leaves, depth grows with the logarithm
    "random": lambda n, rng: rng.randint(1, n - 1),
    # five children each, all leaves in the last two levels
    "bushy": lambda n, _: max(1, (n + 3) // 5),
}
SOURCES = {
    "path": HierarchySource("bench_hierarchy.entities", counts_view="by_path"),
    "parent": HierarchySource(
        "bench_hierarchy.entities",
        parent="parent_id",
        ancestors_view="a_by_parent",
        counts_view="by_parent",
        stats_view="s_by_parent",
    ),
}
RIVAL = """
CREATE MATERIALIZED VIEW bench_hierarchy.by_gist AS
SELECT e.id AS entity_id, e.path AS entity_path, e.entity_type, nlevel(e.path) - 1 AS depth,
       count(d.id) FILTER (WHERE nlevel(d.path) = nlevel(e.path) + 1) AS direct_children,
       count(d.id) AS descendant_count,
       coalesce(max(nlevel(d.path)) - nlevel(e.path), 0) AS height
  FROM bench_hierarchy.entities e
  LEFT JOIN bench_hierarchy.entities d ON d.path <@ e.path AND d.id <> e.id
 GROUP BY e.id
WITH NO DATA;
CREATE UNIQUE INDEX ON bench_hierarchy.by_gist (entity_id)
"""
DIFFERENCE = """
SELECT count(*)
  FROM bench_hierarchy.by_gist g
  FULL JOIN bench_hierarchy.{} o USING (entity_id)
 WHERE (g.direct_children, g.descendant_count, g.height)
       IS DISTINCT FROM (o.direct_children, o.descendant_count, o.height)
"""


def forest(size: int, shape: str) -> list[tuple[int, int | None, str, str, str]]:
    """Rows (id, parent_id, path, name, entity_type), the same each time, in no order."""
    rng = random.Random(1)  # noqa: S311 - a shape, not a secret
    paths: list[str] = []
    rows = []
    for n in range(1, size + 1):
        parent = SHAPES[shape](n, rng) if n > ROOTS else None
        paths.append(f"n{n}" if parent is None else f"{paths[parent - 1]}.n{n}")
        rows.append((n, parent, paths[-1], f"name {n}", f"t{n % 4}"))
    rng.shuffle(rows)
    return rows


def fill(
    connection: psycopg.Connection[Any], source: HierarchySource, size: int, shape: str
) -> None:
    """A schema with the source's table and rows, and its views without content."""
    table = source.base_table
    connection.execute(
        f"CREATE EXTENSION IF NOT EXISTS ltree; DROP SCHEMA IF EXISTS {table.schema} CASCADE;"
        f"CREATE SCHEMA {table.schema}; CREATE TABLE {table.schema}.{table.name}"
        " (id int PRIMARY KEY, path ltree, name text, entity_type text)"
    )
    with connection.cursor().copy(f"COPY {table.schema}.{table.name} FROM STDIN") as copy:
        for key, _, path, name, kind in forest(size, shape):
            copy.write_row((key, path, name, kind))
    connection.execute(f"VACUUM ANALYZE {table.schema}.{table.name}")
    Schema().apply(connection)
    source.create(connection, with_data=False)


def prepare(connection: psycopg.Connection[Any], size: int, shape: str) -> None:
    """The table with its indexes, and the three views without content."""
    connection.execute(
        "CREATE EXTENSION IF NOT EXISTS ltree;"
        "DROP SCHEMA IF EXISTS bench_hierarchy CASCADE; CREATE SCHEMA bench_hierarchy;"
        "CREATE TABLE bench_hierarchy.entities (id int PRIMARY KEY, parent_id int,"
        " path ltree NOT NULL, name text, entity_type text)"
    )
    with connection.cursor().copy("COPY bench_hierarchy.entities FROM STDIN") as copy:
        for row in forest(size, shape):
            copy.write_row(row)
    connection.execute(
        "CREATE UNIQUE INDEX ON bench_hierarchy.entities (path);"
        "CREATE INDEX ON bench_hierarchy.entities USING gist (path)"
    )
    connection.execute("VACUUM ANALYZE bench_hierarchy.entities")
    for source in SOURCES.values():
        source.create(connection, with_data=False)
    connection.execute(RIVAL)


def build(connection: psycopg.Connection[Any], way: str) -> float:
    """Seconds for a full build, after a checkpoint, so that none pays for another's writing."""
    connection.execute("CHECKPOINT")
    return seconds(
        lambda: connection.execute(f"REFRESH MATERIALIZED VIEW bench_hierarchy.by_{way}")
    )


def compare_builds(connection: psycopg.Connection[Any], size: int, shape: str) -> Iterator[Row]:
    """A row by path and one by parent; rounds are interleaved, each begins with another way."""
    prepare(connection, size, shape)
    ways = ["path", "parent", "gist"]
    rounds = 1 if size >= LARGE else 3
    if rounds > 1:
        for way in ways:
            build(connection, way)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways[number % 3 :] + ways[: number % 3]:
            taken[way].append(build(connection, way))
    for way in SOURCES:
        (different,) = connection.execute(DIFFERENCE.format(f"by_{way}")).fetchone() or (None,)
        if different != 0:
            raise AssertionError(f"{different} rows by {way} are not those of the self-join")
        yield Row(
            what=f"build of mv_descendant_counts by {way}, {shape} tree of {size:,}",
            rival="GiST self-join",
            rounds=rounds,
            seconds=median(taken[way]),
            rival_seconds=median(taken["gist"]),
            ratio=median(a / b for a, b in zip(taken[way], taken["gist"], strict=True)),
            bound=PROMISED if size >= LARGE and shape == "random" else None,
        )


def run(dsn: str, sizes: Sequence[int] = SIZES, *, quick: bool = False) -> list[Row]:
    """Each shape at each size; with `quick` one tiny size."""
    found: list[Row] = []
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        connection.execute(f"SET work_mem = '{WORK_MEM}'")
        for size in (2_000,) if quick else sizes:
            for shape in SHAPES:
                found += compare_builds(connection, size, shape)
        connection.execute("SET client_min_messages = warning; DROP SCHEMA bench_hierarchy CASCADE")
    return found


def main() -> None:
    """Print a line a row: times, and how many times as fast."""
    dsn, *sizes = sys.argv[1:]
    for row in run(dsn, [int(size) for size in sizes] or SIZES):
        print(
            f"{row.what}: {row.seconds:.2f} s against {row.rival_seconds:.2f} s, "
            f"{1 / row.ratio:.1f} times as fast {row.verdict}"
        )


if __name__ == "__main__":
    main()

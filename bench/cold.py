"""What a look-up costs that is not in memory, and what one costs that is.

    python -m bench --only cold

**In batches.** `ancestors_many` of 100 entities at a time by a resolver that holds nothing, new in
each round, over one connection; the hierarchy is not resident. Ids are drawn at random, none twice,
from a tree of five children each, so that nothing that is asked for is in memory. The rivals are
psycopg alone on a connection of its own, prepared and binary: they fetch, and build nothing and
keep nothing. One asks for each entity by itself, of the view alone; one for 100 at once, with the
tag of the content, as we do. The server's buffers are warm for all of them.

**One by one.** The same resolver asked for one entity after the other, first with nothing in
memory, then with all of it; each call is timed. The targets are those that the first system of this
kind has published.
"""

from __future__ import annotations

import random
from contextlib import closing
from statistics import mean, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psycopg

from bench.hierarchy_build import fill
from bench.measure import Figure, Row, compare
from mvrefresh import Database, HierarchySource, OptimizedHierarchyResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ENTITIES, ENTITIES_QUICK = 100_000, 1_000
ASKED = 10_000
BATCH = 100
MEAN, P95, A_SECOND = 1_250, 1_870, 42_726
"""Microseconds, microseconds and look-ups a second, as the first system has published them."""

SOURCE = HierarchySource("bench_cold.entities")
COLUMNS = """
       v.entity_id, v.entity_path::text, v.entity_name,
       v.ancestor_ids, v.ancestor_paths, v.ancestor_names
"""
ONE = f"SELECT {COLUMNS} FROM bench_cold.mv_entity_ancestors v WHERE v.entity_id = %s"
MANY = f"""
SELECT t.refresh_no, t.content_token, t.age, {COLUMNS}
  FROM (SELECT true) one
  LEFT JOIN (
       SELECT s.refresh_no, s.content_token,
              extract(epoch FROM clock_timestamp() - s.content_as_of)::float8 AS age
         FROM mvrefresh.state s
         JOIN pg_class c ON c.oid = s.view AND c.xmin = s.xmin
        WHERE s.view = 'bench_cold.mv_entity_ancestors'::regclass) t ON true
  LEFT JOIN bench_cold.mv_entity_ancestors v ON v.entity_id = ANY (%s)
"""


def prepare(dsn: str, size: int) -> None:
    """A hierarchy, and its views without content."""
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        fill(connection, SOURCE, size, "bushy")


def one_by_one(connection: psycopg.Connection[Any], ids: Sequence[int]) -> Callable[[], None]:
    """A query an entity."""

    def work() -> None:
        cursor = connection.cursor(binary=True)
        for key in ids:
            cursor.execute(ONE, (key,), prepare=True).fetchone()

    return work


def in_batches(
    connection: psycopg.Connection[Any], batches: Sequence[list[int]]
) -> Callable[[], None]:
    """A query a batch."""

    def work() -> None:
        cursor = connection.cursor(binary=True)
        for batch in batches:
            cursor.execute(MANY, (batch,), prepare=True).fetchall()

    return work


def timed(resolver: OptimizedHierarchyResolver, ids: Sequence[int]) -> list[float]:
    """Microseconds of each look-up."""
    taken = []
    for key in ids:
        started = perf_counter()
        resolver.ancestors(key)
        taken.append(1e6 * (perf_counter() - started))
    return taken


def singles(database: Database, ids: Sequence[int]) -> list[Figure]:
    """Mean, 95th percentile and rate, with nothing in memory and with everything."""
    found = []
    with OptimizedHierarchyResolver(database, SOURCE, resident=0) as resolver:
        for state in ("not in memory", "in memory"):
            taken = timed(resolver, ids)
            average = mean(taken)
            rate = 1e6 / average
            how = f"{len(ids):,} one by one, a thread; published: "
            found += [
                Figure(f"a look-up {state}, mean", average, "us", f"{how}{MEAN:,} us"),
                Figure(
                    f"a look-up {state}, p95", quantiles(taken, n=20)[-1], "us", f"{how}{P95:,} us"
                ),
                Figure(f"look-ups a second {state}", rate, "", f"{how}{A_SECOND:,}"),
            ]
    return found


def run(dsn: str, *, quick: bool = False) -> list[Row | Figure]:
    """In batches, then one by one."""
    size, rounds = (ENTITIES_QUICK, 2) if quick else (ENTITIES, 15)
    prepare(dsn, size)
    # Another seed than the tree's: by the same one, entities drawn together would lie together.
    drawn = random.Random(2).sample(range(1, size + 1), min(size, ASKED))  # noqa: S311 - no secret
    batches = [drawn[begin : begin + BATCH] for begin in range(0, len(drawn), BATCH)]
    with (
        Database(dsn, max_connections=1) as database,
        OptimizedHierarchyResolver(
            database, SOURCE, resident=0
        ) as first,  # keeps the sweeper's thread alive
        closing(psycopg.connect(dsn, autocommit=True)) as by_hand,
    ):
        first.refresh_all_materialized_views()
        by_hand.execute("VACUUM ANALYZE bench_cold.mv_entity_ancestors")

        def ours() -> int:
            with OptimizedHierarchyResolver(database, SOURCE, resident=0) as resolver:
                return sum(len(resolver.ancestors_many(batch)) for batch in batches)

        if ours() != len(drawn):
            raise AssertionError(f"not all of {len(drawn)} entities were found")
        what = f"{len(drawn):,} look-ups not in memory, {BATCH} at once"
        found: list[Row | Figure] = [
            compare(
                what,
                ours,
                "psycopg, one query each",
                one_by_one(by_hand, drawn),
                rounds=max(2, rounds // 2),
                bound=1 / 4.5,
            ),
            compare(
                what,
                ours,
                f"psycopg, {BATCH} in one query",
                in_batches(by_hand, batches),
                rounds=rounds,
                bound=1.3,
            ),
        ]
        row = found[-1]
        if isinstance(row, Row):
            rate = len(drawn) / row.seconds
            how = f"{BATCH} at once, a thread; published: {A_SECOND:,}"
            found.append(Figure("look-ups a second not in memory, in batches", rate, "", how))
        found += singles(database, drawn)
        by_hand.execute("SET client_min_messages = warning; DROP SCHEMA bench_cold CASCADE")
    return found

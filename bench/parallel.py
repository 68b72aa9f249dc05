"""Three independent views on several connections, against one after another."""

from __future__ import annotations

from contextlib import closing

import psycopg

import mvrefresh
from bench.measure import Row, compare
from mvrefresh import Database, RefreshPolicy, Schema


def run(dsn: str, *, quick: bool = False) -> list[Row]:
    """As `jobs=3` and as `jobs=1`, the same three views."""
    rows = 5_000 if quick else 400_000
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        Schema().apply(connection)
        for name in ("one", "two", "three"):
            connection.execute(
                f"CREATE MATERIALIZED VIEW {name} AS SELECT g AS id, md5(g::text) AS name"
                f" FROM generate_series(1, {rows}) g; CREATE UNIQUE INDEX ON {name} (id)"
            )
    with Database(dsn) as database:

        def refresh(jobs: int) -> None:
            policy = RefreshPolicy(jobs=jobs)
            views = ["one", "two", "three"]
            mvrefresh.refresh(database, views, policy=policy).raise_for_failures()

        return [
            compare(
                "three views at once",
                lambda: refresh(3),
                "one after another",
                lambda: refresh(1),
                rounds=2 if quick else 7,
                bound=0.8,
            )
        ]

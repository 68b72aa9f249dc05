"""What the library costs over the same statements, sent by psycopg by hand."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

import mvrefresh
from bench.measure import Row, compare
from mvrefresh import Database, RefreshPolicy, Schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Script = list[list[tuple[Any, Any]]]


def record(dsn: str, work: Callable[[Database], object]) -> Script:
    """The statements that `work` sends, pipeline by pipeline, with their values."""
    script: Script = []

    class Cursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
            text = query if isinstance(query, str | bytes) else query.as_string(self)
            if self.connection.noted_alone:
                script.append([])
            script[-1].append((text, params))
            return super().execute(query, params, **kwargs)

    class Connection(psycopg.Connection[Any]):
        noted_alone = True

        @contextmanager
        def pipeline(self) -> Iterator[Any]:
            script.append([])
            self.noted_alone = False
            with super().pipeline() as pipeline:
                yield pipeline
            self.noted_alone = True

    def connect() -> Any:
        return Connection.connect(dsn, cursor_factory=Cursor)

    with Database(connect=connect) as database:
        work(database)
    return script


def replay(connection: psycopg.Connection[Any], script: Script) -> None:
    """Send a script as it was recorded, and read every answer."""
    for block in script:
        if len(block) == 1:
            cursors = [connection.execute(*block[0])]
        else:
            with connection.pipeline():
                cursors = [connection.execute(*statement) for statement in block]
        for cursor in cursors:
            if cursor.description is not None:
                cursor.fetchall()


def run(dsn: str, *, quick: bool = False) -> list[Row]:
    """A tiny view, and one whose refresh takes a second or more; refreshed end to end."""
    policy = RefreshPolicy(jobs=1)
    rows_of_large = 20_000 if quick else 600_000
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        Schema().apply(connection)
        connection.execute(
            "CREATE MATERIALIZED VIEW tiny AS SELECT g AS id FROM generate_series(1, 3) g;"
            "CREATE UNIQUE INDEX ON tiny (id);"
            f"CREATE MATERIALIZED VIEW large AS SELECT g AS id, md5(g::text) AS name"
            f" FROM generate_series(1, {rows_of_large}) g;"
            "CREATE UNIQUE INDEX ON large (id)"
        )
    found = []
    with (
        Database(dsn) as database,
        closing(psycopg.connect(dsn, autocommit=True)) as by_hand,
    ):
        by_hand.prepare_threshold = None
        for view, method, rounds, bound in (
            ("tiny", "concurrent", 30 if quick else 400, 1.5),
            ("tiny", "regular", 30 if quick else 400, 1.5),
            ("large", "concurrent", 2 if quick else 7, 1.03),
            ("large", "regular", 2 if quick else 7, 1.03),
        ):

            def ours(view: str = view, method: Any = method, on: Database = database) -> object:
                report = mvrefresh.refresh(on, [view], method=method, policy=policy)
                report.raise_for_failures()
                return report

            script = record(dsn, lambda on, work=ours: work(on=on))  # type: ignore[misc]
            found.append(
                compare(
                    f"refresh({view}), {method}",
                    ours,
                    "the same statements by psycopg",
                    lambda script=script: replay(by_hand, script),  # type: ignore[misc]
                    rounds=rounds,
                    bound=bound,
                )
            )
    return found

"""Several statements as one message: it reaches the server whole or not at all.

A pipeline is sent statement by statement. A process that is suspended or descheduled between two
of them leaves a server that waits for the next one, within a transaction and without any time
limit (`idle_in_transaction_session_timeout` counts only once everything sent was answered). One
message has no such gap: what holds a lock also commits, or is ended by the time limit.

Values are literals, composed by `psycopg.sql`: a message of several statements takes no parameters.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg import Connection
    from psycopg.rows import RowFactory


def run_batch(
    connection: Connection[Any],
    statements: Sequence[sql.Composable],
    *,
    rows: RowFactory[Any] = tuple_row,
) -> list[Sequence[Any]]:
    """Run the statements in order; stop at the first that fails.

    Returns:
        The rows of each; empty for what gives none.

    Raises:
        psycopg.Error: Of the statement that failed.
    """
    cursor = connection.cursor(row_factory=rows)
    cursor.execute(sql.SQL(";\n").join(statements))
    answers: list[Sequence[Any]] = []
    while True:
        answers.append(cursor.fetchall() if cursor.description is not None else ())
        if not cursor.nextset():
            return answers


@contextmanager
def brief_transaction(connection: Connection[Any]) -> Iterator[None]:
    """A transaction that writes, whatever the role's defaults, and never waits for long."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE")
        connection.execute(
            "SELECT set_config('lock_timeout', '2s', true),"
            " set_config('statement_timeout', '10s', true)"
        )
        yield


def fill(template: sql.SQL, **values: Any) -> sql.Composed:
    """A statement with values in it: composables as they are, anything else as a literal."""
    return template.format(
        **{
            name: value if isinstance(value, sql.Composable) else sql.Literal(value)
            for name, value in values.items()
        }
    )

"""Calls a function of the database that refreshes views, and says of each what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.rows import tuple_row

from mvrefresh.postgres.faults import unavailable_when_lost

if TYPE_CHECKING:
    from mvrefresh.postgres.database import Database

_CALL = sql.SQL("SELECT view_name, refresh_status FROM {}()")

SUCCESS = "success"


def call_refresh_function(database: Database, function: str) -> dict[str, bool]:
    """View -> whether the function says "success" of it; any other text is an error's.

    Args:
        database: Where the function is.
        function: Its name, with or without a schema before a dot; both exactly as they are.

    Raises:
        DatabaseUnavailable: The database cannot be reached.
        psycopg.Error: There is no such function, or it raised.
    """
    query = _CALL.format(sql.Identifier(*function.split(".")))
    with unavailable_when_lost(), database.dedicated() as connection:
        cursor = connection.cursor(row_factory=tuple_row).execute(query)
        return {view: status == SUCCESS for view, status in cursor}

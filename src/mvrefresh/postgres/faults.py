"""What an error of PostgreSQL or of the connection means to a refresh: pure look-ups."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from mvrefresh import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mvrefresh.errors import RefreshError

_TRANSIENT: Final = frozenset({
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "57P01",  # admin_shutdown: this backend was terminated
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now: the server starts up or goes down
    "53300",  # too_many_connections
})  # fmt: skip

POSTGRES_17: Final = 17_00_00
"""server_version from which there are MAINTAIN and transaction_timeout."""

MAYBE_NOT_CONCURRENTLY: Final = frozenset({"0A000", "55000"})
"""What REFRESH CONCURRENTLY says when it is impossible (but a definition can say it too)."""

UNDEFINED_TABLE: Final = "42P01"

ANOTHER_VIEW: Final = "MV002"
"""What our own function raises when REFRESH went to another view that has the name now."""

RECORD_REFUSED: Final = "MV001"
"""What our own function raises when a required record was not taken."""

_MEANINGS: Final[dict[str, type[RefreshError]]] = {
    "42501": errors.PermissionDenied,
    "23505": errors.DuplicateRows,
    "55P03": errors.LockNotAvailable,
    "57014": errors.RefreshCancelled,
    "25P04": errors.RefreshTimedOut,  # transaction_timeout
    "25P03": errors.ConnectionLost,  # idle_in_transaction_session_timeout
    "25006": errors.ServerReadOnly,
    "53100": errors.OutOfSpace,
    "57P01": errors.ConnectionLost,
    "57P02": errors.ConnectionLost,
    "57P03": errors.ConnectionLost,
}


def is_connection_loss(error: BaseException) -> bool:
    """Whether the connection itself is gone: no word from the server, or class 08."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    state = error.sqlstate
    return state is None or state.startswith("08") or state in ("57P01", "57P02", "57P03")


@contextmanager
def unavailable_when_lost(*also: type[psycopg.Error]) -> Iterator[None]:
    """Turn the loss of a connection inside the block into `DatabaseUnavailable`; `also` more."""
    try:
        yield
    except psycopg.Error as error:
        if is_connection_loss(error):
            raise errors.DatabaseUnavailable(
                f"the connection broke: {message_of(error)}"
            ) from error
        if isinstance(error, also):
            raise errors.DatabaseUnavailable(
                f"the database did not answer: {message_of(error)}"
            ) from error
        raise


def is_transient(error: BaseException) -> bool:
    """Whether the same thing, tried again, may well succeed."""
    if isinstance(error, errors.DatabaseUnavailable):
        return not isinstance(error, errors.ForkedPool)
    if not isinstance(error, psycopg.Error):
        return False
    return error.sqlstate in _TRANSIENT or is_connection_loss(error)


def is_queue_full(error: psycopg.Error) -> bool:
    """Whether COMMIT failed because the notification queue is full (54000 has other causes)."""
    return error.sqlstate == "54000" and error.diag.source_function == "PreCommit_Notify"


def _meaning(error: BaseException, sqlstate: str | None) -> type[RefreshError]:
    if not isinstance(error, psycopg.Error | errors.DatabaseUnavailable):
        return errors.RefreshError  # a fault of ours or of a store, not of the view's query
    if is_connection_loss(error) or isinstance(error, errors.DatabaseUnavailable):
        return errors.ConnectionLost
    if sqlstate == "21000" and isinstance(error, psycopg.Error):
        # A scalar subquery of the definition says 21000, too.
        if error.diag.source_function == "refresh_by_match_merge":
            return errors.DuplicateRows
        return errors.DefinitionFailed
    return _MEANINGS.get(sqlstate or "", errors.DefinitionFailed)


def message_of(error: BaseException) -> str:
    """The server's words on one line, with detail; nothing of the connection string."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        parts = [error.diag.message_primary, error.diag.message_detail]
        return ": ".join(part.strip().replace("\n", " ") for part in parts if part)
    return " ".join(str(error).split()) or type(error).__name__


def as_refresh_error(view: str, error: BaseException) -> RefreshError:
    """The typed error for what stopped the refresh of `view`; it keeps `error` as its cause."""
    if isinstance(error, errors.RefreshError):
        return error
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    typed = _meaning(error, sqlstate)(view, message_of(error), sqlstate=sqlstate)
    typed.__cause__ = error
    return typed

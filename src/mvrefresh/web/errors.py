"""Which error is which answer: one table."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from mvrefresh import errors
from mvrefresh.web.models import Detail
from mvrefresh.web.responses import answer

if TYPE_CHECKING:
    from starlette.responses import Response

log = logging.getLogger("mvrefresh")

MOST_WORDS: Final = 1_000  # letters: a request of megabytes may be wrong in each of its items
AWAY: Final = "the database is not available"
NOT_INSTALLED: Final = (
    "the library's tables are not installed, or not of this version: mvrefresh schema --apply"
)
NOT_READY: Final = "the hierarchy's views or tables are not there, or closed to the role"


class Meaning(NamedTuple):
    """What an error means to a client.

    Attributes:
        status: The HTTP status.
        detail: The words; None: the error's own, which are about what the client asked for. What
            is about the server (addresses, roles, statements) goes to the log instead.
    """

    status: int
    detail: str | None = None


# The first that fits. What caused a ConfigurationError is asked before it is itself.
MEANINGS: Final[tuple[tuple[type[BaseException], Meaning], ...]] = (
    (psycopg.errors.UndefinedTable, Meaning(503, NOT_READY)),
    (psycopg.errors.UndefinedColumn, Meaning(503, NOT_READY)),
    (psycopg.errors.UndefinedFunction, Meaning(503, NOT_READY)),
    (psycopg.errors.InsufficientPrivilege, Meaning(503, NOT_READY)),
    (errors.UnknownView, Meaning(404)),
    (errors.UnknownEntity, Meaning(404)),
    (errors.NotRunning, Meaning(409, "Automated refresh service is not running")),
    (errors.ConfigurationError, Meaning(422)),
    (RequestValidationError, Meaning(422)),
    (ValidationError, Meaning(422)),
    (psycopg.DataError, Meaning(422, "a parameter is not one that the database takes")),
    (errors.RefreshTimeout, Meaning(504)),
    (errors.Stopping, Meaning(503)),
    (errors.DatabaseUnavailable, Meaning(503, AWAY)),
    (errors.SchemaMissing, Meaning(503, NOT_INSTALLED)),
    (errors.MvrefreshError, Meaning(503, AWAY)),
    (psycopg.Error, Meaning(503, AWAY)),
)
EXPECTED: Final = tuple(kind for kind, _ in MEANINGS)

_WORDS: Final = {
    403: "A page of another site asks",
    404: "No such materialized view, or no such entity",
    409: "The service is not running",
    422: "A parameter cannot be meant",
    500: "No view was refreshed",
    503: "The database is not available",
    504: "The refresh takes longer than this router waits; it goes on",
}


def meaning(error: BaseException) -> Meaning:
    """The row of the table for an error."""
    asked = [error]
    if isinstance(error, errors.ConfigurationError) and error.__cause__ is not None:
        asked.insert(0, error.__cause__)
    ours = asked[-1]
    for kind, meant in MEANINGS:
        if issubclass(kind, psycopg.errors.ProgrammingError) and isinstance(asked[0], kind):
            return meant
        if isinstance(ours, kind):
            return meant
    raise TypeError(f"{error!r} is not in the table")


def answer_to(error: BaseException, asked: str = "a request") -> Response:
    """The answer that tells a client of an error; what was asked is for the log."""
    status, detail = meaning(error)
    if status >= 500:  # noqa: PLR2004 - the server's own
        log.warning("%s was answered by %d: %s", asked, status, error)
    if detail is None:
        detail = error.what if isinstance(error, errors.MvrefreshError) else _invalid(error)
    if len(detail) > MOST_WORDS:
        detail = f"{detail[:MOST_WORDS]}..."
    return answer({"detail": detail}, status)


def _invalid(error: Any) -> str:
    """What a validation found, in a line."""
    found = []
    for each in error.errors():
        place = ".".join(str(part) for part in each["loc"] if part not in ("body", "query"))
        found.append(f"{place}: {each['msg']}" if place else each["msg"])
    return "; ".join(found)


def documented(*statuses: int, **others: Any) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for OpenAPI; `_500=Model` for one with a shape of its own."""
    models = {int(name.removeprefix("_")): model for name, model in others.items()}
    return {
        status: {"model": models.get(status, Detail), "description": _WORDS[status]}
        for status in sorted({*statuses, *models})
    }

"""Everything `mvrefresh` raises.

One tree; every class says in `fix` what to do about it, and every message ends with that::

    MvrefreshError
    ├── ConfigurationError          a parameter cannot be meant (also a ValueError)
    ├── UnknownView                 no such materialized view (also a LookupError)
    │   ├── NotAMaterializedView    there is one of that name, but of another kind
    │   └── AmbiguousView           several schemas have one of that name
    ├── UnknownEntity               the hierarchy has no entity of that id (also a LookupError)
    ├── ContentTooOld               what could be read is older than the caller allows
    ├── DatabaseUnavailable         no connection was to be had
    │   ├── PoolExhausted           the host's pool had none free in time
    │   └── ForkedPool              the pool belongs to the parent process
    ├── SchemaMissing               the library's tables are not installed
    │   ├── SchemaOutdated          they are of an older version
    │   ├── SchemaTooNew            they are of a newer version
    │   └── SchemaNotPermitted      the role may not use them
    ├── NotRunning                  the refresh service is not running
    ├── Stopping                    the application stops, and breaks off what it was asked
    ├── RefreshTimeout              nobody waits any longer; the refresh goes on
    ├── RecordingFailed             the metrics store did not take a required record
    ├── RecordNotStored             nor one that was not required: the refresh stands
    └── RefreshError                one view was not refreshed; `view`, `sqlstate`
        ├── ViewVanished            it was dropped while the run went on
        ├── PermissionDenied        the role may not refresh it
        ├── ConcurrentlyImpossible  CONCURRENTLY is impossible and `fallback="never"`
        ├── DuplicateRows           its new content breaks its unique index
        ├── LockNotAvailable        somebody else held a lock for too long
        ├── RefreshTimedOut         a time limit ended it
        ├── RefreshCancelled        somebody cancelled it
        ├── ConnectionLost          the server or the network went away
        ├── OutOfSpace              the server's disk is full
        ├── ServerReadOnly          the server is a standby
        ├── DefinitionFailed        its own query raised an error
        └── UpstreamFailed          a view it reads was not refreshed

A failed view is in the report and not an exception: `RefreshError`s are found in
`RefreshOutcome.error` and are raised by `RefreshReport.raise_for_failures()` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class MvrefreshError(Exception):
    """The root of the tree: catch this to catch everything of the library's own."""

    fix: ClassVar[str] = ""
    """What to do about it, in a sentence."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what.rstrip(' .?')}. {self.fix}".strip())


class ConfigurationError(MvrefreshError, ValueError):
    """A parameter cannot be meant."""


class UnknownView(MvrefreshError, LookupError):
    """No materialized view of that name is in the database.

    Attributes:
        readings: The (schema or None, name) pairs that were looked for.
    """

    fix = "`mvrefresh list` shows the materialized views of this database."

    def __init__(self, what: str, *, readings: Sequence[tuple[str | None, str]] = ()) -> None:
        self.readings = tuple(readings)
        super().__init__(what)


class NotAMaterializedView(UnknownView):
    """A relation of that name exists, but it is of another kind."""

    fix = "Only materialized views can be refreshed; `mvrefresh list` shows those of this database."


class AmbiguousView(UnknownView):
    """Several schemas have a materialized view of that name, none of them on the search path."""

    fix = "Write the schema before the name."


class UnknownEntity(MvrefreshError, LookupError):
    """The hierarchy has no entity of that id.

    Attributes:
        entity_id: The id.
    """

    fix = "Check the id and its type; a new entity is found within seconds of its commit."

    def __init__(self, entity_id: object) -> None:
        self.entity_id = entity_id
        shown = repr(entity_id) if isinstance(entity_id, str) else str(entity_id)
        super().__init__(f"there is no entity {shown:.200}")


class ContentTooOld(MvrefreshError):
    """What could be read is older than the caller allows, and it did not want a live read."""

    fix = 'Refresh the view, allow a greater max_staleness, or make the resolver with stale="live".'


class DatabaseUnavailable(MvrefreshError):
    """No connection to the database was to be had."""

    fix = (
        "Check that the server runs and has connections free, and that the DSN, the network and "
        "the password are right."
    )


class PoolExhausted(DatabaseUnavailable):
    """The pool had no connection free in time."""

    fix = (
        "Raise the pool's max_size, or find who keeps its connections (db.health() shows its use)."
    )


class ForkedPool(DatabaseUnavailable):
    """This process is a fork, and the pool's connections belong to its parent."""

    fix = "Make the pool and the Database after the fork, in each worker (post_fork in gunicorn)."


class SchemaMissing(MvrefreshError):
    """The library's tables and functions are not in the database."""

    fix = (
        "Run `mvrefresh schema --apply` (or put the output of `mvrefresh schema --sql` into a "
        'migration), or pass coordination="local" to go without.'
    )


class SchemaOutdated(SchemaMissing):
    """The library's tables are of an older version than this library needs."""

    fix = "Run `mvrefresh schema --apply`: it upgrades in place and keeps the history."


class SchemaTooNew(SchemaMissing):
    """The library's tables are of a newer version than this library knows."""

    fix = "Upgrade mvrefresh in this environment; a newer one has upgraded the database."


class SchemaNotPermitted(SchemaMissing):
    """The library's tables are there, and the role may not use them."""

    fix = (
        "GRANT USAGE ON the schema, SELECT, INSERT, UPDATE, DELETE ON its tables state, schedule "
        "and refresh_metrics, and SELECT ON version to the role."
    )


class NotRunning(MvrefreshError):
    """The refresh service is not running, so nobody would do what was asked."""

    fix = "Call start() first; or refresh without a service: mvrefresh.refresh(database, views)."


class Stopping(MvrefreshError):
    """What was asked for is broken off, since the application that was asked stops."""

    fix = "Ask again when it has been started."


class RefreshTimeout(MvrefreshError, TimeoutError):
    """A caller waited for as long as it wanted to; the refresh goes on without it."""

    fix = "Pass a longer timeout, or wait=False for a future; status() shows what runs."


class RecordNotStored(MvrefreshError):
    """The metrics store did not take a record that was not required."""

    fix = "The outcome stands and only its record is lost: mend the metrics store."


class RecordingFailed(MvrefreshError):
    """A record was required (`metrics_policy="required"`) and the store did not take it."""

    fix = (
        "The refresh was rolled back. Mend the metrics store, or use "
        'metrics_policy="best_effort" where a refresh may go unrecorded.'
    )


class RefreshError(MvrefreshError):
    """One view was not refreshed; its content is what it was before.

    Attributes:
        view: The view's name as the report writes it.
        sqlstate: PostgreSQL's five-character code, where the server said one.
    """

    fix = "The view keeps its old content; PostgreSQL's own message is above."

    def __init__(self, view: str, what: str, *, sqlstate: str | None = None) -> None:
        self.view = view
        self.sqlstate = sqlstate
        code = f" [{sqlstate}]" if sqlstate else ""
        super().__init__(f"{view}: {what.strip().rstrip('.')}{code}")


class ViewVanished(RefreshError):
    """The view was dropped while the run went on."""

    fix = "If it was dropped on purpose, nothing is to be done; the next run plans without it."


class PermissionDenied(RefreshError):
    """The role may not refresh the view."""

    fix = (
        "REFRESH needs the view's owner or a member of that role; from PostgreSQL 17 "
        "GRANT MAINTAIN ON the view is enough."
    )


class ConcurrentlyImpossible(RefreshError):
    """A refresh that does not block readers is impossible, and blocking was ruled out."""

    fix = (
        "CONCURRENTLY needs a populated view and a valid unique index on columns alone, without "
        'WHERE: create one, or allow a blocking refresh with fallback="regular".'
    )


class DuplicateRows(RefreshError):
    """The view's new content breaks its unique index."""

    fix = (
        "The definition yields the same key twice (or a row twice with NULLs): mend the "
        "definition, or make the unique index wider. A regular refresh would fail or hide it."
    )


class LockNotAvailable(RefreshError):
    """Somebody else held a conflicting lock for longer than `lock_timeout`."""

    fix = (
        "Look for the holder in pg_locks (a long transaction that read the view, or DDL), end it, "
        "or raise lock_timeout."
    )


class RefreshTimedOut(RefreshError):
    """A time limit ended the refresh."""

    fix = "Raise refresh_timeout, or make the view's query faster (EXPLAIN ANALYZE it)."


class RefreshCancelled(RefreshError):
    """The refresh was cancelled, in the server."""

    fix = "The view keeps its old content; run it again when convenient."


class ConnectionLost(RefreshError):
    """The connection broke, and did not come back within the retries."""

    fix = "The server rolls the refresh back; check its log, then run the view again."


class OutOfSpace(RefreshError):
    """The server has no disk space left."""

    fix = "A refresh needs room for a second copy of the view, and CONCURRENTLY for a third."


class ServerReadOnly(RefreshError):
    """The server does not take writes."""

    fix = "It is a standby, or was made read-only: give the Database the primary's address."


class DefinitionFailed(RefreshError):
    """The view's own query raised an error."""

    fix = "Run the view's query by hand (pg_get_viewdef shows it) and mend it or its data."


class UpstreamFailed(RefreshError):
    """A view that this one reads was not refreshed in this run."""

    fix = "Mend the view it reads; this one was left alone."

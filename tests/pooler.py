"""A real PgBouncer in transaction mode, in front of a test server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.servers import ServerStartError, _account, _free_port, _short_directory


class PgBouncer:
    """Pools the server that `dsn` names; `pooled()` gives the way through it."""

    def __init__(self, dsn: str) -> None:
        self._target = conninfo_to_dict(dsn)
        self._account = _account()
        self._directory = _short_directory(self._account)
        self._port = _free_port()

    def pooled(self) -> str:
        """The DSN of the same database, through the pooler."""
        return make_conninfo(
            host=str(self._directory),
            port=self._port,
            dbname=self._target["dbname"],
            user=self._target["user"],
        )

    def __enter__(self) -> Self:
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            self.__exit__()
            raise ServerStartError("PgBouncer is not installed: apt install pgbouncer")
        users, config = self._directory / "users.txt", self._directory / "pgbouncer.ini"
        users.write_text(f'"{self._target["user"]}" ""\n')
        config.write_text(
            f"[databases]\n* = host={self._target['host']} port={self._target['port']}\n"
            "[pgbouncer]\npool_mode = transaction\nauth_type = any\n"
            f"listen_addr =\nlisten_port = {self._port}\nunix_socket_dir = {self._directory}\n"
            "max_client_conn = 200\ndefault_pool_size = 10\nserver_lifetime = 60\n"
            f"auth_file = {users}\nignore_startup_parameters = extra_float_digits,options\n"
        )
        # `auth_type = any` logs in as the user of the [databases] line.
        config.write_text(
            config.read_text().replace("\n[pgb", f" user={self._target['user']}\n[pgb", 1)
        )
        who = {} if self._account is None else {"user": self._account.pw_uid, "extra_groups": []}
        for path in (users, config):
            path.chmod(0o644)
        log = (self._directory / "log").open("w")
        self._process = subprocess.Popen(
            [program, str(config)], stdout=log, stderr=log, cwd=self._directory, **who
        )
        log.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(self.pooled(), connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    said = Path(self._directory / "log").read_text()
                    self.__exit__()
                    raise ServerStartError(f"PgBouncer did not start: {error}\n{said}") from error
                time.sleep(0.02)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

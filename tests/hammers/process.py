"""A process with a service, as a host would have one: told what to do by lines on its stdin.

start            run the service        force N    N threads: write a row, force, look for it
stop             stop it                quit       leave
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from mvrefresh import Database, Every, RefreshPolicy, RefreshService

ROOT = Path(__file__).parents[2]


class Member:
    """A process of the fleet, seen from the one that tests it."""

    def __init__(self, dsn: str, *, seconds: float, views: str = "mv", backdoor: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, dsn, str(seconds), views, backdoor or dsn],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, line: str) -> Any:
        self.say(line)
        return self.hear()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.communicate()


def crowd(service: RefreshService, connect: str, size: int) -> list[dict[str, Any]]:
    """So many threads at once."""
    answers: list[dict[str, Any]] = []
    # The callers' own connections are not what is tested: a server has only so many.
    few = threading.Semaphore(8)
    gate = threading.Barrier(size)

    def call(number: int) -> None:
        name = f"{os.getpid()}-{number}"
        with few, closing(psycopg.connect(connect, autocommit=True)) as connection:
            connection.execute("INSERT INTO base (name) VALUES (%s)", (name,))
        gate.wait()
        try:
            report = service.force(["mv"])
        except Exception as error:  # noqa: BLE001 - told to the test
            answers.append({"found": False, "ok": False, "shared": False, "error": repr(error)})
            return
        with few, closing(psycopg.connect(connect, autocommit=True)) as connection:
            found = connection.execute("SELECT 1 FROM mv WHERE name = %s", (name,)).fetchone()
        shared = report["mv"].shared
        answers.append({"found": found is not None, "ok": bool(report), "shared": shared})

    threads = [threading.Thread(target=call, args=(n,)) for n in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def main() -> None:
    dsn, seconds, views, backdoor = sys.argv[1:]
    policy = RefreshPolicy(lock_timeout=30)
    named = make_conninfo(dsn, application_name=f"mvrefresh hammer {os.getpid()}")
    with Database(named) as database:
        service = RefreshService(
            database, views.split(","), Every(seconds=float(seconds)), policy=policy
        )
        for line in sys.stdin:
            match line.split():
                case ["start"]:
                    answer: Any = service.start()
                case ["force", size]:
                    answer = crowd(service, backdoor, int(size))
                case ["status"]:
                    answer = service.status()
                case ["stop"]:
                    answer = service.stop(timeout=20).total_refreshes
                case ["quit"]:
                    break
            print(json.dumps(answer), flush=True)
        service.stop(timeout=0)


if __name__ == "__main__":
    main()

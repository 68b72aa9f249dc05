"""What the router costs: ancestors over HTTP against an endpoint that does nothing.

    python -m bench --only web

`GET /{id}/ancestors` on a hit in process memory, against an `async def` endpoint of the same app
that returns the same number of bytes, written beforehand. One uvicorn, one worker; asked by `wrk`
in turn, round by round. The server's CPU time is the steadier figure where others use the machine.
Beside it entities a second of the batch endpoint, 100 in one request. Without `wrk` on the PATH,
or not on Linux, there is nothing to measure.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import orjson

from bench.lookups import KEYS, SOURCE, prepare
from bench.measure import Figure, Row
from mvrefresh import Database, OptimizedHierarchyResolver

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastapi import FastAPI

ENTITY = 1000  # nine levels deep
PREFIX = "/api/entities"
CONNECTIONS = 16
BATCH = 100
BOUND = 1.15


def app() -> FastAPI:
    """The application that is asked; for `uvicorn --factory`."""
    from fastapi import FastAPI, Response  # noqa: PLC0415 - of the process that serves

    from mvrefresh.web import lifespan, refresh_router  # noqa: PLC0415 - the same

    database = Database(os.environ["MVREFRESH_DSN"])
    resolver = OptimizedHierarchyResolver(database, SOURCE)
    resolver.refresh_all_materialized_views()
    if not resolver.preload():
        raise RuntimeError("the hierarchy is not in memory")
    shown = [node._asdict() for node in resolver.ancestors(ENTITY)]
    body = orjson.dumps({"id": ENTITY, "ancestors": shown})
    application = FastAPI(lifespan=lifespan(database, resolver))

    @application.get("/bytes")
    async def same_size() -> Response:
        return Response(body, media_type="application/json")

    application.include_router(refresh_router(resolver), prefix=PREFIX)
    return application


@contextmanager
def served(
    dsn: str, factory: str = "bench.web:app", probed: str = "/bytes"
) -> Iterator[tuple[str, int]]:
    """The address of an application and its process, for as long as it runs."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "uvicorn", "--factory", factory, "--port", str(port),
        "--log-level", "warning", "--no-access-log",
    ]  # fmt: skip
    environment = {**os.environ, "MVREFRESH_DSN": dsn}
    server = subprocess.Popen(command, env=environment)  # noqa: S603 - our own
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{address}{probed}", server)
        yield address, server.pid
    finally:
        server.terminate()
        server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + 30
    while True:
        try:
            with urlopen(url, timeout=5):  # noqa: S310 - our own
                return
        except URLError:
            if server.poll() is not None or monotonic() > deadline:
                raise
            sleep(0.05)


def requests_a_second(url: str, seconds: float, *more: str) -> float:
    """As `wrk` counts them; it is told in whole seconds."""
    wrk = shutil.which("wrk") or "wrk"
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", *more, url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    if "Non-2xx" in done.stdout:
        raise AssertionError(done.stdout)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Requests/sec"))
    return float(line.split()[1])


def cpu_seconds(pid: int) -> float:
    """What a process has used so far; Linux says so."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Seconds of one request: as the client sees it, and the server's own."""

    wall: float
    cpu: float


def cost(url: str, seconds: float, pid: int) -> Cost:
    """Of one run of wrk."""
    before, began = cpu_seconds(pid), monotonic()
    rate = requests_a_second(url, seconds)
    used, lasted = cpu_seconds(pid) - before, monotonic() - began
    return Cost(1 / rate, used / (rate * lasted))


def hits(address: str, pid: int, seconds: float, rounds: int) -> list[Row]:
    """Both in turn, after one round that does not count; who is first alternates."""
    ours, theirs = f"{address}{PREFIX}/{ENTITY}/ancestors", f"{address}/bytes"
    pairs = []
    for number in range(rounds + 1):
        both = (ours, theirs) if number % 2 else (theirs, ours)
        found = {url: cost(url, seconds, pid) for url in both}
        pairs.append((found[ours], found[theirs]))
    return [
        Row(
            f"GET ancestors, a hit, {what}",
            "an endpoint that returns as many bytes",
            rounds,
            seconds=median(mine[place] for mine, _ in pairs[1:]),
            rival_seconds=median(other[place] for _, other in pairs[1:]),
            ratio=median(mine[place] / other[place] for mine, other in pairs[1:]),
            bound=BOUND,
        )
        for place, what in enumerate(("one request", "the server's CPU time of it"))
    ]


def batches(address: str, seconds: float, rounds: int) -> Figure:
    """Entities a second, a hundred in a request."""
    ids = ",".join(map(str, list(KEYS)[-BATCH:]))
    script = f"""
wrk.method = "POST"
wrk.body = '{{"ids": [{ids}]}}'
wrk.headers["Content-Type"] = "application/json"
"""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "batch.lua"
        path.write_text(script)
        url = f"{address}{PREFIX}/ancestors:batch"
        found = [requests_a_second(url, seconds, "-s", str(path)) for _ in range(rounds)]
    return Figure(
        "POST ancestors:batch", BATCH * median(found), "entities/s", f"{BATCH} in a request"
    )


def run(dsn: str, *, quick: bool = False) -> Sequence[Row | Figure]:
    """One request each, and batches."""
    if shutil.which("wrk") is None or not Path("/proc/self/stat").exists():
        print("web: there is no wrk on the PATH, or this is not Linux", file=sys.stderr)
        return []
    seconds, rounds = (1, 1) if quick else (4, 9)
    prepare(dsn)
    with served(dsn) as (address, pid):
        rows = hits(address, pid, seconds, rounds)
        alone, rival = 1 / rows[0].seconds, 1 / rows[0].rival_seconds
        return [
            *rows,
            Figure("GET ancestors, a hit", alone, "requests/s", "by wrk, one worker"),
            Figure("an endpoint that returns as many bytes", rival, "requests/s", "the same"),
            batches(address, seconds, rounds),
        ]

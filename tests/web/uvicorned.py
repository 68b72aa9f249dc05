"""Runs uvicorn, as users do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


@contextmanager
def running(dsn, *options):
    """The address of `tests.web.served:app`, on a server with these options."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "tests.web.served:app",
        "--port", str(port), "--log-level", "warning", *options,
    ]  # fmt: skip
    environment = os.environ | {"MVREFRESH_DSN": dsn, "PYTHONWARNINGS": "default"}
    with subprocess.Popen(command, env=environment, cwd=ROOT) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    httpx.get(f"{address}/health/live")
                    break
                except httpx.TransportError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
            yield address
        finally:
            server.terminate()
            server.wait(30)

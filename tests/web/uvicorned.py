"""Runs the FastAPI example under uvicorn, as its users do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def running(dsn, *options):
    """Its address, over a database that it prepares, on a server with these options."""
    environment = os.environ | {"MVREFRESH_DSN": dsn, "PYTHONWARNINGS": "default"}
    prepare = [sys.executable, "fastapi_app.py", "--prepare"]
    subprocess.run(prepare, env=environment, cwd=EXAMPLES, check=True, timeout=60)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "uvicorn", "fastapi_app:app",
        "--port", str(port), "--log-level", "warning",
        "--timeout-graceful-shutdown", "5", *options,
    ]  # fmt: skip
    with subprocess.Popen(command, env=environment, cwd=EXAMPLES) as server:
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

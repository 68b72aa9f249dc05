"""OpenAPI says all there is: asked by schemathesis, over uvicorn, on a real server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from tests.web.uvicorned import running

from mvrefresh import Database, OptimizedHierarchyResolver, RefreshService
from mvrefresh.web import models, ops_router, refresh_router, usage_router

ROOT = Path(__file__).parents[2]
NO_MODEL = {  # a text, a stream, a page, and what only this page reads
    ("/metrics", "200"),
    ("/api/entities/refresh/events", "200"),
    ("/api/entities/refresh/dashboard", "200"),
    ("/api/entities/refresh/dashboard", "304"),
    ("/api/entities/refresh/dashboard/data", "200"),
}
CHECKS = (
    "not_a_server_error,status_code_conformance,"
    "content_type_conformance,response_schema_conformance"
)


@pytest.fixture
def document():
    database = Database("host=nowhere")
    resolver = OptimizedHierarchyResolver(database)
    app = FastAPI()
    service = RefreshService(database)
    app.include_router(refresh_router(resolver, service), prefix="/api/entities")
    app.include_router(usage_router(database), prefix="/api/mcp/analytics")
    app.include_router(ops_router(database, metrics=lambda: (b"", "text/plain")))
    yield app.openapi()
    resolver.close()
    database.close()


def test_the_rows_of_the_table_are_there(document):
    found = {f"{m.upper()} {p}" for p, ways in document["paths"].items() for m in ways}
    assert found == {
        "POST /api/entities/refresh",
        "GET /api/entities/refresh/status",
        "POST /api/entities/refresh/automated/start",
        "POST /api/entities/refresh/automated/stop",
        "POST /api/entities/refresh/automated/force",
        "GET /api/entities/refresh/automated/metrics",
        "GET /api/entities/refresh/events",
        "GET /api/entities/refresh/dashboard",
        "GET /api/entities/refresh/dashboard/data",
        "GET /api/entities/{id}/ancestors",
        "GET /api/entities/{id}/descendants",
        "GET /api/entities/{id}/counts",
        "POST /api/entities/ancestors:batch",
        "POST /api/mcp/analytics/refresh-views",
        "GET /health",
        "GET /health/ready",
        "GET /health/live",
        "GET /metrics",
    }


def test_every_answer_has_a_model_and_every_error_the_same(document):
    for path, ways in document["paths"].items():
        for operation in ways.values():
            for status, answer in operation["responses"].items():
                if (path, status) in NO_MODEL:
                    continue
                (content,) = answer["content"].values()
                model = content["schema"]["$ref"].rpartition("/")[2]
                assert hasattr(models, model), (path, status)
                if status in {"403", "404", "409", "422", "504"}:
                    assert model == "Detail", (path, status)


def test_every_model_that_answers_alone_has_an_example_that_is_one():
    for name, model in vars(models).items():
        examples = getattr(model, "model_config", {}).get("json_schema_extra", {})
        for example in examples.get("examples", []):
            model.model_validate(example), name


def test_schemathesis_finds_nothing_that_is_not_said(dsn, tmp_path):
    program = shutil.which("st", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("schemathesis is not installed: nox -s web")
    pytest.importorskip("uvicorn")
    with running(dsn) as address:
        command = [
            program, "run", f"{address}/openapi.json", "--checks", CHECKS,
            "--max-examples", "20", "--phases", "examples,coverage,fuzzing",
            "--generation-deterministic", "--request-timeout", "30", "--no-color",
            "--exclude-path-regex", "/refresh/events$",  # it does not end; tests/web/live has it
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=110, cwd=tmp_path
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]

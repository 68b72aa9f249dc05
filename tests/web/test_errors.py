"""One table: each row answered as it says, and nothing told that is not the client's to know."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from tests.web import shapes
from tests.web.conftest import ENTITIES, app_of, ask, visit

from mvrefresh import Database, RefreshService, errors
from mvrefresh.web import refresh_router, usage_router
from mvrefresh.web.errors import AWAY, MEANINGS, NOT_INSTALLED, NOT_READY, answer_to, meaning

REFRESH = f"{ENTITIES}/refresh"


@pytest.mark.parametrize("kind", [kind for kind, _ in MEANINGS])
def test_every_row_is_the_first_that_fits_its_own_error(kind):
    if kind is ValidationError:
        error = ValidationError.from_exception_data("x", [])
    else:
        error = kind.__new__(kind)
    assert meaning(error) == dict(MEANINGS)[kind]


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (errors.UnknownView("there is no view x"), 404, "there is no view x"),
        (errors.AmbiguousView("two have it"), 404, "two have it"),
        (errors.UnknownEntity(5), 404, "there is no entity 5"),
        (errors.UnknownEntity(UUID(int=5)), 404, f"there is no entity {UUID(int=5)}"),
        (errors.NotRunning("it stops"), 409, "Automated refresh service is not running"),
        (errors.ConfigurationError("limit=0 is no limit"), 422, "limit=0 is no limit"),
        (errors.RefreshTimeout("not done within 1 s"), 504, "not done within 1 s"),
        (errors.DatabaseUnavailable("host=secret"), 503, AWAY),
        (errors.PoolExhausted("secret"), 503, AWAY),
        (errors.SchemaOutdated("secret"), 503, NOT_INSTALLED),
        (errors.ContentTooOld("secret"), 503, AWAY),
        (psycopg.OperationalError("secret"), 503, AWAY),
        (psycopg.errors.UndefinedTable("secret"), 503, NOT_READY),
    ],
)
def test_what_is_said(error, status, detail):
    answer = answer_to(error)
    assert answer.status_code == status
    assert answer.body == b'{"detail":"%s"}' % detail.encode()


def test_what_validations_say_is_one_string():
    error = RequestValidationError([{"loc": ("query", "limit"), "msg": "too small"}])
    assert answer_to(error).body == b'{"detail":"limit: too small"}'


def test_every_error_of_the_library_has_a_row():
    kinds = [errors.MvrefreshError, psycopg.Error, RequestValidationError, ValidationError]
    assert set(kinds) <= {kind for kind, _ in MEANINGS}


@pytest.mark.parametrize("views", [["nope"], ["public.nope"], ["mv", "nope"]])
def test_an_unknown_view(database, service_on, views):
    service = service_on("mv")
    app = app_of(refresh_router(service=service), service)

    async def talk(client):
        for path in (REFRESH, f"{REFRESH}/automated/force"):
            answer = await client.post(path, json={"views": views})
            assert answer.status_code == 404
            shapes.check({"detail": lambda found: "nope" in found}, answer.json())

    visit(app, talk)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b"\xff",
        b'{"views": []}',
        b'{"views": "mv"}',
        b'{"views": [1]}',
        b'{"view": ["mv"]}',
        b'{"views": [""]}',
        b'{"views": ["a.b.c"]}',
        b'{"views": ["\\u0000"]}',
        b'{"cascade": "yes"}',
    ],
)
def test_a_bad_body(database, body):
    app = app_of(refresh_router(database=database))
    status, document = ask(app, "POST", REFRESH, content=body)
    assert status in {404, 422}
    shapes.check({"detail": str}, document)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=10001", "limit=x", "since=x", "since=nan", "since=inf", "since=-1"]
)
def test_a_bad_parameter(database, query):
    app = app_of(refresh_router(database=database))
    status, document = ask(app, "GET", f"{REFRESH}/automated/metrics?{query}")
    assert status == 422
    shapes.check({"detail": lambda found: query.partition("=")[0] in found}, document)


def test_a_view_name_that_the_database_does_not_take(database):
    app = app_of(refresh_router(database=database))
    status, document = ask(app, "GET", f"{REFRESH}/automated/metrics?view_name=%00")
    assert status == 422
    shapes.check({"detail": str}, document)


def test_a_database_that_is_away():
    with Database("host=127.0.0.1 port=1 dbname=secret connect_timeout=2", timeout=1) as database:
        service = RefreshService(database, ["mv"])
        app = app_of(refresh_router(service=service))
        app.include_router(usage_router(database), prefix="/usage")

        async def talk(client):
            for method, path in (
                ("POST", REFRESH),
                ("GET", f"{REFRESH}/status"),
                ("GET", f"{REFRESH}/automated/metrics"),
                ("POST", "/usage/refresh-views"),
            ):
                answer = await client.request(method, path)
                assert answer.status_code == 503, path
                shapes.check({"detail": AWAY}, answer.json())

        visit(app, talk)


def test_a_database_without_the_librarys_tables(dsn, conn):
    conn.execute("CREATE MATERIALIZED VIEW mv AS SELECT 1 AS x")
    with Database(dsn) as database:
        app = app_of(refresh_router(service=RefreshService(database, ["mv"])))

        async def talk(client):
            for method, path in (
                ("POST", REFRESH),
                ("GET", f"{REFRESH}/status"),
                ("POST", f"{REFRESH}/automated/start"),
                ("GET", f"{REFRESH}/automated/metrics"),
            ):
                answer = await client.request(method, path)
                assert answer.status_code == 503, path
                shapes.check({"detail": str}, answer.json())

        visit(app, talk)


def test_start_with_a_view_that_is_not_there(service_on):
    app = app_of(refresh_router(service=service_on("gone")))
    status, document = ask(app, "POST", f"{REFRESH}/automated/start")
    assert status == 404
    shapes.check({"detail": lambda found: "gone" in found}, document)

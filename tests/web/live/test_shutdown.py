"""A server that stops while a request waits: an answer as documented, and no traceback."""

from __future__ import annotations

import httpx
from fastapi import FastAPI
from tests.refreshing.test_transaction import wait_until
from tests.web.live.conftest import served

from mvrefresh.refreshing.threads import in_thread
from mvrefresh.web import lifespan, refresh_router


def test_a_request_that_still_waits_is_told(database, conn, caplog):
    conn.execute(
        "CREATE FUNCTION held() RETURNS int LANGUAGE sql AS"
        " $$ SELECT 1 FROM pg_advisory_xact_lock_shared(7) $$;"
        "CREATE MATERIALIZED VIEW slow AS SELECT held() AS x WITH NO DATA"
    )
    conn.execute("SELECT pg_advisory_lock(7)")
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
    app = FastAPI(lifespan=lifespan(database, stop_timeout=0))
    app.include_router(refresh_router(database=database, views=["slow"]), prefix="/api")
    with served(app) as address:
        asked = in_thread("asks", lambda: httpx.post(f"http://{address}/api/refresh", timeout=30))
        wait_until(lambda: conn.execute(waits).fetchone() is not None)
    answer = asked.result(30)
    assert answer.status_code == 503
    assert answer.json() == {"detail": "the application stops"}
    assert conn.execute(waits).fetchone() is None
    assert "Traceback" not in caplog.text

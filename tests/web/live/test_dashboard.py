"""The dashboard in a real browser, and the endpoint that it reads."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from tests.refreshing.test_transaction import wait_until
from tests.web.live.conftest import SECONDS, elsewhere, served

from mvrefresh import Database, Every, RefreshService
from mvrefresh.web import dashboard_router, refresh_router
from mvrefresh.web.dashboard.page import make_page

EVIL = "<img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium")
VIEW_KEYS = {
    "view", "populated", "freshness", "age_seconds", "content_as_of", "schedule",
    "interval_seconds", "last_run", "next_run", "status", "strategy", "reason", "error",
    "duration_ms", "trigger", "refresh_no", "running_since", "suspended_because", "failures",
    "changed_by_others", "reads", "tables", "size_bytes", "blocks_readers", "obstacle",
}  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium; without one, browser tests are skipped, and fail where CI is set."""
    missing = [name for name in ("playwright", "axe_playwright_python") if not find_spec(name)]
    if CHROMIUM is None:
        missing.append("chromium (apt-get install chromium)")
    if missing:
        why = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser, address, **context):
    """The dashboard, live; afterwards nothing may have been said on its console."""
    context = browser.new_context(**context)
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://{address}/api/refresh/dashboard")
    page.wait_for_selector("#live[data-state=live]")
    page.wait_for_selector("#rows tr")
    yield page
    context.close()
    assert not said
    assert all(url.startswith((f"http://{address}/", "data:")) for url in asked)


@pytest.fixture
def service(database, bus, conn):
    with RefreshService(database, ["mv"], Every(seconds=86400), events=bus) as service:
        service.force()
        # The first slot is due at once: it is served before a test begins to count.
        served_slot = "SELECT 1 FROM mvrefresh.schedule WHERE last_started_at IS NOT NULL"
        wait_until(lambda: conn.execute(served_slot).fetchone() is not None)
        yield service


def application(database, feed, service, **settings):
    app = FastAPI()

    @app.middleware("http")
    async def note(request, call_next):
        if request.method == "POST":
            app.state.asked, app.state.headers = await request.json(), request.headers
        return await call_next(request)

    app.include_router(refresh_router(service=service, feed=feed, dashboard=False), prefix="/api")
    app.include_router(dashboard_router(database, **settings), prefix="/api")
    return app


@pytest.fixture
def app(database, feed, service, conn):
    conn.execute(f'CREATE MATERIALIZED VIEW "{EVIL}" AS SELECT n FROM reader')
    cache = {"l1_cache": {"hits": 9, "misses": 1, "hit_rate": 90.0, "degraded_since": None}}
    return application(database, feed, service, cache=lambda: cache)


@pytest.fixture
def host(app):
    with served(app) as address:
        yield address


def test_it_sees_a_refresh_of_another_process_live(chromium, host, dsn):
    with opened(chromium, host) as page:
        run = page.locator("#rows tr", has=page.get_by_role("button", name="reader", exact=True))
        assert "never" in run.inner_text()
        elsewhere(dsn, "reader")
        page.wait_for_selector("#happened >> text=reader: succeeded")
        run.locator("text=by manual").wait_for()
        assert "reader: succeeded" in page.locator("#said").inner_text()


def test_a_button_refreshes_and_the_run_is_seen(chromium, host, app, conn):
    before = conn.execute("SELECT count(*) FROM mvrefresh.refresh_metrics").fetchone()
    with opened(chromium, host) as page:
        page.get_by_role("button", name="Refresh mv", exact=True).click()
        page.wait_for_selector("#happened >> text=mv: succeeded")
        page.locator("#said", has_text="Refreshed mv.").wait_for()
    assert app.state.asked == {"views": ["mv"]}
    assert app.state.headers["content-type"] == "application/json"
    assert app.state.headers["x-requested-with"] == "mvrefresh-dashboard"
    after = conn.execute("SELECT count(*) FROM mvrefresh.refresh_metrics").fetchone()
    assert after[0] == before[0] + 1


def test_with_dependants_and_all(chromium, host, app):
    label = f'"{EVIL}"'
    with opened(chromium, host) as page:
        page.get_by_role("button", name="Refresh mv and its dependants").click()
        page.locator("#said", has_text="Refreshed mv and its dependants.").wait_for()
        assert app.state.asked == {"views": ["mv", "reader", label]}
        page.get_by_role("button", name="Refresh all").click()
        page.locator("#said", has_text="Refreshed all views.").wait_for()
        assert sorted(app.state.asked["views"]) == sorted(["mv", "reader", label])


def test_what_fails_is_said(chromium, host, conn):
    conn.execute("CREATE MATERIALIZED VIEW bad AS SELECT 1 / (n - n) FROM base WITH NO DATA")
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"http://{host}/api/refresh/dashboard")
    page.get_by_role("button", name="Refresh bad", exact=True).click()
    page.get_by_role("alert").locator(
        "text=None of 1 materialized views was refreshed: bad"
    ).wait_for()
    context.close()


def test_strings_of_the_database_are_text(chromium, host, dsn):
    with opened(chromium, host) as page:
        elsewhere(dsn, f'"{EVIL}"')
        page.locator("#happened", has_text=EVIL).wait_for()
        assert page.locator("img").count() == 0
        for place in ("#rows", "#which", "#graph", "#graph-words", "#happened"):
            assert "<img" in page.locator(place).text_content()


NAMES = [
    "archon_mcp_usage_hourly", "archon_mcp_usage_daily", "mv_entity_ancestors",
    "mv_descendant_counts", "mv_entity_hierarchy_stats", f"mv_{'m' * 60}",
]  # fmt: skip


@pytest.fixture
def named(host, conn):
    """The default names, and the longest that there can be."""
    for name in NAMES:
        conn.execute(f"CREATE MATERIALIZED VIEW {name} AS SELECT n FROM reader")
    return host


@pytest.mark.parametrize("width", [1280, 390])
def test_no_text_of_the_graph_is_wider_than_its_box(chromium, named, width):
    with opened(chromium, named, viewport={"width": width, "height": 844}) as page:
        shown = page.locator("#graph .node").evaluate_all(
            """nodes => nodes.map((node) => {
                const box = node.querySelector(".box").getBoundingClientRect();
                const ends = [...node.querySelectorAll("text")].map(
                    (text) => text.getBoundingClientRect().right);
                return {
                    title: node.querySelector("title").textContent,
                    name: node.querySelector(".name").textContent,
                    room: box.right - Math.max(...ends),
                };
            })"""
        )
    assert {view["title"] for view in shown} >= set(NAMES)
    assert all(view["room"] >= 4 for view in shown), shown
    cut = {view["title"] for view in shown if view["name"] != view["title"]}
    assert cut & set(NAMES) == {NAMES[-1]}  # there is room for the default names


@pytest.mark.parametrize("width", [1280, 390])
def test_names_in_the_table_break_between_their_words(chromium, named, width):
    with opened(chromium, named, viewport={"width": width, "height": 844}) as page:
        for name in NAMES[:-1]:
            words = page.get_by_role("button", name=name, exact=True).evaluate(
                """button => [...button.childNodes].filter((node) => node.data).map((node) => {
                    const range = document.createRange();
                    range.selectNode(node);
                    return [node.data, range.getClientRects().length];
                })"""
            )
            assert "".join(word for word, _ in words) == name
            assert words == [[f"{word}_", 1] for word in name.split("_")[:-1]] + [words[-1]]
            assert words[-1] == [name.split("_")[-1], 1]
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_labels_of_the_percentiles_keep_apart(chromium, host, conn):
    conn.execute(
        "INSERT INTO mvrefresh.refresh_metrics"
        " (view_name, refresh_duration_ms, success, status, created_at)"
        " SELECT 'reader', 100, true, 'succeeded', now() - n * interval '1 min'"
        " FROM generate_series(1, 20) n"
    )
    with opened(chromium, host) as page:
        page.locator("#which").select_option("reader")
        boxes = [
            page.locator("#chart text", has_text=p).bounding_box() for p in ("p99", "p95", "p50")
        ]
        for upper, lower in pairwise(boxes):
            assert upper["y"] + upper["height"] <= lower["y"]


def test_a_view_that_failed_needs_a_look(chromium, host, conn):
    conn.execute(
        "INSERT INTO mvrefresh.refresh_metrics (view_name, refresh_duration_ms, success, status)"
        " VALUES ('reader', 1, false, 'failed')"
    )
    with opened(chromium, host) as page:
        box = page.locator("#strip > div", has_text="Need a look")
        assert box.locator("dd span").inner_text() == "1"


def test_a_connection_that_is_lost_comes_back(chromium, app, dsn):
    with served(app) as host, opened(chromium, host) as page:
        page.context.set_offline(True)
        page.evaluate("dispatchEvent(new Event('offline'))")
        page.context.set_offline(False)
        page.wait_for_selector("#live[data-state=live]")
        elsewhere(dsn, "reader")
        page.wait_for_selector("#happened >> text=reader: succeeded")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(chromium, host, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    size = {"width": width, "height": 844}
    with opened(chromium, host, viewport=size, color_scheme=scheme, bypass_csp=True) as page:
        found = Axe().run(page).response["violations"]
        serious = [v for v in found if v["impact"] in {"serious", "critical"}]
        assert not serious, [(v["id"], [n["html"] for n in v["nodes"]]) for v in serious]
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_theme_is_kept(chromium, host):
    with opened(chromium, host, color_scheme="light") as page:
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        light = page.evaluate(ground)
        page.get_by_role("button", name="Dark").press("Enter")
        dark = page.evaluate(ground)
        assert dark != light
        page.reload()
        assert page.evaluate(ground) == dark
        page.get_by_role("button", name="Dark", pressed=True).wait_for()


def test_read_only_has_no_buttons_that_refresh(chromium, database, feed, service):
    app = application(database, feed, service, read_only=True, title="<b>Ours</b> [[script]]")
    with served(app) as host, opened(chromium, host) as page:
        assert page.get_by_role("button", name="Refresh").count() == 0
        assert page.get_by_role("heading", level=1).inner_text() == "<b>Ours</b> [[script]]"


def test_the_page_may_do_no_more_than_it_needs(host):
    answer = httpx.get(f"http://{host}/api/refresh/dashboard")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert answer.headers["x-content-type-options"] == "nosniff"
    for foreign in ("http://", "https://", "//cdn", "innerHTML", "insertAdjacentHTML", "eval("):
        assert foreign not in answer.text.replace("http://www.w3.org/2000/svg", "")
    etag = {"If-None-Match": answer.headers["etag"]}
    assert httpx.get(f"http://{host}/api/refresh/dashboard", headers=etag).status_code == 304


def test_head_is_answered_as_get_without_a_body(host):
    """By a real server: that one leaves out the body."""
    url = f"http://{host}/api/refresh/dashboard"
    head, get = httpx.head(url), httpx.get(url)
    assert (head.status_code, head.content) == (200, b"")
    assert len(get.content) == int(head.headers["content-length"])
    assert head.headers["etag"] == get.headers["etag"]


def test_attributes_cannot_be_left():
    page = make_page(title="t", read_only=False, urls={"data": '"><script>alert(1)</script>'})
    assert b"<script>alert" not in page.body


def test_a_page_of_another_site_may_not_refresh(host):
    headers = {"Origin": "https://evil.example"}
    answer = httpx.post(f"http://{host}/api/refresh", json={"views": ["mv"]}, headers=headers)
    assert answer.status_code == 403


def test_the_figures(host, conn):
    conn.execute(
        "INSERT INTO mvrefresh.schedule (view, slot, schedule, registered_at,"
        " last_started_at, failures)"
        " VALUES ('reader'::regclass, now() + '1 h', 'every 3600 s', now(), now(), 0)"
    )
    found = httpx.get(f"http://{host}/api/refresh/dashboard/data").json()
    assert found.keys() == {
        "at", "database", "standby", "views", "history", "summaries", "cache", "fleet",
    }  # fmt: skip
    views = {view["view"]: view for view in found["views"]}
    assert all(view.keys() == VIEW_KEYS for view in views.values())
    mv, reader = views["mv"], views["reader"]
    assert (mv["freshness"], mv["status"], mv["strategy"]) == ("fresh", "succeeded", "concurrent")
    assert mv["interval_seconds"] == 86400
    assert 0 <= mv["age_seconds"] < 60
    assert mv["last_run"] <= found["at"] < reader["next_run"] <= found["at"] + 3600
    assert (reader["reads"], reader["freshness"]) == (["mv"], "unknown")
    assert views[f'"{EVIL}"']["freshness"] == "unscheduled"
    runs = conn.execute("SELECT status FROM mvrefresh.refresh_metrics WHERE view_name = 'mv'")
    recorded = [status for (status,) in runs.fetchall()]  # the force may have shared the slot's
    assert recorded in (["succeeded"], ["succeeded"] * 2)
    assert [run["status"] for run in found["history"]["mv"]] == recorded
    assert found["summaries"]["mv"]["success_count"] == len(recorded)
    assert found["cache"]["l1_cache"]["hit_rate"] == 90.0
    assert [process["pid"] for process in found["fleet"]] == [os.getpid()]


def test_many_pages_share_a_look(database):
    from mvrefresh.web.dashboard.figures import Figures

    figures = Figures(database)
    assert figures.read() is figures.read()


def test_a_database_that_is_away_is_503():
    with Database("host=127.0.0.1 port=1 dbname=x") as database:
        app = FastAPI()
        app.include_router(dashboard_router(database))
        with served(app) as host:
            answer = httpx.get(f"http://{host}/refresh/dashboard/data")
            assert httpx.get(f"http://{host}/refresh/dashboard").status_code == 200
    assert answer.status_code == 503
    assert "detail" in answer.json()


def test_without_the_librarys_tables_it_says_so(dsn):
    with Database(dsn) as database:
        app = FastAPI()
        app.include_router(dashboard_router(database))
        with served(app) as host:
            answer = httpx.get(f"http://{host}/refresh/dashboard/data")
    assert answer.status_code == 503
    assert "mvrefresh schema --apply" in answer.json()["detail"]


def test_its_files_are_package_data():
    from mvrefresh.web import dashboard

    here = Path(dashboard.__file__).parent
    assert {path.suffix for path in here.glob("dashboard.*")} == {".html", ".css", ".js"}

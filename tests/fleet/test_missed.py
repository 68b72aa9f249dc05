"""What somebody has missed: all of it, in order, and each with a place to go on from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given, strategies as st

from mvrefresh.fleet.cursor import MOST, OVERLAP, Cursor, hash_of
from mvrefresh.fleet.ledger import Page
from mvrefresh.fleet.missed import missed

BEGIN = datetime(2025, 1, 13, 10, 30, tzinfo=UTC)
COLUMNS = (
    "success", "status", "strategy", "reason", "duration_ms", "error_message", "trigger", "host",
    "refresh_no", "rows_inserted", "rows_deleted", "content_token", "content_as_of", "record_id",
)  # fmt: skip


def page(gaps):
    at, rows = BEGIN, []
    for number, gap in enumerate(gaps):
        at += timedelta(seconds=gap)
        row = dict.fromkeys(COLUMNS) | {"record_id": number, "view": "mv", "at": at.isoformat()}
        rows.append(row | {"run_id": str(UUID(int=number))})
    return Page(at, rows, cut=False, going=[])


@given(st.lists(st.floats(0, 40), max_size=60), st.integers(0, 60))
def test_who_goes_on_from_any_of_them_hears_the_rest_and_no_more(gaps, stop):
    whole = page(gaps)
    heard = list(missed(whole, Cursor(BEGIN - OVERLAP)))
    assert [news.data["record_id"] for news in heard] == list(range(len(gaps)))
    if heard:
        place = Cursor.parse(heard[min(stop, len(heard) - 1)].id)
        later = [row for row in whole.rows if datetime.fromisoformat(row["at"]) >= place.since]
        rest = list(missed(whole._replace(rows=later), place))
        assert [news.key for news in rest] == [news.key for news in heard[stop + 1 :]]


def test_a_place_tells_of_the_latest_overlap_alone():
    heard = list(missed(page([1] * 1000), Cursor(BEGIN)))
    last = Cursor.parse(heard[-1].id)
    told = {hash_of(news.key) for news in heard if news.at >= last.moment - OVERLAP}
    assert last.told == told
    assert len(told) < MOST

"""Records made up for tests."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from mvrefresh.metrics.store import RefreshRecord


def a_record(view: str = "mv", duration_ms: float = 1.0, **changes: object) -> RefreshRecord:
    """A record of a refresh that succeeded, with changes."""
    record = RefreshRecord(
        view_name=view,
        refresh_duration_ms=duration_ms,
        success=True,
        status="succeeded",
        strategy="concurrent",
        reason="populated",
        trigger="manual",
        run_id=uuid4(),
        refresh_no=1,
        host="here",
        rows_inserted=3,
        rows_deleted=2,
    )
    return replace(record, **changes)  # type: ignore[arg-type]

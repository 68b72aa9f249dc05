"""What a fleet did, by an audit of its own: the database notes every slot that moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

SETUP = """
CREATE TABLE base (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
INSERT INTO base (name) SELECT 'n' || g FROM generate_series(1, 3) g;
CREATE TABLE pace (seconds float8); INSERT INTO pace VALUES (0);
CREATE FUNCTION pause() RETURNS text LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_sleep((SELECT seconds FROM public.pace)); RETURN ''; END$$;
CREATE MATERIALIZED VIEW mv AS SELECT id, name, (SELECT pause()) AS paused FROM base;
CREATE UNIQUE INDEX mv_id ON mv (id);
CREATE TABLE audit (served timestamptz, following timestamptz, failed boolean,
                    at timestamptz DEFAULT clock_timestamp(), started timestamptz);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    IF NEW.slot IS DISTINCT FROM OLD.slot THEN
        INSERT INTO public.audit (served, following, failed, started)
        VALUES (OLD.slot, NEW.slot, NEW.failures > OLD.failures, NEW.last_started_at);
    END IF; RETURN NULL; END$$;
CREATE TRIGGER note AFTER UPDATE ON mvrefresh.schedule FOR EACH ROW EXECUTE FUNCTION note()
"""


@dataclass(frozen=True)
class Audit:
    """Slots that were served, in order, and refreshes in the history."""

    served: list[datetime]
    started: list[datetime]
    failed: int
    refreshes: int
    failures: int

    @property
    def twice(self) -> int:
        """Slots that succeeded more than once."""
        return len(self.served) - len(set(self.served))

    @property
    def longest_pause(self) -> float:
        """Seconds between two starts at most."""
        pairs = zip(self.started, self.started[1:], strict=False)
        return max(((b - a).total_seconds() for a, b in pairs), default=0.0)

    def __str__(self) -> str:
        return (
            f"{len(self.served)} slots served, {self.twice} twice, {self.failed} failed; "
            f"{self.refreshes} refreshes in the history, {self.failures} failures; "
            f"longest pause between two starts {self.longest_pause:.2f} s"
        )


def read_audit(connection: psycopg.Connection[Any]) -> Audit:
    rows = connection.execute("SELECT served, started, failed FROM audit ORDER BY at").fetchall()
    counts = connection.execute(
        "SELECT count(*) FILTER (WHERE success), count(*) FILTER (WHERE NOT success)"
        " FROM mvrefresh.refresh_metrics WHERE trigger = 'schedule'"
    ).fetchone()
    assert counts is not None
    return Audit(
        served=[served for served, _, failed in rows if not failed],
        started=[started for _, started, failed in rows if not failed],
        failed=sum(failed for _, _, failed in rows),
        refreshes=counts[0],
        failures=counts[1],
    )

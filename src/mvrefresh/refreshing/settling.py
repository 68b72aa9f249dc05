"""What becomes of a slot that was not served: the next one comes, and failures are counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg

from mvrefresh.errors import DatabaseUnavailable
from mvrefresh.postgres.batch import brief_transaction
from mvrefresh.postgres.faults import message_of
from mvrefresh.postgres.slots import give_up
from mvrefresh.refreshing.report import Status

if TYPE_CHECKING:
    from mvrefresh.refreshing.claim import Claim
    from mvrefresh.refreshing.report import RefreshOutcome
    from mvrefresh.refreshing.run import Run

logger = logging.getLogger("mvrefresh")


def give_up_slot(run: Run, claim: Claim, outcome: RefreshOutcome) -> str | None:
    """Move a slot that was tried on to the next, unless somebody else has.

    A failure is counted once a slot, however many processes tried it. Where the database cannot
    be asked nothing moves: whoever finds it again tries the same slot.

    Returns:
        Words for the record: whether the view is suspended from now on; else empty. None if
        somebody else has moved the slot.
    """
    if run.schema is None:
        return claim.give_up_in_memory(outcome)
    failed = outcome.status is Status.FAILED  # who cancelled it knows why: that is no failure
    try:
        with run.database.dedicated() as connection, brief_transaction(connection):
            row = give_up(
                connection,
                run.schema,
                claim.row,
                following=claim.following,
                started=claim.started,
                schedule=str(claim.schedule),
                error=str(outcome.error) if failed else None,
                suspend_after=claim.suspend_after,
            )
    except (psycopg.Error, DatabaseUnavailable) as error:
        logger.warning("%s: its slot was not moved: %s", outcome.view, message_of(error))
        return ""
    return None if row is None else claim.gave_up(row)

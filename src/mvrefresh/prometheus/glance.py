"""A look at the database that ends in time, whatever the database does.

`statement_timeout` is the server's: one that is suspended, or a network that swallows everything,
keeps no promise. So the look is on a thread of its own, for which a scrape waits so long and no
longer. One look at a time: a thread that cannot be got back is one thread, not one a scrape.
"""

from __future__ import annotations

import logging
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from mvrefresh.errors import MvrefreshError
from mvrefresh.postgres.faults import message_of
from mvrefresh.postgres.freshness import read_freshness
from mvrefresh.refreshing.threads import crew_thread

if TYPE_CHECKING:
    from mvrefresh.postgres.database import Database
    from mvrefresh.postgres.freshness import Freshness
    from mvrefresh.refreshing.threads import Work

logger = logging.getLogger("mvrefresh")

_NOT_INSTALLED = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)


class Glance:
    """Looks at a database. Any thread may ask; those who ask meanwhile share a look.

    Args:
        database: Whose.
        timeout: Seconds until it is given up.
    """

    def __init__(self, database: Database, timeout: float) -> None:
        self._database = database
        self._timeout = timeout
        self._crew = object()
        self.forget_parent()

    def forget_parent(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._lock = Lock()
        self._work: Work[list[Freshness]] | None = None
        self._began = 0.0
        self._said = False

    def look(self) -> list[Freshness] | None:
        """All views; None if the database did not say in time. Never raises."""
        with self._lock:
            if self._work is None or self._work.done():
                self._began = monotonic()
                self._work = crew_thread(self._crew, "mvrefresh-glance", self._read)
            work, began = self._work, self._began
        try:
            found = work.result(max(0.0, began + self._timeout - monotonic()))
        except TimeoutError:
            self._database.sever(self._crew)  # where it waits for an answer; else it goes on
            self._say("it did not answer in time")
        except _NOT_INSTALLED:  # it answers: without the tables there is nothing to tell
            return []
        except (psycopg.Error, MvrefreshError, OSError) as error:
            self._say(message_of(error))
        except Exception:
            logger.exception("an unexpected error in a look for Prometheus")
        else:
            self._said = False
            return found
        return None

    def _read(self) -> list[Freshness]:
        with self._database.dedicated() as connection:
            return read_freshness(connection, self._database.schema, limit=self._timeout)

    def _say(self, why: str) -> None:
        """Once an outage: Prometheus asks every few seconds."""
        if not self._said:
            self._said = True
            logger.warning("the database could not be looked at for Prometheus: %s", why)

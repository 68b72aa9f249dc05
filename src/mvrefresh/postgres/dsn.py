"""Connection strings: what we add where they are silent, and what of them may be shown."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mvrefresh.errors import ConfigurationError

_DEFAULTS: Final[dict[str, str | int]] = {
    # A dead peer is noticed after 30 + 5 * 10 seconds instead of two hours.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 5,
    "connect_timeout": 10,
    "application_name": "mvrefresh",
}


def completed(dsn: str, **defaults: str | int) -> str:
    """A DSN with our defaults for what it does not say; `defaults` go before ours.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # The driver's message quotes the text, and the text may hold a password.
        raise ConfigurationError(
            'the DSN is neither a URI ("postgresql://user@host/db") nor key=value pairs'
        ) from None
    if "@" in str(given.get("host", "")):  # the tail of a password that holds an "@"
        raise ConfigurationError('the host holds an "@": write an "@" in a password as %40')
    return make_conninfo(dsn, **{k: v for k, v in (_DEFAULTS | defaults).items() if k not in given})


def shown(conninfo: str) -> str:
    """Where it leads, without what is secret."""
    parts = conninfo_to_dict(conninfo)
    return " ".join(f"{k}={parts[k]}" for k in ("host", "port", "dbname") if k in parts)

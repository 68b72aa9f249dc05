"""How things are said to people: durations, ages, sizes, names. Pure."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

_SECOND, _MINUTE, _HOUR, _DAY = 1.0, 60.0, 3600.0, 86400.0
_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(text: str) -> str:
    r"""Text from elsewhere, made harmless for a terminal: an escape becomes `\x1b`, in letters."""
    return "".join(
        char.encode("unicode_escape").decode()
        if char in _BIDI or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        else char
        for char in text
    )


def duration(milliseconds: float | None) -> str:
    """`3.2 ms`, `213 ms`, `1.25 s`, `12.5 s`, `2 min 05 s`, `1 h 02 min`."""
    if milliseconds is None:
        return "-"
    # The bounds are where the next smaller way would round up to its end, as in "1000 ms".
    if milliseconds < 999.5:  # noqa: PLR2004
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"  # noqa: PLR2004
    seconds = milliseconds / 1000
    if seconds < 59.95:  # noqa: PLR2004
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"  # noqa: PLR2004
    if round(seconds) < _HOUR:
        return "{} min {:02} s".format(*divmod(round(seconds), 60))
    return "{} h {:02} min".format(*divmod(round(seconds / _MINUTE), 60))


def age(seconds: float | None) -> str:
    """How long ago: `just now`, `12 s ago`, `3 min ago`, `2 h ago`, `5 d ago`."""
    if seconds is None:
        return "-"
    return "just now" if seconds < _SECOND else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """How long, roughly: `12 s`, `3 min`, `2 h`, `5 d`."""
    for unit, length, most in (("s", _SECOND, 60), ("min", _MINUTE, 60), ("h", _HOUR, 48)):
        if round(seconds / length) < most:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / _DAY:.0f} d"


def size(count: int | None) -> str:
    """Bytes as PostgreSQL's tools say them: `8 kB`, `1.4 MB`; `?` where nobody counted."""
    if count is None:
        return "?"
    amount, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while amount >= 1023.5 and len(units) > 1:  # noqa: PLR2004 - what would round to 1024
        amount /= 1024
        units.pop(0)
    exact = units[0] in ("bytes", "kB") or amount >= 99.95  # noqa: PLR2004
    return f"{amount:.0f} {units[0]}" if exact else f"{amount:.1f} {units[0]}"


def number(value: int | None) -> str:
    """`5,296`; `-` for unknown."""
    return "-" if value is None else f"{value:,}"


def plural(count: int, noun: str) -> str:
    """`1 view`, `5 views`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def rows_written(inserted: int | None, deleted: int | None) -> str:
    """`+12 -3`; only the first where a refresh deletes nothing (it put a new heap in place)."""
    if inserted is None:
        return "-"
    return f"+{inserted:,}" if deleted is None else f"+{inserted:,} -{deleted:,}"


def moment(when: datetime) -> str:
    """A time for people, in UTC, with the year only where it is not this one."""
    utc = when.astimezone(UTC)
    this_year = utc.year == datetime.now(UTC).year
    return utc.strftime("%m-%d %H:%M:%S" if this_year else "%Y-%m-%d %H:%M:%S")


def iso(when: datetime) -> str:
    """A time for machines: ISO-8601, UTC, `Z`."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")

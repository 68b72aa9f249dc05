"""What a materialized view is, and what it can: values without a database."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mvrefresh.errors import ConfigurationError

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*\Z")
_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s".]+))\s*(?:\.|\Z)')

MAX_IDENTIFIER_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1: it truncates longer identifiers silently, we refuse them."""


def _quoted(part: str) -> str:
    return part if _PLAIN.match(part) else '"' + part.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True, order=True)
class ViewName:
    """A schema and a name, exactly as the catalog holds them (no quotes, no folding).

    `str()` gives the label under which reports, history and metrics know the view: SQL
    spelling, with the schema left out where it is `public`. It does not depend on anybody's
    search_path, so every process writes the same.
    """

    schema: str
    name: str

    def __str__(self) -> str:
        if self.schema == "public":
            return _quoted(self.name)
        return f"{_quoted(self.schema)}.{_quoted(self.name)}"

    @classmethod
    def parse(cls, text: str) -> tuple[str | None, str]:
        """Read `name`, `schema.name`, either part in double quotes, as SQL would.

        Returns:
            (schema or None, name). Unquoted parts are folded to lower case.

        Raises:
            ConfigurationError: The text is not one or two identifiers.
        """
        parts: list[str] = []
        at = 0
        while at < len(text) and (match := _PART.match(text, at)):
            quoted, plain = match.groups()
            parts.append(quoted.replace('""', '"') if quoted is not None else plain.lower())
            at = match.end()
        if at != len(text) or not 1 <= len(parts) <= 2 or text.rstrip().endswith("."):  # noqa: PLR2004
            raise ConfigurationError(
                f"{text!r} is not a view name: write name, schema.name, or put a part that holds "
                'dots, blanks or capitals in double quotes ("My View")'
            )
        for part in parts:
            if len(part.encode()) > MAX_IDENTIFIER_BYTES:
                raise ConfigurationError(
                    f"{part!r} is longer than PostgreSQL's {MAX_IDENTIFIER_BYTES} bytes"
                )
        return (parts[0], parts[1]) if len(parts) == 2 else (None, parts[0])  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """A unique index of a view, and whether REFRESH CONCURRENTLY may lean on it."""

    name: str
    columns: tuple[str, ...]
    valid: bool = True
    immediate: bool = True
    partial: bool = False
    expression: bool = False
    btree: bool = True

    @property
    def obstacle(self) -> str | None:
        """Why CONCURRENTLY cannot use it, in words; None when it can.

        The conditions are those of `is_usable_unique_index()` in PostgreSQL's matview.c.
        """
        if not self.valid:
            return "is invalid (REINDEX it)"
        if self.partial:
            return "is partial (it has a WHERE)"
        if self.expression:
            return "is on an expression, not on columns alone"
        if not self.immediate:
            return "is deferrable"
        if not self.btree:
            return "is not a btree"
        return None


@dataclass(frozen=True, slots=True)
class MaterializedView:
    """A materialized view as the catalog showed it, keyed by `oid`.

    Attributes:
        size_bytes: Heap and indexes, as VACUUM, ANALYZE or an index build last counted them;
            None while nobody has.
        rows_estimate: The planner's estimate; -1 when never analysed.
        permitted: Whether the current role may refresh it.
        reads: Oids of the materialized views it reads, directly or through plain views,
            SQL-body functions and partitions.
        base_tables: Labels of the tables it reads, likewise.
        clock_functions: Functions in its definition whose answer moves with the clock: its
            content can change without any write.
        volatile_functions: Other volatile functions in its definition (random(), nextval()...).
    """

    oid: int
    name: ViewName
    owner: str = ""
    populated: bool = True
    size_bytes: int | None = None
    rows_estimate: int = -1
    permitted: bool = True
    unique_indexes: tuple[UniqueIndex, ...] = ()
    reads: frozenset[int] = field(default_factory=frozenset)
    base_tables: tuple[str, ...] = ()
    clock_functions: tuple[str, ...] = ()
    volatile_functions: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name that reports and history use."""
        return str(self.name)

    @property
    def usable_index(self) -> UniqueIndex | None:
        """The unique index that REFRESH CONCURRENTLY can lean on, if there is one."""
        return next((i for i in self.unique_indexes if i.obstacle is None), None)

    @property
    def concurrently_obstacle(self) -> str | None:
        """Why REFRESH CONCURRENTLY is impossible, in words; None when it is possible."""
        if not self.populated:
            return "it is not populated yet"
        if self.usable_index is not None:
            return None
        if not self.unique_indexes:
            return "it has no unique index"
        misses = "; ".join(f"{_quoted(i.name)} {i.obstacle}" for i in self.unique_indexes)
        return f"none of its unique indexes is usable: {misses}"

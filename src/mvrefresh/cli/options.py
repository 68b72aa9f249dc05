"""Options that several commands share, and the kinds of values that they take."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import click
from click.core import ParameterSource

from mvrefresh.cli.session import Session
from mvrefresh.refreshing.plan import Fallback, Method

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)?")
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_LEAST, _MOST = 0.001, 2_147_483.0  # PostgreSQL's limits are whole milliseconds in 31 bits


def _seconds(text: str, *, unit: str | None) -> float | None:
    """`90`, `5s`, `500ms`, `24h`, `7d` in seconds; None for anything else."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or (match[2] or unit) is None:
        return None
    return float(match[1]) * _SECONDS[match[2] or str(unit)]


class Limit(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.5
    """A time limit: seconds, or with a unit (500ms, 5s, 2m, 1h)."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """In seconds."""
        seconds = value if isinstance(value, float) else _seconds(value, unit="s")
        if seconds is None:
            self.fail(f"{value!r} is not a time: write 5, 5s, 500ms, 2m or 1h", param, ctx)
        if not _LEAST <= seconds <= _MOST:
            self.fail(f"{value!r} is not between 1 ms and 24 days", param, ctx)
        return seconds


class Since(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.5
    """A moment: how long ago (30m, 24h, 7d, 2w), or ISO-8601, in UTC where it says no zone."""

    name = "when"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """With a time zone."""
        if isinstance(value, datetime):
            return value
        try:
            ago = _seconds(value, unit=None)
            if ago is not None:
                return datetime.now(UTC) - timedelta(seconds=ago)
            when = datetime.fromisoformat(value.strip())
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no moment: write 24h, 7d, 2025-01-31 or 2025-01-31T10:30Z",
                param,
                ctx,
            )
        return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


class View(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.5
    """A view's name: any text that PostgreSQL could hold."""

    name = "view"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is."""
        text = str(value)
        if "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text):  # noqa: PLR2004
            self.fail(f"{text!r} is not text that a name could be", param, ctx)
        return text


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    name = str(param.name)
    if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
        setattr(ctx.ensure_object(Session), name, value)


def _global(*names: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    # No envvar=: after the command's name it would win over an option that stands before it.
    return click.option(*names, callback=_remember, expose_value=False, **settings)


_GLOBAL: Final = (
    _global(
        "--dsn",
        metavar="DSN",
        help="The database, URI or key=value.  [default: env MVREFRESH_DSN, else libpq's PG*]",
    ),
    _global("--schema", metavar="NAME", help="Of the library's tables.  [default: mvrefresh]"),
    _global(
        "--metrics-schema",
        metavar="NAME",
        help="Of table refresh_metrics.  [default: that of --schema]",
    ),
    _global("--json", is_flag=True, help="Answer with one JSON document."),
    _global("--verbose", is_flag=True, help="Log to stderr what is done."),
)


def global_options(command: Decorated) -> Decorated:
    """The options of every command: they may stand before its name or after it."""
    for option in reversed(_GLOBAL):
        command = option(command)
    return command


def choice_of_views(command: Decorated) -> Decorated:
    """Which views, and by which method: what `plan` and `refresh` ask alike."""
    for option in reversed(
        (
            click.argument("views", nargs=-1, type=View()),
            click.option(
                "--cascade", is_flag=True, help="Also every view that reads one of these."
            ),
            click.option(
                "--method",
                type=click.Choice(get_args(Method)),
                default="auto",
                show_default=True,
                help="auto: CONCURRENTLY wherever a view can.",
            ),
            click.option(
                "--fallback",
                type=click.Choice(get_args(Fallback)),
                default="regular",
                show_default=True,
                help="Where CONCURRENTLY is impossible: block readers for a while, or refuse.",
            ),
        )
    ):
        command = option(command)
    return command

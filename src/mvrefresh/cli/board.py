"""How `watch` shows a picture to people: one board, as high as there is room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.text import Text

from mvrefresh.cli.changes import trouble
from mvrefresh.cli.tables import STYLES, keep_whole, name, table
from mvrefresh.cli.wording import age, duration, moment, plural, span
from mvrefresh.fleet.picture import seconds_between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from mvrefresh.cli.changes import Change
    from mvrefresh.fleet.picture import Picture, ViewSeen

_NARROW: Final = 96  # columns; below, the schedules give way
_OVERDUE: Final = 60.0  # seconds that a due view may wait before that is worth a colour
_BAD, _DOUBTFUL, _DIM = "bold red", "yellow", "dim"


def board(
    picture: Picture,
    changes: Sequence[Change],
    *,
    width: int,
    height: int | None = None,
    later: float = 0.0,
    away: str | None = None,
) -> RenderableType:
    """The views, what is wrong, what happened, and who is at work.

    Args:
        picture: What the last look showed.
        changes: What happened, oldest first.
        width: Columns.
        height: Lines that there are; None: as many as it takes.
        later: Seconds since that look.
        away: Why there has been none since, if the database does not answer.
    """
    wrong = [(view, words) for view in picture.views if (words := trouble(view))]
    if height is not None:
        wrong = wrong[: max(1, height // 6)]
        changes = changes[-max(2, height // 4) :]
    besides = 6 + len(wrong) + len(changes) + 2 * bool(changes)
    views = picture.views if height is None else _urgent(picture.views, height - besides)
    parts: list[RenderableType] = [_head(picture, later, away), Text()]
    parts.append(_table(picture, views, width, later))
    left = len(picture.views) - len(views)
    if left:
        parts.append(Text(f"and {plural(left, 'view')} more", _DIM))
    parts += [_line(f"{view.label}: {words}", _BAD) for view, words in wrong]
    if changes:
        parts += [Text(), Text("Latest", _DIM)]
        parts += [_line(str(change), change.style) for change in changes]
    parts += [Text(), _fleet(picture)]
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    made = name(text, style)
    made.no_wrap, made.overflow = True, "ellipsis"
    return made


def _head(picture: Picture, later: float, away: str | None) -> Text:
    if away is not None:
        return _line(f"No answer for {span(later)}, trying again: {away}", _BAD)
    going_on = sum(1 for view in picture.views if view.running)
    standby = ", a standby (nothing can be refreshed here)" if picture.standby else ""
    return _line(
        f"{picture.where}, {moment(picture.now)} UTC{standby}: "
        f"{plural(len(picture.views), 'view')}, {going_on} refreshing"
    )


def _urgent(views: Sequence[ViewSeen], room: int) -> Sequence[ViewSeen]:
    """As many views as there is room for: what goes on, what is wrong, what is due next."""
    if len(views) <= room:
        return views

    def urgency(view: ViewSeen) -> tuple[bool, bool, bool, float]:
        due = view.due_at.timestamp() if view.due_at else float("inf")
        return view.running is None, not trouble(view), view.populated, due

    chosen = {view.oid for view in sorted(views, key=urgency)[: max(1, room - 1)]}
    return [view for view in views if view.oid in chosen]


def _table(picture: Picture, views: Sequence[ViewSeen], width: int, later: float) -> Table | Text:
    if not views:
        return Text("There is no materialized view to watch.")
    roomy = width >= _NARROW
    made = table("View", "Content", *["Schedule"] * roomy, "Next", "Last", "Took>")
    for view in views:
        last = view.last
        made.add_row(
            name(view.label),
            _content(view, picture, later),
            *[name(view.schedule or "-")] * roomy,
            _next(view, picture, later),
            name(last.status.replace("_", " "), STYLES.get(last.status, ""))
            if last
            else Text("never", _DIM),
            duration(last.refresh_duration_ms) if last and last.success is not None else "-",
        )
    return keep_whole(made, (view.label for view in views))


def _content(view: ViewSeen, picture: Picture, later: float) -> Text:
    if not view.populated:
        return Text("not populated", _BAD)
    if view.changed_by_others:
        return Text("by others", _DOUBTFUL)
    seconds = seconds_between(view.content_as_of, picture.now)
    return Text("unknown", _DIM) if seconds is None else Text(age(seconds + later))


def _next(view: ViewSeen, picture: Picture, later: float) -> Text:
    if view.running is not None:
        elapsed = ((seconds_between(view.running.since, picture.now) or 0) + later) * 1000
        usual = view.usual_duration_ms
        slow = usual is not None and elapsed > 2 * usual
        of = "" if usual is None else f" of {duration(usual)}"
        return Text(f"refreshing {duration(elapsed)}{of}", _DOUBTFUL if slow else "bold")
    if view.suspended_because is not None:
        return Text("suspended", _BAD if view.suspended_at else _DOUBTFUL)
    if view.due_at is None:
        return Text("-", _DIM)
    seconds = (view.due_at - picture.now).total_seconds() - later
    if seconds >= 1:
        return Text(f"in {span(seconds)}")
    if seconds > -1:
        return Text("now")
    return Text(f"due for {span(-seconds)}", _DOUBTFUL if -seconds > _OVERDUE else "")


def _fleet(picture: Picture) -> Text:
    if picture.fleet is None:
        return Text("Services: not to be seen through a transaction pooler", _DIM)
    if not picture.fleet:
        return Text("No service is running.", _DIM)
    each = [
        f"{process.host}:{process.pid}"
        + (
            ""
            if process.since is None
            else f" for {span(seconds_between(process.since, picture.now) or 0)}"
        )
        for process in picture.fleet
    ]
    return _line(f"{plural(len(each), 'service')}: {', '.join(each)}", _DIM)

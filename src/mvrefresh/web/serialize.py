"""Messages as JSON: whatever comes, something readable goes out, and nothing is raised.

| value | JSON |
|---|---|
| event of `mvrefresh.events`, `News` | the envelope: `id`, `event`, `at`, `data` |
| datetime | ISO-8601 in UTC with `Z`; a naive one is taken for UTC |
| timedelta | seconds |
| UUID, Decimal, path, address | string: a Decimal keeps its digits |
| NaN, infinity | null |
| enum | its value |
| dataclass, named tuple, pydantic model, mapping | object |
| set, deque, numpy array | array |
| bytes | string, base64 |
| exception | `{"type", "message", "sqlstate"}` |

What has no JSON becomes `{"event": "MessageFailed", "at", "data": {"event", "error"}}`.
"""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, get_args

import orjson

from mvrefresh import events
from mvrefresh.fleet.news import News, news_of

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS: Final = (
    orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_SERIALIZE_NUMPY
    | orjson.OPT_NON_STR_KEYS
    | orjson.OPT_NAIVE_UTC
    | orjson.OPT_UTC_Z
)
_EVENTS: Final = get_args(events.Event)
_WORDS: Final = 500  # letters of an error's message


def safe_serialize_message(message: object) -> bytes:
    """The JSON of a message, in UTF-8; never raises.

    Args:
        message: An event, `News`, or anything else that JSON has a form for.
    """
    try:
        return orjson.dumps(_enveloped(message), _plain, _OPTIONS)
    except Exception as error:  # noqa: BLE001 - a socket's other messages must go on
        return _failed(message, error)


def _enveloped(message: object) -> object:
    news = news_of(message) if isinstance(message, _EVENTS) else message
    if isinstance(news, News):
        return {"id": news.id, "event": news.event, "at": news.at, "data": news.data}
    return message


def _failed(message: object, error: Exception) -> bytes:
    kind = type(message)  # and not isinstance: it may be hostile
    name = _said(lambda: getattr(message, "event", "")) if kind is News else _name(kind)
    # orjson says that its default failed; why is in the cause.
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return orjson.dumps(
        {
            "id": None,
            "event": "MessageFailed",
            "at": _moment(datetime.now(UTC)),
            "data": {"event": name, "error": _error(cause)},
        }
    )


def _plain(value: Any) -> Any:
    """What orjson knows in place of what it does not; one `isinstance` after another."""
    for kinds, plain in _FORMS:
        if isinstance(value, kinds):
            return plain(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    for method in ("model_dump", "_asdict", "tolist"):  # pydantic, named tuple, numpy
        if not isinstance(value, type) and callable(found := getattr(value, method, None)):
            return found()
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"{_name(type(value))} has no form in JSON")


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    try:
        value = value.astimezone(UTC)
    except OverflowError:  # the first or the last day there is
        return value.isoformat()
    return value.replace(tzinfo=None).isoformat() + "Z"


def _error(error: BaseException) -> dict[str, str | None]:
    sqlstate = _said(lambda: getattr(error, "sqlstate", None))
    return {
        "type": _name(type(error)),
        "message": _said(lambda: str(error)),
        "sqlstate": sqlstate or None,
    }


def _said(ask: Callable[[], object]) -> str:
    """What something says of itself, if it says anything: it may be hostile."""
    try:
        said = ask()
        words = said if isinstance(said, str) else ""
        return words[:_WORDS].encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 - hostile
        return ""


def _name(kind: type) -> str:
    return _said(lambda: type.__dict__["__name__"].__get__(kind))


_FORMS: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (datetime, _moment),
    ((date, time), lambda value: value.isoformat()),
    (timedelta, timedelta.total_seconds),
    ((Decimal, PurePath, IPv4Address, IPv6Address), str),
    (BaseException, _error),
    ((bytes, bytearray, memoryview), lambda value: b64encode(value).decode()),
    ((set, frozenset, deque), list),
    (Mapping, dict),
)

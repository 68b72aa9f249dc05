"""Walks every endpoint of a host that mounts the routers, and says what it found; one line each.

    python smoke.py http://localhost:8000 --entity 3
    python smoke.py https://app.example.org --token "$TOKEN" --read-only

Exit code 1 if anything is off. Needs nothing but Python. Without --read-only it refreshes, and
starts and stops the automated refresh of the process that answers; it leaves it as it found it.
It keeps one connection, so that of several workers one answers. Where a proxy asks others, too, it
says so, and judges by the fleet whether all is as it was found.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import random
import select
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

Check = Any  # a type or several, None, a function that says what is wrong, or a dict of these

NUMBER = (int, float)
MAYBE = (int, float, type(None))
NOBODY = "no_such_view_or_entity_of_the_smoke_script"
NOT_RUNNING = "Automated refresh service is not running"
EVENT_SECONDS = 10.0
LOOKS = 8  # at the status, to see whether it is always the same process that answers
OK, NOT_FOUND, CONFLICT, UNPROCESSABLE = 200, 404, 409, 422


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body; None if it is no JSON."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


# -- shapes: what is wrong with a value, in words; empty when nothing is ------------------------


def wrong(value: Any, check: Check, at: str = "") -> list[str]:
    """Compare a value with its shape. More keys than the shape has are no fault."""
    where = at or "the body"
    if isinstance(check, dict):
        if not isinstance(value, dict):
            return [f"{where} is {value!r:.60}, not an object"]
        return [
            fault
            for key, inner in check.items()
            for fault in (
                wrong(value[key], inner, f"{at}.{key}".lstrip("."))
                if key in value
                else [f"{where} has no {key}"]
            )
        ]
    if isinstance(check, str):
        return [] if value == check else [f"{where} is {value!r:.60}, not {check!r}"]
    if isinstance(check, type | tuple):
        kinds = check if isinstance(check, tuple) else (check,)
        is_flag = isinstance(value, bool) and bool not in kinds  # for Python a bool is an int
        return [] if isinstance(value, kinds) and not is_flag else [f"{where} is {value!r:.60}"]
    fault = check(value)
    return [f"{where} {fault}"] if fault else []


def flags(value: Any) -> str:
    """View -> whether it was refreshed."""
    good = isinstance(value, dict) and all(isinstance(flag, bool) for flag in value.values())
    return "" if good else f"is {value!r:.60}, not view -> true or false"


def list_of(check: Check) -> Callable[[Any], str]:
    """Every element has the shape."""

    def says(value: Any) -> str:
        if not isinstance(value, list):
            return f"is {value!r:.60}, not a list"
        return "; ".join(f for i, item in enumerate(value) for f in wrong(item, check, f"[{i}]"))

    return says


def one_of(*words: str) -> Callable[[Any], str]:
    """One of these words."""
    return lambda value: "" if value in words else f"is {value!r:.60}, none of {', '.join(words)}"


def utc(value: Any) -> str:
    """ISO-8601 with Z."""
    try:
        good = value.endswith("Z") and datetime.fromisoformat(value).utcoffset() == timedelta(0)
    except (AttributeError, ValueError):
        good = False
    return "" if good else f"is {value!r:.60}, not ISO-8601 UTC with Z"


def percent(value: Any) -> str:
    """0 to 100, or null."""
    good = value is None or (isinstance(value, NUMBER) and 0 <= value <= 100)  # noqa: PLR2004
    return "" if good else f"is {value!r:.60}, not 0 to 100"


TIER = {
    "hits": int,
    "misses": int,
    "hit_rate": percent,
    "size": MAYBE,
    "errors": int,
    "degraded_since": MAYBE,
}
TIERS = ("l1_cache", "l2_cache", "l3_cache", "l4_cache", "overall")
STATUS = {
    "status": "available",
    "last_refresh": MAYBE,
    "cache_metrics": {tier: TIER if tier != "overall" else dict for tier in TIERS},
    "automated_refresh_status": {
        "enabled": bool,
        "last_run": MAYBE,
        "next_run": MAYBE,
        "interval_seconds": MAYBE,
        "success_count": int,
        "failure_count": int,
    },
    "message": "LTREE materialized view refresh service is operational",
}
REFRESHED = {
    "status": "success",
    "message": "All materialized views refreshed successfully",
    "results": flags,
    "duration_ms": NUMBER,
}
STARTED = {
    "status": "success",
    "message": "Automated refresh service started successfully",
    "config": {"interval_seconds": MAYBE, "concurrent_refresh": bool, "views": list_of(str)},
}
FORCED = {
    "status": "success",
    "result": {"duration_ms": NUMBER, "views_refreshed": int, "success": bool, "results": flags},
    "message": "Forced refresh completed successfully",
}
STOPPED = {
    "status": "success",
    "message": "Automated refresh service stopped successfully",
    "final_metrics": {
        "total_refreshes": int,
        "successful_refreshes": int,
        "failed_refreshes": int,
        "average_duration_ms": MAYBE,
        "uptime_seconds": NUMBER,
    },
}
RECORD = {
    "id": (int, str, type(None)),
    "view_name": str,
    "refresh_duration_ms": NUMBER,
    "success": (bool, type(None)),
    "created_at": utc,
    "error_message": (str, type(None)),
}
COUNTS = ("total_count", "success_count", "failure_count")
DURATIONS = ("average", "p95", "p99", "min", "max")
SUMMARY: dict[str, Check] = {
    **dict.fromkeys(COUNTS, int),
    "success_rate": percent,
    **{f"{which}_duration_ms": MAYBE for which in DURATIONS},
}
METRICS = {"status": "success", "metrics": list_of(RECORD), "summary": SUMMARY}


def zero(value: Any) -> str:
    """Nothing was counted."""
    return "" if value == 0 else f"is {value!r:.60}, not 0"


NO_ROWS = {
    "metrics": lambda rows: "" if rows == [] else "is not empty",
    "summary": {key: zero if key in COUNTS else type(None) for key in SUMMARY},
}
USAGE = {
    "success": lambda value: "" if value is True else f"is {value!r}, not true",
    "message": "Materialized views refreshed successfully",
    "refreshed_at": utc,
}
HEALTH = {
    "status": one_of("healthy", "degraded"),
    "checks": dict.fromkeys(("database", "redis", "pool", "listener", "service"), object),
    "checked_at": (*MAYBE, str),
}
ERROR = {"detail": str}
BAD_PARAMETER = {"detail": (str, list)}


class Walk:
    """Asks, compares, prints.

    Args:
        base: Where the host answers: "http://localhost:8000".
        token: Sent as `Authorization: Bearer`.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, base: str, *, token: str | None = None, timeout: float = 60.0) -> None:
        self._url = urlsplit(base.rstrip("/"))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout
        self._kept = self.connect()
        self.checked = self.off = 0

    def connect(self, timeout: float | None = None) -> http.client.HTTPConnection:
        """A connection of its own."""
        secure = self._url.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(self._url.netloc, timeout=timeout or self._timeout)

    def send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any = None,
        **headers: str,
    ) -> http.client.HTTPResponse:
        """Ask, and leave the body to be read."""
        given = {**self._headers, **{k.replace("_", "-"): v for k, v in headers.items()}}
        if body is not None:
            body, given["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection.request(method, self._url.path + path, body, given)
        return connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask, and read all of the answer; on the connection of all other questions."""
        kept = self._kept
        if kept.sock is not None and select.select([kept.sock], [], [], 0)[0]:
            kept.close()  # by the server, it was idle; the question opens it anew
        try:
            response = self.send(kept, method, path, body)
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException):
            kept.close()
            raise

    def close(self) -> None:
        """Close that connection; the next question opens another, perhaps to another worker."""
        self._kept.close()

    def say(self, what: str, faults: list[str], fleet: Fleet | None = None) -> None:
        """One line for one check."""
        if faults and fleet is not None and fleet.others():
            print(f"skip  {what}: {fleet.others()}", flush=True)
            return
        self.checked += 1
        self.off += bool(faults)
        print(f"off   {what}: {'; '.join(faults)}" if faults else f"ok    {what}", flush=True)

    def check(
        self,
        method: str,
        path: str,
        shape: Check = dict,
        *,
        status: int | tuple[int, ...] = OK,
        body: Any = None,
        note: str = "",
        fleet: Fleet | None = None,
    ) -> Any:
        """Ask, compare, print; the JSON of the answer where all was right, else None.

        With a fleet, the answer depends on the process: what is wrong since another one has
        answered is not off.
        """
        what = f"{method} {path}" + (f" ({note})" if note else "")
        expected = status if isinstance(status, tuple) else (status,)
        try:
            answer = self.ask(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self.say(what, [f"no answer: {error!r}"])
            return None
        faults = []
        if answer.status not in expected:
            faults = [f"status {answer.status}, not {expected}: {answer.text[:120]}"]
        elif "json" not in answer.headers.get("content-type", ""):
            faults = [f"content type {answer.headers.get('content-type')}"]
        else:
            faults = wrong(answer.json, shape)
        if fleet is not None:
            fleet.count(answer)
        self.say(f"{what} -> {answer.status}", faults, fleet)
        return None if faults else answer.json


# -- processes: who answers, and where the automated refresh runs --------------------------------


@dataclass(frozen=True)
class Sight:
    """What a status says of the process that answers, and of the fleet; None where it does not."""

    enabled: bool
    here: str | None
    fleet: frozenset[str] | None


def sight(status: Any) -> Sight:
    """Out of the JSON of a status."""
    told = status.get("automated_refresh_status") if isinstance(status, dict) else None
    told = told if isinstance(told, dict) else {}
    members = told.get("fleet")
    names = {f"{m['host']}:{m['pid']}": m["here"] for m in members or ()}
    here = next((name for name, is_here in names.items() if is_here), None)
    return Sight(bool(told.get("enabled")), here, None if members is None else frozenset(names))


class Fleet:
    """The processes that may answer.

    Args:
        walk: Asks them.
        entities: Prefix of refresh_router.
        found: How it was before anything was started or stopped.
    """

    def __init__(self, walk: Walk, entities: str, found: Sight) -> None:
        self._walk, self._entities, self._found = walk, entities, found
        self._seen = {found.here} - {None}
        self._several = ""
        self._started = 0  # by us, less those that we have stopped

    def saw(self, now: Sight) -> Sight:
        """Keep in mind who has answered."""
        self._seen |= {now.here} - {None}
        return now

    def count(self, answer: Answer) -> None:
        """Keep in mind what was started and stopped."""
        message = answer.json.get("message") if isinstance(answer.json, dict) else None
        self._started += (message == STARTED["message"]) - (message == STOPPED["message"])

    def look(self) -> Sight:
        """Ask for the status."""
        return self.saw(sight(self._walk.ask("GET", f"{self._entities}/refresh/status").json))

    def others(self) -> str:
        """That more than one process answers; empty where there is no sign of it."""
        if not self._several:
            looks = [self.look() for _ in range(LOOKS)]
            missing, extra = self._moved(looks[-1])
            both = len({now.enabled for now in looks}) > 1  # and nobody started or stopped it
            if both or len(self._seen) > 1 or max(len(missing), len(extra)) > 1:
                names = sorted(self._seen | missing | extra)
                self._several = f"another process answers, too ({', '.join(names)})"
        return self._several

    def restore(self) -> list[str]:
        """Start and stop until it runs where it was found; else where it does, or does not."""
        until = monotonic() + EVENT_SECONDS
        while True:
            now = self.look()
            missing, extra = self._changed(now)
            if not missing and not extra:
                return []
            if monotonic() > until:
                faults = [f"it runs no more in {', '.join(sorted(missing))}"] if missing else []
                return faults + ([f"it runs also in {', '.join(sorted(extra))}"] if extra else [])
            if missing and not now.enabled:
                self._switch("start")
            elif extra and now.enabled and (now.here is None or now.here in extra):
                self._switch("stop")
            else:
                self._walk.close()
                sleep(0.05)

    def _moved(self, now: Sight) -> tuple[frozenset[str], frozenset[str]]:
        """Who has left the fleet, and who has come to it."""
        before, after = self._found.fleet, now.fleet
        if before is None or after is None:
            return frozenset(), frozenset()
        return before - after, after - before

    def _changed(self, now: Sight) -> tuple[frozenset[str], frozenset[str]]:
        """Where it was stopped by us, and where it was started."""
        nobody, here = frozenset[str](), frozenset({now.here or "the process that answers"})
        if not self._several or self._found.fleet is None or now.fleet is None:
            ran, runs = self._found.enabled, now.enabled
            return here if ran and not runs else nobody, here if runs and not ran else nobody
        # Processes come and go without us: no more of them than we have started and stopped.
        missing, extra = self._moved(now)
        return (
            missing if len(extra) > self._started else nobody,
            extra if len(missing) > -self._started else nobody,
        )

    def _switch(self, what: str) -> None:
        if self._several:  # not in step with a proxy that asks each in turn
            for _ in range(random.randrange(LOOKS)):  # noqa: S311 - no secret
                self.look()
        self.count(self._walk.ask("POST", f"{self._entities}/refresh/automated/{what}"))


# -- the endpoints -----------------------------------------------------------------------------


def health(walk: Walk, ops: str) -> None:
    walk.check("GET", f"{ops}/health", HEALTH)
    walk.check("GET", f"{ops}/health/live")
    walk.check("GET", f"{ops}/health/ready")
    answer = walk.ask("GET", f"{ops}/metrics")
    if answer.status == NOT_FOUND:
        print(f"skip  GET {ops}/metrics: not mounted, it needs the extra")
        return
    faults = [] if answer.status == OK else [f"status {answer.status}"]
    faults += [] if "# TYPE" in answer.text else ["no metric in it"]
    walk.say(f"GET {ops}/metrics -> {answer.status}", faults)


def history(walk: Walk, entities: str) -> None:
    path = f"{entities}/refresh/automated/metrics"
    found = walk.check("GET", f"{path}?limit=2", METRICS)
    if found:
        moments = [datetime.fromisoformat(row["created_at"]) for row in found["metrics"]]
        counts = found["summary"]
        faults = ["more rows than asked for"] if len(moments) > 2 else []  # noqa: PLR2004
        faults += [] if moments == sorted(moments, reverse=True) else ["not the newest first"]
        if counts["total_count"] != counts["success_count"] + counts["failure_count"]:
            faults.append("total_count is not the sum of the other two")
        walk.say(f"{path}: the page, its order and its counts", faults)
    walk.check("GET", f"{path}?since=32503680000", NO_ROWS, note="of no rows")
    for bad in ("limit=0", "limit=10001", "limit=x", "since=x"):
        walk.check("GET", f"{path}?{bad}", BAD_PARAMETER, status=UNPROCESSABLE)


def pages(walk: Walk, entities: str) -> None:
    path = f"{entities}/refresh/dashboard"
    answer = walk.ask("GET", path)
    policy = answer.headers.get("content-security-policy", "")
    faults = [] if answer.status == OK else [f"status {answer.status}"]
    faults += [] if "text/html" in answer.headers.get("content-type", "") else ["it is no page"]
    faults += [] if policy and "unsafe-inline" not in policy else [f"its policy is {policy!r}"]
    walk.say(f"GET {path} -> {answer.status}", faults)


def web_socket(walk: Walk, entities: str) -> None:
    path, connection = f"{entities}/refresh/events", walk.connect()
    try:
        response = walk.send(
            connection,
            "GET",
            path,
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key=base64.b64encode(os.urandom(16)).decode(),
        )
        faults = [] if response.status == http.HTTPStatus.SWITCHING_PROTOCOLS else ["no handshake"]
        if response.status == OK:  # as if nobody had asked for one
            faults = ["no handshake: install websockets in the server"]
        walk.say(f"WS {path} -> {response.status}", faults)
    except (OSError, http.client.HTTPException) as error:
        walk.say(f"WS {path}", [f"no answer: {error!r}"])
    finally:
        connection.close()


def event_stream(walk: Walk, entities: str, then: Callable[[], bool] | None) -> None:
    """Open the stream; let something happen; if it did, it has to be heard of."""
    path, connection = f"{entities}/refresh/events", walk.connect(EVENT_SECONDS)
    try:
        response = walk.send(connection, "GET", path, Accept="text/event-stream")
        kind = response.getheader("Content-Type") or ""
        faults = [] if response.status == OK else [f"status {response.status}"]
        faults += [] if "text/event-stream" in kind else [f"content type {kind}"]
        walk.say(f"GET {path} (SSE) -> {response.status}", faults)
        if then is not None and then() and not faults:
            walk.say(f"GET {path}: hears of that refresh", heard(response))
    except (OSError, http.client.HTTPException) as error:
        walk.say(f"GET {path} (SSE)", [f"no answer: {error!r}"])
    finally:
        connection.close()


def heard(response: http.client.HTTPResponse) -> list[str]:
    """What is wrong with the first message of a stream; comments are its heartbeat."""
    until = monotonic() + EVENT_SECONDS
    try:
        for line in iter(response.readline, b""):
            if monotonic() > until:
                return [f"no message within {EVENT_SECONDS} s"]
            if line.startswith(b"data:"):
                return wrong(json.loads(line.removeprefix(b"data:")), dict)
    except (OSError, ValueError) as error:
        return [f"no message: {error!r}"]
    return ["it ended without a message"]


def hierarchy(walk: Walk, entities: str, entity: str | None) -> None:
    walk.check(
        "GET", f"{entities}/{NOBODY}/ancestors", BAD_PARAMETER, status=(NOT_FOUND, UNPROCESSABLE)
    )
    walk.check("POST", f"{entities}/ancestors:batch", BAD_PARAMETER, status=UNPROCESSABLE, body={})
    if entity is None:
        print("skip  look-ups of an entity: name one by --entity")
        return
    for what in ("ancestors", "descendants?max_depth=1&limit=2", "counts"):
        path = f"{entities}/{quote(entity, safe='')}/{what}"
        walk.check("GET", path, (dict, list))
    path = f"{entities}/{quote(entity, safe='')}"
    headers = walk.ask("GET", f"{path}/ancestors").headers
    missing = [word for word in ("tier", "age") if not any(word in name for name in headers)]
    walk.say(f"GET {path}/ancestors: headers", [f"none tells the {word}" for word in missing])
    walk.check(
        "GET", f"{path}/descendants?limit=-1", BAD_PARAMETER, status=UNPROCESSABLE, note="limit"
    )
    ids = [int(entity) if entity.isdecimal() else entity]
    walk.check("POST", f"{entities}/ancestors:batch", (dict, list), body={"ids": ids})


def refreshes(walk: Walk, entities: str) -> bool:
    """Whether anything was refreshed."""
    path = f"{entities}/refresh"
    done = walk.check("POST", path, REFRESHED)
    if done:
        views = list(done["results"])
        faults = [f"{view} is false" for view in views if not done["results"][view]]
        faults += ["failed_views, of a success"] if "failed_views" in done else []
        walk.say(f"POST {path}: every view", faults)
        if views:
            one = walk.check("POST", path, REFRESHED, body={"views": views[:1]}, note="one view")
            if one:
                missing = [f"{view} is missing" for view in views[:1] if view not in one["results"]]
                walk.say(f"POST {path}: that view", missing)
    walk.check("POST", path, ERROR, status=NOT_FOUND, body={"views": [NOBODY]}, note="unknown")
    walk.check("POST", path, BAD_PARAMETER, status=UNPROCESSABLE, body={"views": 1})
    return bool(done)


def automated(walk: Walk, entities: str) -> None:
    """Start, start again, force, stop, stop again; at the end it is as it was."""
    path, status = f"{entities}/refresh/automated", f"{entities}/refresh/status"
    found = sight(walk.check("GET", status, STATUS, note="before"))
    fleet = Fleet(walk, entities, found)
    again = {"status": "success", "message": "Automated refresh service is already running"}
    if not found.enabled:
        walk.check("POST", f"{path}/start", STARTED, fleet=fleet)
    walk.check("POST", f"{path}/start", again, note="again", fleet=fleet)
    before = walk.check("GET", status, STATUS, note="running")
    done = walk.check("POST", f"{path}/force", FORCED, fleet=fleet)
    after = walk.check("GET", status, STATUS, note="after it")
    if done:
        result = done["result"]
        good = sum(result["results"].values())
        counted = result["views_refreshed"]
        faults = [] if counted == good else [f"views_refreshed is {counted} of {good} that are"]
        walk.say(f"POST {path}/force: its count", faults)
    if before and after:
        fleet.saw(sight(before))
        fleet.saw(sight(after))
        faults = moved(before, after)
        walk.say("the service runs, and force leaves its schedule alone", faults, fleet)
    walk.check("POST", f"{path}/stop", STOPPED, fleet=fleet)
    not_running = {"detail": NOT_RUNNING}
    for what, note in (("stop", "again"), ("force", "stopped")):
        walk.check("POST", f"{path}/{what}", not_running, status=CONFLICT, note=note, fleet=fleet)
    if found.enabled:
        walk.check("POST", f"{path}/start", STARTED, note="as it was", fleet=fleet)
    walk.say("the automated refresh is as it was found", fleet.restore())


def moved(before: Any, after: Any) -> list[str]:
    """What a forced refresh should not have done."""
    first, second = (found["automated_refresh_status"] for found in (before, after))
    faults = [] if first["enabled"] and second["enabled"] else ["enabled is false"]
    was, now = first["next_run"], second["next_run"]
    due = was is not None and was < datetime.now().astimezone().timestamp()  # it may have run
    return faults if was == now or was is None or due else [*faults, f"next_run: {was} to {now}"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", help="where the host answers, as in http://localhost:8000")
    parser.add_argument("--entities", default="/api/entities", help="prefix of refresh_router")
    parser.add_argument("--usage", default="/api/mcp/analytics", help="prefix of usage_router")
    parser.add_argument("--ops", default="", help="prefix of ops_router")
    parser.add_argument("--entity", help="id of an entity that is there, for the look-ups")
    parser.add_argument("--token", help="sent as Authorization: Bearer")
    parser.add_argument("--read-only", action="store_true", help="ask, and change nothing")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each answer")
    given = parser.parse_args(arguments)
    entities, usage, ops = (p.rstrip("/") for p in (given.entities, given.usage, given.ops))
    walk = Walk(given.base, token=given.token, timeout=given.timeout)
    try:
        health(walk, ops)
        walk.check("GET", f"{entities}/refresh/status", STATUS)
        history(walk, entities)
        pages(walk, entities)
        hierarchy(walk, entities, given.entity)
        web_socket(walk, entities)
        if given.read_only:
            event_stream(walk, entities, None)
        else:
            event_stream(walk, entities, lambda: refreshes(walk, entities))
            automated(walk, entities)
            walk.check("POST", f"{usage}/refresh-views", USAGE)
            walk.check("GET", f"{entities}/refresh/status", {"last_refresh": NUMBER}, note="moved")
    except (OSError, http.client.HTTPException) as error:
        walk.say(given.base, [f"no answer: {error!r}"])
    finally:
        walk.close()
    print(f"{walk.checked} checked, {walk.off} off")
    return 1 if walk.off else 0


if __name__ == "__main__":
    sys.exit(main())

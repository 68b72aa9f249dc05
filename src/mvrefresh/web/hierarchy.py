"""Routes that read the hierarchy: what is in memory is answered at once, on the event loop.

The hot one, the ancestors of an entity, goes round pydantic and FastAPI's parameters: it reads
the path, looks up, and writes bytes.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request  # read by FastAPI as annotations
from pydantic import ConfigDict, Field, create_model

from mvrefresh.errors import ConfigurationError
from mvrefresh.hierarchy.node import HierarchyNode
from mvrefresh.web.bodies import read_body, taken
from mvrefresh.web.errors import documented
from mvrefresh.web.models import MOST_IDS, Ancestors, Batch, Counts, Descendants
from mvrefresh.web.responses import Bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pydantic import BaseModel

    from mvrefresh.hierarchy.node import Chain
    from mvrefresh.hierarchy.resolver import OptimizedHierarchyResolver
    from mvrefresh.web.waiting import Waiting

TIER: Final = b"x-mvrefresh-tier"
AGE: Final = b"x-mvrefresh-age"
PAGE: Final = 1_000
MOST: Final = 10_000
MANY: Final = 1_000  # entities that are written at once

_BEYOND: Final = 2**63  # no column has such an id, and orjson does not write it
_MEMORY: Final = (TIER, b"l1")
_SLOWEST: Final = ("l1", "l2", "l4", "source")
_SCHEMAS: Final[dict[Any, dict[str, str]]] = {
    int: {"type": "integer", "format": "int64"},
    UUID: {"type": "string", "format": "uuid"},
}
_HEADERS: Final = {
    "X-Mvrefresh-Tier": {
        "description": "Which tier answered: l1 (process memory), l2 (Redis), l4 (the"
        " materialized view) or source (the table)",
        "schema": {"type": "string"},
    },
    "X-Mvrefresh-Age": {
        "description": "Seconds since the moment that the answer stands for, where it is known",
        "schema": {"type": "number"},
    },
}


def nodes(chain: Chain) -> list[dict[str, Any]]:
    """Entities as they are written."""
    return [{"id": key, "path": path, "name": name} for key, path, name in chain]


def nodes_of_many(chains: Sequence[Chain]) -> list[list[dict[str, Any]]]:
    """The same for many: what is above several of them is made once."""
    made: dict[int, dict[str, Any]] = {}
    known = made.get
    shown = []
    for chain in chains:
        row = []
        for node in chain:
            entity = known(id(node))  # chains share their nodes
            if entity is None:
                key, path, name = node
                entity = made[id(node)] = {"id": key, "path": path, "name": name}
            row.append(entity)
        shown.append(row)
    return shown


def written(document: Any, tier: str | bytes | None, age: float | None) -> Bytes:
    """An answer, and where it is from."""
    headers = []
    if tier is not None:
        headers.append((TIER, tier if isinstance(tier, bytes) else tier.encode()))
    if age is not None:
        headers.append((AGE, b"%.3f" % age))
    return Bytes(orjson.dumps(document, default=str), 200, headers)


def _age(tier: str | None, age: float | None) -> float | None:
    return 0.0 if tier == "source" else age


def _about(id_type: Callable[[str], Any]) -> dict[str, Any]:
    """The id in the path, for OpenAPI: no parameter of the function says it."""
    schema = _SCHEMAS.get(id_type, {"type": "string"})
    return {"parameters": [{"name": "id", "in": "path", "required": True, "schema": schema}]}


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {**documented(*statuses), 200: {"headers": _HEADERS}}


def reader_of(id_type: Callable[[str], Any]) -> Callable[[str], Any]:
    """Makes an id of text.

    Raises:
        ConfigurationError: By what it gives, if the text is none.
    """

    def read(text: str) -> Any:
        try:
            key = id_type(text)
        except (ValueError, TypeError, ArithmeticError):
            raise ConfigurationError(f"{text!r:.200} is no id") from None
        if isinstance(key, int) and not -_BEYOND <= key < _BEYOND:
            raise ConfigurationError(f"{text!r:.200} is no id: it has more than 64 bits")
        return key

    return read


def add_hot_route(
    router: APIRouter,
    resolver: OptimizedHierarchyResolver,
    waiting: Waiting,
    id_type: Callable[[str], Any],
) -> None:
    """`GET /{id}/ancestors`."""
    from_memory, dumps = resolver.from_memory, orjson.dumps
    read = reader_of(id_type)

    @router.get(
        "/{id}/ancestors",
        summary="The entities above one",
        response_model=Ancestors,
        responses=_responses(404, 422, 503),
        openapi_extra=_about(id_type),
        tags=["hierarchy"],
    )
    async def ancestors(request: Request) -> Bytes:
        """From the root down; empty for a root."""
        key = read(request.path_params["id"])
        chain = from_memory(key)
        if chain is None:
            chain = await waiting.face.ancestors(key)
            tier = resolver.origin("ancestors", key)
            document = {"id": key, "ancestors": nodes(chain)}
            return written(document, tier, _age(tier, resolver.age_seconds))
        age = resolver.age_seconds
        body = dumps({"id": key, "ancestors": nodes(chain)}, str)
        if age is None:
            return Bytes(body, 200, (_MEMORY,))
        return Bytes(body, 200, (_MEMORY, (AGE, b"%.3f" % age)))


def add_routes(
    router: APIRouter,
    resolver: OptimizedHierarchyResolver,
    waiting: Waiting,
    id_type: Callable[[str], Any],
) -> None:
    """The others."""
    read = reader_of(id_type)
    _add_batch(router, resolver, waiting, id_type)

    @router.get(
        "/{id}/descendants",
        summary="The entities below one",
        response_model=Descendants,
        responses=_responses(404, 422, 503),
        openapi_extra=_about(id_type),
        tags=["hierarchy"],
    )
    async def descendants(
        request: Request,
        max_depth: Annotated[
            int | None, Query(ge=1, le=2**31 - 1, description="Levels below it at most")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST, description="Entities a page at most")] = PAGE,
        after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    ) -> Bytes:
        """In the order of their paths: each before what is below it."""
        key = read(request.path_params["id"])
        place = None if after is None else _place(after, read)
        wish: dict[str, Any] = {"max_depth": max_depth, "limit": limit, "after": place}
        below, tier = resolver.descendants_from_memory(key, **wish), "l1"
        if below is None:
            below = await waiting.face.descendants(key, **wish)
            tier = resolver.origin("descendants", (key, max_depth, limit, place)) or "l4"
        more = _cursor(below[-1]) if len(below) == limit else None
        document = {"id": key, "descendants": nodes(below), "next": more}
        return written(document, tier, _age(tier, resolver.age_seconds))

    @router.get(
        "/{id}/counts",
        summary="How much lies below an entity",
        response_model=Counts,
        responses=_responses(404, 422, 503),
        openapi_extra=_about(id_type),
        tags=["hierarchy"],
    )
    async def counts(request: Request) -> Bytes:
        """Children, descendants, leaves, levels."""
        key = read(request.path_params["id"])
        found, tier = resolver.counts_from_memory(key), "l1"
        if found is None:
            found = await waiting.face.counts(key)
            tier = resolver.origin("counts", key) or "l4"
        return written(
            {"id": key, **found._asdict()}, tier, _age(tier, resolver.counts_age_seconds)
        )


def _add_batch(
    router: APIRouter,
    resolver: OptimizedHierarchyResolver,
    waiting: Waiting,
    id_type: Callable[[str], Any],
) -> None:
    kind: Any = id_type if id_type in (int, UUID, str) else str
    convert = None if kind is id_type else reader_of(id_type)
    if kind is int:
        kind = Annotated[int, Field(ge=-_BEYOND, lt=_BEYOND)]
    many: type[BaseModel] = create_model(
        "Ids",
        __config__=ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ids": []}]}),
        ids=(list[kind], Field(max_length=MOST_IDS)),
    )

    @router.post(
        "/ancestors:batch",
        summary="The entities above many",
        response_model=Batch,
        responses=_responses(422, 503),
        openapi_extra=taken(many),
        tags=["hierarchy"],
    )
    async def ancestors_of_many(request: Request) -> Bytes:
        """In the order of the request, each id once; those that there are not stand apart."""
        wish: Any = await read_body(request, many)
        ids = wish.ids if convert is None else [convert(text) for text in wish.ids]
        ids = list(dict.fromkeys(ids))
        found = resolver.many_from_memory(ids)
        missing = [key for key in ids if key not in found]
        tier: str | None = "l1"
        if missing:
            found |= await waiting.face.ancestors_many(missing)
            tier = _slowest(resolver.origin("ancestors", key) for key in missing if key in found)
        unknown = [key for key in missing if key not in found]
        age = resolver.age_seconds
        if len(found) > MANY:  # it is not to hold the event loop
            return await waiting.call(_batch, ids, found, unknown, tier, age)
        return _batch(ids, found, unknown, tier, age)


def _batch(
    ids: Sequence[Any],
    found: Mapping[Any, Chain],
    unknown: Sequence[Any],
    tier: str | None,
    age: float | None,
) -> Bytes:
    there = [key for key in ids if key in found] if unknown else ids
    chains = nodes_of_many([found[key] for key in there])
    entities = [{"id": key, "ancestors": chain} for key, chain in zip(there, chains, strict=True)]
    return written({"entities": entities, "unknown": unknown}, tier, age)


def _slowest(tiers: Iterable[str | None]) -> str:
    """The tier that the slowest of them had to be asked of."""
    return max((tier or "l1" for tier in tiers), key=_SLOWEST.index, default="l1")


def _cursor(node: HierarchyNode) -> str:
    place = orjson.dumps([node.id, node.path], default=str)
    return urlsafe_b64encode(place).decode().rstrip("=")


def _place(cursor: str, read: Callable[[str], Any]) -> HierarchyNode:
    """Where a page ended."""
    try:
        key, path = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(path, str) or not isinstance(key, int | str):
            raise TypeError  # noqa: TRY301 - as what cannot be read at all
        return HierarchyNode(read(str(key)), path, "")
    except (ValueError, TypeError):
        raise ConfigurationError(f"after={cursor!r:.200} is not the `next` of a page") from None

"""Bodies of requests: read by pydantic out of the bytes, and described to OpenAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from starlette.requests import Request

M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, model: type[M]) -> M:
    """The body; an empty one is an empty object.

    Raises:
        ValidationError: It is not of this shape.
    """
    return model.model_validate_json(await request.body() or b"{}", strict=True)


def taken(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """That a route takes such a body, for OpenAPI."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"content": content, "required": required}}

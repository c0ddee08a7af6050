"""Reading a JSON request body: media type, size, syntax, schema; and telling OpenAPI about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from executor_service.api.fields import Body, BodyT
from executor_service.api.problems import invalid
from executor_service.errors import UnsupportedMediaType

Reader = Callable[[Request], Awaitable[BodyT]]


async def read(request: Request, model: type[BodyT]) -> BodyT:
    """The body as `model`. No body at all counts as ``{}``.

    Raises:
        UnsupportedMediaType: it is not plain UTF-8 application/json.
        PayloadTooLarge: it is longer than the service allows.
        InvalidRequest: it is no JSON, or not what `model` asks for; every field is named.
    """
    content = await request.body()
    if not content:
        content = b"{}"
    else:
        _check_media_type(request)
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)) from None


def _check_media_type(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise UnsupportedMediaType("send the body as application/json")
    charset = parameters.lower().replace(" ", "").replace('"', "")
    if "charset=" in charset and "charset=utf-8" not in charset and "charset=utf8" not in charset:
        raise UnsupportedMediaType("send the body in UTF-8")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body without Content-Encoding")


def documented(model: type[Body], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that reads `model`; :func:`hoist` makes the references whole."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    content = {"application/json": {"schema": {**schema, "title": model.__name__}}}
    return {"requestBody": {"required": required, "content": content}}


def binary(media_type: str, description: str) -> dict[str, Any]:
    """`openapi_extra` of a route that reads raw bytes."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def hoist(document: dict[str, Any]) -> dict[str, Any]:
    """Move the definitions inside request bodies to the document's components."""
    components = document.setdefault("components", {}).setdefault("schemas", {})
    for path in document.get("paths", {}).values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schema = content.get("schema", {})
                components.update(schema.pop("$defs", {}))
    return document

"""The API's OpenAPI document, in the form that generators of clients understand.

FastAPI's document is valid and precise, but generators read less of the standard than it uses: an operation with several kinds of body
gives clients that send none, arrays by `prefixItems` give untyped lists, and long made-up names of operations give unreadable
methods. So each operation has a short name and a tag, one kind of body, and pairs of numbers are arrays of two numbers.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from eolgul.client.answers import KnownEmbedding
from eolgul.client.gallery_answers import NewKey, PersonChange
from eolgul.serving import examples

JSON_LINES = "application/x-ndjson"  # generators know it as bytes only
_BODIES = (KnownEmbedding, PersonChange, NewKey)  # models of bodies, which FastAPI does not see
_REF = "#/components/schemas/{model}"
TAGS = (
    ("faces", "Compare, embed and find faces in photos."),
    ("gallery", "Enroll people, find out who a photo shows, list, export and erase."),
    ("model", "The model that answers."),
    ("keys", "Make, list and revoke the API keys of one's own tenant; needs the scope `admin`."),
)


def json_body(shape: type[BaseModel] | dict[str, Any], description: str) -> dict[str, Any]:
    """The OpenAPI description of a JSON body: a model of `_BODIES`, or a schema."""
    schema = shape if isinstance(shape, dict) else {"$ref": _REF.format(model=shape.__name__)}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def operation_name(route: APIRoute) -> str:
    """The name of an operation, by which generators name their methods: that of the endpoint's function."""
    return route.name.strip("_")


def install(app: FastAPI) -> None:
    """Let the application describe itself by `document`, made once when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of an application."""
    described = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=[{"name": name, "description": words} for name, words in TAGS],
        # Relative to the document, so that it is right behind a proxy that takes a prefix off the path.
        servers=[{"url": "./", "description": "the service that gave this document"}],
    )
    _, shapes = models_json_schema([(shape, "validation") for shape in _BODIES], ref_template=_REF)
    described["components"]["schemas"] = shapes["$defs"] | described["components"]["schemas"]
    simple: dict[str, Any] = _plain_arrays(described)
    for operations in simple["paths"].values():
        for operation in operations.values():
            unprocessable = operation["responses"]["422"]["content"] if "422" in operation["responses"] else {}
            if any(content.get("examples", {}).keys() == {"not_an_image"} for content in unprocessable.values()):
                del operation["responses"]["422"]  # given to every endpoint, so that FastAPI adds none of its own
            for answer in operation["responses"].values():
                if lines := answer.get("content", {}).get(JSON_LINES):
                    shape = lines["schema"]["$ref"].rpartition("/")[2]
                    lines["schema"] = {
                        "type": "string",
                        "format": "binary",
                        "description": f"{shape} as JSON, one per line",
                    }
    examples.add_to(simple)
    return simple


def _plain_arrays(value: Any) -> Any:
    """A schema whose arrays of a fixed length are arrays of one type, where all their items have one."""
    if isinstance(value, list):
        return [_plain_arrays(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {name: _plain_arrays(item) for name, item in value.items()}
    items = plain.get("prefixItems")
    if isinstance(items, list) and items and all(item == items[0] for item in items):
        del plain["prefixItems"]
        plain["items"] = items[0]
    return plain

"""The OpenAPI document: what generators of clients need, and no change that breaks a client by mistake."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.openapi import breaking_changes
from support.places import ROOT

pytest.importorskip("fastapi", reason="the document is the service's (extra `serve`)")
METHODS = {"get", "post", "put", "delete", "patch"}
DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILE = ROOT / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "docs" / "generate"))
    try:
        import openapi  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    made: dict[str, Any] = json.loads(openapi.text())
    return made


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield f"{method} {path}", operation


def test_a_change_is_made_on_purpose_and_breaks_no_client(document: dict[str, Any]) -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    assert breaking_changes(kept, document) == [], "clients generated from docs/openapi.json would break"
    assert kept == document, "the API has changed: run `make openapi` and look at the difference"


def test_operations_have_names_and_one_kind_of_body(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names) == 19
    tags = {tag["name"] for tag in document["tags"]}
    for where, operation in operations(document):
        assert re.fullmatch(r"[a-z]+(_[a-z]+){0,2}", operation["operationId"]), where
        assert len(operation["tags"]) == 1 and set(operation["tags"]) <= tags, where
        assert operation["description"] and operation["responses"]["200"]["content"], where
        body = operation.get("requestBody")
        if body:
            assert list(body["content"]) in (["multipart/form-data"], ["application/json"]), where
            assert "JSON" in body["description"], where
    assert document["servers"][0]["url"] == "./"


def test_there_is_no_schema_that_generators_read_as_anything(document: dict[str, Any]) -> None:
    def walk(value: Any, where: str) -> None:
        if isinstance(value, dict):
            assert "prefixItems" not in value, where
            if value.get("type") == "array":
                assert value.get("items"), where
            for name, item in value.items():
                walk(item, f"{where}/{name}")
        elif isinstance(value, list):
            for number, item in enumerate(value):
                walk(item, f"{where}/{number}")

    walk(document, "")
    box = document["components"]["schemas"]["FaceFound"]["properties"]["box"]
    assert (box["minItems"], box["maxItems"], box["items"]) == (4, 4, {"type": "number"})


def test_every_operation_has_examples_that_are_true(document: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    registry: Any = Registry().with_resource("urn:api", Resource.from_contents({"$schema": DIALECT, **document}))

    def check(where: str, schema: dict[str, Any], value: Any) -> None:
        shape = json.loads(json.dumps(schema).replace('"#/', '"urn:api#/'))
        errors = [error.message for error in Draft202012Validator(shape, registry=registry).iter_errors(value)]
        assert not errors, (where, errors)
        while "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if isinstance(value, dict) and "properties" in schema:
            assert value.keys() <= schema["properties"].keys(), where

    def values(content: dict[str, Any]) -> list[Any]:
        named = content.get("examples", {"": {"value": content["example"]}} if "example" in content else {})
        return [
            document["components"]["examples"][one["$ref"].rpartition("/")[2]]["value"]
            if "$ref" in one
            else one["value"]
            for one in named.values()
        ]

    for where, operation in operations(document):
        for part in (operation.get("requestBody", {}), *operation["responses"].values()):
            for content in part.get("content", {}).values():
                found = values(content)
                assert found, where
                for value in found:
                    check(where, content["schema"], value)
        for parameter in operation.get("parameters", []):
            assert parameter["in"] != "path" or parameter["example"], where
    from eolgul.serving.problems import PROBLEMS

    assert document["components"]["examples"].keys() == PROBLEMS.keys()


def test_every_operation_is_known_to_the_metrics(document: dict[str, Any]) -> None:
    from eolgul.serving.transport.middleware import route_of

    for path in document["paths"]:
        assert route_of(path) not in ("other", "/ui"), path


def schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def form(document: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    return found


BREAKING: dict[str, Callable[[dict[str, Any]], Any]] = {
    "GET /v1/people is gone": lambda new: new["paths"]["/v1/people"].pop("get"),
    "the operation verify is called compare now": lambda new: new["paths"]["/v1/verify"]["post"].update(
        operationId="compare"
    ),
    "the parameter k is gone": lambda new: new["paths"]["/v1/identify"]["post"].pop("parameters"),
    "the parameter limit must be given now": lambda new: new["paths"]["/v1/people"]["get"]["parameters"][1].update(
        required=True
    ),
    "no body as multipart/form-data any more": lambda new: new["paths"]["/v1/embed"]["post"]["requestBody"].update(
        content={"image/jpeg": {}}
    ),
    "the body: image2 is gone": lambda new: form(new, "/v1/verify")["properties"].pop("image2"),
    "the body: note must be given now": lambda new: form(new, "/v1/verify")["required"].append("note"),
    "the answer: similarity is gone": lambda new: schema(new, "VerifyAnswer")["properties"].pop("similarity"),
    "the answer: similarity may now be string": lambda new: schema(new, "VerifyAnswer")["properties"][
        "similarity"
    ].update(type="string"),
    "the answer: verdict may be absent now": lambda new: schema(new, "VerifyAnswer")["required"].remove("verdict"),
    "quality: cut is gone": lambda new: schema(new, "FaceQuality")["properties"].pop("cut"),
}
HARMLESS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an operation": lambda new: new["paths"].update({"/v1/new": {}}),
    "an optional parameter": lambda new: new["paths"]["/v1/verify"]["post"]["parameters"].append(
        {"name": "a", "required": False, "schema": {}}
    ),
    "a field of an answer": lambda new: schema(new, "VerifyAnswer")["properties"].update(more={"type": "string"}),
    "an optional field of a request": lambda new: form(new, "/v1/verify")["properties"].update(note={"type": "string"}),
    "another sentence": lambda new: schema(new, "VerifyAnswer").update(description="…"),
}


@pytest.mark.parametrize("sentence", BREAKING)
def test_what_breaks_is_found(document: dict[str, Any], sentence: str) -> None:
    new = copy.deepcopy(document)
    BREAKING[sentence](new)
    found = breaking_changes(document, new)
    assert any(sentence in line for line in found), found


@pytest.mark.parametrize("what", HARMLESS)
def test_what_breaks_nothing_is_let_pass(document: dict[str, Any], what: str) -> None:
    new = copy.deepcopy(document)
    HARMLESS[what](new)
    assert new != document and breaking_changes(document, new) == []

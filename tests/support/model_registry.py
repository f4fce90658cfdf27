"""Kubeflow's Model Registry in this process: what of its REST API v1alpha3 is used, with its checks (api/openapi, 0.3)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.http_server import http_server

_API = "/api/model_registry/v1alpha3/"
_RESOURCE = {"name", "description", "externalId", "customProperties"}
_FIELDS = {  # of what may be posted; the generated server refuses any other
    "registered_models": _RESOURCE | {"owner", "state"},
    "versions": _RESOURCE | {"registeredModelId", "state", "author"},
    "artifacts": _RESOURCE
    | {"artifactType", "uri", "state", "modelFormatName", "modelFormatVersion", "storageKey", "storagePath",
       "serviceAccountName", "modelSourceKind", "modelSourceClass", "modelSourceGroup", "modelSourceId",
       "modelSourceName"},
}  # fmt: skip
_REQUIRED = {"registered_models": {"name"}, "versions": {"name", "registeredModelId"}, "artifacts": {"artifactType"}}
_VALUES = {"MetadataStringValue": ("string_value", str), "MetadataDoubleValue": ("double_value", float)}


@dataclass
class ModelRegistry:
    """What the server has and does.

    Attributes:
        address: Its address.
        kept: What was posted, by the path that it was posted to.
        answer: What it answers to everything instead: a status with a body, or `hang`; None for what it should.
        blind: Requests that find nothing although it is there, as for a writer who is too early.
        tokens: The Authorization headers.
    """

    address: str = ""
    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    answer: tuple[int, str] | str | None = None
    blind: int = 0
    tokens: list[str] = field(default_factory=list)
    open: bool = True


@contextmanager
def model_registry() -> Iterator[ModelRegistry]:
    """Serve on a port of 127.0.0.1."""
    state = ModelRegistry()
    with http_server(type("Handler", (_Handler,), {"state": state})) as state.address:
        try:
            yield state
        finally:
            state.open = False


class _Handler(BaseHTTPRequestHandler):
    state: ModelRegistry

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self._told_otherwise():
            return
        path, name = self._asked()
        if self.state.blind:
            self.state.blind -= 1
            found = []
        else:
            listed = self.state.kept.get("registered_models" if path == "registered_model" else path, [])
            found = [item for item in listed if item["name"] == name]
        if path != "registered_model":
            self._say(200, {"items": found, "size": len(found), "pageSize": 100, "nextPageToken": ""})
        elif found:
            self._say(200, found[0])
        else:
            self._say(404, {"code": "404", "message": "no registered models found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._told_otherwise():
            return
        path, _ = self._asked()
        wrong = _wrong(path.rpartition("/")[2], body)
        if wrong:
            self._say(400, {"code": "400", "message": wrong})
        elif any(item["name"] == body["name"] for item in self.state.kept.get(path, [])):
            self._say(409, {"code": "409", "message": "already exists"})
        else:
            made = body | {"id": str(1 + sum(map(len, self.state.kept.values())))}
            self.state.kept.setdefault(path, []).append(made)
            self._say(201, made)

    def _asked(self) -> tuple[str, str]:
        parts = urlsplit(self.path)
        assert parts.path.startswith(_API)
        return parts.path.removeprefix(_API), parse_qs(parts.query).get("name", [""])[0]

    def _told_otherwise(self) -> bool:
        self.state.tokens.append(self.headers.get("Authorization", ""))
        if self.state.answer == "hang":
            while self.state.open:
                time.sleep(0.02)
        if not isinstance(self.state.answer, tuple):
            return False
        status, text = self.state.answer
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{self.state.address}/login")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
        return True

    def _say(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _wrong(kind: str, body: dict[str, Any]) -> str:
    """Why the server refuses a body; "" when it does not."""
    if unknown := sorted(set(body) - _FIELDS[kind]):
        return f"unknown field {unknown[0]}"
    if missing := sorted(_REQUIRED[kind] - set(body)):
        return f"missing field {missing[0]}"
    for name, value in body.get("customProperties", {}).items():
        key, of = _VALUES[value["metadataType"]]
        if set(value) != {"metadataType", key} or not isinstance(value[key], of):
            return f"customProperties.{name}: {value}"
    return ""

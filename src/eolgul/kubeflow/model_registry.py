"""Register a promoted model with Kubeflow's Model Registry, by its REST API v1alpha3.

There a registered model has versions, and each version an artifact that says where the files lie. A version is named after
the digest of the model, so that a task that is repeated finds what is there and adds nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from eolgul.errors import InputError, one_line
from eolgul.kubeflow.patience import LateError, within

LIMIT = 30.0
"""Seconds after which an answer is no longer waited for."""
_API = "/api/model_registry/v1alpha3"
_SHORT = 16  # digits of the digest in the name of a version
_PLAIN = re.compile(r"[\x20-\x7e]+")  # what the API takes as the name of something to look for


@dataclass(frozen=True, slots=True)
class Entry:
    """What is registered.

    Attributes:
        digest: The digest of the ModelPackage.
        place: Where it lies.
        description: One line about it.
        figures: Figures by name; those that are not finite are left out.
        run: The id of the run; "" without one.
    """

    digest: str
    place: str
    description: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    run: str = ""

    @property
    def version(self) -> str:
        """The name of the version."""
        return self.digest[:_SHORT]


def check(address: str, name: str) -> None:
    """Refuse an address or a name that cannot be one.

    Raises:
        InputError: It is none.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"model_registry {address!r}: expected an address that begins with http:// or https://")
    if not _PLAIN.fullmatch(name):
        raise InputError(f"registered_as {name!r}: expected letters, digits and signs of ASCII")


def register(address: str, name: str, entry: Entry, *, limit: float = LIMIT) -> str:
    """Register a model, unless it is registered.

    EOLGUL_MODEL_REGISTRY_TOKEN is sent as a bearer token where it is set.

    Args:
        address: Of the Model Registry, such as http://model-registry-service.kubeflow.svc.cluster.local:8080.
        name: Of the registered model.
        entry: The model.
        limit: Seconds for each answer.

    Returns:
        A sentence about what was done.

    Raises:
        InputError: The address is no Model Registry, does not answer, or refuses the model.
    """
    check(address, name)
    api = _Api(address.rstrip("/"), limit)
    model = api.find("registered_model", name=name) or api.create(
        "registered_models", {"name": name, "description": "Face verification models of eolgul"}
    )
    model = model or api.found("registered_model", name=name)  # another writer was first
    versions = f"registered_models/{model['id']}/versions"
    version, there = api.find_in(versions, entry.version), True
    if version is None:
        body = {
            "name": entry.version,
            "registeredModelId": model["id"],
            "description": entry.description,
            "customProperties": _properties(entry),
        }
        version, there = api.create(versions, body), False
        version = version or api.found_in(versions, entry.version)
    artifacts = f"model_versions/{version['id']}/artifacts"
    label = f"{name}-{entry.version}"
    if api.find_in(artifacts, label) is None:
        body = {
            "artifactType": "model-artifact",
            "name": label,
            "uri": entry.place,
            "modelFormatName": "onnx",
            "modelSourceKind": "kfp",
            "modelSourceClass": "pipelinerun",
            "modelSourceId": entry.run,
        }
        api.create(artifacts, {key: value for key, value in body.items() if value})
        there = False
    return f"{'is' if there else 'was'} registered as {name} {entry.version} with {urlsplit(address).hostname}"


def _properties(entry: Entry) -> dict[str, dict[str, Any]]:
    """The digest and the figures as the API's typed values."""
    numbers = {name: value for name, value in entry.figures.items() if value is not None and math.isfinite(value)}
    return {
        "digest": {"metadataType": "MetadataStringValue", "string_value": entry.digest},
        **{
            name: {"metadataType": "MetadataDoubleValue", "double_value": float(value)}
            for name, value in numbers.items()
        },
    }


@dataclass(frozen=True, slots=True)
class _Api:
    """The API at an address."""

    address: str
    limit: float

    def find(self, path: str, **query: str) -> dict[str, Any] | None:
        """What is looked for; None when it is not there."""
        return self._ask("GET", path, query)

    def found(self, path: str, **query: str) -> dict[str, Any]:
        """What another writer has just made."""
        return self._there(self.find(path, **query), path)

    def find_in(self, path: str, name: str) -> dict[str, Any] | None:
        """The item of a list that is called so; None when there is none."""
        listed = self._ask("GET", path, {"name": name})
        items = (listed or {}).get("items") or []
        return next((item for item in items if item.get("name") == name), None)

    def found_in(self, path: str, name: str) -> dict[str, Any]:
        """The item of a list that another writer has just made."""
        return self._there(self.find_in(path, name), path)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is made; None when it exists."""
        return self._ask("POST", path, {}, body)

    def _there(self, found: dict[str, Any] | None, path: str) -> dict[str, Any]:
        if found is None:
            raise InputError(f"{self._host}: says that {path} exists and does not give it")
        return found

    @property
    def _host(self) -> str:
        return f"Model Registry at {urlsplit(self.address).hostname}"

    def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """One request. None for 404 to a GET and for 409 to a POST."""
        import requests

        headers = {"Accept": "application/json"}
        if token := os.environ.get("EOLGUL_MODEL_REGISTRY_TOKEN", "").strip():
            headers["Authorization"] = f"Bearer {token}"

        def ask() -> Any:
            # A redirect would take the token to another server.
            return requests.request(method, f"{self.address}{_API}/{path}", params=query, json=body, headers=headers,
                                    timeout=self.limit, allow_redirects=False)  # fmt: skip

        try:
            answer = within(self.limit, ask)
        except LateError as error:
            raise InputError(f"{self._host}: no answer within {self.limit:g} s") from error
        except requests.RequestException as error:
            raise InputError(f"{self._host}: cannot be reached ({type(error).__name__})") from error
        try:
            said = answer.json()
        except ValueError:
            said = None
        if answer.status_code == 404 and method == "GET" and isinstance(said, dict):
            return None
        if answer.status_code == 409 and method == "POST":
            return None
        if answer.status_code >= 300:
            reason = said.get("message") if isinstance(said, dict) else None
            raise InputError(f"{self._host}: answers {answer.status_code} to {path}"
                             + (f": {one_line(reason)}" if reason else ""))  # fmt: skip
        if not isinstance(said, dict) or ("id" not in said and "items" not in said):
            raise InputError(f"{self._host}: the answer is not one of its API v1alpha3; is the address right?")
        return said

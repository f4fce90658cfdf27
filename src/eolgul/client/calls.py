"""Build the requests of the API, for both clients."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from eolgul.client.answers import EmbedAnswer, KnownEmbedding
from eolgul.client.transport import ApiRequest
from eolgul.errors import InputError

Image = bytes | os.PathLike[str]
OneFace = Literal["largest", "single"]
Which = Literal["largest", "single", "all"]
Known = EmbedAnswer | KnownEmbedding | Sequence[float]


def read(image: Image) -> bytes:
    """The bytes of an image. InputError if the file cannot be read."""
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InputError(f"{image}: {error.strerror}") from error


def _files(*parts: tuple[str, Image]) -> list[tuple[str, tuple[str, bytes]]]:
    """The files of a form, each named as its field: the real file name may contain the name of the person."""
    return [(name, (name, read(image))) for name, image in parts]


def _segment(name: str) -> str:
    """Quote an id as one segment of a path.

    Raises:
        InputError: The id is empty, `.` or `..`, or has a slash. These change the path, so that deleting such a template
            would delete its person.
    """
    if name in ("", ".", "..") or "/" in name:
        raise InputError(f"{name!r} is not an id of a person or a template, expected no slash and not . or ..")
    return quote(name, safe="")


def _which(which: str | None) -> dict[str, str]:
    return {"which": which} if which else {}


def verify(image1: Image, image2: Image, which: str | None) -> ApiRequest:
    """POST /v1/verify."""
    files = _files(("image1", image1), ("image2", image2))
    return ApiRequest("POST", "/v1/verify", params=_which(which), files=files)


def verify_many(image: Image, others: Sequence[Image], which: str | None) -> ApiRequest:
    """POST /v1/verify/many."""
    files = _files(("image", image), *(("others", other) for other in others))
    return ApiRequest("POST", "/v1/verify/many", params=_which(which), files=files)


def verify_embedding(known: Known, other: Image | Known, model: str | None, which: str | None) -> ApiRequest:
    """POST /v1/verify/embedding."""
    parts = [("embedding1", ("embedding1", _known(known, model)))]
    if isinstance(other, bytes | os.PathLike):
        parts += _files(("image", other))
    else:
        parts.append(("embedding2", ("embedding2", _known(other, model))))
    return ApiRequest("POST", "/v1/verify/embedding", params=_which(which), files=parts)


def _known(known: Known, model: str | None) -> bytes:
    """An embedding as the service reads it: what `embed` answered, or numbers with the model that made them."""
    if not isinstance(known, EmbedAnswer | KnownEmbedding):
        if model is None:
            raise InputError("numbers without the digest of the model that made them: give `model`")
        known = KnownEmbedding(embedding=tuple(float(value) for value in known), model=model)
    return known.model_dump_json(include={"embedding", "model", "face"}).encode()


def verify_person(image: Image, person: str, template: str | None, which: str | None) -> ApiRequest:
    """POST /v1/verify/person."""
    data = {"person": person} | ({"template": template} if template else {})
    return ApiRequest("POST", "/v1/verify/person", params=_which(which), data=data, files=_files(("image", image)))


def embed(image: Image, which: str | None) -> ApiRequest:
    """POST /v1/embed."""
    return ApiRequest("POST", "/v1/embed", params=_which(which), files=_files(("image", image)))


def embed_many(images: Sequence[Image], which: str | None) -> ApiRequest:
    """POST /v1/embed/many."""
    files = _files(*(("images", image) for image in images))
    return ApiRequest("POST", "/v1/embed/many", params=_which(which), files=files)


def detect(image: Image, crops: bool) -> ApiRequest:
    """POST /v1/detect."""
    return ApiRequest("POST", "/v1/detect", params={"crops": "true"} if crops else {}, files=_files(("image", image)))


def identify(image: Image, k: int, which: str | None) -> ApiRequest:
    """POST /v1/identify."""
    params: dict[str, str | int] = {"k": k, **_which(which)}
    return ApiRequest("POST", "/v1/identify", params=params, files=_files(("image", image)))


def enroll(person: str, images: Sequence[Image], any_quality: bool, which: str | None) -> ApiRequest:
    """POST /v1/enroll, which is not idempotent."""
    # A repeated request adds nothing, but it would enroll a person again who was erased after the first one.
    parts = _files(*(("images", image) for image in images))
    params = ({"any_quality": "true"} if any_quality else {}) | _which(which)
    return ApiRequest("POST", "/v1/enroll", params=params, data={"person": person}, files=parts, idempotent=False)


def people(after: str | None, limit: int, search: str, prefix: str) -> ApiRequest:
    """GET /v1/people: one page."""
    given = {"after": after, "search": search, "prefix": prefix}
    params: dict[str, str | int] = {"limit": limit} | {name: value for name, value in given.items() if value}
    return ApiRequest("GET", "/v1/people", params=params)


def update_person(name: str, new: str | None, metadata: Mapping[str, str] | None) -> ApiRequest:
    """PATCH /v1/people/{person}, which is not idempotent: renamed twice, the person is not found."""
    given = {"person": new, "metadata": None if metadata is None else dict(metadata)}
    body = {key: value for key, value in given.items() if value is not None}
    return ApiRequest("PATCH", f"/v1/people/{_segment(name)}", json=body, idempotent=new is None)


def person(name: str) -> ApiRequest:
    """GET /v1/people/{person}."""
    return ApiRequest("GET", f"/v1/people/{_segment(name)}")


def delete_person(name: str) -> ApiRequest:
    """DELETE /v1/people/{person}."""
    return ApiRequest("DELETE", f"/v1/people/{_segment(name)}")


def delete_template(name: str, template: str) -> ApiRequest:
    """DELETE /v1/people/{person}/templates/{template}."""
    return ApiRequest("DELETE", f"/v1/people/{_segment(name)}/templates/{_segment(template)}")


def export() -> ApiRequest:
    """GET /v1/export."""
    return ApiRequest("GET", "/v1/export")


def api_keys() -> ApiRequest:
    """GET /v1/keys."""
    return ApiRequest("GET", "/v1/keys")


def make_api_key(
    scopes: Sequence[str], expires: datetime | None, requests_per_minute: int | None, note: str
) -> ApiRequest:
    """POST /v1/keys, which is not idempotent."""
    body: dict[str, Any] = {"scopes": list(scopes), "note": note, "requests_per_minute": requests_per_minute}
    if expires is not None:
        body["expires"] = expires.isoformat()
    return ApiRequest("POST", "/v1/keys", json=body, idempotent=False)


def revoke_api_key(key_id: str) -> ApiRequest:
    """DELETE /v1/keys/{key_id}."""
    return ApiRequest("DELETE", f"/v1/keys/{_segment(key_id)}")


def current_model() -> ApiRequest:
    """GET /v1/models/current."""
    return ApiRequest("GET", "/v1/models/current")

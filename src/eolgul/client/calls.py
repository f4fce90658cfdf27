"""Build the requests of the API, for both clients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from eolgul.client.transport import ApiRequest
from eolgul.errors import InputError

Image = bytes | os.PathLike[str]


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


def verify(image1: Image, image2: Image) -> ApiRequest:
    """POST /v1/verify."""
    return ApiRequest("POST", "/v1/verify", files=_files(("image1", image1), ("image2", image2)))


def verify_many(image: Image, others: Sequence[Image]) -> ApiRequest:
    """POST /v1/verify/many."""
    return ApiRequest(
        "POST", "/v1/verify/many", files=_files(("image", image), *(("others", other) for other in others))
    )


def embed(image: Image) -> ApiRequest:
    """POST /v1/embed."""
    return ApiRequest("POST", "/v1/embed", files=_files(("image", image)))


def detect(image: Image, crops: bool) -> ApiRequest:
    """POST /v1/detect."""
    return ApiRequest("POST", "/v1/detect", params={"crops": "true"} if crops else {}, files=_files(("image", image)))


def identify(image: Image, k: int) -> ApiRequest:
    """POST /v1/identify."""
    return ApiRequest("POST", "/v1/identify", params={"k": k}, files=_files(("image", image)))


def enroll(person: str, images: Sequence[Image], any_quality: bool) -> ApiRequest:
    """POST /v1/enroll, which is not idempotent."""
    # A repeated request adds nothing, but it would enroll a person again who was erased after the first one.
    parts = _files(*(("images", image) for image in images))
    params = {"any_quality": "true"} if any_quality else {}
    return ApiRequest("POST", "/v1/enroll", params=params, data={"person": person}, files=parts, idempotent=False)


def people(after: str | None, limit: int) -> ApiRequest:
    """GET /v1/people: one page."""
    return ApiRequest("GET", "/v1/people", params={"limit": limit} | ({"after": after} if after else {}))


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


def current_model() -> ApiRequest:
    """GET /v1/models/current."""
    return ApiRequest("GET", "/v1/models/current")

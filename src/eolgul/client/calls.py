"""The requests of the API, for both clients: what goes where, and which may be sent twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from eolgul.client.transport import Call
from eolgul.errors import InputError

Image = bytes | os.PathLike[str]


def read(image: Image) -> bytes:
    """The bytes of an image. InputError when a file cannot be read."""
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InputError(f"{image}: {error.strerror}") from error


def _files(*parts: tuple[str, Image]) -> list[tuple[str, tuple[str, bytes]]]:
    """Form files that are called as their field is: the file's own name may say who is in the picture."""
    return [(name, (name, read(image))) for name, image in parts]


def _segment(name: str) -> str:
    """An id as one part of an address. InputError for what cannot be an id: `.` and `..` are resolved on the way, and a
    slash is one to the service, so that the deletion of such a template would be the deletion of its person."""
    if name in ("", ".", "..") or "/" in name:
        raise InputError(f"{name!r}: no id of a person or a template can be that")
    return quote(name, safe="")


def verify(image1: Image, image2: Image) -> Call:
    return Call("POST", "/v1/verify", files=_files(("image1", image1), ("image2", image2)))


def verify_many(image: Image, others: Sequence[Image]) -> Call:
    return Call("POST", "/v1/verify/many", files=_files(("image", image), *(("others", one) for one in others)))


def embed(image: Image) -> Call:
    return Call("POST", "/v1/embed", files=_files(("image", image)))


def detect(image: Image, crops: bool) -> Call:
    return Call("POST", "/v1/detect", params={"crops": "true"} if crops else {}, files=_files(("image", image)))


def identify(image: Image, k: int) -> Call:
    return Call("POST", "/v1/identify", params={"k": k}, files=_files(("image", image)))


def enroll(person: str, images: Sequence[Image]) -> Call:
    # Sent twice it is done once, but a person erased between the two would be there again.
    parts = _files(*(("images", one) for one in images))
    return Call("POST", "/v1/enroll", data={"person": person}, files=parts, idempotent=False)


def people(after: str | None, limit: int) -> Call:
    return Call("GET", "/v1/people", params={"limit": limit} | ({"after": after} if after else {}))


def person(name: str) -> Call:
    return Call("GET", f"/v1/people/{_segment(name)}")


def delete_person(name: str) -> Call:
    return Call("DELETE", f"/v1/people/{_segment(name)}")


def delete_template(name: str, template: str) -> Call:
    return Call("DELETE", f"/v1/people/{_segment(name)}/templates/{_segment(template)}")


def export() -> Call:
    return Call("GET", "/v1/export")


def current_model() -> Call:
    return Call("GET", "/v1/models/current")

"""The errors of the API: RFC 9457 problem documents with a stable `code`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from eolgul.errors import InputError

MEDIA_TYPE = "application/problem+json"

# code → (status, title). Codes are part of the API: add, never rename.
PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request is not valid"),
    "missing_field": (400, "A field of the form is missing"),
    "unauthorized": (401, "A valid API key is needed"),
    "forbidden": (403, "The API key does not allow this"),
    "person_not_found": (404, "No such person in the gallery"),
    "template_not_found": (404, "No such template in the gallery"),
    "key_not_found": (404, "No such API key"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "The path does not support this method"),
    "gallery_full": (409, "The gallery or the person is full"),
    "person_exists": (409, "The gallery has such a person already"),
    "key_in_file": (409, "The API key is in the service's file of keys"),
    "keys_full": (409, "The tenant has the most API keys that it may have"),
    "model_mismatch": (409, "Made by another model than the one that answers"),
    "too_large": (413, "Too large"),
    "unsupported_format": (415, "This kind of file is not accepted"),
    "not_an_image": (422, "Not a readable image"),
    "no_face": (422, "No face found"),
    "several_faces": (422, "More than one face found"),
    "too_many_faces": (422, "More faces than are looked at"),
    "bad_embedding": (422, "Not an embedding of this model"),
    "too_small": (422, "The image is too small"),
    "low_quality": (422, "The photo is too poor to be enrolled"),
    "rate_limited": (429, "Too many requests with this key"),
    "client_closed": (499, "The client disconnected"),
    "internal": (500, "Internal error"),
    "busy": (503, "Too many requests at once"),
    "gallery_unavailable": (503, "The gallery cannot be reached"),
    "model_not_ready": (503, "No model is loaded yet"),
    "timeout": (504, "The request timed out"),
}
_CODE_OF_STATUS = {status: code for code, (status, _) in reversed(PROBLEMS.items())} | {404: "not_found"}
RETRY_AFTER_S = {"busy": 1, "model_not_ready": 5, "rate_limited": 1, "gallery_unavailable": 2}


class RejectionError(InputError):
    """A refused request. `field` is the form field at fault, if there is one; `reasons` those of `low_quality`."""

    def __init__(self, message: str, code: str, field: str | None = None, reasons: Sequence[str] = ()) -> None:
        super().__init__(message, code)
        self.field, self.reasons = field, tuple(reasons)


def code_for_status(status: int) -> str:
    """The problem code for an HTTP error status set by the framework."""
    return _CODE_OF_STATUS.get(status, "internal" if status >= 500 else "bad_request")


def document(
    code: str, detail: str, *, field: str | None = None, status: int | None = None, reasons: Sequence[str] = ()
) -> dict[str, Any]:
    """The problem document for a code; an unknown code (of an InputError raised by a library) becomes `bad_request`."""
    if code not in PROBLEMS:
        code = "bad_request"
    default_status, title = PROBLEMS[code]
    value: dict[str, Any] = {
        "type": f"urn:eolgul:problem:{code}",
        "title": title,
        "status": status or default_status,
        "detail": detail,
        "code": code,
    }
    if field:
        value["field"] = field
    if reasons:
        value["reasons"] = list(reasons)
    return value


def response(
    code: str,
    detail: str,
    *,
    field: str | None = None,
    status: int | None = None,
    retry_after: float | None = None,
    reasons: Sequence[str] = (),
) -> JSONResponse:
    """The HTTP response with the problem document.

    After `too_large` the connection closes, since the rest of the body is not read.
    """
    body = document(code, detail, field=field, status=status, reasons=reasons)
    headers = {}
    if body["code"] in RETRY_AFTER_S:
        headers["Retry-After"] = str(math.ceil(retry_after or RETRY_AFTER_S[body["code"]]))
    if body["code"] == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="eolgul"'
    if body["code"] == "too_large":
        headers["Connection"] = "close"
    return JSONResponse(body, status_code=body["status"], headers=headers, media_type=MEDIA_TYPE)


def from_error(error: InputError) -> JSONResponse:
    """The HTTP response for an InputError of a library or of the service."""
    return response(
        error.code,
        str(error),
        field=getattr(error, "field", None),
        retry_after=getattr(error, "retry_after", None),
        reasons=getattr(error, "reasons", ()),
    )

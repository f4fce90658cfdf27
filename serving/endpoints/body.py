"""Read request bodies, with a size limit and in memory: the only way in for untrusted bytes.

BentoML's own multipart reader is not used: it has no size limit, writes uploads to disk, and downloads the address in a
text field. Here an image is a file of a form, base64 in JSON, or the body itself; no address is fetched, no path is
opened, and nothing is written to disk.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from eolgul.serving.problems import RejectionError

_OVERHEAD = 64 << 10  # bytes of boundaries and part headers around the files
# JSON values in addition to the images: a few bytes make an object of fifty, and parsing blocks all other requests.
_MAX_VALUES = 1000
_OBJECT_BYTES, _OBJECT_VALUES = 256 << 10, 5000  # of one object: an embedding of 4,096 numbers, with the face
_STANDARD = bytes.maketrans(b"-_", b"+/")
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/_\-\s]|=(?=\s*[^\s=])", re.ASCII)  # padding is at the end
_DRAIN = 4  # read up to this multiple of the limit before answering 413, so that ordinary clients see the answer


M = TypeVar("M", bound=BaseModel)


class _InMemoryParser(MultiPartParser):
    spool_max_size = 0  # a SpooledTemporaryFile with 0 never moves to disk; `_limited` bounds the memory


class BodyMemory:
    """A limit on the memory of all request bodies of this process together.

    Each body has its own limit, but the requests admitted at once (`EOLGUL_QUEUE`), each at its limit, would take 20 GB.
    """

    def __init__(self, limit: int = 512 << 20) -> None:
        self.limit, self.held = limit, 0  # bytes

    @contextmanager
    def share(self) -> Iterator[MemoryShare]:
        """The share of one request; it is released at the end of the block."""
        share = MemoryShare(self)
        try:
            yield share
        finally:
            self.held -= share.held


@dataclass(slots=True)
class MemoryShare:
    """The bytes that one request holds of a `BodyMemory`."""

    memory: BodyMemory
    held: int = 0

    def take(self, size: int) -> None:
        """Count `size` more bytes.

        Raises:
            RejectionError: `busy` if they exceed the limit together with the bytes of other requests.
        """
        others = self.memory.held - self.held
        if others and self.memory.held + size > self.memory.limit:
            raise RejectionError("other large requests are being answered; try again in a moment", "busy")
        self.held += size
        self.memory.held += size


@dataclass(frozen=True, slots=True)
class ExpectedBody:
    """What a request must bring.

    Attributes:
        images: For each image field, the largest number of images that it may hold (at least one is needed).
        texts: Text fields.
        objects: Fields that hold a JSON object: in a form as text or as a file.
        optional: The fields that may be absent.
    """

    images: Mapping[str, int]
    texts: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()

    @property
    def max_images(self) -> int:
        """The largest number of images over all fields."""
        return sum(self.images.values())

    @property
    def raw_field(self) -> str | None:
        """The field that a body without a form fills: the only image, if no other field is expected."""
        return next(iter(self.images)) if self.max_images == 1 and not (self.texts or self.objects) else None

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI description of the body that `read_body` takes for this: a form, since generators take one kind each."""
        image = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP or HEIC"}
        fields: dict[str, Any] = {
            # Without minItems and maxItems, of which a generator makes code that does not compile (Go, arrays of files).
            name: image if most == 1 else {"type": "array", "items": image, "description": f"1 to {most} images"}
            for name, most in self.images.items()
        }
        fields |= {name: {"type": "string", "minLength": 1, "maxLength": 128} for name in self.texts}
        needed = [name for name in fields if name not in self.optional]
        shape = {"type": "object", "properties": fields, "required": needed}
        also = "The same fields are taken as JSON (`application/json`), images as base64"
        also += f"; or {self.raw_field} alone as the body (`image/*`)." if self.raw_field else "."
        content = {"multipart/form-data": {"schema": shape}}
        return {"requestBody": {"required": True, "description": also, "content": content}}


@dataclass(frozen=True, slots=True)
class Body:
    """A request's encoded images by field, at least one per field, its texts and its objects by field."""

    images: dict[str, list[bytes]]
    texts: dict[str, str]
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)

    def image(self, field: str) -> bytes:
        """The first image of a field."""
        return self.images[field][0]


async def read_body(request: Request, expected: ExpectedBody, memory: MemoryShare, *, max_image_bytes: int) -> Body:
    """Read a multipart form, a JSON object with base64 images, or (for one image) the image itself.

    Raises:
        RejectionError: `too_large`, `missing_field` (absent, empty, or of the wrong kind), `bad_request`,
            `unsupported_format` (another content type) or `busy` (`memory` is exhausted).
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise RejectionError(
            f"content encoding {coding[:40]!r}: images are compressed already, send the body as it is",
            "unsupported_format",
        )
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        body = await _read_form(request, expected, memory, max_image_bytes)
    elif kind == "application/json":
        body = await _read_json(request, expected, memory, max_image_bytes)
    elif expected.raw_field and (kind.startswith("image/") or kind == "application/octet-stream"):
        body = Body({expected.raw_field: [await _read_whole(request, memory, max_image_bytes)]}, {})
    elif not kind:
        names = list(expected.images)
        raise RejectionError(
            f"send multipart/form-data with the files {' and '.join(names)}", "missing_field", names[0]
        )
    else:
        raise RejectionError(
            f"content type {kind[:60]!r}: expected multipart/form-data or application/json"
            + (" or an image" if expected.raw_field else ""),
            "unsupported_format",
        )
    for name, most in expected.images.items():
        files = body.images.get(name, [])
        if not files and name in expected.optional:
            continue
        if not files or not all(files):
            raise RejectionError(f"the request needs an image in the field {name}", "missing_field", name)
        if len(files) > most:
            raise RejectionError(f"{len(files)} images in the field {name}, expected at most {most}", "too_large", name)
        for data in files:
            if len(data) > max_image_bytes:
                raise RejectionError(
                    f"{name} has {len(data)} bytes, expected at most {max_image_bytes}", "too_large", name
                )
    for name in expected.texts:
        if not body.texts.get(name) and name not in expected.optional:
            raise RejectionError(f"the request needs a text in the field {name}", "missing_field", name)
    for name in expected.objects:
        if name not in body.objects and name not in expected.optional:
            raise RejectionError(f"the request needs a JSON object in the field {name}", "missing_field", name)
    return body


async def _read_form(request: Request, expected: ExpectedBody, memory: MemoryShare, max_image_bytes: int) -> Body:
    size = expected.max_images * max_image_bytes + len(expected.objects) * _OBJECT_BYTES + _OVERHEAD
    chunks = _limited(request, memory, size)
    fields = expected.max_images + len(expected.texts) + len(expected.objects)
    text = _OBJECT_BYTES if expected.objects else _OVERHEAD
    parser = _InMemoryParser(request.headers, chunks, max_files=fields, max_fields=fields, max_part_size=text)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeDecodeError, KeyError, ValueError) as error:
        reason = error.message if isinstance(error, MultiPartException) else type(error).__name__
        if reason.startswith("Too many"):  # the parser stops at the first part beyond the limit
            raise RejectionError(f"the form has more than {fields} files or fields", "too_large") from error
        raise RejectionError(f"the form is malformed: {reason}", "bad_request") from error
    try:
        body = Body({}, {})
        for name, value in form.multi_items():
            if name in expected.objects:
                content = await value.read() if isinstance(value, UploadFile) else value
                _check_values(content if isinstance(content, bytes) else content.encode(), _OBJECT_VALUES)
                body.objects[name] = _object(_from_json(content, name), name)
            elif isinstance(value, UploadFile):
                if name in expected.images:
                    body.images.setdefault(name, []).append(await value.read())
            elif name in expected.texts:
                body.texts[name] = value
            elif name in expected.images:
                raise RejectionError(f"the form needs a file in the field {name}", "missing_field", name)
        return body
    finally:
        await form.close()


async def _read_json(request: Request, expected: ExpectedBody, memory: MemoryShare, max_image_bytes: int) -> Body:
    size = expected.max_images * (max_image_bytes * 7 // 5 + 4) + len(expected.objects) * _OBJECT_BYTES + _OVERHEAD
    data = await _read_whole(request, memory, size)
    _check_values(data, _MAX_VALUES + expected.max_images + len(expected.objects) * _OBJECT_VALUES)
    value = _object(_from_json(data))
    body = Body({}, {}, {name: _object(value[name], name) for name in expected.objects if name in value})
    for name, most in expected.images.items():
        if name not in value and name in expected.optional:
            continue
        texts = value.get(name)
        for text in texts if isinstance(texts, list) and most > 1 else [texts]:
            if not isinstance(text, str):
                raise RejectionError(f"{name} must be an image as base64 text", "missing_field", name)
            body.images.setdefault(name, []).append(_from_base64(text, name))
    for name in expected.texts:
        if isinstance(text := value.get(name), str):
            body.texts[name] = text
    return body


def _check_values(data: bytes, most: int) -> None:
    """Raise RejectionError `bad_request` if JSON holds more values than `most`; base64 has none of their marks."""
    if sum(data.count(mark) for mark in b",[{") > most:
        raise RejectionError(f"the JSON holds more than {most} values that are not images", "bad_request")


def _from_json(data: bytes | str, field: str | None = None) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RejectionError(f"{field or 'the body'} is not JSON", "bad_request", field) from error


def _object(value: Any, field: str | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RejectionError(f"{field or 'the body'} must be a JSON object", "bad_request", field)
    return value


async def read_object(request: Request, memory: MemoryShare, shape: type[M]) -> M:
    """Read a small JSON body (64 kB) as a model.

    Raises:
        RejectionError: `bad_request` (with the field that is not valid), `too_large`, `unsupported_format` or `busy`.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in ("application/json", ""):
        raise RejectionError(f"content type {kind[:60]!r}: expected application/json", "unsupported_format")
    data = await _read_whole(request, memory, _OVERHEAD)
    _check_values(data, _MAX_VALUES)
    return as_model(_object(_from_json(data)), shape)


def as_model(value: Any, shape: type[M], field: str | None = None) -> M:
    """Read a value of a body as a model. RejectionError `bad_request` with the place of what is not valid, quoting no value."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in ((field,) if field else ()) + first["loc"])
        raise RejectionError(
            f"{place or 'the body'}: {first['msg']}", "bad_request", field or place.partition(".")[0] or None
        ) from None


def _from_base64(text: str, field: str) -> bytes:
    """An image from base64 (RFC 4648) as encoders write it.

    A `data:` URL (RFC 2397), line breaks, the URL-safe alphabet and missing padding are accepted.

    Raises:
        RejectionError: `not_an_image`, with the first character that is no base64.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise RejectionError(
                f"{field} is a data: URL without base64, expected data:image/…;base64,…", "not_an_image", field
            )
    data = text.encode("ascii", "replace").translate(_STANDARD, delete=b" \t\r\n").rstrip(b"=")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        stray = _NO_BASE64.search(text)
        why = f"it has {stray[0]!r} at character {stray.start() + 1}" if stray else "it ends in the middle of a byte"
        raise RejectionError(f"{field} is not base64: {why}", "not_an_image", field) from error


async def _read_whole(request: Request, memory: MemoryShare, limit: int) -> bytes:
    return b"".join([chunk async for chunk in _limited(request, memory, limit)])


async def _limited(request: Request, memory: MemoryShare, limit: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks; `too_large` if it is longer than `limit` bytes or its Content-Length says so."""
    refusal = RejectionError(f"the request body is longer than {limit} bytes", "too_large")
    announced = request.headers.get("content-length", "")
    too_large = announced.isdigit() and int(announced) > limit
    if too_large and "100-continue" in request.headers.get("expect", "").lower():
        raise refusal  # the client sends nothing before it gets an answer
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        too_large = too_large or received > limit
        if not too_large:
            memory.take(len(chunk))
            yield chunk
        elif received > _DRAIN * limit:
            break
    if too_large:
        raise refusal

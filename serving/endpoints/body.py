"""Read request bodies under a cap and in memory: the only way untrusted bytes come in.

BentoML's own multipart reader is not used: it has no size limit, writes uploads to disk, and takes a text field for an
address to download. Here an image is a file of a form, base64 in JSON, or the body; nothing is fetched, no path is
followed, and nothing touches the disk.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from eolgul.serving.problems import RejectionError

_OVERHEAD = 64 << 10  # bytes of boundaries and part headers around the files
_MAX_VALUES = (
    1000  # of a JSON body beside its images: a few bytes make an object of fifty, and parsing holds up everyone
)
_DRAIN = 4  # read up to this many times the cap before answering 413, so that ordinary clients see the answer


class _InMemoryParser(MultiPartParser):
    spool_max_size = 0  # a SpooledTemporaryFile with 0 never rolls over to disk; `_capped` bounds the memory


class Room:
    """Memory for the bodies of all requests of this process together. Each has its own cap, but those admitted at once
    (`EOLGUL_QUEUE`), each as large as its cap, would take 20 GB."""

    def __init__(self, limit: int = 512 << 20) -> None:
        self.limit, self.held = limit, 0  # bytes

    @contextmanager
    def share(self) -> Iterator[Share]:
        """What one request takes of it; all is given back at the end of the block."""
        mine = Share(self)
        try:
            yield mine
        finally:
            self.held -= mine.held


@dataclass(slots=True)
class Share:
    room: Room
    held: int = 0

    def take(self, size: int) -> None:
        """Count `size` bytes more. RejectionError `busy` when there is no room for them beside those of other requests."""
        others = self.room.held - self.held
        if others and self.room.held + size > self.room.limit:
            raise RejectionError("other large requests are being answered; try again in a moment", "busy")
        self.held += size
        self.room.held += size


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request must bring: image fields with how many images each may hold, and text fields (at most 1 kB each)."""

    images: Mapping[str, int]
    texts: tuple[str, ...] = ()

    @property
    def most(self) -> int:
        return sum(self.images.values())

    @property
    def single(self) -> str | None:
        """The field that a raw body fills: the only one there is."""
        return next(iter(self.images)) if self.most == 1 and not self.texts else None


@dataclass(frozen=True, slots=True)
class Body:
    """Encoded images by field, at least one each, and texts by field."""

    images: dict[str, list[bytes]]
    texts: dict[str, str]

    def one(self, field: str) -> bytes:
        return self.images[field][0]


async def read_body(request: Request, wanted: Wanted, share: Share, *, max_image_bytes: int) -> Body:
    """Read a multipart form, a JSON object with base64 images, or (for one image) the image itself, under a cap.

    Raises RejectionError: `too_large`, `missing_field` (absent, empty, or of the wrong kind), `bad_request`,
    `unsupported_format` (another content type), `busy` (no room for it).
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _form(request, wanted, share, max_image_bytes)
    elif kind == "application/json":
        found = await _json(request, wanted, share, max_image_bytes)
    elif wanted.single and (kind.startswith("image/") or kind == "application/octet-stream"):
        found = Body({wanted.single: [await _whole(request, share, max_image_bytes)]}, {})
    elif not kind:
        raise RejectionError(
            f"send multipart/form-data with the files {_names(wanted)}", "missing_field", _first(wanted)
        )
    else:
        raise RejectionError(
            f"content type {kind[:60]!r}: expected multipart/form-data or application/json"
            + (" or an image" if wanted.single else ""),
            "unsupported_format",
        )
    for name, most in wanted.images.items():
        files = found.images.get(name, [])
        if not files or not all(files):
            raise RejectionError(f"the request needs an image in the field {name}", "missing_field", name)
        if len(files) > most:
            raise RejectionError(
                f"{len(files)} images in the field {name}, at most {most} are taken", "too_large", name
            )
        for data in files:
            if len(data) > max_image_bytes:
                raise RejectionError(f"{name} has {len(data)} bytes, more than {max_image_bytes}", "too_large", name)
    for name in wanted.texts:
        if not found.texts.get(name):
            raise RejectionError(f"the request needs a text in the field {name}", "missing_field", name)
    return found


async def _form(request: Request, wanted: Wanted, share: Share, max_image_bytes: int) -> Body:
    chunks = _capped(request, share, wanted.most * max_image_bytes + _OVERHEAD)
    fields = wanted.most + len(wanted.texts)
    parser = _InMemoryParser(request.headers, chunks, max_files=fields, max_fields=fields, max_part_size=_OVERHEAD)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeDecodeError, KeyError, ValueError) as error:
        said = error.message if isinstance(error, MultiPartException) else type(error).__name__
        if said.startswith("Too many"):  # the parser stops at the one after the last that could be right
            raise RejectionError(f"the form has more than {fields} files or fields", "too_large") from error
        raise RejectionError(f"the form is malformed: {said}", "bad_request") from error
    try:
        body = Body({}, {})
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name in wanted.images:
                    body.images.setdefault(name, []).append(await value.read())
            elif name in wanted.texts:
                body.texts[name] = value
            elif name in wanted.images:
                raise RejectionError(f"the form needs a file in the field {name}", "missing_field", name)
        return body
    finally:
        await form.close()


async def _json(request: Request, wanted: Wanted, share: Share, max_image_bytes: int) -> Body:
    data = await _whole(request, share, wanted.most * (max_image_bytes * 4 // 3 + 4) + _OVERHEAD)
    if sum(data.count(mark) for mark in b",[{") > _MAX_VALUES + wanted.most:  # base64 has none of them
        raise RejectionError(f"the JSON holds more than {_MAX_VALUES} values beside the images", "bad_request")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RejectionError("the body is not JSON", "bad_request") from error
    if not isinstance(value, dict):
        raise RejectionError("the body must be a JSON object", "bad_request")
    body = Body({}, {})
    for name, most in wanted.images.items():
        texts = value.get(name)
        for text in texts if isinstance(texts, list) and most > 1 else [texts]:
            if not isinstance(text, str):
                raise RejectionError(f"{name} must be an image as base64 text", "missing_field", name)
            try:
                body.images.setdefault(name, []).append(base64.b64decode(text, validate=True))
            except ValueError as error:
                raise RejectionError(f"{name} is not base64", "not_an_image", name) from error
    for name in wanted.texts:
        if isinstance(text := value.get(name), str):
            body.texts[name] = text
    return body


async def _whole(request: Request, share: Share, limit: int) -> bytes:
    return b"".join([chunk async for chunk in _capped(request, share, limit)])


async def _capped(request: Request, share: Share, limit: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks; `too_large` once it is, or says that it will be, longer than `limit` bytes."""
    refusal = RejectionError(f"the request body is longer than {limit} bytes", "too_large")
    announced = request.headers.get("content-length", "")
    too_large = announced.isdigit() and int(announced) > limit
    if too_large and "100-continue" in request.headers.get("expect", "").lower():
        raise refusal  # the client waits for our word before it sends anything
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        too_large = too_large or received > limit
        if not too_large:
            share.take(len(chunk))
            yield chunk
        elif received > _DRAIN * limit:
            break
    if too_large:
        raise refusal


def _first(wanted: Wanted) -> str:
    return next(iter(wanted.images))


def _names(wanted: Wanted) -> str:
    return " and ".join(wanted.images)

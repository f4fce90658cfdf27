"""The one way in for untrusted bytes: a multipart form is read under a cap, in memory, and decoded behind checks.

BentoML's own multipart reader is not used: it has no size limit, writes uploads to disk, and takes a text field for an
address to download. Here a field is a file or the request is refused; nothing is fetched and nothing touches the disk.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from eolgul import images
from eolgul.errors import InputError
from serving.problems import RejectionError

FORMATS = ("JPEG", "PNG", "WEBP")
_OVERHEAD = 64 << 10  # bytes of boundaries and part headers around the files
_DRAIN = 4  # read up to this many times the cap before answering 413, so that ordinary clients see the answer


class _InMemoryParser(MultiPartParser):
    spool_max_size = 0  # a SpooledTemporaryFile with 0 never rolls over to disk; `_capped` bounds the memory


async def read_form(request: Request, fields: Sequence[str], *, max_image_bytes: int) -> dict[str, bytes]:
    """Read exactly the file `fields` of a multipart form, each at most `max_image_bytes` long.

    Raises RejectionError: `too_large`, `missing_field` (absent, empty, or text instead of a file), `bad_request`.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RejectionError(f"send multipart/form-data with the files {_names(fields)}", "missing_field", fields[0])
    limit = len(fields) * max_image_bytes + _OVERHEAD
    parser = _InMemoryParser(
        request.headers, _capped(request, limit), max_files=len(fields), max_fields=len(fields), max_part_size=_OVERHEAD
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RejectionError(f"the form is malformed: {error.message}", "bad_request") from error
    try:
        return {name: await _file(form.get(name), name, max_image_bytes) for name in fields}
    finally:
        await form.close()


async def _file(value: UploadFile | str | None, name: str, max_bytes: int) -> bytes:
    if not isinstance(value, UploadFile):
        raise RejectionError(f"the form needs a file in the field {name}", "missing_field", name)
    if (value.size or 0) > max_bytes:
        raise RejectionError(f"{name} has {value.size} bytes, more than {max_bytes}", "too_large", name)
    data = await value.read()
    if not data:
        raise RejectionError(f"the file in the field {name} is empty", "missing_field", name)
    return data


async def _capped(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
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
            yield chunk
        elif received > _DRAIN * limit:
            break
    if too_large:
        raise refusal


def decode(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Upright RGB pixels, uint8, height x width x 3. InputError `not_an_image`, `unsupported_format` or `too_large`."""
    images.probe(data, formats=FORMATS, max_pixels=max_pixels)
    try:
        return images.decode(data, formats=FORMATS, max_pixels=max_pixels)[0]
    except (MemoryError, RecursionError) as error:
        raise InputError("the image cannot be decoded", "not_an_image") from error


def _names(fields: Sequence[str]) -> str:
    return " and ".join(fields)

"""What the real service refuses, and how: always a problem document with a stable code, never a 500."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from support.serving import MAX_IMAGE_BYTES, People, Service, png

Fresh = Callable[[bytes], bytes]


def assert_problem(response: httpx.Response, status: int, code: str, field: str | None = None) -> None:
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert (response.status_code, problem["code"], problem.get("field")) == (status, code, field), problem
    assert problem["status"] == status and problem["type"] == f"urn:eolgul:problem:{code}"
    assert problem["title"] and problem["detail"]


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header promises 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
REFUSED = {
    "text": (b"this is no image at all", 422, "not_an_image"),
    "truncated jpeg": (encoded(NOISE, "JPEG")[:2000], 422, "not_an_image"),
    "truncated png": (encoded(NOISE, "PNG")[:2000], 422, "not_an_image"),
    "gif": (encoded(NOISE, "GIF"), 415, "unsupported_format"),
    "bmp": (encoded(NOISE, "BMP"), 415, "unsupported_format"),
    "no face": (encoded(NOISE, "PNG"), 422, "no_face"),
    "tiny": (encoded(NOISE.resize((10, 40)), "PNG"), 422, "too_small"),
    "bomb": (bomb(), 413, "too_large"),
    "one byte too many": (b"\xff" * (MAX_IMAGE_BYTES + 1), 413, "too_large"),
    "empty": (b"", 400, "missing_field"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_image(service: Service, people: People, name: str) -> None:
    data, status, code = REFUSED[name]
    before = service.metric("eolgul_rejections_total", code=code)
    assert_problem(service.verify(people.a1, data), status, code, "image2")
    assert_problem(service.verify(data, people.a1), status, code, "image1")
    assert_problem(service.embed(data), status, code, "image")
    assert service.metric("eolgul_rejections_total", code=code) == before + 3


def test_missing_fields(service: Service, people: People) -> None:
    post = service.client.post
    assert_problem(post("/v1/verify", files={"image1": people.a1}), 400, "missing_field", "image2")
    assert_problem(post("/v1/verify", json={"image1": "x"}), 422, "not_an_image", "image1")
    assert_problem(post("/v1/verify", json={"image1": "eHk="}), 400, "missing_field", "image2")
    assert_problem(post("/v1/verify", json={"image1": 5, "image2": "eHk="}), 400, "missing_field", "image1")
    assert_problem(post("/v1/verify", json=["eHk="]), 400, "bad_request")
    assert_problem(
        post("/v1/verify", content=people.a1, headers={"content-type": "image/png"}), 415, "unsupported_format"
    )
    assert_problem(post("/v1/verify"), 400, "missing_field", "image1")
    malformed = {"content-type": "multipart/form-data; boundary=x"}
    assert_problem(post("/v1/verify", content=b"nonsense", headers=malformed), 400, "bad_request")
    unbounded = {"content-type": "multipart/form-data"}
    assert_problem(post("/v1/verify", content=b"nonsense", headers=unbounded), 400, "bad_request")


def test_an_address_is_not_fetched(service: Service) -> None:
    """BentoML itself would download the address it finds where a file is expected."""
    address = str(service.client.base_url.join("/metrics"))
    requests = service.metric("eolgul_requests_total", route="/metrics", status="200")
    parts = {"image": (None, address)}
    assert_problem(service.client.post("/v1/embed", files=parts), 400, "missing_field", "image")
    assert_problem(service.client.post("/v1/embed", content=address), 400, "missing_field", "image")
    assert service.metric("eolgul_requests_total", route="/metrics", status="200") == requests + 1  # the look before


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_too_large_a_body(service: Service, chunked: bool) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body = [head, *[b"\0" * 65536] * 32]  # 2 MiB where one of 1 MiB is allowed

    def parts() -> Iterator[bytes]:
        yield from body

    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = service.client.post("/v1/embed", content=parts() if chunked else b"".join(body), headers=headers)
    assert_problem(response, 413, "too_large")
    assert response.headers["connection"] == "close"
    assert service.client.get("/livez").status_code == 200


def test_framework_errors_are_problems_too(service: Service) -> None:
    assert_problem(service.client.get("/nothing/here"), 404, "not_found")
    assert_problem(service.client.put("/v1/verify"), 405, "method_not_allowed")
    pickled = {"content-type": "application/vnd.bentoml+pickle"}
    assert_problem(service.client.post("/v1/embed", content=b"x", headers=pickled), 415, "unsupported_format")


def test_damaged_uploads_never_give_a_5xx(service: Service, people: People) -> None:
    chance = random.Random(0)
    small = Image.open(io.BytesIO(people.a1)).convert("RGB").resize((115, 77))
    seeds = [encoded(small, kind) for kind in ("PNG", "JPEG", "WEBP")]
    statuses = set()
    for number in range(90):
        data = bytearray(seeds[number % 3])
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        response = service.embed(bytes(data[: chance.randrange(1, len(data))] if number % 5 == 0 else data))
        statuses.add(response.status_code)
        assert response.status_code < 500, response.text
    assert 422 in statuses


def test_a_crowd_is_told_that_the_service_is_busy(other_service: Service, people: People, fresh: Fresh) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(other_service.embed, [fresh(people.a1) for _ in range(24)]))
    codes = {response.status_code for response in answers}
    assert codes == {200, 503}
    refused = next(response for response in answers if response.status_code == 503)
    assert_problem(refused, 503, "busy")
    assert refused.headers["retry-after"] == "1"
    assert other_service.embed(png(Image.open(io.BytesIO(people.a1)))).status_code == 200

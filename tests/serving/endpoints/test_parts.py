"""Faults that a reading of the service found, in its parts: hostile JPEGs, a tenant larger than a deadline, odd answers."""

from __future__ import annotations

import asyncio
import http.server
import io
import threading
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from support.serving import RedisServer

from eolgul.client import AsyncClient, Client, EolgulError, Retries
from eolgul.errors import InputError
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import NewTemplate
from eolgul.serving.inference.decode import decode
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink

MODEL = "m" * 64


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(many_scans: bytes) -> None:
    with pytest.raises(InputError, match="64 scans") as caught:
        decode(many_scans, max_pixels=16_000_000)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_cut_into_splinters_is_refused_before_they_are_walked(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, kind)
    data = buffer.getvalue()
    head, piece = (
        (2, b"\xff\xfe\0\2")
        if kind == "JPEG"
        else (33, b"\0\0\0\3tEXta\0b" + zlib.crc32(b"tEXta\0b").to_bytes(4, "big"))
    )
    assert decode(data[:head] + piece * 500 + data[head:], max_pixels=10_000).shape == (48, 64, 3)
    start = time.perf_counter()
    with pytest.raises(InputError, match="pieces") as caught:
        decode(data[:head] + piece * (10_000_000 // len(piece)) + data[head:], max_pixels=10_000)
    assert caught.value.code == "too_large" and time.perf_counter() - start < 1


def _jpeg(**options: object) -> bytes:
    noise = np.random.default_rng(3).integers(0, 256, (300, 200, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_pictures_as_cameras_write_them_are_not_taken_for_such() -> None:
    film = b"\xff\xda\x00\x02" * 1000  # behind the picture's end, as a phone's motion photo has it
    thumbnail = b"\xff\xe1" + (4002).to_bytes(2, "big") + b"\xff\xda\x00\x02" * 1000  # inside a segment
    several = io.BytesIO()
    first, second = (Image.open(io.BytesIO(_jpeg(quality=quality))) for quality in (80, 30))
    first.save(several, "MPO", save_all=True, append_images=[second])
    for data in (
        _jpeg(),
        _jpeg(progressive=True, quality=95),
        _jpeg(restart_marker_rows=1),
        _jpeg() + film,
        _jpeg()[:2] + thumbnail + _jpeg()[2:],
        several.getvalue(),
    ):
        assert decode(data, max_pixels=100_000).shape == (300, 200, 3)


def test_a_tenant_that_takes_longer_to_read_than_a_request_may_is_read_once(redis_server: RedisServer) -> None:
    asyncio.run(_read_once(redis_server.url.removesuffix("/0") + "/14"))


async def _read_once(url: str) -> None:
    link = RedisLink(url, name="gallery", timeout_s=2)
    keyring = Keyring.ephemeral()
    writer, reader = (Gallery(link, keyring) for _ in range(2))
    vectors = np.random.default_rng(5).normal(size=(300, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for number, vector in enumerate(vectors):
        await writer.enroll("big", f"p{number}", [NewTemplate(MODEL, "c", vector, f"{number:064x}", {})])

    reads = 0
    slow_read = reader._read

    async def read(tenant: str, pseudonyms: list[str]) -> dict[str, dict[bytes, bytes]]:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0.3)  # three chunks: no request below lives as long
        return await slow_read(tenant, pseudonyms)

    reader._read = read  # type: ignore[method-assign, assignment]
    found = None
    for _ in range(8):
        try:
            async with asyncio.timeout(0.4):
                found = await reader.identify("big", MODEL, vectors[7], 1)
                break
        except TimeoutError:
            continue
    assert found is not None and found.people == 300 and found.matches[0].person == "p7"
    assert reads == 3
    await writer.delete_person("big", "p7")  # and what was read by an earlier request is no excuse for old news
    assert (await reader.identify("big", MODEL, vectors[7], 1)).matches[0].person != "p7"
    await link.close()


@pytest.fixture
def liar() -> Iterator[str]:
    """A server that says its answers are compressed, and they are not."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/v1/export" else 200)
            for name, value in (("Content-Encoding", "gzip"), ("Content-Length", "4")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"none")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_answer_that_cannot_be_decoded_is_an_error_with_a_code(liar: str) -> None:
    once = Retries(attempts=1)
    with Client(liar, retries=once) as client:
        for ask in (client.current_model, lambda: list(client.export()), lambda: list(client.people())):
            with pytest.raises(EolgulError) as caught:
                ask()
            assert caught.value.code == "no_answer"
        assert client.ready() is False
    asyncio.run(_the_same(AsyncClient(liar, retries=once)))


async def _the_same(client: AsyncClient) -> None:
    async with client:
        with pytest.raises(EolgulError):
            await client.current_model()
        with pytest.raises(EolgulError):
            [line async for line in client.export()]
        assert await client.ready() is False

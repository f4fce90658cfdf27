"""Clients that went away are not worked for: one thread, and requests that wait for it."""

from __future__ import annotations

import io
import socket
import time
from pathlib import Path

import pytest
from PIL import Image
from support.serving import People, Service, serve

from eolgul.model.package import ModelPackage

WAITING = 5


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/detect"])
def test_what_nobody_waits_for_is_not_worked_on(
    package: ModelPackage, people: People, tmp_path: Path, path: str
) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(people.a1)).resize((2400, 3000)).save(buffer, "JPEG")
    picture = buffer.getvalue()
    for service in serve(package, "", tmp_path, concurrency=1, queue=WAITING, max_batch=1):
        _check(service, path, picture)


def _check(service: Service, path: str, picture: bytes) -> None:
    connections = [_ask(service, path, picture + bytes([number])) for number in range(1 + WAITING)]
    _until(lambda: service.metric("eolgul_requests_inside") == 1 + WAITING)
    for connection in connections:
        connection.close()
    _until(lambda: service.metric("eolgul_requests_inside") == 0)
    _until(lambda: service.metric("eolgul_requests_total", route=path, status="499") >= WAITING)
    time.sleep(0.5)
    service.client.post(path, content=picture, headers={"content-type": "image/jpeg"}).raise_for_status()
    # the one that had its turn, perhaps the one that came next as it ended, and ours
    assert service.metric("eolgul_faces_per_image_count") <= 3


def _ask(service: Service, path: str, picture: bytes) -> socket.socket:
    url = service.client.base_url
    connection = socket.create_connection((url.host, url.port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
    connection.sendall(head.encode() + picture)
    return connection


def _until(true: object) -> None:
    assert callable(true)
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)

"""The bodies of all requests together have a memory limit; a single one is always accepted."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from support.serving import People, serve

from eolgul.model.package import ModelPackage
from eolgul.serving.endpoints.body import BodyMemory
from eolgul.serving.problems import RejectionError

MIB = 1 << 20
HEAD = b'--b\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'


def test_what_one_request_took_another_cannot_until_it_is_given_back() -> None:
    memory = BodyMemory(limit=100)
    with memory.share() as one, memory.share() as other:
        one.take(150)  # alone it may be as large as its own cap
        with pytest.raises(RejectionError) as caught:
            other.take(1)
        assert caught.value.code == "busy" and memory.held == 150
    assert memory.held == 0
    with memory.share() as one, memory.share() as other:
        one.take(60)
        other.take(40)
        for share in (one, other):
            with pytest.raises(RejectionError):
                share.take(1)


def test_half_sent_bodies_do_not_fill_the_memory(package: ModelPackage, people: People, tmp_path: Path) -> None:
    for service in serve(package, "", tmp_path, concurrency=1, queue=20):
        url = service.client.base_url
        assert service.verify(people.a1, people.a2).status_code == 200
        connections = []
        for _ in range(4):
            connection = socket.create_connection((url.host, url.port))
            connection.settimeout(15)
            connection.sendall(
                b"POST /v1/verify/many HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                + b"Content-Length: %d\r\n\r\n" % (300 * MIB)
                + HEAD
            )
            for _ in range(160):
                connection.sendall(bytes(MIB))
            connections.append(connection)
        assert b" 503 " in connections[-1].recv(64)  # 640 MiB of 512
        assert service.verify(people.a1, people.a2).status_code == 200  # there is room for small ones
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + 10
        while service.metric("eolgul_requests_inside") > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)

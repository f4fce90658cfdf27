"""Hostile uploads and a walk over the OpenAPI document: no 5xx, no crash, and the service answers as before."""

from __future__ import annotations

import asyncio
import io
import os
import random
from typing import Any

import httpx
import pytest
from PIL import Image
from support.serving import People, Service

UPLOADS = int(os.environ.get("EOLGUL_FUZZ_UPLOADS", "10000"))


def _seeds(people: People) -> list[bytes]:
    picture = Image.open(io.BytesIO(people.a1)).convert("RGB").resize((64, 48))
    seeds = []
    for mode, kind in (("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP")):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, kind)
        seeds.append(buffer.getvalue())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", save_all=True, append_images=[picture.rotate(90)])  # animated
    return [*seeds, buffer.getvalue()]


def _damaged(data: bytes, dice: random.Random) -> bytes:
    value = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8, 64))):
        place = dice.randrange(len(value)) if value else 0
        match dice.randrange(5):
            case 0 if value:
                value[place] = dice.randrange(256)
            case 1:
                del value[place : place + dice.randrange(1, 64)]
            case 2:
                value[place:place] = dice.randbytes(dice.randrange(1, 64))
            case 3 if len(value) > 40:  # where headers state sizes
                value[dice.randrange(40)] = dice.choice((0, 0xFF, 0x7F, 0x80))
            case _:
                value = value[: dice.randrange(len(value) + 1)]
    return bytes(value)


def test_damaged_uploads_never_give_a_5xx(service: Service, people: People) -> None:
    dice, seeds = random.Random(7), _seeds(people)
    statuses: dict[int, int] = {}

    def request(number: int) -> dict[str, object]:
        data = _damaged(dice.choice(seeds), dice)
        match number % 4:
            case 0:
                return {"content": data, "headers": {"content-type": "image/jpeg"}}
            case 1:  # the form itself is damaged too
                head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'
                body = _damaged(head + data + b"\r\n--x--\r\n", dice)
                return {"content": body, "headers": {"content-type": "multipart/form-data; boundary=x"}}
            case 2:
                body = _damaged(b'{"image": "' + data.hex().encode() + b'"}', dice)
                return {"content": body, "headers": {"content-type": "application/json"}}
            case _:
                return {"files": {"image": ("f", data)}}

    async def main() -> None:
        numbers = iter(range(UPLOADS))
        async with httpx.AsyncClient(base_url=service.client.base_url, timeout=60) as client:

            async def one() -> None:
                for number in numbers:
                    response = await client.post("/v1/detect", **request(number))  # type: ignore[arg-type]
                    statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
                    if response.status_code != 200:
                        assert response.headers["content-type"].startswith("application/problem+json")

            await asyncio.gather(*(one() for _ in range(8)))

    asyncio.run(main())
    assert sum(statuses.values()) == UPLOADS
    assert not [status for status in statuses if status >= 500], statuses
    assert statuses.get(200, 0) > 0 and statuses.get(422, 0) > UPLOADS / 20, statuses  # both ways were walked
    assert service.verify(people.a1, people.a1).json()["verdict"] == "same"


def test_every_operation_of_the_openapi_document_keeps_its_word(service: Service) -> None:
    """Documented statuses, content types and shapes only, whatever schemathesis makes of the document."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    schema = schemathesis.openapi.from_url(f"{service.client.base_url}/openapi.json")
    walked: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        seen = walked.setdefault(f"{operation.method} {operation.path}", set())

        @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def walk(case: Any) -> None:
            response = case.call()
            seen.add(response.status_code)  # noqa: B023 (walked before the next operation comes)
            if response.status_code == 503:  # this service has no gallery, and says so
                assert response.json()["code"] == "gallery_unavailable"
            else:
                case.validate_response(response, checks=checks)

        walk()
    assert len(walked) >= 11 and all(walked.values()), walked

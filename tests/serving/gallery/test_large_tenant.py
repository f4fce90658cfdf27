"""A tenant that takes longer to read than one request may take is read once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from support.serving import RedisServer

from eolgul.serving.gallery.index import Rows
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import NewTemplate
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink

MODEL = "m" * 64


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
    read_chunk = reader._indexes._models

    async def read(tenant: str, pseudonyms: Sequence[str]) -> dict[str, Rows]:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0.3)  # three chunks: longer than any request below may take
        return await read_chunk(tenant, pseudonyms)

    reader._indexes._models = read  # type: ignore[method-assign]
    result = None
    for _ in range(8):
        try:
            async with asyncio.timeout(0.4):
                result = await reader.identify("big", MODEL, vectors[7], 1)
                break
        except TimeoutError:
            continue
    assert result is not None and result.people == 300 and result.matches[0].person == "p7"
    assert reads == 3
    await writer.delete_person("big", "p7")  # what an earlier request has read must not hide a later change
    assert (await reader.identify("big", MODEL, vectors[7], 1)).matches[0].person != "p7"
    await link.close()

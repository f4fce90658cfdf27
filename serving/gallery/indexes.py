"""The tenants' indexes in memory, brought up to date from Redis: what changed since the last look, or the whole tenant.

A tenant of 10,000 people and more is read by blocks (`eolgul.serving.gallery.blocks`), a smaller one person by person.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from redis.asyncio import Redis
from redis.exceptions import ResponseError, WatchError

from eolgul.serving.gallery import blocks
from eolgul.serving.gallery.index import Rows, TenantIndex
from eolgul.serving.gallery.values import CHUNK, Values, associated, key

logger = logging.getLogger("eolgul.gallery")
BLOCKS_FROM = 10_000  # people
_TOGETHER = 16  # blocks in one round trip: 250 people each in a gallery of a million, 4 MB


class Indexes:
    """Holds the indexes of the tenants that were searched last. `gallery_unavailable` wherever Redis cannot be read."""

    def __init__(self, values: Values, memory_bytes: int) -> None:
        """Create it empty.

        Args:
            values: Redis.
            memory_bytes: Beyond it the least recently searched tenants are dropped; the tenant of the current search is
                always held completely.
        """
        self._values, self._memory_bytes = values, memory_bytes
        self._held: OrderedDict[str, TenantIndex] = OrderedDict()
        self._updates: dict[str, asyncio.Task[TenantIndex]] = {}
        self.progress = "no template yet"

    async def current(self, tenant: str) -> TenantIndex:
        """The index with every change that was committed before the call.

        It continues after the deadline of its request: the first read of a large tenant may take longer than any request
        may, and its result must not be lost. One call at a time for a tenant.
        """
        if (earlier := self._updates.get(tenant)) is not None:
            await asyncio.wait([earlier])  # it began before this request, so it may have missed changes
        task = self._updates[tenant] = asyncio.create_task(self._update(tenant))
        task.add_done_callback(lambda task: self._on_updated(tenant, task))
        return await asyncio.shield(task)

    def _on_updated(self, tenant: str, task: asyncio.Task[TenantIndex]) -> None:
        if self._updates.get(tenant) is task:
            del self._updates[tenant]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: requests that wait get it, and without any it needs no warning

    async def _update(self, tenant: str) -> TenantIndex:
        """Bring the index up to date: read the people named in the change log since `position`, or everyone."""
        index = self._held.pop(tenant, None)  # put back only when up to date
        while index is not None:
            position = index.position
            if position is None:
                index = None
                break
            entries = await self._values.run(
                "read of the changes",
                lambda redis, start=position: redis.xrange(key(tenant, "changes"), min=start, count=1000),  # type: ignore[misc]
            )
            # Trimmed further than our position, restored from a backup, or flushed.
            if not entries or entries[0][0].decode() != position:
                index = None
                break
            if len(entries) == 1:
                break
            changed = list(dict.fromkeys(fields[b"p"].decode() for _, fields in entries[1:]))
            index.forget(changed)
            await self._add_people(tenant, index, changed)
            index.position = entries[-1][0].decode()
        if index is None:
            newest = await self._values.run(
                "read of the changes", lambda redis: redis.xrevrange(key(tenant, "changes"), count=1)
            )
            index = TenantIndex(newest[0][0].decode() if newest else None)
            await self._read_everyone(tenant, index)
            if index.position is not None:  # there may be changes during the long read
                self._held[tenant] = index
                return await self._update(tenant)
        self._held[tenant] = index
        while len(self._held) > 1 and self.full:
            self._held.popitem(last=False)
        return index

    @property
    def full(self) -> bool:
        """Whether the indexes take more than the memory that they may."""
        return sum(held.nbytes for held in self._held.values()) > self._memory_bytes

    async def _read_everyone(self, tenant: str, index: TenantIndex) -> None:
        people = key(tenant, "people")
        total = await self._values.run("count", lambda redis: redis.zcard(people))
        if total < BLOCKS_FROM:
            after = ""
            while names := await self._values.names(tenant, after, CHUNK):
                await self._add_people(tenant, index, names)
                after = names[-1]
            return
        begun, written = time.monotonic(), 0
        for start in range(0, len(blocks.PREFIXES), _TOGETHER):
            prefixes = blocks.PREFIXES[start : start + _TOGETHER]
            keys = [key(tenant, "block", prefix) for prefix in prefixes]
            sealed = await self._values.run("read of blocks", lambda redis, keys=keys: _get_all(redis, keys))  # type: ignore[misc]
            found = await asyncio.to_thread(self._open_blocks, tenant, prefixes, sealed)
            missing = [prefix for prefix in prefixes if prefix not in found]
            if missing:
                read, kept = await self._read_blocks(tenant, missing)
                found |= read
                written += kept
            for model in {model for models in found.values() for model in models}:
                parts = [models[model] for models in found.values() if model in models]
                index.add(model, Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True))))
            self.progress = f"{index.templates} templates of about {total} people are read"
        logger.info(
            "gallery: %d templates of %d people read in %.1f s; %d blocks written",
            index.templates, total, time.monotonic() - begun, written,
        )  # fmt: skip

    def _open_blocks(
        self, tenant: str, prefixes: Sequence[str], sealed: Sequence[bytes | None]
    ) -> dict[str, dict[str, Rows]]:
        """The blocks that there are; not those that were emptied, or that another key than the active one sealed."""
        found: dict[str, dict[str, Rows]] = {}
        for prefix, value in zip(prefixes, sealed, strict=True):
            if value and not self._values.keyring.is_stale(value):
                body = self._values.keyring.open(value, associated(tenant, prefix, "block"))
                with contextlib.suppress(ValueError):  # of another version
                    if body is not None:
                        found[prefix] = blocks.unpack(body)
        return found

    async def _read_blocks(self, tenant: str, prefixes: Sequence[str]) -> tuple[dict[str, dict[str, Rows]], int]:
        """Read the people of some blocks one by one, and write the blocks in which nobody changed meanwhile.

        A mark is written in place of each block before its people are read. A change replaces it.

        Returns:
            The templates by block and model, and the number of blocks written.
        """
        people, mark = key(tenant, "people"), blocks.mark()
        keys = {prefix: key(tenant, "block", prefix) for prefix in prefixes}

        async def begin(redis: Redis) -> list[list[bytes]]:
            async with redis.pipeline(transaction=False) as pipe:
                for block in keys.values():
                    pipe.set(block, mark, ex=blocks.EMPTY_S)
                for prefix in keys:
                    pipe.zrangebylex(people, f"[{prefix}", f"({prefix}g")  # g follows the last hex digit
                answers: list[list[bytes]] = await pipe.execute(raise_on_error=False)
                for answer in answers[len(keys) :]:
                    if isinstance(answer, Exception):
                        raise answer
                return answers[len(keys) :]

        names = [name.decode() for found in await self._values.run("list of people", begin) for name in found]
        models = await self._models(tenant, names)
        read = await asyncio.to_thread(
            lambda: {
                prefix: {model: own for model, rows in models.items() if len((own := blocks.part(rows, prefix)).scale)}
                for prefix in prefixes
            }
        )
        sealed = await asyncio.to_thread(
            lambda: {
                prefix: self._values.keyring.seal(blocks.pack(read[prefix]), associated(tenant, prefix, "block"))
                for prefix in prefixes
            }
        )

        async def write(redis: Redis) -> int:
            async with redis.pipeline(transaction=True) as pipe:
                await pipe.watch(*keys.values())
                held = await _get_all(redis, list(keys.values()))  # after WATCH: what changes from here on stops EXEC
                there = [prefix for prefix, value in zip(prefixes, held, strict=True) if value == mark]
                pipe.multi()  # type: ignore[no-untyped-call]
                for prefix in there:
                    pipe.set(keys[prefix], sealed[prefix])
                try:
                    await pipe.execute()
                except WatchError:
                    return 0
                except ResponseError as error:  # full, perhaps: what was read is good without the blocks
                    self._values.link.log(f"gallery: blocks were not written: {error}", "block")
                    return 0
                return len(there)

        return read, await self._values.run("write of blocks", write)

    async def _models(self, tenant: str, pseudonyms: Sequence[str]) -> dict[str, Rows]:
        """The templates of people, by model, as they lie in Redis now."""
        found: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for start in range(0, len(pseudonyms), CHUNK):
            chunk = await self._values.read(tenant, pseudonyms[start : start + CHUNK])
            for pseudonym, model, embedding in await asyncio.to_thread(self._open_people, tenant, chunk):
                found[model].append((pseudonym, embedding))
        return {
            model: Rows.of([name for name, _ in items], np.stack([vector for _, vector in items]))
            for model, items in found.items()
        }

    async def _add_people(self, tenant: str, index: TenantIndex, pseudonyms: Sequence[str]) -> None:
        for model, rows in (await self._models(tenant, pseudonyms)).items():
            index.add(model, rows)

    def _open_people(self, tenant: str, chunk: Mapping[str, dict[bytes, bytes]]) -> list[tuple[str, str, Any]]:
        return [
            (name, template.model, template.embedding)
            for name, stored in chunk.items()
            for template in self._values.templates(tenant, name, stored)
        ]


async def _get_all(redis: Redis, keys: Sequence[str]) -> list[bytes | None]:
    async with redis.pipeline(transaction=False) as pipe:
        for name in keys:
            pipe.get(name)
        found: list[bytes | None] = await pipe.execute()
        return found

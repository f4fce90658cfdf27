"""The gallery: people whom a tenant enrolled, kept in Redis and searched exactly in memory.

Redis and not S3, because an enrolment or an erasure by one replica must bind all others at once: each `identify` asks
in one round trip what changed since it last looked. Use a Redis of its own, with an append-only file and no eviction.

Keys, all under `eolgul:gallery:1:`
  secret                    sealed; what pseudonyms are made with; outlives rotation
  {tenant}:people           sorted set of pseudonyms, all at score 0, for paging by name
  {tenant}:person:<pseud>   hash: `id` → the sealed id, <template id> → a sealed template
  {tenant}:changes          stream of pseudonyms whose person changed, written in the transaction of the change
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.exceptions import WatchError

from eolgul.serving.gallery.index import MAX_TEMPLATES, TenantIndex
from eolgul.serving.gallery.templates import (
    Enrolled,
    Erased,
    Identification,
    Match,
    NewTemplate,
    Page,
    PersonEntry,
    Record,
    Template,
    checked_person,
    pack,
    unpack,
)  # fmt: skip
from eolgul.serving.keyring import Keyring
from eolgul.serving.problems import RejectionError
from eolgul.serving.redis_link import RedisLink, Unreachable

logger = logging.getLogger("eolgul.gallery")
T = TypeVar("T")
_PREFIX = "eolgul:gallery:1:"
_CHUNK = 100  # people read together: at most 2,000 templates, about 5 MB
_LOG_ENTRIES = 10_000  # changes kept; a replica further behind reads the tenant anew
_TRIES = 50  # of a write that another replica came between


class Gallery:
    """Every operation raises RejectionError `gallery_unavailable` rather than give a wrong or partial answer."""

    def __init__(
        self, link: RedisLink, keyring: Keyring, *, max_people: int = 100_000, memory_bytes: int = 1 << 30
    ) -> None:
        """`memory_bytes`: of embeddings held for searching; the tenants not asked for longest are let go beyond it. The
        tenant being asked for is always held whole."""
        self._link, self._keyring = link, keyring
        self._max_people, self._memory_bytes = max_people, memory_bytes
        self._indexes: OrderedDict[str, TenantIndex] = OrderedDict()
        self._reading: dict[str, asyncio.Lock] = {}
        self._refreshing: dict[str, asyncio.Task[TenantIndex]] = {}
        self._writing = asyncio.Lock()  # so that only other replicas come between a look and its write

    async def close(self) -> None:
        await self._link.close()

    async def enroll(self, tenant: str, person: str, templates: Sequence[NewTemplate]) -> Enrolled:
        """Add templates to a person, who is made when new. An image that the person has for the same model is not added
        again, so that a repeated request is harmless. `bad_request`, `gallery_full`."""
        person = checked_person(person)
        pseudonym = await self._pseudonym(tenant, person)

        async def change(pipe: Any, stored: dict[bytes, bytes]) -> Enrolled:
            known = {(one.model, one.image): one for one in self._templates(tenant, pseudonym, stored)}
            fresh: dict[str, bytes] = {}
            result = []
            for new in templates:
                template = known.get((new.model, new.image))
                if template is None:
                    template = Template.of(new, secrets.token_hex(8), _now())
                    known[new.model, new.image] = template
                    fresh[template.id] = self._keyring.seal(pack(template), _bound(tenant, pseudonym, template.id))
                result.append(template)
            if len(known) > MAX_TEMPLATES:
                raise RejectionError(f"a person has at most {MAX_TEMPLATES} templates", "gallery_full")
            if not stored:
                if await pipe.zcard(_key(tenant, "people")) >= self._max_people:
                    raise RejectionError(f"the gallery has its {self._max_people} people", "gallery_full")
                sealed = f"{_now()}\n{person}".encode()
                fresh["id"] = self._keyring.seal(sealed, _bound(tenant, pseudonym, "id"))
            pipe.multi()
            if fresh:
                pipe.hset(_key(tenant, "person", pseudonym), mapping=fresh)
                pipe.zadd(_key(tenant, "people"), {pseudonym: 0})
            return Enrolled(pseudonym, result, len(fresh) - ("id" in fresh), len(known))

        if not templates:
            raise RejectionError("nothing to enroll", "bad_request")
        return await self._write(tenant, pseudonym, change, watch_people=True)

    async def delete_person(self, tenant: str, person: str) -> Erased:
        """Erase a person; the answer says which images the embedding cache must forget. `person_not_found`.

        A template that cannot be decrypted is erased too; its image is unknown then.
        """
        pseudonym = await self._pseudonym(tenant, checked_person(person))

        async def change(pipe: Any, stored: dict[bytes, bytes]) -> Erased:
            if not stored:
                raise RejectionError("the gallery has no such person", "person_not_found")
            images, unknown = self._images(tenant, pseudonym, stored)
            pipe.multi()
            pipe.delete(_key(tenant, "person", pseudonym))
            pipe.zrem(_key(tenant, "people"), pseudonym)
            return Erased(pseudonym, len(stored.keys() - {b"id"}), images, unknown)

        return await self._write(tenant, pseudonym, change)

    async def delete_template(self, tenant: str, person: str, template: str) -> Erased:
        """Erase one template; with the last one the person goes too. `person_not_found`, `template_not_found`."""
        pseudonym = await self._pseudonym(tenant, checked_person(person))

        async def change(pipe: Any, stored: dict[bytes, bytes]) -> Erased:
            if not stored:
                raise RejectionError("the gallery has no such person", "person_not_found")
            name = template.encode()
            if name not in stored or name == b"id":
                raise RejectionError("the person has no such template", "template_not_found")
            images, unknown = self._images(tenant, pseudonym, {name: stored[name]})
            pipe.multi()
            if stored.keys() <= {b"id", name}:
                pipe.delete(_key(tenant, "person", pseudonym))
                pipe.zrem(_key(tenant, "people"), pseudonym)
            else:
                pipe.hdel(_key(tenant, "person", pseudonym), name)
            return Erased(pseudonym, 1, images, unknown)

        return await self._write(tenant, pseudonym, change)

    async def people(self, tenant: str, *, model: str = "", after: str = "", limit: int = 100) -> Page:
        """People in the order of their pseudonyms, `limit` from behind `after` (a page's `next`), with how many of their
        templates are of `model`. A template that cannot be decrypted is of none."""
        page = await self._names(tenant, after, limit + 1)
        more, page = len(page) > limit, page[:limit]
        total = await self._run("count", lambda redis: redis.zcard(_key(tenant, "people")))
        entries: list[PersonEntry] = []
        for start in range(0, len(page), _CHUNK):
            chunk = await self._read(tenant, page[start : start + _CHUNK])
            entries += await asyncio.to_thread(self._listed, tenant, chunk, model)
        return Page(entries, page[-1] if more else None, total)

    async def templates(self, tenant: str, person: str) -> list[Template]:
        """A person's templates, oldest first. `person_not_found`."""
        pseudonym = await self._pseudonym(tenant, checked_person(person))
        stored = (await self._read(tenant, [pseudonym]))[pseudonym]
        if not stored:
            raise RejectionError("the gallery has no such person", "person_not_found")
        return sorted(self._templates(tenant, pseudonym, stored), key=lambda one: (one.created_at, one.id))

    async def export(self, tenant: str) -> AsyncIterator[Record]:
        """Every template with its person, person by person; who comes or goes meanwhile may or may not be in it."""
        after = ""
        while page := await self._names(tenant, after, _CHUNK):
            for pseudonym, stored in (await self._read(tenant, page)).items():
                if stored:
                    _, person = self._identity(tenant, pseudonym, stored)
                    for template in self._templates(tenant, pseudonym, stored):
                        yield Record(person, template)
            after = page[-1]

    async def identify(self, tenant: str, model: str, embedding: NDArray[np.float32], k: int) -> Identification:
        """The k people most like a unit embedding (float32), each by the best of the templates of this very model.

        Templates of other models are counted, never compared. Sees every change committed before the call.
        """
        async with self._reading.setdefault(tenant, asyncio.Lock()):
            index = await self._current(tenant)
            search = index.of(model)
            found = await asyncio.to_thread(search.top, embedding, k)
            matches = [Match(index.names[pseudonym], template, score) for pseudonym, template, score in found]
            return Identification(matches, search.people, len(search), index.templates - len(search))

    async def reseal(self, tenant: str) -> int:
        """Seal again, with the active key, what older keys sealed. How many values. Afterwards old keys may go."""
        await self._index_secret()  # is sealed anew by being looked at
        count, after = 0, ""
        while page := await self._names(tenant, after, _CHUNK):
            for pseudonym in page:
                count += await self._write(tenant, pseudonym, lambda pipe, stored, p=pseudonym: self._reseal(pipe, tenant, p, stored))  # type: ignore[misc] # fmt: skip
            after = page[-1]
        return count

    async def pseudonym(self, tenant: str, person: str) -> str:
        """What stands for a person in Redis and in the audit log: an HMAC-SHA-256, 32 hex digits."""
        return await self._pseudonym(tenant, checked_person(person))

    async def _reseal(self, pipe: Any, tenant: str, pseudonym: str, stored: dict[bytes, bytes]) -> int:
        fresh: dict[bytes, bytes] = {}
        for name, value in stored.items():
            if self._keyring.stale(value):
                bound = _bound(tenant, pseudonym, name.decode())
                fresh[name] = self._keyring.seal(self._opened(value, bound), bound)
        pipe.multi()
        if fresh:
            pipe.hset(_key(tenant, "person", pseudonym), mapping=fresh)
        return len(fresh)

    async def _write(
        self,
        tenant: str,
        pseudonym: str,
        change: Callable[[Any, dict[bytes, bytes]], Awaitable[T]],
        *,
        watch_people: bool = False,
    ) -> T:
        """Change a person and say so in the change log, in one transaction; again when another replica came between."""
        person, people = _key(tenant, "person", pseudonym), _key(tenant, "people")

        async def attempt(redis: Redis) -> T | RejectionError:
            async with redis.pipeline(transaction=True) as pipe:
                await pipe.watch(*([person, people] if watch_people else [person]))
                try:
                    result = await change(pipe, cast(dict[bytes, bytes], await pipe.hgetall(person)))
                except RejectionError as error:
                    return error
                if len(pipe):
                    pipe.xadd(_key(tenant, "changes"), {"p": pseudonym}, maxlen=_LOG_ENTRIES, approximate=True)
                    await pipe.execute()
                return result

        async with self._writing:
            for number in range(_TRIES):
                try:
                    ended = await self._run("change", attempt)
                except WatchError:
                    await asyncio.sleep(secrets.randbelow(1 + number) / 1000)
                    continue
                if isinstance(ended, RejectionError):
                    raise ended
                return cast(T, ended)
        raise self._unavailable("others changed the same person all the time")

    async def _current(self, tenant: str) -> TenantIndex:
        """`_fresh`, which goes on when its request has reached its deadline: reading a large tenant for the first time
        may take longer than any request may, and what was read must not be lost. The caller holds the tenant's lock."""
        if (earlier := self._refreshing.get(tenant)) is not None:
            await asyncio.wait([earlier])  # it began before this request, and so may not have seen all
        task = self._refreshing[tenant] = asyncio.create_task(self._fresh(tenant))
        task.add_done_callback(lambda task: self._refreshed(tenant, task))
        return await asyncio.shield(task)

    def _refreshed(self, tenant: str, task: asyncio.Task[TenantIndex]) -> None:
        if self._refreshing.get(tenant) is task:
            del self._refreshing[tenant]
        if not task.cancelled():
            task.exception()  # whoever waits gets it; with nobody left it is not worth a warning

    async def _fresh(self, tenant: str) -> TenantIndex:
        """The tenant's index as of now: what the change log names since `position`, or everything."""
        index = self._indexes.pop(tenant, None)  # put back only when it is up to date
        while index is not None:
            position = index.position
            if position is None:
                index = None
                break
            entries = await self._run(
                "look at the changes",
                lambda redis, start=position: redis.xrange(_key(tenant, "changes"), min=start, count=1000),  # type: ignore[misc]
            )
            if not entries or entries[0][0].decode() != position:  # trimmed beyond us, restored or flushed
                index = None
                break
            if len(entries) == 1:
                break
            changed = dict.fromkeys(fields[b"p"].decode() for _, fields in entries[1:])
            await self._refresh(tenant, index, list(changed))
            index.position = entries[-1][0].decode()
        if index is None:
            newest = await self._run(
                "look at the changes", lambda redis: redis.xrevrange(_key(tenant, "changes"), count=1)
            )
            index = TenantIndex(newest[0][0].decode() if newest else None)
            names = await self._run("list of people", lambda redis: redis.zrange(_key(tenant, "people"), 0, -1))
            await self._refresh(tenant, index, [name.decode() for name in names])
            if index.position is not None:  # changes during the long read
                self._indexes[tenant] = index
                return await self._fresh(tenant)
        self._indexes[tenant] = index
        while len(self._indexes) > 1 and sum(one.nbytes for one in self._indexes.values()) > self._memory_bytes:
            self._indexes.popitem(last=False)
        return index

    async def _refresh(self, tenant: str, index: TenantIndex, pseudonyms: Sequence[str]) -> None:
        for start in range(0, len(pseudonyms), _CHUNK):
            chunk = await self._read(tenant, pseudonyms[start : start + _CHUNK])
            opened = await asyncio.to_thread(self._open_all, tenant, chunk)
            for pseudonym, person, templates in opened:
                index.replace(pseudonym, person, [(one.id, one.model, one.embedding) for one in templates])

    def _open_all(
        self, tenant: str, chunk: Mapping[str, dict[bytes, bytes]]
    ) -> list[tuple[str, str | None, list[Template]]]:
        return [
            (name, self._identity(tenant, name, stored)[1], list(self._templates(tenant, name, stored)))
            if stored
            else (name, None, [])
            for name, stored in chunk.items()
        ]

    def _listed(self, tenant: str, chunk: Mapping[str, dict[bytes, bytes]], model: str) -> list[PersonEntry]:
        entries = []
        for pseudonym, stored in chunk.items():
            if stored:  # else erased since the names were read
                created, person = self._identity(tenant, pseudonym, stored)
                comparable = 0
                for name, value in stored.items():
                    with contextlib.suppress(RejectionError):
                        comparable += sum(
                            one.model == model for one in self._templates(tenant, pseudonym, {name: value})
                        )
                entries.append(PersonEntry(person, len(stored) - 1, comparable, created))
        return entries

    async def _names(self, tenant: str, after: str, limit: int) -> list[str]:
        start = f"({after}" if after else "-"
        people = _key(tenant, "people")
        found = await self._run("list of people", lambda redis: redis.zrangebylex(people, start, "+", 0, limit))
        return [name.decode() for name in found]

    async def _read(self, tenant: str, pseudonyms: Sequence[str]) -> dict[str, dict[bytes, bytes]]:
        async def read(redis: Redis) -> list[Any]:
            async with redis.pipeline(transaction=False) as pipe:
                for pseudonym in pseudonyms:
                    pipe.hgetall(_key(tenant, "person", pseudonym))
                return await pipe.execute()

        if not pseudonyms:
            return {}
        return dict(zip(pseudonyms, await self._run("look-up", read), strict=True))

    def _identity(self, tenant: str, pseudonym: str, stored: Mapping[bytes, bytes]) -> tuple[str, str]:
        """When the person was enrolled, and the id."""
        opened = self._opened(stored.get(b"id", b""), _bound(tenant, pseudonym, "id"))
        created, _, person = opened.decode().partition("\n")
        return created, person

    def _templates(self, tenant: str, pseudonym: str, stored: Mapping[bytes, bytes]) -> Iterable[Template]:
        for name, value in stored.items():
            if name != b"id":
                yield unpack(self._opened(value, _bound(tenant, pseudonym, name.decode("ascii", "replace"))))

    def _images(self, tenant: str, pseudonym: str, stored: Mapping[bytes, bytes]) -> tuple[list[str], int]:
        """The sha256 of the templates' images, and how many templates do not tell theirs."""
        images, unknown = set(), 0
        for name, value in stored.items():
            try:
                images |= {one.image for one in self._templates(tenant, pseudonym, {name: value})}
            except RejectionError:
                unknown += 1
                logger.warning(
                    "a template that cannot be decrypted is erased; its image stays in the cache for its TTL"
                )
        return sorted(images), unknown

    def _opened(self, value: bytes, bound: bytes) -> bytes:
        opened = self._keyring.open(value, bound)
        if opened is None:
            raise self._unavailable("a value is damaged, or was sealed with a key that is not in the file of keys")
        return opened

    async def _pseudonym(self, tenant: str, person: str) -> str:
        return hmac.digest(await self._index_secret(), f"{tenant}\0{person}".encode(), "sha256").hex()[:32]

    async def _index_secret(self) -> bytes:
        """Random, made on first use: one made from the keys would change with them, and with it every pseudonym.

        Looked at each time, as Redis may have been emptied or restored and another replica have made a new one.
        """
        key, bound = _PREFIX + "secret", b"index secret"
        stored = await self._run("look-up", lambda redis: redis.get(key))
        if stored is None:
            made = self._keyring.seal(secrets.token_bytes(32), bound)
            await self._run("first use", lambda redis: redis.set(key, made, nx=True))
            stored = await self._run("look-up", lambda redis: redis.get(key))
        secret = self._opened(stored or b"", bound)
        if self._keyring.stale(stored):  # the same secret from every replica: whoever writes last changes nothing
            resealed = self._keyring.seal(secret, bound)
            await self._run("rotation", lambda redis: redis.set(key, resealed, xx=True))
        return secret

    async def _run(self, what: str, call: Callable[[Redis], Any]) -> Any:
        value = await self._link.run(what, call)
        if isinstance(value, Unreachable):
            raise RejectionError("the gallery cannot be reached; try again in a moment", "gallery_unavailable")
        return value

    def _unavailable(self, reason: str) -> RejectionError:
        self._link.log(f"gallery: {reason}", reason)
        return RejectionError(f"the gallery cannot answer: {reason}", "gallery_unavailable")


def _key(tenant: str, *parts: str) -> str:
    return _PREFIX + ":".join(("{" + quote(tenant, safe="") + "}", *parts))


def _bound(tenant: str, pseudonym: str, name: str) -> bytes:
    return f"gallery\0{tenant}\0{pseudonym}\0{name}".encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

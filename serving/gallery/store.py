"""The gallery: people whom a tenant enrolled, stored in Redis and searched exactly in memory.

It uses Redis and not S3, because an enrolment or an erasure by one replica must hold for all others at once: each
`identify` reads in one round trip what changed since the last one. Use a separate Redis with an append-only file and no
eviction.

Keys, all under `eolgul:gallery:1:`
  secret                    sealed; the key of the pseudonyms; rotation does not change it
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
    POOR,
    Enrolled,
    Erased,
    Identification,
    Match,
    NewTemplate,
    Page,
    PersonEntry,
    Record,
    Template,
    normalize_person,
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
_LOG_ENTRIES = 10_000  # changes kept; a replica that is further behind reads the tenant again
_TRIES = 50  # attempts of a write when other replicas change the same person


class Gallery:
    """Enrolls, lists, finds and erases people; raises `gallery_unavailable` rather than give a wrong or partial answer.

    All public methods raise RejectionError with the codes that they name, and with `gallery_unavailable`.
    """

    def __init__(
        self, link: RedisLink, keyring: Keyring, *, max_people: int = 100_000, memory_bytes: int = 1 << 30
    ) -> None:
        """Create the gallery; nothing is read yet.

        Args:
            link: The Redis of the gallery.
            keyring: Seals and opens the stored values.
            max_people: Largest number of people per tenant.
            memory_bytes: Memory for embeddings in bytes. Beyond it the least recently searched tenants are dropped; the
                tenant of the current search is always held completely.
        """
        self._link, self._keyring = link, keyring
        self._max_people, self._memory_bytes = max_people, memory_bytes
        self._indexes: OrderedDict[str, TenantIndex] = OrderedDict()
        self._reading: dict[str, asyncio.Lock] = {}
        self._updates: dict[str, asyncio.Task[TenantIndex]] = {}
        self._writing = asyncio.Lock()  # so that only other replicas can write between a read and its write

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    async def enroll(self, tenant: str, person: str, templates: Sequence[NewTemplate]) -> Enrolled:
        """Add templates to a person, who is created if new.

        An image that the person already has for the same model is not added again, so a repeated request does no harm.

        Raises:
            RejectionError: `bad_request`, `gallery_full`.
        """
        person = normalize_person(person)
        pseudonym = await self._pseudonym(tenant, person)

        async def change(pipe: Any, stored: dict[bytes, bytes]) -> Enrolled:
            known = {(old.model, old.image): old for old in self._templates(tenant, pseudonym, stored)}
            fresh: dict[str, bytes] = {}
            result = []
            for new in templates:
                template = known.get((new.model, new.image))
                if template is None:
                    template = Template.from_new(new, secrets.token_hex(8), _now())
                    known[new.model, new.image] = template
                    fresh[template.id] = self._keyring.seal(pack(template), _associated(tenant, pseudonym, template.id))
                result.append(template)
            if len(known) > MAX_TEMPLATES:
                raise RejectionError(f"a person has at most {MAX_TEMPLATES} templates", "gallery_full")
            if not stored:
                if await pipe.zcard(_key(tenant, "people")) >= self._max_people:
                    raise RejectionError(f"the gallery has at most {self._max_people} people", "gallery_full")
                sealed = f"{_now()}\n{person}".encode()
                fresh["id"] = self._keyring.seal(sealed, _associated(tenant, pseudonym, "id"))
            pipe.multi()
            if fresh:
                pipe.hset(_key(tenant, "person", pseudonym), mapping=fresh)
                pipe.zadd(_key(tenant, "people"), {pseudonym: 0})
            return Enrolled(pseudonym, result, len(fresh) - ("id" in fresh), len(known))

        if not templates:
            raise RejectionError("nothing to enroll", "bad_request")
        return await self._write(tenant, pseudonym, change, watch_people=True)

    async def delete_person(self, tenant: str, person: str) -> Erased:
        """Erase a person, including templates that cannot be decrypted (their images are then unknown).

        Returns:
            What was erased, with the images that the embedding cache must drop.

        Raises:
            RejectionError: `person_not_found`.
        """
        pseudonym = await self._pseudonym(tenant, normalize_person(person))

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
        """Erase one template, and with the last one the person.

        Raises:
            RejectionError: `person_not_found`, `template_not_found`.
        """
        pseudonym = await self._pseudonym(tenant, normalize_person(person))

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
        """List `limit` people in the order of their pseudonyms, starting after `after` (the `next` of a page).

        Each entry counts the templates that `model` made; a template that cannot be decrypted does not count.
        """
        page = await self._names(tenant, after, limit + 1)
        more, page = len(page) > limit, page[:limit]
        total = await self._run("count", lambda redis: redis.zcard(_key(tenant, "people")))
        entries: list[PersonEntry] = []
        for start in range(0, len(page), _CHUNK):
            chunk = await self._read(tenant, page[start : start + _CHUNK])
            entries += await asyncio.to_thread(self._list_entries, tenant, chunk, model)
        return Page(entries, page[-1] if more else None, total)

    async def templates(self, tenant: str, person: str) -> list[Template]:
        """A person's templates, oldest first.

        Raises:
            RejectionError: `person_not_found`.
        """
        pseudonym = await self._pseudonym(tenant, normalize_person(person))
        stored = (await self._read(tenant, [pseudonym]))[pseudonym]
        if not stored:
            raise RejectionError("the gallery has no such person", "person_not_found")
        return sorted(
            self._templates(tenant, pseudonym, stored), key=lambda template: (template.created_at, template.id)
        )

    async def export(self, tenant: str) -> AsyncIterator[Record]:
        """Every template with its person; people enrolled or erased meanwhile may be included or not."""
        after = ""
        while page := await self._names(tenant, after, _CHUNK):
            for pseudonym, stored in (await self._read(tenant, page)).items():
                if stored:
                    _, person = self._identity(tenant, pseudonym, stored)
                    for template in self._templates(tenant, pseudonym, stored):
                        yield Record(person, template)
            after = page[-1]

    async def identify(self, tenant: str, model: str, embedding: NDArray[np.float32], k: int) -> Identification:
        """Find the k people most similar to a unit embedding (float32), each by their best template of this model.

        Templates of other models are counted, never compared. Every change committed before the call is seen.
        """
        async with self._reading.setdefault(tenant, asyncio.Lock()):
            index = await self._current(tenant)
            search = index.model_index(model)
            best = await asyncio.to_thread(search.top, embedding, k)
            matches = [
                Match(index.names[pseudonym], template, score, index.poor.get(pseudonym, {}).get(template, {}))
                for pseudonym, template, score in best
            ]
            return Identification(matches, search.people, len(search), index.templates - len(search))

    async def reseal(self, tenant: str) -> int:
        """Seal again, with the active key, every value that an older key sealed, and return their number."""
        await self._index_secret()  # reading it seals it again
        count, after = 0, ""
        while page := await self._names(tenant, after, _CHUNK):
            for pseudonym in page:
                count += await self._write(tenant, pseudonym, lambda pipe, stored, p=pseudonym: self._reseal(pipe, tenant, p, stored))  # type: ignore[misc] # fmt: skip
            after = page[-1]
        return count

    async def pseudonym(self, tenant: str, person: str) -> str:
        """The name of a person in Redis and in the audit log: an HMAC-SHA-256, 32 hex digits."""
        return await self._pseudonym(tenant, normalize_person(person))

    async def _reseal(self, pipe: Any, tenant: str, pseudonym: str, stored: dict[bytes, bytes]) -> int:
        fresh: dict[bytes, bytes] = {}
        for name, value in stored.items():
            if self._keyring.is_stale(value):
                associated = _associated(tenant, pseudonym, name.decode())
                fresh[name] = self._keyring.seal(self._open(value, associated), associated)
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
        """Change a person and append to the change log in one transaction; repeated if another replica changed it meanwhile."""
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
                    outcome = await self._run("change", attempt)
                except WatchError:
                    await asyncio.sleep(secrets.randbelow(1 + number) / 1000)
                    continue
                if isinstance(outcome, RejectionError):
                    raise outcome
                return cast(T, outcome)
        raise self._unavailable("other replicas kept changing the same person")

    async def _current(self, tenant: str) -> TenantIndex:
        """Run `_update_index` so that it continues after the deadline of its request.

        The first read of a large tenant may take longer than any request may, and its result must not be lost. The caller
        holds the tenant's lock.
        """
        if (earlier := self._updates.get(tenant)) is not None:
            await asyncio.wait([earlier])  # it began before this request, so it may have missed changes
        task = self._updates[tenant] = asyncio.create_task(self._update_index(tenant))
        task.add_done_callback(lambda task: self._on_updated(tenant, task))
        return await asyncio.shield(task)

    def _on_updated(self, tenant: str, task: asyncio.Task[TenantIndex]) -> None:
        if self._updates.get(tenant) is task:
            del self._updates[tenant]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: requests that wait get it, and without any it needs no warning

    async def _update_index(self, tenant: str) -> TenantIndex:
        """Bring the tenant's index up to date: read the people named in the change log since `position`, or everyone."""
        index = self._indexes.pop(tenant, None)  # put back only when up to date
        while index is not None:
            position = index.position
            if position is None:
                index = None
                break
            entries = await self._run(
                "read of the changes",
                lambda redis, start=position: redis.xrange(_key(tenant, "changes"), min=start, count=1000),  # type: ignore[misc]
            )
            # Trimmed further than our position, restored from a backup, or flushed.
            if not entries or entries[0][0].decode() != position:
                index = None
                break
            if len(entries) == 1:
                break
            changed = dict.fromkeys(fields[b"p"].decode() for _, fields in entries[1:])
            await self._refresh(tenant, index, list(changed))
            index.position = entries[-1][0].decode()
        if index is None:
            newest = await self._run(
                "read of the changes", lambda redis: redis.xrevrange(_key(tenant, "changes"), count=1)
            )
            index = TenantIndex(newest[0][0].decode() if newest else None)
            names = await self._run("list of people", lambda redis: redis.zrange(_key(tenant, "people"), 0, -1))
            await self._refresh(tenant, index, [name.decode() for name in names])
            if index.position is not None:  # there may be changes during the long read
                self._indexes[tenant] = index
                return await self._update_index(tenant)
        self._indexes[tenant] = index
        while len(self._indexes) > 1 and sum(held.nbytes for held in self._indexes.values()) > self._memory_bytes:
            self._indexes.popitem(last=False)
        return index

    async def _refresh(self, tenant: str, index: TenantIndex, pseudonyms: Sequence[str]) -> None:
        for start in range(0, len(pseudonyms), _CHUNK):
            chunk = await self._read(tenant, pseudonyms[start : start + _CHUNK])
            people = await asyncio.to_thread(self._open_all, tenant, chunk)
            for pseudonym, person, templates in people:
                poor = {new.id: new.quality for new in templates if POOR in new.quality}
                index.replace(pseudonym, person, [(new.id, new.model, new.embedding) for new in templates], poor)

    def _open_all(
        self, tenant: str, chunk: Mapping[str, dict[bytes, bytes]]
    ) -> list[tuple[str, str | None, list[Template]]]:
        return [
            (name, self._identity(tenant, name, stored)[1], list(self._templates(tenant, name, stored)))
            if stored
            else (name, None, [])
            for name, stored in chunk.items()
        ]

    def _list_entries(self, tenant: str, chunk: Mapping[str, dict[bytes, bytes]], model: str) -> list[PersonEntry]:
        entries = []
        for pseudonym, stored in chunk.items():
            if stored:  # otherwise erased since the names were read
                created, person = self._identity(tenant, pseudonym, stored)
                comparable = 0
                for name, value in stored.items():
                    with contextlib.suppress(RejectionError):
                        comparable += sum(
                            template.model == model for template in self._templates(tenant, pseudonym, {name: value})
                        )
                entries.append(PersonEntry(person, len(stored) - 1, comparable, created))
        return entries

    async def _names(self, tenant: str, after: str, limit: int) -> list[str]:
        start = f"({after}" if after else "-"
        people = _key(tenant, "people")
        names = await self._run("list of people", lambda redis: redis.zrangebylex(people, start, "+", 0, limit))
        return [name.decode() for name in names]

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
        """The time of the first enrolment, and the person's id."""
        identity = self._open(stored.get(b"id", b""), _associated(tenant, pseudonym, "id"))
        created, _, person = identity.decode().partition("\n")
        return created, person

    def _templates(self, tenant: str, pseudonym: str, stored: Mapping[bytes, bytes]) -> Iterable[Template]:
        for name, value in stored.items():
            if name != b"id":
                yield unpack(self._open(value, _associated(tenant, pseudonym, name.decode("ascii", "replace"))))

    def _images(self, tenant: str, pseudonym: str, stored: Mapping[bytes, bytes]) -> tuple[list[str], int]:
        """The SHA-256 of the templates' images, and the number of templates whose image is unknown."""
        images, unknown = set(), 0
        for name, value in stored.items():
            try:
                images |= {template.image for template in self._templates(tenant, pseudonym, {name: value})}
            except RejectionError:
                unknown += 1
                logger.warning(
                    "a template that cannot be decrypted is erased; its image stays in the cache until its time to live ends"
                )
        return sorted(images), unknown

    def _open(self, value: bytes, associated: bytes) -> bytes:
        plaintext = self._keyring.open(value, associated)
        if plaintext is None:
            raise self._unavailable("a value is damaged, or sealed with a key that is not in the file of keys")
        return plaintext

    async def _pseudonym(self, tenant: str, person: str) -> str:
        return hmac.digest(await self._index_secret(), f"{tenant}\0{person}".encode(), "sha256").hex()[:32]

    async def _index_secret(self) -> bytes:
        """The key of the pseudonyms: random, since a key derived from the encryption keys would change with them.

        It is created on first use and read every time, since Redis may have been flushed or restored, and another replica
        may have created a new one.
        """
        key, associated = _PREFIX + "secret", b"index secret"
        stored = await self._run("look-up", lambda redis: redis.get(key))
        if stored is None:
            sealed = self._keyring.seal(secrets.token_bytes(32), associated)
            await self._run("first use", lambda redis: redis.set(key, sealed, nx=True))
            stored = await self._run("look-up", lambda redis: redis.get(key))
        secret = self._open(stored or b"", associated)
        if self._keyring.is_stale(stored):  # every replica writes the same secret, in any order
            resealed = self._keyring.seal(secret, associated)
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


def _associated(tenant: str, pseudonym: str, name: str) -> bytes:
    return f"gallery\0{tenant}\0{pseudonym}\0{name}".encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

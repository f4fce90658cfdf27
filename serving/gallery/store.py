"""The gallery: people whom a tenant enrolled, stored in Redis and searched exactly in memory.

It uses Redis and not S3, because an enrolment or an erasure by one replica must hold for all others at once: each
`identify` reads in one round trip what changed since the last one. Use a separate Redis with an append-only file and no
eviction.

Keys, all under `eolgul:gallery:1:`
  secret                    sealed; the key of the pseudonyms; rotation does not change it
  {tenant}:people           sorted set of pseudonyms, all at score 0, for paging by name
  {tenant}:person:<pseud>   hash: `id` → the sealed id with metadata, <template id> → a sealed template
  {tenant}:changes          stream of pseudonyms whose person changed, written in the transaction of the change
  {tenant}:block:<3 digits> sealed; see `eolgul.serving.gallery.blocks`
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.exceptions import WatchError

from eolgul.serving.gallery import blocks
from eolgul.serving.gallery.index import MAX_TEMPLATES
from eolgul.serving.gallery.indexes import Indexes
from eolgul.serving.gallery.listing import Listing
from eolgul.serving.gallery.templates import (
    Changed,
    Enrolled,
    Erased,
    Identification,
    Identity,
    Match,
    NewTemplate,
    Person,
    Template,
    check_metadata,
    normalize_person,
    pack,
)  # fmt: skip
from eolgul.serving.gallery.values import CHUNK, PREFIX, Values, associated, key
from eolgul.serving.keyring import Keyring
from eolgul.serving.problems import RejectionError
from eolgul.serving.redis_link import RedisLink

logger = logging.getLogger("eolgul.gallery")
T = TypeVar("T")
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
        self._link, self._keyring, self._max_people = link, keyring, max_people
        self._values = Values(link, keyring)
        self._indexes = Indexes(self._values, memory_bytes)
        listing = Listing(self._values)
        self.people, self.export = listing.people, listing.export
        self._reading: dict[str, asyncio.Lock] = {}
        self.warmed = False
        self._writing = asyncio.Lock()  # so that only other replicas can write between a read and its write

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    async def warm(self, tenants: Iterable[str]) -> None:
        """Read these tenants' templates into memory, so that their first search need not. What cannot be read waits for it."""
        try:
            for tenant in tenants:
                async with self._reading.setdefault(tenant, asyncio.Lock()):
                    await self._indexes.current(tenant)
                if self._indexes.full:
                    logger.warning("the gallery's memory is full: tenants not read yet are read at their first search")
                    break
        except RejectionError as error:
            logger.warning("the gallery is read at the first search: %s", error)
        finally:
            self.warmed = True

    @property
    def progress(self) -> str:
        """What `warm` has read, in words."""
        return self._indexes.progress

    async def enroll(self, tenant: str, person: str, templates: Sequence[NewTemplate]) -> Enrolled:
        """Add templates to a person, who is created if new.

        An image that the person already has for the same model is not added again, so a repeated request does no harm.

        Raises:
            RejectionError: `bad_request`, `gallery_full`.
        """
        person = normalize_person(person)
        pseudonym = await self._pseudonym(tenant, person)

        async def change(pipe: Any, stored: dict[bytes, bytes]) -> Enrolled:
            known = {(old.model, old.image): old for old in self._values.templates(tenant, pseudonym, stored)}
            fresh: dict[str, bytes] = {}
            result = []
            for new in templates:
                template = known.get((new.model, new.image))
                if template is None:
                    template = Template.from_new(new, secrets.token_hex(8), _now())
                    known[new.model, new.image] = template
                    fresh[template.id] = self._keyring.seal(pack(template), associated(tenant, pseudonym, template.id))
                result.append(template)
            if len(known) > MAX_TEMPLATES:
                raise RejectionError(f"a person has at most {MAX_TEMPLATES} templates", "gallery_full")
            if not stored:
                if await pipe.zcard(key(tenant, "people")) >= self._max_people:
                    raise RejectionError(f"the gallery has at most {self._max_people} people", "gallery_full")
                fresh["id"] = self._sealed_identity(tenant, pseudonym, Identity(_now(), person))
            pipe.multi()
            if fresh:
                pipe.hset(key(tenant, "person", pseudonym), mapping=fresh)
                pipe.zadd(key(tenant, "people"), {pseudonym: 0})
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
            images, unknown = self._values.images(tenant, pseudonym, stored)
            pipe.multi()
            pipe.delete(key(tenant, "person", pseudonym))
            pipe.zrem(key(tenant, "people"), pseudonym)
            return Erased(pseudonym, len(stored.keys() - {b"id"}), images, unknown)

        return await self._write(
            tenant, pseudonym, change, once=True
        )  # again, it would say that there is no such person

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
            images, unknown = self._values.images(tenant, pseudonym, {name: stored[name]})
            pipe.multi()
            if stored.keys() <= {b"id", name}:
                pipe.delete(key(tenant, "person", pseudonym))
                pipe.zrem(key(tenant, "people"), pseudonym)
            else:
                pipe.hdel(key(tenant, "person", pseudonym), name)
            return Erased(pseudonym, 1, images, unknown)

        return await self._write(tenant, pseudonym, change, once=True)

    async def update(self, tenant: str, person: str, name: str | None, metadata: Mapping[str, str] | None) -> Changed:
        """Rename a person, replace the metadata, or both in one transaction; None leaves it as it is.

        A new name is a new pseudonym, to which every value is sealed again.

        Raises:
            RejectionError: `person_not_found`, `person_exists`, `bad_request`.
        """
        old = normalize_person(person)
        new = old if name is None else normalize_person(name)
        if metadata is not None:
            check_metadata(metadata)
        before, after = await self._pseudonym(tenant, old), await self._pseudonym(tenant, new)

        async def change(pipe: Any, stored: dict[bytes, bytes]) -> Changed:
            if not stored:
                raise RejectionError("the gallery has no such person", "person_not_found")
            if after != before and await pipe.hgetall(key(tenant, "person", after)):
                raise RejectionError("the gallery has a person of the new name", "person_exists", "person")
            known = self._values.identity(tenant, before, stored)
            identity = Identity(known.created_at, new, dict(known.metadata if metadata is None else metadata))
            templates = _by_age(self._values.templates(tenant, before, stored))
            fresh = {"id": self._sealed_identity(tenant, after, identity)}
            if after != before:
                fresh |= {
                    item.id: self._keyring.seal(pack(item), associated(tenant, after, item.id)) for item in templates
                }
            pipe.multi()
            pipe.hset(key(tenant, "person", after), mapping=fresh)
            if after != before:
                pipe.delete(key(tenant, "person", before))
                pipe.zadd(key(tenant, "people"), {after: 0})
                pipe.zrem(key(tenant, "people"), before)
            return Changed(before, None if after == before else after, Person(identity, templates))

        return await self._write(tenant, before, change, other=after, once=after != before)

    def _sealed_identity(self, tenant: str, pseudonym: str, identity: Identity) -> bytes:
        return self._keyring.seal(identity.pack(), associated(tenant, pseudonym, "id"))

    async def person(self, tenant: str, person: str) -> Person:
        """A person with the templates, oldest first.

        Raises:
            RejectionError: `person_not_found`.
        """
        pseudonym = await self._pseudonym(tenant, normalize_person(person))
        stored = (await self._values.read(tenant, [pseudonym]))[pseudonym]
        if not stored:
            raise RejectionError("the gallery has no such person", "person_not_found")
        return Person(
            self._values.identity(tenant, pseudonym, stored), _by_age(self._values.templates(tenant, pseudonym, stored))
        )

    async def identify(self, tenant: str, model: str, embedding: NDArray[np.float32], k: int) -> Identification:
        """Find the k people most similar to a unit embedding (float32), each by their best template of this model.

        Templates of other models are counted, never compared. Every change committed before the call is seen.
        """
        async with self._reading.setdefault(tenant, asyncio.Lock()):
            for last in (False, False, True):
                index = await self._indexes.current(tenant)
                search = index.model_index(model)
                likeliest = await asyncio.to_thread(search.likeliest, embedding, k)
                people: dict[str, dict[bytes, bytes]] = {}
                for start in range(0, len(likeliest), CHUNK):
                    people |= await self._values.read(tenant, likeliest[start : start + CHUNK])
                if last or all(people.values()):  # otherwise someone was erased after the index was brought up to date
                    break
            matches = await asyncio.to_thread(self._compare, tenant, model, embedding, people)
            return Identification(matches[:k], search.people, len(search), index.templates - len(search))

    def _compare(
        self, tenant: str, model: str, embedding: NDArray[np.float32], people: Mapping[str, dict[bytes, bytes]]
    ) -> list[Match]:
        """Everyone's best template of a model, the most similar person first."""
        found = []
        for pseudonym, stored in people.items():
            own = [item for item in self._values.templates(tenant, pseudonym, stored) if item.model == model]
            if own:
                scores = np.stack([item.embedding for item in own]) @ embedding.astype(np.float32)
                first = int(np.argmax(scores))
                found.append((-float(np.clip(scores[first], -1.0, 1.0)), pseudonym, own[first]))
        found.sort(key=lambda one: one[:2])
        return [
            Match(self._values.identity(tenant, pseudonym, people[pseudonym]).person, best.id, -score, best.quality)
            for score, pseudonym, best in found
        ]

    async def reseal(self, tenant: str) -> int:
        """Seal again, with the active key, every value that an older key sealed, and return their number."""
        await self._index_secret()  # reading it seals it again
        count, after = 0, ""
        while page := await self._values.names(tenant, after, CHUNK):
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
                bound = associated(tenant, pseudonym, name.decode())
                fresh[name] = self._keyring.seal(self._values.open(value, bound), bound)
        pipe.multi()
        if fresh:
            pipe.hset(key(tenant, "person", pseudonym), mapping=fresh)
        return len(fresh)

    async def _write(
        self,
        tenant: str,
        pseudonym: str,
        change: Callable[[Any, dict[bytes, bytes]], Awaitable[T]],
        *,
        watch_people: bool = False,
        once: bool = False,
        other: str | None = None,
    ) -> T:
        """Change a person and append to the change log in one transaction; repeated if another replica changed it meanwhile.

        `other`: the pseudonym of another person who may change, too.
        """
        changing = {pseudonym: None} | ({other: None} if other else {})  # in this order, once each
        watched = [key(tenant, "person", name) for name in changing] + ([key(tenant, "people")] if watch_people else [])

        async def attempt(redis: Redis) -> T | RejectionError:
            async with redis.pipeline(transaction=True) as pipe:
                await pipe.watch(*watched)
                try:
                    result = await change(pipe, cast(dict[bytes, bytes], await pipe.hgetall(watched[0])))
                except RejectionError as error:
                    return error
                if len(pipe):
                    for name in changing:
                        pipe.xadd(key(tenant, "changes"), {"p": name}, maxlen=_LOG_ENTRIES, approximate=True)
                        pipe.set(key(tenant, "block", blocks.prefix_of(name)), blocks.EMPTY, ex=blocks.EMPTY_S)
                    await pipe.execute()
                return result

        async with self._writing:
            for number in range(_TRIES):
                try:
                    outcome = await self._values.run("change", attempt, once=once)
                except WatchError:
                    await asyncio.sleep(secrets.randbelow(1 + number) / 1000)
                    continue
                if isinstance(outcome, RejectionError):
                    raise outcome
                return cast(T, outcome)
        raise self._values.unavailable("other replicas kept changing the same person")

    async def _pseudonym(self, tenant: str, person: str) -> str:
        return hmac.digest(await self._index_secret(), f"{tenant}\0{person}".encode(), "sha256").hex()[:32]

    async def _index_secret(self) -> bytes:
        """The key of the pseudonyms: random, since a key derived from the encryption keys would change with them.

        It is created on first use and read every time, since Redis may have been flushed or restored, and another replica
        may have created a new one.
        """
        name, bound = PREFIX + "secret", b"index secret"
        stored = await self._values.run("look-up", lambda redis: redis.get(name))
        if stored is None:
            sealed = self._keyring.seal(secrets.token_bytes(32), bound)
            await self._values.run("first use", lambda redis: redis.set(name, sealed, nx=True))
            stored = await self._values.run("look-up", lambda redis: redis.get(name))
        secret = self._values.open(stored or b"", bound)
        if self._keyring.is_stale(stored):  # every replica writes the same secret, in any order
            resealed = self._keyring.seal(secret, bound)
            await self._values.run("rotation", lambda redis: redis.set(name, resealed, xx=True))
        return secret


def _by_age(templates: Iterable[Template]) -> list[Template]:
    return sorted(templates, key=lambda template: (template.created_at, template.id))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

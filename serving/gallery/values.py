"""The gallery's sealed values in Redis: names of keys, calls that fail with one sentence, and what is read from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from redis.asyncio import Redis

from eolgul.serving.gallery.templates import Identity, Template, unpack
from eolgul.serving.keyring import Keyring
from eolgul.serving.problems import RejectionError
from eolgul.serving.redis_link import RedisLink, Unreachable

logger = logging.getLogger("eolgul.gallery")
PREFIX = "eolgul:gallery:1:"
CHUNK = 100  # people read together: at most 2,000 templates, about 5 MB


def key(tenant: str, *parts: str) -> str:
    """The name of a key of a tenant."""
    return PREFIX + ":".join(("{" + quote(tenant, safe="") + "}", *parts))


def associated(tenant: str, pseudonym: str, name: str) -> bytes:
    """What a value is authenticated with, so that it cannot be put in the place of another."""
    return f"gallery\0{tenant}\0{pseudonym}\0{name}".encode()


class Values:
    """Reads what a gallery's Redis holds; raises RejectionError `gallery_unavailable` for anything that cannot be read."""

    def __init__(self, link: RedisLink, keyring: Keyring) -> None:
        """`keyring` opens the values of the Redis of `link`."""
        self.link, self.keyring = link, keyring

    async def run(self, what: str, call: Callable[[Redis], Any], *, once: bool = False) -> Any:
        """Make a call; `what` and `once` are as `RedisLink.run` takes them."""
        value = await self.link.run(what, call, once=once)
        if isinstance(value, Unreachable):
            raise RejectionError("the gallery cannot be reached; try again in a moment", "gallery_unavailable")
        return value

    def unavailable(self, reason: str) -> RejectionError:
        """Log a reason that the gallery cannot answer, and return the error."""
        self.link.log(f"gallery: {reason}", reason)
        return RejectionError(f"the gallery cannot answer: {reason}", "gallery_unavailable")

    def open(self, value: bytes, bound: bytes) -> bytes:
        """Open a sealed value."""
        plaintext = self.keyring.open(value, bound)
        if plaintext is None:
            raise self.unavailable("a value is damaged, or sealed with a key that is not in the file of keys")
        return plaintext

    async def names(self, tenant: str, after: str, limit: int) -> list[str]:
        """At most `limit` pseudonyms in order, after one of them or from the first on."""
        start = f"({after}" if after else "-"
        people = key(tenant, "people")
        names = await self.run("list of people", lambda redis: redis.zrangebylex(people, start, "+", 0, limit))
        return [name.decode() for name in names]

    async def read(self, tenant: str, pseudonyms: Sequence[str]) -> dict[str, dict[bytes, bytes]]:
        """The sealed values of people; empty for those who are not there."""

        async def read(redis: Redis) -> list[Any]:
            async with redis.pipeline(transaction=False) as pipe:
                for pseudonym in pseudonyms:
                    pipe.hgetall(key(tenant, "person", pseudonym))
                return await pipe.execute()

        if not pseudonyms:
            return {}
        return dict(zip(pseudonyms, await self.run("look-up", read), strict=True))

    async def read_identities(self, tenant: str, pseudonyms: Sequence[str]) -> dict[str, dict[bytes, bytes]]:
        """As `read`, without the templates."""

        async def read(redis: Redis) -> list[Any]:
            async with redis.pipeline(transaction=False) as pipe:
                for pseudonym in pseudonyms:
                    pipe.hget(key(tenant, "person", pseudonym), "id")
                return await pipe.execute()

        found = zip(pseudonyms, await self.run("look-up", read), strict=True) if pseudonyms else ()
        return {pseudonym: {b"id": value} for pseudonym, value in found if value is not None}

    def identity(self, tenant: str, pseudonym: str, stored: Mapping[bytes, bytes]) -> Identity:
        """Who a person is."""
        return Identity.unpack(self.open(stored.get(b"id", b""), associated(tenant, pseudonym, "id")))

    def templates(self, tenant: str, pseudonym: str, stored: Mapping[bytes, bytes]) -> Iterable[Template]:
        """A person's templates."""
        for name, value in stored.items():
            if name != b"id":
                yield unpack(self.open(value, associated(tenant, pseudonym, name.decode("ascii", "replace"))))

    def images(self, tenant: str, pseudonym: str, stored: Mapping[bytes, bytes]) -> tuple[list[str], int]:
        """The SHA-256 of the templates' images, and the number of templates whose image is unknown."""
        images, unknown = set(), 0
        for name, value in stored.items():
            try:
                images |= {template.image for template in self.templates(tenant, pseudonym, {name: value})}
            except RejectionError:
                unknown += 1
                logger.warning(
                    "a template that cannot be decrypted is erased; its image stays in the cache until its time to live ends"
                )
        return sorted(images), unknown

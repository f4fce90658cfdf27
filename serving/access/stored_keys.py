"""API keys that were made over HTTP, sealed in the gallery's Redis.

Not in the file of keys: where several replicas run, that is a Secret which no pod may write, and one replica's change must reach
the others. The gallery's Redis keeps its data and is shared already. The file goes first: whoever may write it decides who has the scope
`admin`, and no key that was made over HTTP has it, so that a stolen admin key ends with its entry in the file.

One hash, `eolgul:gallery:1:keys`: key id → the sealed entry, which holds the hash of the key and not the key.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from pydantic import ValidationError

from eolgul.serving.access.keys import ApiKey, ApiKeys
from eolgul.serving.gallery.values import PREFIX, Values
from eolgul.serving.keyring import Keyring
from eolgul.serving.problems import RejectionError
from eolgul.serving.redis_link import RedisLink

logger = logging.getLogger("eolgul.keys")
MOST = 100  # keys of one tenant
FOLLOW_S = 2.0  # between two reads
WITHIN_S = 5.0  # in which every worker follows a change: a read, the wait for it, and a busy processor
_NAME = PREFIX + "keys"


class StoredKeys:
    """Adds, removes and follows the keys. RejectionError `gallery_unavailable` if Redis cannot be reached."""

    def __init__(self, link: RedisLink, keyring: Keyring) -> None:
        """`keyring` seals and opens the entries in the Redis of `link`."""
        self._values, self._keyring = Values(link, keyring), keyring

    async def read(self) -> dict[str, ApiKey]:
        """Every key by its id. An entry that cannot be opened is left out, and the log says so."""
        found = {}
        for key_id, value in (await self.sealed()).items():
            body = self._keyring.open(value, _bound(key_id))
            try:
                key = ApiKey.model_validate_json(body or b"")
            except ValidationError:
                self._values.link.log("keys: an entry made over HTTP cannot be opened and is left out", "key entry")
                continue
            if key.id == key_id:
                found[key_id] = key
        return found

    async def add(self, key: ApiKey) -> None:
        """Add a key. RejectionError `keys_full` if its tenant has the most already."""
        if sum(other.tenant == key.tenant for other in (await self.read()).values()) >= MOST:
            raise RejectionError(f"a tenant has at most {MOST} keys that were made over HTTP; revoke some", "keys_full")
        sealed = self._keyring.seal(key.model_dump_json().encode(), _bound(key.id))
        await self._values.run("store of an API key", lambda redis: redis.hset(_NAME, key.id, sealed))

    async def remove(self, tenant: str, key_id: str) -> ApiKey:
        """Remove a tenant's key. RejectionError `key_not_found` if the tenant has no such key."""
        key = (await self.read()).get(key_id)
        if key is None or key.tenant != tenant:
            raise RejectionError("there is no such API key", "key_not_found")
        await self._values.run("removal of an API key", lambda redis: redis.hdel(_NAME, key_id))
        return key

    async def sealed(self) -> dict[str, bytes]:
        """Every entry as it is stored, by the key's id."""
        stored = await self._values.run("read of the API keys", lambda redis: redis.hgetall(_NAME))
        return {name.decode("ascii", "replace"): value for name, value in stored.items()}

    async def put_back(self, entries: dict[str, bytes]) -> None:
        """Store entries as `sealed` gave them; an entry that is there stays."""
        there = await self.sealed()
        missing: dict[Any, Any] = {key_id: value for key_id, value in entries.items() if key_id not in there}
        if missing:
            await self._values.run("store of the API keys", lambda redis: redis.hset(_NAME, mapping=missing))

    async def reseal(self) -> int:
        """Seal again, with the active key, every entry that an older key sealed, and return their number."""
        stale = {name: value for name, value in (await self.sealed()).items() if self._keyring.is_stale(value)}
        for key_id, value in stale.items():
            sealed = self._keyring.seal(self._values.open(value, _bound(key_id)), _bound(key_id))
            await self._values.run("rotation", lambda redis, name=key_id, new=sealed: redis.hset(_NAME, name, new))  # type: ignore[misc]
        return len(stale)

    async def follow(self, keys: ApiKeys) -> None:
        """Tell `keys` of the stored ones, again and again. While Redis cannot be reached they stay as they are."""
        while True:
            try:
                keys.stored = await self.read()
            except RejectionError as error:
                self._values.link.log(f"the API keys made over HTTP stay as they were: {error}", "keys")
            await asyncio.sleep(FOLLOW_S)


def _bound(key_id: str) -> bytes:
    """What an entry is authenticated with."""
    return f"api key\0{key_id}".encode()

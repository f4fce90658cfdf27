"""Back a gallery up and restore it. Values stay sealed: a backup opens only with the file of encryption keys of its time.

A backup is lines of JSON: what it is, with the sealed secret of the pseudonyms and the API keys made over HTTP; one line per person;
and the counts, so that a backup that was cut off is noticed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from redis.asyncio import Redis

from eolgul.errors import InputError
from eolgul.files import atomic_file
from eolgul.serving.access.stored_keys import StoredKeys
from eolgul.serving.gallery import blocks
from eolgul.serving.gallery.reseal import keyring_of, tenants_of
from eolgul.serving.gallery.values import CHUNK, PREFIX, Values, associated, key
from eolgul.serving.redis_link import RedisLink
from eolgul.serving.settings import Settings

FORMAT = 1
_SECRET, _BOUND = PREFIX + "secret", b"index secret"
T = TypeVar("T")


def backup(settings: Settings, out: Path, tenants: Iterable[str] = ()) -> dict[str, int]:
    """Write all people of these tenants to a file; services may run meanwhile.

    Args:
        settings: Name the gallery and its file of keys.
        out: The file, readable by its owner alone; it exists only once it is whole.
        tenants: By default those that have an API key.

    Returns:
        The number of people, of templates, and of values that the file of keys does not open.

    Raises:
        InputError: The gallery, a file or a key is missing.
    """

    async def run(values: Values) -> dict[str, int]:
        keys = StoredKeys(values.link, values.keyring)
        names = await tenants_of(settings, tenants, keys)
        api_keys = {name: _text(value) for name, value in (await keys.sealed()).items()}
        secret = await values.run("look-up", lambda redis: redis.get(_SECRET))
        if secret is None and not api_keys:
            raise InputError("the gallery is empty: nobody was ever enrolled")
        unreadable = int(secret is not None and values.keyring.open(secret, _BOUND) is None)
        people = templates = 0
        with atomic_file(out, mode=0o600, durable=True) as place, place.open("w", encoding="ascii") as file:
            made = datetime.now(UTC).isoformat(timespec="seconds")
            head = {"gallery": FORMAT, "made_at": made, "secret": secret and _text(secret), "tenants": names}
            _line(file, head | {"api_keys": api_keys})
            for tenant in names:
                after = ""
                while page := await values.names(tenant, after, CHUNK):
                    for pseudonym, stored in (await values.read(tenant, page)).items():
                        if not stored:
                            continue  # erased since the names were read
                        fields = {name.decode(): value for name, value in sorted(stored.items())}
                        unreadable += sum(
                            values.keyring.open(value, associated(tenant, pseudonym, name)) is None
                            for name, value in fields.items()
                        )
                        people, templates = people + 1, templates + len(fields) - ("id" in fields)
                        sealed = {name: _text(value) for name, value in fields.items()}
                        _line(file, {"tenant": tenant, "pseudonym": pseudonym, "values": sealed})
                    after = page[-1]
            _line(file, {"people": people, "templates": templates})
        return {"people": people, "templates": templates, "unreadable": unreadable}

    return _with_gallery(settings, run)


def restore(settings: Settings, source: Path) -> dict[str, int]:
    """Put the people of a backup into a gallery that has nobody else, and its API keys; a run that was interrupted is started again.

    Args:
        settings: Name the gallery and its file of keys.
        source: What `backup` wrote.

    Returns:
        The number of people and of templates, as counted in the gallery afterwards.

    Raises:
        InputError: The file is not whole, its keys are missing, or the gallery has other people or another secret.
    """
    head, people = _read(source)  # all of it, before anything is written

    async def run(values: Values) -> dict[str, int]:
        if head["secret"] is not None:  # there are only API keys where nobody was ever enrolled
            sealed = base64.b64decode(head["secret"])
            secret = values.keyring.open(sealed, _BOUND)
            if secret is None:
                raise InputError(f"{source}: sealed with a key that is not in {settings.encryption_keys_file}")
            await values.run("restore", lambda redis: redis.set(_SECRET, sealed, nx=True))
            there = await values.run("look-up", lambda redis: redis.get(_SECRET))
            if values.keyring.open(there or b"", _BOUND) != secret:
                raise InputError("the gallery has people of its own (another secret): restore into an empty Redis")
        for tenant in head["tenants"]:
            known = {pseudonym for owner, pseudonym, _ in people if owner == tenant}
            if others := [name for name in await _names(values, tenant) if name not in known]:
                raise InputError(
                    f"{len(others)} people of tenant {tenant} are not in {source}: restore into an empty Redis"
                )
        await StoredKeys(values.link, values.keyring).put_back(dict(_values(head["api_keys"])))
        for tenant, pseudonym, fields in people:
            await values.run("restore", _put(tenant, pseudonym, fields))
        counts = {"people": 0, "templates": 0}
        for tenant in head["tenants"]:
            names = await _names(values, tenant)
            for start in range(0, len(names), CHUNK):
                for stored in (await values.read(tenant, names[start : start + CHUNK])).values():
                    counts["people"] += 1
                    counts["templates"] += len(stored.keys() - {b"id"})
        return counts

    return _with_gallery(settings, run)


def _put(tenant: str, pseudonym: str, fields: dict[str, bytes]) -> Callable[[Redis], Awaitable[Any]]:
    async def put(redis: Redis) -> None:
        mapping: dict[Any, Any] = {**fields}
        async with redis.pipeline(transaction=True) as pipe:
            pipe.hset(key(tenant, "person", pseudonym), mapping=mapping)
            pipe.zadd(key(tenant, "people"), {pseudonym: 0})
            # As every change does: services that run learn of it, and blocks are read anew.
            pipe.xadd(key(tenant, "changes"), {"p": pseudonym}, maxlen=10_000, approximate=True)
            pipe.set(key(tenant, "block", blocks.prefix_of(pseudonym)), blocks.EMPTY, ex=blocks.EMPTY_S)
            await pipe.execute()

    return put


async def _names(values: Values, tenant: str) -> list[str]:
    found: list[str] = []
    while page := await values.names(tenant, found[-1] if found else "", CHUNK):
        found += page
    return found


def _read(source: Path) -> tuple[dict[str, Any], list[tuple[str, str, dict[str, bytes]]]]:
    """The head and the people (tenant, pseudonym, sealed values) of a backup that is whole."""
    try:
        lines = source.read_text(encoding="ascii").splitlines()
        head, *entries, counts = (json.loads(line) for line in lines)
        if head["gallery"] != FORMAT:
            raise InputError(f"{source}: a backup of format {head['gallery']}, expected {FORMAT}")
        people = [(one["tenant"], one["pseudonym"], dict(_values(one["values"]))) for one in entries]
        dict(_values(head["api_keys"]))
        templates = sum(len(fields.keys() - {"id"}) for _, _, fields in people)
        if (counts["people"], counts["templates"]) != (len(people), templates):
            raise InputError(
                f"{source}: {len(people)} people and {templates} templates, but its last line says {counts}"
            )
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source}: not a whole backup of a gallery, which ends with its counts") from error
    return head, people


def _values(sealed: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    for name, text in sealed.items():
        yield name, base64.b64decode(text, validate=True)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _line(file: IO[str], facts: dict[str, Any]) -> None:
    file.write(json.dumps(facts) + "\n")


def _with_gallery(settings: Settings, run: Callable[[Values], Awaitable[T]]) -> T:
    keyring = keyring_of(settings)

    async def go() -> T:
        link = RedisLink.from_settings(settings, settings.gallery_url, "gallery", settings.gallery_timeout_s)
        try:
            return await run(Values(link, keyring))
        finally:
            await link.close()

    return asyncio.run(go())

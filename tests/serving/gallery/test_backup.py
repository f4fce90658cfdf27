"""A gallery is backed up sealed, destroyed, restored, and counted."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import redis
from support.serving import RedisServer

from eolgul.errors import InputError
from eolgul.serving.access.keys import make_key, new_key
from eolgul.serving.access.stored_keys import StoredKeys
from eolgul.serving.gallery.backup import backup, restore
from eolgul.serving.gallery.reseal import reseal
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import NewTemplate
from eolgul.serving.keyring import Keyring, add_key
from eolgul.serving.redis_link import RedisLink
from eolgul.serving.settings import Settings

T = TypeVar("T")
PEOPLE = 130  # more than are read at once


def embedding(number: int) -> np.ndarray:
    vector = np.random.default_rng(number).normal(size=64).astype(np.float32)
    return vector / np.linalg.norm(vector)


def template(number: int) -> NewTemplate:
    image = hashlib.sha256(str(number).encode()).hexdigest()
    return NewTemplate("m" * 64, "c" * 64, embedding(number), image, {"sharpness": 1.0})


class World:
    """A gallery in a Redis, with its files of keys."""

    def __init__(self, url: str, folder: Path) -> None:
        self.store: Any = redis.Redis.from_url(url)
        self.store.flushdb()
        add_key(folder / "ring", "first")
        for tenant in ("one", "two"):
            new_key(folder / "keys.json", tenant=tenant, scopes=("verify",))
        self.settings = Settings(
            gallery_url=url,
            encryption_keys_file=folder / "ring",
            api_keys_file=folder / "keys.json",
            gallery_timeout_s=10,
            model=folder,
        )

    def ask(self, call: Callable[[Gallery], Awaitable[T]]) -> T:
        async def run() -> T:
            assert self.settings.encryption_keys_file is not None
            link = RedisLink.from_settings(self.settings, self.settings.gallery_url, "gallery", 10)
            gallery = Gallery(link, Keyring.read(self.settings.encryption_keys_file))
            try:
                return await call(gallery)
            finally:
                await gallery.close()

        return asyncio.run(run())

    def enroll(self) -> None:
        async def enroll(gallery: Gallery) -> None:
            for number in range(PEOPLE):
                await gallery.enroll("one", f"person {number}", [template(number), template(1000 + number)])
            await gallery.enroll("two", "김유신", [template(5000)])

        self.ask(enroll)

    def found(self, number: int) -> str:
        identified = self.ask(lambda gallery: gallery.identify("one", "m" * 64, embedding(number), 1))
        assert identified.people == PEOPLE
        return identified.matches[0].person


@pytest.fixture
def world(redis_server: RedisServer, tmp_path: Path) -> World:
    return World(redis_server.url.removesuffix("/0") + "/12", tmp_path)


COUNTS = {"people": PEOPLE + 1, "templates": 2 * PEOPLE + 1}


def test_destroyed_restored_and_counted(world: World, tmp_path: Path) -> None:
    world.enroll()
    file = tmp_path / "backup"
    assert backup(world.settings, file) == COUNTS | {"unreadable": 0}
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "person 7" not in text and "\\uae40" not in text and hashlib.sha256(b"7").hexdigest() not in text
    world.store.flushdb()
    assert restore(world.settings, file) == COUNTS
    assert [world.found(number) for number in (0, 7, 1129)] == ["person 0", "person 7", "person 129"]
    assert restore(world.settings, file) == COUNTS  # once more changes nothing: an interrupted one may be repeated
    other = tmp_path / "again"
    backup(world.settings, other)
    assert sorted(other.read_text().splitlines()[1:]) == sorted(text.splitlines()[1:])


def test_keys_made_over_http_come_back_and_name_their_tenants(world: World, tmp_path: Path) -> None:
    """A tenant whose key of the file is gone has people all the same."""
    _, key = make_key(tenant="three", scopes=("verify",), expires=None, requests_per_minute=None, note="kiosk")

    async def stored(call: Callable[[StoredKeys], Awaitable[T]]) -> T:
        assert world.settings.encryption_keys_file is not None
        link = RedisLink.from_settings(world.settings, world.settings.gallery_url, "gallery", 10)
        try:
            return await call(StoredKeys(link, Keyring.read(world.settings.encryption_keys_file)))
        finally:
            await link.close()

    file = tmp_path / "backup"
    asyncio.run(stored(lambda keys: keys.add(key)))
    assert backup(world.settings, file) == {"people": 0, "templates": 0, "unreadable": 0}  # nobody was ever enrolled
    world.store.flushdb()
    assert restore(world.settings, file) == {"people": 0, "templates": 0}
    world.ask(lambda gallery: gallery.enroll("three", "kim", [template(1)]))
    assert backup(world.settings, file) == {"people": 1, "templates": 1, "unreadable": 0}
    assert reseal(world.settings)[1] == {"one": 0, "two": 0, "three": 0}
    world.store.flushdb()
    assert restore(world.settings, file) == {"people": 1, "templates": 1}
    assert asyncio.run(stored(lambda keys: keys.read())) == {key.id: key}


def test_a_restore_seen_by_a_service_that_runs(world: World, tmp_path: Path) -> None:
    """Its index is in memory: the change log tells it of what came back."""
    world.enroll()
    backup(world.settings, tmp_path / "backup")

    async def erase_and_restore(gallery: Gallery) -> list[int]:
        for number in range(3):
            await gallery.delete_person("one", f"person {number}")
        before = (await gallery.identify("one", "m" * 64, embedding(1), 1)).people
        await asyncio.to_thread(restore, world.settings, tmp_path / "backup")
        found = await gallery.identify("one", "m" * 64, embedding(1), 1)
        assert found.matches[0].person == "person 1"
        return [before, found.people]

    assert world.ask(erase_and_restore) == [PEOPLE - 3, PEOPLE]


def test_without_its_keys_a_backup_opens_nothing(world: World, tmp_path: Path) -> None:
    world.enroll()
    file = tmp_path / "backup"
    backup(world.settings, file)
    ring = tmp_path / "ring"
    kept = ring.read_text()
    add_key(ring, "second")
    assert backup(world.settings, tmp_path / "later")["unreadable"] == 0  # both keys are there
    world.ask(lambda gallery: gallery.reseal("one"))
    world.ask(lambda gallery: gallery.reseal("two"))
    ring.write_text(ring.read_text().splitlines()[0] + "\n")
    assert backup(world.settings, tmp_path / "later")["unreadable"] == 0
    world.store.flushdb()
    with pytest.raises(InputError, match="sealed with a key that is not in"):
        restore(world.settings, file)
    assert world.store.dbsize() == 0
    ring.write_text(kept)  # the keys of before open the backup of before
    assert restore(world.settings, file) == COUNTS
    with pytest.raises(InputError, match="sealed with a key that is not in"):
        restore(world.settings, tmp_path / "later")


def test_a_gallery_with_people_of_its_own_is_refused(world: World, tmp_path: Path) -> None:
    world.enroll()
    file = tmp_path / "backup"
    backup(world.settings, file)
    world.ask(lambda gallery: gallery.enroll("two", "later", [template(1)]))
    with pytest.raises(InputError, match=r"1 people of tenant two are not in .*: restore into an empty Redis"):
        restore(world.settings, file)
    world.store.flushdb()
    world.ask(lambda gallery: gallery.enroll("two", "another", [template(1)]))
    with pytest.raises(InputError, match="another secret"):
        restore(world.settings, file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "not a whole backup"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "not a whole backup"),
        (lambda text: "\n".join(text.splitlines()[:1] + text.splitlines()[2:]), "but its last line says"),
        (lambda text: text.replace('"gallery": 1', '"gallery": 2', 1), "of format 2, expected 1"),
        (lambda text: "", "not a whole backup"),
    ],
)
def test_what_is_not_whole_changes_nothing(
    world: World, tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    world.ask(lambda gallery: gallery.enroll("two", "김유신", [template(1)]))
    world.ask(lambda gallery: gallery.enroll("two", "이순신", [template(2)]))
    file = tmp_path / "backup"
    backup(world.settings, file)
    world.store.flushdb()
    file.write_text(change(file.read_text()))
    with pytest.raises(InputError, match=words):
        restore(world.settings, file)
    assert world.store.dbsize() == 0

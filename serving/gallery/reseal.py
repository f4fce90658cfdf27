"""Rotating what the gallery is sealed with: every value again, with the active key of the file of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from eolgul.errors import InputError
from eolgul.serving.access.keys import read_keys
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink
from eolgul.serving.settings import Settings


def reseal(settings: Settings, tenants: Iterable[str] = ()) -> tuple[str, dict[str, int]]:
    """The active key's id, and for each tenant how many values older keys had sealed; 0 for all: older keys may go.

    Without `tenants`, those of the file of API keys: the gallery's Redis user may not list keys. Services may go on
    meanwhile, once they all have the new file. May be stopped and started again. InputError when the gallery, a file or
    a key is missing.
    """
    if not settings.gallery_url:
        raise InputError("set EOLGUL_GALLERY_URL, the gallery's Redis")
    if settings.encryption_keys_file is None:
        raise InputError("set EOLGUL_ENCRYPTION_KEYS_FILE, the keys that the gallery is sealed with")
    keyring = Keyring.read(settings.encryption_keys_file)
    wanted = sorted(set(tenants))
    if not wanted:
        if settings.api_keys_file is None:
            raise InputError("name the tenants, or set EOLGUL_API_KEYS_FILE for all that have an API key")
        wanted = sorted({key.tenant for key in read_keys(settings.api_keys_file)})

    async def run() -> dict[str, int]:
        gallery = Gallery(RedisLink.of(settings, settings.gallery_url, "gallery", settings.gallery_timeout_s), keyring)
        try:
            return {tenant: await gallery.reseal(tenant) for tenant in wanted}
        finally:
            await gallery.close()

    return keyring.active, asyncio.run(run())

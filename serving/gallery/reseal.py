"""Rotate the encryption key of a gallery: seal every value again with the active key of the file of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from eolgul.errors import InputError
from eolgul.serving.access.keys import read_keys
from eolgul.serving.access.stored_keys import StoredKeys
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink
from eolgul.serving.settings import Settings

_KEYS = "API keys"  # no tenant's name: those have no space


def keyring_of(settings: Settings) -> Keyring:
    """The keys of the gallery that the settings name; InputError if they name none."""
    if not settings.gallery_url:
        raise InputError("set EOLGUL_GALLERY_URL, the gallery's Redis")
    if settings.encryption_keys_file is None:
        raise InputError("set EOLGUL_ENCRYPTION_KEYS_FILE, the file of keys that encrypt the gallery")
    return Keyring.read(settings.encryption_keys_file)


async def tenants_of(settings: Settings, tenants: Iterable[str], stored: StoredKeys) -> list[str]:
    """The tenants, or else those that have an API key, in the file or made over HTTP; InputError if none is named."""
    names = sorted(set(tenants))
    if not names:
        if settings.api_keys_file is None:
            raise InputError("name the tenants, or set EOLGUL_API_KEYS_FILE for all tenants that have an API key")
        keys = [*read_keys(settings.api_keys_file), *(await stored.read()).values()]
        names = sorted({key.tenant for key in keys})
    return names


def reseal(settings: Settings, tenants: Iterable[str] = ()) -> tuple[str, dict[str, int]]:
    """Seal again every value that an older key sealed.

    Services may run meanwhile, once all of them have the new file of keys. An interrupted run can be started again.

    Args:
        settings: Name the gallery and its file of keys.
        tenants: The tenants; by default those that have an API key, since the gallery's Redis user may not list its keys.

    Returns:
        The id of the active key, and for each tenant the number of values sealed again; below `API keys` that of keys made
        over HTTP, if there were any. If a run returns 0 for every one, the older keys may be removed.

    Raises:
        InputError: The gallery, a file or a key is missing.
    """
    keyring = keyring_of(settings)

    async def run() -> dict[str, int]:
        link = RedisLink.from_settings(settings, settings.gallery_url, "gallery", settings.gallery_timeout_s)
        gallery, stored = Gallery(link, keyring), StoredKeys(link, keyring)
        try:
            names = await tenants_of(settings, tenants, stored)
            keys = await stored.reseal()
            return {tenant: await gallery.reseal(tenant) for tenant in names} | ({_KEYS: keys} if keys else {})
        finally:
            await gallery.close()

    return keyring.active, asyncio.run(run())

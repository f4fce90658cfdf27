"""The people of a gallery, listed page by page, searched for, and exported. Ids are sealed, so a search opens them one by one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from eolgul.serving.gallery.templates import Page, PersonEntry, Record
from eolgul.serving.gallery.values import CHUNK, Values, key
from eolgul.serving.problems import RejectionError

_SEARCHED, _SEARCH_CHUNK = 20_000, 1000  # people looked at for a page of a search, and read together


class Listing:
    """Reads a gallery; raises RejectionError `gallery_unavailable` rather than give a wrong or partial answer."""

    def __init__(self, values: Values) -> None:
        """`values`: what the gallery's Redis holds."""
        self._values = values

    async def people(
        self,
        tenant: str,
        *,
        model: str = "",
        after: str = "",
        limit: int = 100,
        matches: Callable[[str], bool] | None = None,
    ) -> Page:
        """List `limit` people in the order of their pseudonyms, starting after `after` (the `next` of a page).

        Each entry counts the templates that `model` made; a template that cannot be decrypted does not count.

        Args:
            tenant: Whose people.
            model: Digest of a model.
            after: Where to begin.
            limit: The most people of a page.
            matches: Whether a person's id is wanted. At most 20,000 are looked at for a page, which may then have fewer people.
        """
        if matches is None:
            page = await self._values.names(tenant, after, limit + 1)
            more, page = len(page) > limit, page[:limit]
            last = page[-1] if more else None
        else:
            page, last = await self._search(tenant, after, limit, matches)
        total = await self._values.run("count", lambda redis: redis.zcard(key(tenant, "people")))
        entries: list[PersonEntry] = []
        for start in range(0, len(page), CHUNK):
            chunk = await self._values.read(tenant, page[start : start + CHUNK])
            entries += await asyncio.to_thread(self._list_entries, tenant, chunk, model)
        return Page(entries, last, total)

    async def export(self, tenant: str) -> AsyncIterator[Record]:
        """Every template with its person; people enrolled or erased meanwhile may be included or not."""
        after = ""
        while page := await self._values.names(tenant, after, CHUNK):
            for pseudonym, stored in (await self._values.read(tenant, page)).items():
                if stored:
                    identity = self._values.identity(tenant, pseudonym, stored)
                    for template in self._values.templates(tenant, pseudonym, stored):
                        yield Record(identity.person, template, identity.metadata)
            after = page[-1]

    async def _search(
        self, tenant: str, after: str, limit: int, matches: Callable[[str], bool]
    ) -> tuple[list[str], str | None]:
        """The pseudonyms of people whose ids match, and where to go on; None at the end."""

        def wanted(chunk: Mapping[str, dict[bytes, bytes]]) -> list[str]:
            return [
                name for name, stored in chunk.items() if matches(self._values.identity(tenant, name, stored).person)
            ]

        found: list[str] = []
        for _ in range(_SEARCHED // _SEARCH_CHUNK):
            names = await self._values.names(tenant, after, _SEARCH_CHUNK)
            found += await asyncio.to_thread(wanted, await self._values.read_identities(tenant, names))
            if len(found) > limit:
                return found[:limit], found[limit - 1]
            if len(names) < _SEARCH_CHUNK:
                return found, None
            after = names[-1]
        return found, after

    def _list_entries(self, tenant: str, chunk: Mapping[str, dict[bytes, bytes]], model: str) -> list[PersonEntry]:
        entries = []
        for pseudonym, stored in chunk.items():
            if stored:  # otherwise erased since the names were read
                identity = self._values.identity(tenant, pseudonym, stored)
                comparable = 0
                for name, value in stored.items():
                    with contextlib.suppress(RejectionError):
                        comparable += sum(
                            template.model == model
                            for template in self._values.templates(tenant, pseudonym, {name: value})
                        )
                entries.append(
                    PersonEntry(identity.person, len(stored) - 1, comparable, identity.created_at, identity.metadata)
                )
        return entries

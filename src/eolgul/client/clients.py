"""The two clients: the same calls, one blocking and one for asyncio. Both keep connections; close them, or use `with`.

Every method raises EolgulError (what the service said, or that it cannot be reached) and InputError (an image file that
cannot be read, an id that none can be).
A deletion whose answer was lost is sent again, and may then say `person_not_found` although it worked.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Self, TypeVar

import anyio
import httpx
from pydantic import BaseModel
from tenacity import AsyncRetrying, Retrying

from eolgul.client import answers as a
from eolgul.client import calls
from eolgul.client.calls import Image
from eolgul.client.transport import Call, EolgulError, Retries, cut, parse
from eolgul.errors import InputError

A = TypeVar("A", bound=BaseModel)
_PAGE = 500  # people a page


def _options(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of httpx's clients. InputError for an address or a key that cannot be one."""
    try:
        address = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise InputError(f"{url}: no address of a service ({error})") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise InputError(f"{url}: expected the address of a service, http://… or https://…")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise InputError("the API key holds characters that no key has, expected eolgul_<key id>_<secret>")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": address, "headers": headers, "timeout": httpx.Timeout(timeout_s, connect=min(5.0, timeout_s))}


class Client:
    """A blocking client; threads may share one."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 30.0, retries: Retries | None = None
    ) -> None:
        """`timeout_s` bounds every wait for the service's next bytes, not the sum of all tries."""
        self._http = httpx.Client(**_options(url, api_key, timeout_s))
        self._retries = retries or Retries()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def verify(self, image1: Image, image2: Image) -> a.Verification:
        """Are these one person?"""
        return self._ask(calls.verify(image1, image2), a.Verification)

    def verify_many(self, image: Image, others: Sequence[Image]) -> a.ManyVerifications:
        """One image against up to 32 others; an unusable other gets a problem in its place."""
        return self._ask(calls.verify_many(image, others), a.ManyVerifications)

    def embed(self, image: Image) -> a.Embedding:
        """The unit-length embedding of the image's face."""
        return self._ask(calls.embed(image), a.Embedding)

    def detect(self, image: Image, *, crops: bool = False) -> a.Detections:
        """Every face in the image; with `crops`, each as the network sees it (112 x 112 PNG, base64)."""
        return self._ask(calls.detect(image, crops), a.Detections)

    def identify(self, image: Image, k: int = 5) -> a.Identification:
        """The `k` people of the gallery who are nearest."""
        return self._ask(calls.identify(image, k), a.Identification)

    def enroll(self, person: str, images: Sequence[Image]) -> a.Enrolment:
        """Add up to 10 images of a person to the gallery.

        It is tried again only when the service turned it away unread: if the connection is lost, ask `person` what is
        there."""
        return self._ask(calls.enroll(person, images), a.Enrolment)

    def people(self) -> Iterator[a.PersonSummary]:
        """Everyone in the gallery, asked for page by page."""
        after: str | None = None
        while True:
            page = self._ask(calls.people(after, _PAGE), a.PeoplePage)
            yield from page.people
            if (after := page.next) is None:
                return

    def person(self, person: str) -> a.Person:
        """One person's templates. EolgulError `person_not_found`."""
        return self._ask(calls.person(person), a.Person)

    def delete_person(self, person: str) -> a.Deletion:
        """Erase a person and what the service remembers of their images. EolgulError `person_not_found`."""
        return self._ask(calls.delete_person(person), a.Deletion)

    def delete_template(self, person: str, template: str) -> a.Deletion:
        """Erase one template of a person."""
        return self._ask(calls.delete_template(person, template), a.Deletion)

    def export(self) -> Iterator[dict[str, Any]]:
        """Every record of the gallery, embeddings included, as it arrives. Once it has begun it is not tried again."""
        response = self._retrying(calls.export())
        try:
            for line in response.iter_lines():
                if line:
                    yield _record(line, response)
        except httpx.RequestError as error:  # lost, or encoded as it should not be
            raise cut(error, response.url) from error
        finally:
            response.close()

    def current_model(self) -> a.CurrentModel:
        """The model that answers now."""
        return self._ask(calls.current_model(), a.CurrentModel)

    def ready(self) -> bool:
        """Whether the service takes requests now; False when it cannot be reached. Asked once."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.RequestError:
            return False

    def _ask(self, call: Call, kind: type[A]) -> A:
        response = self._retrying(call)
        try:
            response.read()
        except httpx.RequestError as error:  # lost, or encoded as it should not be
            raise cut(error, response.url) from error
        finally:
            response.close()
        return parse(response, kind)

    def _retrying(self, call: Call) -> httpx.Response:
        return Retrying(**self._retries.options())(self._send, call)

    def _send(self, call: Call) -> httpx.Response:
        """A good answer, its body not yet read; the caller closes it."""
        request = call.request(self._http)
        try:
            response = self._http.send(request, stream=True)
        except httpx.TransportError as error:
            raise call.lost(error, request.url) from error
        if response.is_success:
            return response
        try:
            response.read()
        except httpx.RequestError as error:  # lost, or encoded as it should not be
            raise cut(error, request.url) from error
        finally:
            response.close()
        raise call.refused(response)


class AsyncClient:
    """The same for asyncio; tasks may share one. Methods as in `Client`."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 30.0, retries: Retries | None = None
    ) -> None:
        self._http = httpx.AsyncClient(**_options(url, api_key, timeout_s))
        self._retries = retries or Retries()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def verify(self, image1: Image, image2: Image) -> a.Verification:
        return await self._ask(partial(calls.verify, image1, image2), a.Verification)

    async def verify_many(self, image: Image, others: Sequence[Image]) -> a.ManyVerifications:
        return await self._ask(partial(calls.verify_many, image, others), a.ManyVerifications)

    async def embed(self, image: Image) -> a.Embedding:
        return await self._ask(partial(calls.embed, image), a.Embedding)

    async def detect(self, image: Image, *, crops: bool = False) -> a.Detections:
        return await self._ask(partial(calls.detect, image, crops), a.Detections)

    async def identify(self, image: Image, k: int = 5) -> a.Identification:
        return await self._ask(partial(calls.identify, image, k), a.Identification)

    async def enroll(self, person: str, images: Sequence[Image]) -> a.Enrolment:
        return await self._ask(partial(calls.enroll, person, images), a.Enrolment)

    async def people(self) -> AsyncIterator[a.PersonSummary]:
        after: str | None = None
        while True:
            page = await self._ask(partial(calls.people, after, _PAGE), a.PeoplePage)
            for person in page.people:
                yield person
            if (after := page.next) is None:
                return

    async def person(self, person: str) -> a.Person:
        return await self._ask(partial(calls.person, person), a.Person)

    async def delete_person(self, person: str) -> a.Deletion:
        return await self._ask(partial(calls.delete_person, person), a.Deletion)

    async def delete_template(self, person: str, template: str) -> a.Deletion:
        return await self._ask(partial(calls.delete_template, person, template), a.Deletion)

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        response = await self._retrying(calls.export())
        try:
            async for line in response.aiter_lines():
                if line:
                    yield _record(line, response)
        except httpx.RequestError as error:  # lost, or encoded as it should not be
            raise cut(error, response.url) from error
        finally:
            await response.aclose()

    async def current_model(self) -> a.CurrentModel:
        return await self._ask(calls.current_model, a.CurrentModel)

    async def ready(self) -> bool:
        try:
            return (await self._http.get("/readyz")).is_success
        except httpx.RequestError:
            return False

    async def _ask(self, make: Callable[[], Call], kind: type[A]) -> A:
        response = await self._retrying(await anyio.to_thread.run_sync(make))  # a thread, since it may read files
        try:
            await response.aread()
        except httpx.RequestError as error:  # lost, or encoded as it should not be
            raise cut(error, response.url) from error
        finally:
            await response.aclose()
        return parse(response, kind)

    async def _retrying(self, call: Call) -> httpx.Response:
        return await AsyncRetrying(**self._retries.options())(self._send, call)

    async def _send(self, call: Call) -> httpx.Response:
        request = call.request(self._http)
        try:
            response = await self._http.send(request, stream=True)
        except httpx.TransportError as error:
            raise call.lost(error, request.url) from error
        if response.is_success:
            return response
        try:
            await response.aread()
        except httpx.RequestError as error:  # lost, or encoded as it should not be
            raise cut(error, request.url) from error
        finally:
            await response.aclose()
        raise call.refused(response)


def _record(line: str, response: httpx.Response) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise EolgulError("unexpected_answer", f"{response.url}: a line that is no JSON") from error
    if not isinstance(value, dict):
        raise EolgulError("unexpected_answer", f"{response.url}: a line that is no record")
    return value

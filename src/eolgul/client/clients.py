"""The two clients, with the same methods: one blocking, one for asyncio. Both keep connections; close them, or use `with`.

Every method may raise EolgulError (the service refuses or cannot be reached) and InputError (an image file cannot be read,
or an id is not valid). A deletion whose answer is lost is sent again, and may then raise `person_not_found` although it
succeeded.
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

from eolgul.client import answers, calls
from eolgul.client.calls import Image
from eolgul.client.transport import ApiRequest, EolgulError, Retries, broken_off, parse
from eolgul.errors import InputError, one_line

A = TypeVar("A", bound=BaseModel)
_PAGE = 500  # people per page


def _options(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of httpx's clients. InputError if the address or the key is not valid."""
    try:
        address = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise InputError(
            f"{url}: not an address of a service ({one_line(error)}), expected http://… or https://…"
        ) from error
    if address.scheme not in ("http", "https") or not address.host:
        raise InputError(f"{url}: expected the address of a service, http://… or https://…")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise InputError("the API key has characters that no key has, expected eolgul_<key id>_<secret>")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": address, "headers": headers, "timeout": httpx.Timeout(timeout_s, connect=min(5.0, timeout_s))}


class Client:
    """A blocking client; threads may share one."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 30.0, retries: Retries | None = None
    ) -> None:
        """Prepare a client.

        Args:
            url: The address of the service, `http://…` or `https://…`.
            api_key: Sent with every request.
            timeout_s: Longest wait for the next bytes of the service, not for all attempts together.
            retries: When a request is tried again.

        Raises:
            InputError: The address or the key is not valid.
        """
        self._http = httpx.Client(**_options(url, api_key, timeout_s))
        self._retries = retries or Retries()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def verify(self, image1: Image, image2: Image) -> answers.VerifyAnswer:
        """Compare two images: do they show the same person?"""
        return self._request(calls.verify(image1, image2), answers.VerifyAnswer)

    def verify_many(self, image: Image, others: Sequence[Image]) -> answers.VerifyManyAnswer:
        """Compare one image with up to 32 others; an unusable one gets a problem as its result."""
        return self._request(calls.verify_many(image, others), answers.VerifyManyAnswer)

    def embed(self, image: Image) -> answers.EmbedAnswer:
        """The unit-length embedding of the image's face."""
        return self._request(calls.embed(image), answers.EmbedAnswer)

    def detect(self, image: Image, *, crops: bool = False) -> answers.DetectAnswer:
        """Every face in the image; with `crops`, each as the network sees it (112 x 112 PNG, base64)."""
        return self._request(calls.detect(image, crops), answers.DetectAnswer)

    def identify(self, image: Image, k: int = 5) -> answers.IdentifyAnswer:
        """The `k` people of the gallery who are most similar."""
        return self._request(calls.identify(image, k), answers.IdentifyAnswer)

    def enroll(self, person: str, images: Sequence[Image], *, any_quality: bool = False) -> answers.EnrollAnswer:
        """Add up to 10 images of a person to the gallery.

        A photo that is too poor for a verdict is refused (`low_quality`, with `reasons`) unless `any_quality` is true.

        It is retried only if the service did not admit it. After a lost connection, call `person` to see what is stored.
        """
        return self._request(calls.enroll(person, images, any_quality), answers.EnrollAnswer)

    def people(self) -> Iterator[answers.PersonListed]:
        """All people in the gallery, requested page by page."""
        after: str | None = None
        while True:
            page = self._request(calls.people(after, _PAGE), answers.PeopleAnswer)
            yield from page.people
            if (after := page.next) is None:
                return

    def person(self, person: str) -> answers.PersonAnswer:
        """A person's templates. EolgulError `person_not_found` if there is no such person."""
        return self._request(calls.person(person), answers.PersonAnswer)

    def delete_person(self, person: str) -> answers.ErasedAnswer:
        """Erase a person and the cached embeddings of their images. EolgulError `person_not_found`."""
        return self._request(calls.delete_person(person), answers.ErasedAnswer)

    def delete_template(self, person: str, template: str) -> answers.ErasedAnswer:
        """Erase one template of a person."""
        return self._request(calls.delete_template(person, template), answers.ErasedAnswer)

    def export(self) -> Iterator[dict[str, Any]]:
        """Every template of the gallery with its embedding, as it arrives; not retried once it has begun."""
        response = self._send_retrying(calls.export())
        try:
            for line in response.iter_lines():
                if line:
                    yield _parse_line(line, response)
        except httpx.RequestError as error:  # the connection is lost, or the encoding is wrong
            raise broken_off(error, response.url) from error
        finally:
            response.close()

    def current_model(self) -> answers.CurrentModel:
        """The model that is served now."""
        return self._request(calls.current_model(), answers.CurrentModel)

    def ready(self) -> bool:
        """Whether the service accepts requests now; False if it cannot be reached. Not retried."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.RequestError:
            return False

    def _request(self, api_request: ApiRequest, shape: type[A]) -> A:
        response = self._send_retrying(api_request)
        try:
            response.read()
        except httpx.RequestError as error:  # the connection is lost, or the encoding is wrong
            raise broken_off(error, response.url) from error
        finally:
            response.close()
        return parse(response, shape)

    def _send_retrying(self, api_request: ApiRequest) -> httpx.Response:
        return Retrying(**self._retries.options())(self._send, api_request)

    def _send(self, api_request: ApiRequest) -> httpx.Response:
        """A successful response whose body is not read yet; the caller closes it."""
        request = api_request.build(self._http)
        try:
            response = self._http.send(request, stream=True)
        except httpx.TransportError as error:
            raise api_request.connection_error(error, request.url) from error
        if response.is_success:
            return response
        try:
            response.read()
        except httpx.RequestError as error:  # the connection is lost, or the encoding is wrong
            raise broken_off(error, request.url) from error
        finally:
            response.close()
        raise api_request.refusal(response)


class AsyncClient:
    """The client for asyncio; tasks may share one. See `Client` for the methods and arguments."""

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
        """As `Client.close`."""
        await self._http.aclose()

    async def verify(self, image1: Image, image2: Image) -> answers.VerifyAnswer:
        """As `Client.verify`."""
        return await self._request(partial(calls.verify, image1, image2), answers.VerifyAnswer)

    async def verify_many(self, image: Image, others: Sequence[Image]) -> answers.VerifyManyAnswer:
        """As `Client.verify_many`."""
        return await self._request(partial(calls.verify_many, image, others), answers.VerifyManyAnswer)

    async def embed(self, image: Image) -> answers.EmbedAnswer:
        """As `Client.embed`."""
        return await self._request(partial(calls.embed, image), answers.EmbedAnswer)

    async def detect(self, image: Image, *, crops: bool = False) -> answers.DetectAnswer:
        """As `Client.detect`."""
        return await self._request(partial(calls.detect, image, crops), answers.DetectAnswer)

    async def identify(self, image: Image, k: int = 5) -> answers.IdentifyAnswer:
        """As `Client.identify`."""
        return await self._request(partial(calls.identify, image, k), answers.IdentifyAnswer)

    async def enroll(self, person: str, images: Sequence[Image], *, any_quality: bool = False) -> answers.EnrollAnswer:
        """As `Client.enroll`."""
        return await self._request(partial(calls.enroll, person, images, any_quality), answers.EnrollAnswer)

    async def people(self) -> AsyncIterator[answers.PersonListed]:
        """As `Client.people`."""
        after: str | None = None
        while True:
            page = await self._request(partial(calls.people, after, _PAGE), answers.PeopleAnswer)
            for person in page.people:
                yield person
            if (after := page.next) is None:
                return

    async def person(self, person: str) -> answers.PersonAnswer:
        """As `Client.person`."""
        return await self._request(partial(calls.person, person), answers.PersonAnswer)

    async def delete_person(self, person: str) -> answers.ErasedAnswer:
        """As `Client.delete_person`."""
        return await self._request(partial(calls.delete_person, person), answers.ErasedAnswer)

    async def delete_template(self, person: str, template: str) -> answers.ErasedAnswer:
        """As `Client.delete_template`."""
        return await self._request(partial(calls.delete_template, person, template), answers.ErasedAnswer)

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """As `Client.export`."""
        response = await self._send_retrying(calls.export())
        try:
            async for line in response.aiter_lines():
                if line:
                    yield _parse_line(line, response)
        except httpx.RequestError as error:  # the connection is lost, or the encoding is wrong
            raise broken_off(error, response.url) from error
        finally:
            await response.aclose()

    async def current_model(self) -> answers.CurrentModel:
        """As `Client.current_model`."""
        return await self._request(calls.current_model, answers.CurrentModel)

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            return (await self._http.get("/readyz")).is_success
        except httpx.RequestError:
            return False

    async def _request(self, build: Callable[[], ApiRequest], shape: type[A]) -> A:
        response = await self._send_retrying(
            await anyio.to_thread.run_sync(build)
        )  # in a thread, since it may read files
        try:
            await response.aread()
        except httpx.RequestError as error:  # the connection is lost, or the encoding is wrong
            raise broken_off(error, response.url) from error
        finally:
            await response.aclose()
        return parse(response, shape)

    async def _send_retrying(self, api_request: ApiRequest) -> httpx.Response:
        return await AsyncRetrying(**self._retries.options())(self._send, api_request)

    async def _send(self, api_request: ApiRequest) -> httpx.Response:
        request = api_request.build(self._http)
        try:
            response = await self._http.send(request, stream=True)
        except httpx.TransportError as error:
            raise api_request.connection_error(error, request.url) from error
        if response.is_success:
            return response
        try:
            await response.aread()
        except httpx.RequestError as error:  # the connection is lost, or the encoding is wrong
            raise broken_off(error, request.url) from error
        finally:
            await response.aclose()
        raise api_request.refusal(response)


def _parse_line(line: str, response: httpx.Response) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise EolgulError("unexpected_answer", f"{response.url}: a line is not JSON") from error
    if not isinstance(value, dict):
        raise EolgulError("unexpected_answer", f"{response.url}: a line is not a JSON object")
    return value

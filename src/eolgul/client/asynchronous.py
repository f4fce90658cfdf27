"""The client for asyncio, with the methods of `eolgul.client.blocking`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Self, TypeVar

import anyio
import httpx
from pydantic import BaseModel
from tenacity import AsyncRetrying

from eolgul.client import answers, calls, gallery_answers
from eolgul.client.calls import Image, Known, OneFace, Which
from eolgul.client.transport import PAGE, ApiRequest, Retries, broken_off, options, parse, parse_line

A = TypeVar("A", bound=BaseModel)


class AsyncClient:
    """The client for asyncio; tasks may share one. See `Client` for the methods and arguments."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 30.0, retries: Retries | None = None
    ) -> None:
        self._http = httpx.AsyncClient(**options(url, api_key, timeout_s))
        self._retries = retries or Retries()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._http.aclose()

    async def verify(self, image1: Image, image2: Image, *, which: Which | None = None) -> answers.VerifyAnswer:
        """As `Client.verify`."""
        return await self._request(partial(calls.verify, image1, image2, which), answers.VerifyAnswer)

    async def verify_many(
        self, image: Image, others: Sequence[Image], *, which: OneFace | None = None
    ) -> answers.VerifyManyAnswer:
        """As `Client.verify_many`."""
        return await self._request(partial(calls.verify_many, image, others, which), answers.VerifyManyAnswer)

    async def verify_embedding(
        self, known: Known, other: Image | Known, *, model: str | None = None, which: OneFace | None = None
    ) -> answers.VerifyEmbeddingAnswer:
        """As `Client.verify_embedding`."""
        return await self._request(
            partial(calls.verify_embedding, known, other, model, which), answers.VerifyEmbeddingAnswer
        )

    async def verify_person(
        self, image: Image, person: str, *, template: str | None = None, which: OneFace | None = None
    ) -> answers.VerifyPersonAnswer:
        """As `Client.verify_person`."""
        return await self._request(
            partial(calls.verify_person, image, person, template, which), answers.VerifyPersonAnswer
        )

    async def embed(self, image: Image, *, which: Which | None = None) -> answers.EmbedAnswer:
        """As `Client.embed`."""
        return await self._request(partial(calls.embed, image, which), answers.EmbedAnswer)

    async def embed_many(self, images: Sequence[Image], *, which: OneFace | None = None) -> answers.EmbedManyAnswer:
        """As `Client.embed_many`."""
        return await self._request(partial(calls.embed_many, images, which), answers.EmbedManyAnswer)

    async def detect(self, image: Image, *, crops: bool = False) -> answers.DetectAnswer:
        """As `Client.detect`."""
        return await self._request(partial(calls.detect, image, crops), answers.DetectAnswer)

    async def identify(self, image: Image, k: int = 5, *, which: Which | None = None) -> gallery_answers.IdentifyAnswer:
        """As `Client.identify`."""
        return await self._request(partial(calls.identify, image, k, which), gallery_answers.IdentifyAnswer)

    async def enroll(
        self, person: str, images: Sequence[Image], *, any_quality: bool = False, which: OneFace | None = None
    ) -> gallery_answers.EnrollAnswer:
        """As `Client.enroll`."""
        return await self._request(
            partial(calls.enroll, person, images, any_quality, which), gallery_answers.EnrollAnswer
        )

    async def people(self, *, search: str = "", prefix: str = "") -> AsyncIterator[gallery_answers.PersonListed]:
        """As `Client.people`."""
        after: str | None = None
        while True:
            page = await self._request(partial(calls.people, after, PAGE, search, prefix), gallery_answers.PeopleAnswer)
            for person in page.people:
                yield person
            if (after := page.next) is None:
                return

    async def person(self, person: str) -> gallery_answers.PersonAnswer:
        """As `Client.person`."""
        return await self._request(partial(calls.person, person), gallery_answers.PersonAnswer)

    async def rename_person(self, person: str, new: str) -> gallery_answers.PersonAnswer:
        """As `Client.rename_person`."""
        return await self._request(partial(calls.update_person, person, new, None), gallery_answers.PersonAnswer)

    async def set_metadata(self, person: str, metadata: Mapping[str, str]) -> gallery_answers.PersonAnswer:
        """As `Client.set_metadata`."""
        return await self._request(partial(calls.update_person, person, None, metadata), gallery_answers.PersonAnswer)

    async def delete_person(self, person: str) -> gallery_answers.ErasedAnswer:
        """As `Client.delete_person`."""
        return await self._request(partial(calls.delete_person, person), gallery_answers.ErasedAnswer)

    async def delete_template(self, person: str, template: str) -> gallery_answers.ErasedAnswer:
        """As `Client.delete_template`."""
        return await self._request(partial(calls.delete_template, person, template), gallery_answers.ErasedAnswer)

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """As `Client.export`."""
        response = await self._send_retrying(calls.export())
        try:
            async for line in response.aiter_lines():
                if line:
                    yield parse_line(line, response)
        except httpx.RequestError as error:  # the connection is lost, or the encoding is wrong
            raise broken_off(error, response.url) from error
        finally:
            await response.aclose()

    async def api_keys(self) -> gallery_answers.KeysAnswer:
        """As `Client.api_keys`."""
        return await self._request(calls.api_keys, gallery_answers.KeysAnswer)

    async def make_api_key(
        self,
        scopes: Sequence[str],
        *,
        expires: datetime | None = None,
        requests_per_minute: int | None = None,
        note: str = "",
    ) -> gallery_answers.KeyMade:
        """As `Client.make_api_key`."""
        return await self._request(
            partial(calls.make_api_key, scopes, expires, requests_per_minute, note), gallery_answers.KeyMade
        )

    async def revoke_api_key(self, key_id: str) -> gallery_answers.KeyRevoked:
        """As `Client.revoke_api_key`."""
        return await self._request(partial(calls.revoke_api_key, key_id), gallery_answers.KeyRevoked)

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

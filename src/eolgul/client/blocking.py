"""The blocking client. It keeps connections; close it, or use `with`.

Every method may raise EolgulError (the service refuses or cannot be reached) and InputError (an image file cannot be read,
or an id is not valid). A deletion whose answer is lost is sent again, and may then raise `person_not_found` although it
succeeded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel
from tenacity import Retrying

from eolgul.client import answers, calls, gallery_answers
from eolgul.client.calls import Image, Known, OneFace, Which
from eolgul.client.transport import PAGE, ApiRequest, Retries, broken_off, options, parse, parse_line

A = TypeVar("A", bound=BaseModel)


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
        self._http = httpx.Client(**options(url, api_key, timeout_s))
        self._retries = retries or Retries()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def verify(self, image1: Image, image2: Image, *, which: Which | None = None) -> answers.VerifyAnswer:
        """Compare two images: do they show the same person?

        `which`: the face of several that counts, `largest`, `single` (several are refused) or `all` (the best pair, and every pair); by
        default as the model's policy says.
        """
        return self._request(calls.verify(image1, image2, which), answers.VerifyAnswer)

    def verify_many(
        self, image: Image, others: Sequence[Image], *, which: OneFace | None = None
    ) -> answers.VerifyManyAnswer:
        """Compare one image with up to 32 others; an unusable one gets a problem as its result."""
        return self._request(calls.verify_many(image, others, which), answers.VerifyManyAnswer)

    def verify_embedding(
        self, known: Known, other: Image | Known, *, model: str | None = None, which: OneFace | None = None
    ) -> answers.VerifyEmbeddingAnswer:
        """Compare an embedding that you kept with an image or with another embedding.

        Give what `embed` answered, or numbers with the digest of the `model` that made them: then nothing is known of the photo's
        quality, and the verdict is `undecided`.
        """
        return self._request(calls.verify_embedding(known, other, model, which), answers.VerifyEmbeddingAnswer)

    def verify_person(
        self, image: Image, person: str, *, template: str | None = None, which: OneFace | None = None
    ) -> answers.VerifyPersonAnswer:
        """Compare an image with a person of the gallery, or with one template of theirs."""
        return self._request(calls.verify_person(image, person, template, which), answers.VerifyPersonAnswer)

    def embed(self, image: Image, *, which: Which | None = None) -> answers.EmbedAnswer:
        """The unit-length embedding of the image's face; with `which="all"`, `faces` has that of every face."""
        return self._request(calls.embed(image, which), answers.EmbedAnswer)

    def embed_many(self, images: Sequence[Image], *, which: OneFace | None = None) -> answers.EmbedManyAnswer:
        """The embeddings of up to 32 images; an unusable one gets a problem as its result."""
        return self._request(calls.embed_many(images, which), answers.EmbedManyAnswer)

    def detect(self, image: Image, *, crops: bool = False) -> answers.DetectAnswer:
        """Every face in the image; with `crops`, each as the network sees it (112 x 112 PNG, base64)."""
        return self._request(calls.detect(image, crops), answers.DetectAnswer)

    def identify(self, image: Image, k: int = 5, *, which: Which | None = None) -> gallery_answers.IdentifyAnswer:
        """The `k` people of the gallery who are most similar; with `which="all"`, `faces` has those of every face."""
        return self._request(calls.identify(image, k, which), gallery_answers.IdentifyAnswer)

    def enroll(
        self, person: str, images: Sequence[Image], *, any_quality: bool = False, which: OneFace | None = None
    ) -> gallery_answers.EnrollAnswer:
        """Add up to 10 images of a person to the gallery.

        A photo that is too poor for a verdict is refused (`low_quality`, with `reasons`) unless `any_quality` is true.

        It is retried only if the service did not admit it. After a lost connection, call `person` to see what is stored.
        """
        return self._request(calls.enroll(person, images, any_quality, which), gallery_answers.EnrollAnswer)

    def people(self, *, search: str = "", prefix: str = "") -> Iterator[gallery_answers.PersonListed]:
        """All people in the gallery, or those whose id contains `search` and begins with `prefix`, requested page by page."""
        after: str | None = None
        while True:
            page = self._request(calls.people(after, PAGE, search, prefix), gallery_answers.PeopleAnswer)
            yield from page.people
            if (after := page.next) is None:
                return

    def person(self, person: str) -> gallery_answers.PersonAnswer:
        """A person's metadata and templates. EolgulError `person_not_found` if there is no such person."""
        return self._request(calls.person(person), gallery_answers.PersonAnswer)

    def rename_person(self, person: str, new: str) -> gallery_answers.PersonAnswer:
        """Rename a person, who keeps templates and metadata. EolgulError `person_exists` if there is one of the new name."""
        return self._request(calls.update_person(person, new, None), gallery_answers.PersonAnswer)

    def set_metadata(self, person: str, metadata: Mapping[str, str]) -> gallery_answers.PersonAnswer:
        """Replace a person's metadata: at most 16 texts, 4 kB together."""
        return self._request(calls.update_person(person, None, metadata), gallery_answers.PersonAnswer)

    def delete_person(self, person: str) -> gallery_answers.ErasedAnswer:
        """Erase a person and the cached embeddings of their images. EolgulError `person_not_found`."""
        return self._request(calls.delete_person(person), gallery_answers.ErasedAnswer)

    def delete_template(self, person: str, template: str) -> gallery_answers.ErasedAnswer:
        """Erase one template of a person."""
        return self._request(calls.delete_template(person, template), gallery_answers.ErasedAnswer)

    def export(self) -> Iterator[dict[str, Any]]:
        """Every template of the gallery with its embedding, as it arrives; not retried once it has begun."""
        response = self._send_retrying(calls.export())
        try:
            for line in response.iter_lines():
                if line:
                    yield parse_line(line, response)
        except httpx.RequestError as error:  # the connection is lost, or the encoding is wrong
            raise broken_off(error, response.url) from error
        finally:
            response.close()

    def api_keys(self) -> gallery_answers.KeysAnswer:
        """The API keys of this tenant. Needs the scope `admin`, as the next two do."""
        return self._request(calls.api_keys(), gallery_answers.KeysAnswer)

    def make_api_key(
        self,
        scopes: Sequence[str],
        *,
        expires: datetime | None = None,
        requests_per_minute: int | None = None,
        note: str = "",
    ) -> gallery_answers.KeyMade:
        """Make an API key of this tenant. It is shown this once."""
        return self._request(calls.make_api_key(scopes, expires, requests_per_minute, note), gallery_answers.KeyMade)

    def revoke_api_key(self, key_id: str) -> gallery_answers.KeyRevoked:
        """Revoke an API key that was made over HTTP."""
        return self._request(calls.revoke_api_key(key_id), gallery_answers.KeyRevoked)

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

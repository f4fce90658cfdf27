"""A photo against what is known of a person: an embedding that the caller kept, or a template of the gallery."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image, ImageFilter
from support.serving import KeyedService, People, Service, png

from eolgul.client import Client, EolgulError
from eolgul.client.answers import EmbedAnswer

RATES = ("false_match_rate", "false_match_rate_interval", "log_likelihood_ratio")


@pytest.fixture(scope="module")
def client(service: Service) -> Client:
    return Client(str(service.client.base_url))


@pytest.fixture(scope="module")
def known(client: Client, people: People) -> EmbedAnswer:
    return client.embed(people.a1)


def test_it_says_what_verify_says_of_the_photo(client: Client, people: People, known: EmbedAnswer) -> None:
    for other in (people.a2, people.b1):
        expected = client.verify(people.a1, other)
        answer = client.verify_embedding(known, other)
        assert answer.similarity == pytest.approx(expected.similarity, abs=1e-6)
        assert (answer.verdict, answer.reasons) == (expected.verdict, ()) and answer.unknown_quality == ()
        assert answer.false_match_rate == pytest.approx(expected.false_match_rate)
        assert answer.face == expected.faces[1] and answer.cached
        two = client.verify_embedding(known, client.embed(other))
        assert two.similarity == pytest.approx(expected.similarity, abs=1e-6)
        assert two.verdict == expected.verdict and two.face is None and not two.cached


def test_without_the_quality_of_its_photo_no_rate_is_stated(
    client: Client, other_service: Service, people: People, known: EmbedAnswer
) -> None:
    numbers = client.verify_embedding(known.embedding, people.a1, model=known.model)
    assert numbers.verdict == "undecided" and numbers.reasons == () and numbers.same_at_threshold
    assert [getattr(numbers, name) for name in RATES] == [None] * 3 and numbers.quality_rule == "on"
    assert numbers.unknown_quality == ("embedding1",) and numbers.similarity == pytest.approx(1, abs=1e-5)
    both = client.verify_embedding(known, known.embedding, model=known.model)
    assert both.unknown_quality == ("embedding2",) and both.verdict == "undecided"
    part = known.model_dump()
    part["face"]["quality"]["detail"] = None  # the region limits it: without it nothing is known
    answer = post(client, {"embedding1": part, "embedding2": known.model_dump()})
    assert answer.json()["unknown_quality"] == ["embedding1"] and answer.json()["false_match_rate"] is None
    with Client(str(other_service.client.base_url)) as older:  # a model that knows no region
        kept = older.embed(people.a1)
        answer_older = older.verify_embedding(kept.embedding, people.a1, model=kept.model)
        assert answer_older.quality_rule == "unknown" and answer_older.false_match_rate is not None


def test_the_embedding_of_a_poor_photo_keeps_its_reasons(client: Client, people: People) -> None:
    poor = client.embed(png(Image.open(io.BytesIO(people.a1)).convert("RGB").filter(ImageFilter.GaussianBlur(5))))
    answer = client.verify_embedding(poor, people.a1)
    assert answer.verdict == "undecided" and answer.false_match_rate is None
    assert [(one.image, one.reason) for one in answer.reasons] == [("embedding1", "blurred")]


def post(client: Client, body: Any) -> httpx.Response:
    return client._http.post("/v1/verify/embedding", json=body)


def test_only_an_embedding_of_this_model_is_compared(
    client: Client, other_service: Service, people: People, known: EmbedAnswer
) -> None:
    good = json.loads(known.model_dump_json())
    numbers = good["embedding"]
    with Client(str(other_service.client.base_url)) as other:
        foreign = json.loads(other.embed(people.a1).model_dump_json())
    cases: list[tuple[dict[str, Any], int, str, str | None]] = [
        (foreign, 409, "model_mismatch", "embedding1"),
        (good | {"model": ""}, 409, "model_mismatch", "embedding1"),
        (good | {"embedding": numbers[:-1]}, 422, "bad_embedding", "embedding1"),
        (good | {"embedding": []}, 422, "bad_embedding", "embedding1"),
        (good | {"embedding": [2 * value for value in numbers]}, 422, "bad_embedding", "embedding1"),
        (good | {"embedding": [0.0] * 512}, 422, "bad_embedding", "embedding1"),
        (good | {"embedding": [*numbers[:-1], float("nan")]}, 422, "bad_embedding", "embedding1"),
        (good | {"embedding": [*numbers[:-1], float("inf")]}, 422, "bad_embedding", "embedding1"),
        (good | {"embedding": [1e200] * 512}, 422, "bad_embedding", "embedding1"),
        (good | {"embedding": [*numbers[:-1], "1"]}, 400, "bad_request", "embedding1"),
        (good | {"embedding": [*numbers[:-1], True]}, 400, "bad_request", "embedding1"),
        (good | {"embedding": "text"}, 400, "bad_request", "embedding1"),
        (good | {"face": {}}, 400, "bad_request", "embedding1"),
        ({"embedding": numbers}, 400, "bad_request", "embedding1"),
    ]
    for value, status, code, field in cases:
        body = json.dumps({"embedding1": value, "embedding2": good})
        for answer in (
            client._http.post("/v1/verify/embedding", content=body, headers={"content-type": "application/json"}),
            client._http.post(
                "/v1/verify/embedding", files={"embedding1": json.dumps(value)}, data={"embedding2": json.dumps(good)}
            ),
        ):
            found = (answer.status_code, answer.json()["code"], answer.json().get("field"))
            assert found == (status, code, field), answer.text
            assert str(numbers[0]) not in answer.text


def test_what_else_the_request_may_not_be(client: Client, people: People, known: EmbedAnswer) -> None:
    good = json.loads(known.model_dump_json())
    for body, code, field in (
        ({}, "missing_field", "embedding1"),
        ({"embedding1": good}, "missing_field", "image"),
        ({"embedding1": good, "embedding2": good, "image": "eHk="}, "missing_field", "image"),
        ({"embedding2": good, "image": "eHk="}, "missing_field", "embedding1"),
        ({"embedding1": [1], "embedding2": good}, "bad_request", "embedding1"),
        ({"embedding1": good, "embedding2": {"a": [0] * 20_000}}, "bad_request", None),
    ):
        answer = post(client, body)
        assert (answer.status_code, answer.json()["code"], answer.json().get("field")) == (400, code, field), body
    large = client._http.post(
        "/v1/verify/embedding", files={"image": people.a1}, data={"embedding1": "[" + "1" * 300_000 + "]"}
    )
    assert large.status_code in (400, 413)
    text = client._http.post("/v1/verify/embedding", files={"image": people.a1}, data={"embedding1": "{"})
    assert (text.status_code, text.json()["field"]) == (400, "embedding1")


def test_a_person_of_the_gallery(keyed_service: KeyedService, people: People) -> None:
    def refused(call: Callable[[], object]) -> tuple[str, int | None, str | None]:
        with pytest.raises(EolgulError) as caught:
            call()
        return caught.value.code, caught.value.status, caught.value.field

    with Client(str(keyed_service.service.client.base_url), api_key=keyed_service.keys["two"]) as client:
        for person in client.people():  # those of other tests
            client.delete_person(person.person)
        client.enroll("Kim", [people.a1, people.a2])
        first, second = client.person("Kim").templates
        answer = client.verify_person(people.a1, "Kim")
        assert (answer.verdict, answer.person, answer.templates) == ("same", "Kim", 2)
        assert answer.template == first.template and answer.similarity == pytest.approx(1, abs=1e-5)
        assert answer.templates_of_other_models == 0 and answer.face.count == 1
        only = client.verify_person(people.a1, "Kim", template=second.template)
        assert only.templates == 1 and only.template == second.template and only.similarity < answer.similarity
        stranger = client.verify_person(people.b1, "Kim")
        [found] = client.identify(people.b1, k=1).candidates
        assert (stranger.similarity, stranger.verdict) == (pytest.approx(found.similarity, abs=1e-6), found.verdict)
        poor = png(Image.open(io.BytesIO(people.a1)).convert("RGB").filter(ImageFilter.GaussianBlur(5)))
        assert client.verify_person(poor, "Kim").verdict == "undecided"
        assert refused(lambda: client.verify_person(people.a1, "Lee")) == ("person_not_found", 404, None)
        assert refused(lambda: client.verify_person(people.a1, "Kim", template="x"))[0] == "template_not_found"
        assert refused(lambda: client.verify_person(people.a1, "a/b")) == ("bad_request", 400, "person")
        with Client(str(keyed_service.service.client.base_url), api_key=keyed_service.keys["four"]) as other:
            assert refused(lambda: other.verify_person(people.a1, "Kim"))[0] == "person_not_found"  # another tenant
        client.delete_person("Kim")
        assert refused(lambda: client.verify_person(people.a1, "Kim"))[0] == "person_not_found"


@pytest.mark.parametrize(
    ("scopes", "path", "allowed"),
    [
        (("verify",), "verify/embedding", False),  # 512 questions would tell the embedding of a photo
        (("embed",), "verify/embedding", False),
        (("verify", "embed"), "verify/embedding", True),
        (("verify", "gallery"), "verify/person", False),
        (("identify",), "verify/person", True),
        (("verify",), "embed/many", False),
        (("embed",), "embed/many", True),
    ],
)
def test_scopes(keyed_service: KeyedService, scopes: tuple[str, ...], path: str, allowed: bool) -> None:
    key = keyed_service.key(scopes)
    answer = keyed_service.service.client.post(f"/v1/{path}", headers={"authorization": f"Bearer {key}"}, json={})
    assert answer.json()["code"] == ("missing_field" if allowed else "forbidden")

"""Photos with several faces: the largest, exactly one, or every one of them, over HTTP and by the client."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from support.serving import KeyedService, People, Service, png

from eolgul.client import Client, EolgulError

Fresh = Callable[[bytes], bytes]


def beside(left: bytes, right: bytes, size: float = 0.6) -> bytes:
    """A photo of two people, the right one smaller."""
    one, two = (Image.open(io.BytesIO(data)).convert("RGB") for data in (left, right))
    two = two.resize((int(two.width * size), int(two.height * size)), Image.Resampling.LANCZOS)
    both = Image.new("RGB", (one.width + two.width, one.height), (120, 120, 120))
    both.paste(one, (0, 0))
    both.paste(two, (one.width, 0))
    return png(both)


@pytest.fixture(scope="module")
def group(people: People) -> bytes:
    return beside(people.a1, people.b1)


@pytest.fixture(scope="module")
def client(service: Service) -> Client:
    return Client(str(service.client.base_url))


def refused(call: Callable[[], object]) -> tuple[str, int | None, str | None]:
    with pytest.raises(EolgulError) as caught:
        call()
    return caught.value.code, caught.value.status, caught.value.field


def test_exactly_one(client: Client, people: People, group: bytes) -> None:
    several = ("several_faces", 422)
    assert refused(lambda: client.verify(people.a1, group, which="single")) == (*several, "image2")
    assert refused(lambda: client.verify(group, people.a1, which="single")) == (*several, "image1")
    assert refused(lambda: client.embed(group, which="single")) == (*several, "image")
    assert refused(lambda: client.embed(group, which="single")) == (*several, "image")  # from the cache, too
    assert client.verify(people.a1, people.a2, which="single") is not None
    many = client.verify_many(people.a1, [group, people.a2], which="single").results
    assert many[0].problem is not None and many[0].problem.code == "several_faces" and many[1].comparison is not None
    embedded = client.embed_many([group, people.a2], which="single").results
    assert embedded[0].problem is not None and embedded[0].problem.code == "several_faces" and embedded[1].embedding


def test_the_largest(client: Client, people: People, group: bytes) -> None:
    largest = client.embed(group, which="largest")
    assert largest.face.count == 2 and largest.faces == ()
    assert np.dot(largest.embedding, client.embed(people.a1).embedding) > 0.98
    assert client.embed(group).embedding == largest.embedding  # this model's policy


def test_every_face_is_embedded(client: Client, people: People, group: bytes) -> None:
    answer = client.embed(group, which="all")
    one, two = answer.faces
    assert answer.embedding == one.embedding and answer.face == one.face and not answer.cached
    assert one.face.box[0] < two.face.box[0]  # the larger one stands on the left
    for face, alone in ((one, people.a1), (two, people.b1)):
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5) and face.face.quality.norm
        assert np.dot(face.embedding, client.embed(alone).embedding) > 0.9
    assert one.embedding == pytest.approx(client.embed(group).embedding, abs=1e-5)


def test_the_best_pair(client: Client, people: People, group: bytes) -> None:
    answer = client.verify(people.b1, group, which="all")
    assert (len(answer.faces1), len(answer.faces2), len(answer.pairs)) == (1, 2, 2)
    best, worst = answer.pairs
    assert (best.face1, best.face2, worst.face2) == (0, 1, 0) and best.similarity > worst.similarity
    assert (answer.similarity, answer.verdict) == (best.similarity, best.verdict)
    assert answer.faces == (answer.faces1[0], answer.faces2[1]) and answer.cached == (False, False)
    assert client.verify(people.b1, group).similarity == pytest.approx(worst.similarity, abs=1e-5)
    assert client.verify(people.b1, group).pairs == ()
    both = client.verify(group, group, which="all").pairs
    assert {(pair.face1, pair.face2) for pair in both[:2]} == {(0, 0), (1, 1)} and len(both) == 4


def test_a_pair_that_is_good_enough_goes_before_one_that_is_not(client: Client, people: People) -> None:
    from PIL import ImageFilter

    blurred = png(Image.open(io.BytesIO(people.a1)).convert("RGB").filter(ImageFilter.GaussianBlur(5)))
    answer = client.verify(blurred, beside(blurred, people.a1, 1.0), which="all")
    assert answer.verdict == "undecided" and answer.false_match_rate is None  # every pair has the blurred photo
    answer = client.verify(beside(blurred, people.a2, 1.0), beside(blurred, people.b1, 1.0), which="all")
    assert len(answer.pairs) == 4 and [bool(pair.reasons) for pair in answer.pairs] == [False, True, True, True]
    assert answer.pairs[1].similarity > answer.similarity and answer.false_match_rate is not None


def test_no_face_and_too_many(client: Client, people: People, service: Service) -> None:
    nobody = png(Image.new("RGB", (200, 200)))
    assert refused(lambda: client.verify(people.a1, nobody, which="all")) == ("no_face", 422, "image2")
    small = Image.open(io.BytesIO(people.a1)).convert("RGB").resize((144, 96))
    crowd = Image.new("RGB", (144 * 6, 96 * 6))
    for number in range(36):
        crowd.paste(small, (144 * (number % 6), 96 * (number // 6)))
    assert len(client.detect(png(crowd)).faces) > 32
    assert refused(lambda: client.embed(png(crowd), which="all")) == ("too_many_faces", 422, "image")
    for path, which in (("embed", "every"), ("verify/many", "all"), ("embed/many", "all"), ("enroll", "all")):
        refusal = service.client.post(f"/v1/{path}?which={which}", files={"image": people.a1})
        assert (refusal.status_code, refusal.json()["field"]) == (400, "which"), path


def test_several_photos_at_once(client: Client, people: People, fresh: Fresh) -> None:
    photo = fresh(people.b1)
    results = client.embed_many([people.a1, b"no picture", photo, photo]).results
    assert [one.index for one in results] == [0, 1, 2, 3]
    assert results[1].problem is not None and results[1].problem.code == "not_an_image"
    assert results[2].embedding == results[3].embedding and results[0].face is not None
    assert results[0].embedding == pytest.approx(client.embed(people.a1).embedding, abs=1e-5)
    assert refused(lambda: client.embed_many([people.a1] * 33))[:2] == ("too_large", 413)
    assert refused(lambda: client.embed_many([]))[0] == "missing_field"


def test_everybody_in_a_group_photo(keyed_service: KeyedService, people: People, group: bytes) -> None:
    with Client(str(keyed_service.service.client.base_url), api_key=keyed_service.keys["three"]) as client:
        for other in client.people():  # those of other tests
            client.delete_person(other.person)
        client.enroll("Ann", [people.a1])
        client.enroll("Bob", [people.b1])
        answer = client.identify(group, k=1, which="all")
        assert [face.candidates[0].person for face in answer.faces] == ["Ann", "Bob"]
        assert answer.candidates == answer.faces[0].candidates and answer.face == answer.faces[0].face
        assert client.identify(group, k=1).faces == ()
        assert refused(lambda: client.identify(group, which="single"))[0] == "several_faces"
        assert refused(lambda: client.enroll("Cid", [people.a2, group], which="single")) == (
            "several_faces",
            422,
            "images",
        )
        assert client.enroll("Ann", [people.a2], which="single").added == 1
        for person in ("Ann", "Bob"):
            client.delete_person(person)
        assert list(client.people()) == []

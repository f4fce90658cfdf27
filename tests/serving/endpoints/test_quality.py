"""Photos that are too poor for a verdict, over HTTP: undecided with reasons and without a rate; enrolled only if asked to."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageFilter
from support.serving import KeyedService, People, Service, png

from eolgul.client import Client, EolgulError

RATES = ("false_match_rate", "false_match_rate_interval", "log_likelihood_ratio")


def blurred(image: bytes, radius: float = 5) -> bytes:
    return png(Image.open(io.BytesIO(image)).convert("RGB").filter(ImageFilter.GaussianBlur(radius)))


def cut_off(service: Service, image: bytes, share: float) -> bytes:
    """The photo without the left `share` of its face's box."""
    x1, _, x2, _ = service.embed(image).json()["face"]["box"]
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    return png(picture.crop((round(x1 + share * (x2 - x1)), 0, *picture.size)))


def test_two_blurred_strangers_get_no_rate(service: Service, other_service: Service, people: People) -> None:
    left, right = blurred(people.a1), blurred(people.b1)
    before = service.metric("eolgul_undecided_for_quality_total", reason="blurred")
    answer = service.verify(left, right).json()
    assert answer["verdict"] == "undecided" and answer["quality_rule"] == "on"
    assert answer["reasons"] == [
        {"image": "image1", "reason": "blurred"},
        {"image": "image2", "reason": "blurred"},
    ]
    assert [answer[name] for name in RATES] == [None] * 3
    assert [face["reasons"] for face in answer["faces"]] == [["blurred"], ["blurred"]]
    assert service.metric("eolgul_undecided_for_quality_total", reason="blurred") == before + 1
    assert service.verify(left, right).json()["reasons"] == answer["reasons"]  # from the cache too
    old = other_service.verify(left, right).json()  # a calibration of an older version does not know its region
    assert old["quality_rule"] == "unknown" and old["reasons"] == [] and old["false_match_rate"] is not None


def test_one_poor_photo_is_enough_and_is_named(service: Service, people: People) -> None:
    answer = service.verify(people.a1, blurred(people.a2)).json()
    assert answer["reasons"] == [{"image": "image2", "reason": "blurred"}]
    assert service.verify(people.a1, people.a2).json()["reasons"] == []


def test_a_face_cut_off_by_the_edge_is_not_told_to_be_another_person(service: Service, people: People) -> None:
    photo = cut_off(service, people.a1, 0.3)
    answer = service.verify(people.a1, photo).json()
    assert answer["verdict"] == "undecided"
    assert {"image": "image2", "reason": "face_cut"} in answer["reasons"]
    assert answer["faces"][1]["quality"]["cut"] > 0.35 and answer["faces"][0]["quality"]["cut"] == 0


def test_one_against_many_says_which(service: Service, people: People) -> None:
    files = [("image", people.a1), *(("others", data) for data in (people.a1, blurred(people.a1)))]
    clear, poor = service.client.post("/v1/verify/many", files=files).json()["results"]
    assert clear["comparison"]["verdict"] == "same" and clear["comparison"]["reasons"] == []
    assert poor["comparison"]["reasons"] == [{"image": "others", "reason": "blurred"}]
    assert poor["comparison"]["verdict"] == "undecided" and poor["comparison"]["false_match_rate"] is None


def test_detect_warns_before_anything_is_compared(service: Service, people: People) -> None:
    face = service.client.post("/v1/detect", files={"image": blurred(people.a1)}).json()["faces"][0]
    assert face["reasons"] == ["blurred"] and face["quality"]["norm"] is None
    embedded = service.embed(people.a1).json()["face"]
    assert embedded["reasons"] == [] and embedded["quality"]["norm"] > 0


def test_the_model_says_whether_it_knows(service: Service, other_service: Service) -> None:
    current, older = (one.client.get("/v1/models/current").json() for one in (service, other_service))
    assert current["quality_rule"] == "on" and current["calibration"]["region"]["limits"]["detail"][0] == 2.2
    assert older["quality_rule"] == "unknown" and "region" not in older["calibration"]


def test_poor_photos_are_enrolled_only_if_asked_to(keyed_service: KeyedService, people: People) -> None:
    files = [("images", people.a1), ("images", blurred(people.a2))]
    refusal = keyed_service.call("seven", "POST", "/v1/enroll", data={"person": "Kim"}, files=files)
    assert (refusal.status_code, refusal.json()["code"]) == (422, "low_quality")
    assert refusal.json()["reasons"] == ["blurred"] and "photo 2 of 2" in refusal.json()["detail"]
    with Client(str(keyed_service.service.client.base_url), api_key=keyed_service.keys["seven"]) as client:
        with pytest.raises(EolgulError) as caught:
            client.enroll("Kim", [blurred(people.a2)])
        assert caught.value.code == "low_quality" and caught.value.reasons == ("blurred",)
        assert list(client.people()) == []
        assert client.enroll("Kim", [blurred(people.a1)], any_quality=True).added == 1
        [candidate] = client.identify(people.a1).candidates
        assert candidate.verdict == "undecided" and candidate.false_match_rate is None
        assert [(one.image, one.reason) for one in candidate.reasons] == [("template", "blurred")]
        client.delete_person("Kim")
        client.enroll("Kim", [people.a1])
        [candidate] = client.identify(people.a1).candidates
        assert candidate.verdict == "same" and candidate.reasons == ()
        poor = client.identify(blurred(people.b1))
        assert poor.face.reasons == ("blurred",) and poor.candidates[0].verdict == "undecided"
        assert [(one.image, one.reason) for one in poor.candidates[0].reasons] == [("image", "blurred")]
        client.delete_person("Kim")

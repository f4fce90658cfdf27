"""Methods, headers, limits and the OpenAPI document of the API."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image
from support.serving import KeyedService, People


def test_a_method_that_is_not_taken_is_told_which_are(keyed_service: KeyedService) -> None:
    for method, path, allowed in (
        ("GET", "/v1/verify", {"POST"}),
        ("OPTIONS", "/v1/people", {"GET"}),
        ("PUT", "/v1/people/x", {"GET", "PATCH", "DELETE"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
        ("POST", "/ui/style.css", {"GET", "HEAD"}),
    ):
        refusal = keyed_service.call("one", method, path)
        assert refusal.json()["code"] == "method_not_allowed"
        assert set(refusal.headers.get("allow", "").split(", ")) == allowed, path


def test_a_refusal_by_rate_tells_the_limit(keyed_service: KeyedService, people: People) -> None:
    answers = [keyed_service.call("slow", "POST", "/v1/detect", files={"image": people.a1}) for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 429, 429]
    for one in answers[2:]:
        assert one.headers["ratelimit-limit"] == "2" and one.headers["ratelimit-remaining"] == "0"
        assert one.headers["ratelimit-reset"] == one.headers["retry-after"]


def test_without_a_key_no_query_is_judged(keyed_service: KeyedService) -> None:
    assert keyed_service.call(None, "GET", "/v1/people?limit=many").status_code == 401
    assert keyed_service.call("one", "GET", "/v1/people?limit=many").json()["code"] == "bad_request"


@pytest.mark.parametrize("beyond", [1, 2, 5])
def test_too_many_images_are_too_large_however_many(keyed_service: KeyedService, people: People, beyond: int) -> None:
    requests: tuple[tuple[str, dict[str, str], list[tuple[str, bytes]]], ...] = (
        ("/v1/enroll", {"person": "x"}, [("images", people.a1)] * (10 + beyond)),
        ("/v1/verify/many", {}, [("image", people.a1)] + [("others", b"x")] * (32 + beyond)),
    )
    for path, data, files in requests:
        refusal = keyed_service.call("one", "POST", path, data=data, files=files)
        assert (refusal.status_code, refusal.json()["code"]) == (413, "too_large"), path


def test_waiting_for_an_equal_image_is_not_called_the_cache(keyed_service: KeyedService, people: People) -> None:
    image = io.BytesIO()
    Image.open(io.BytesIO(people.a1)).resize((1200, 1500)).save(
        image, "PNG", compress_level=1
    )  # detection takes its time
    spent = keyed_service.call(
        "two", "POST", "/v1/verify", files={"image1": image.getvalue(), "image2": image.getvalue()}
    ).json()["timings_ms"]
    assert spent["shared"] > spent["detect"] > spent["cache"]


def test_a_jpeg_of_a_thousand_scans_costs_nothing(keyed_service: KeyedService, many_scans: bytes) -> None:
    start = time.perf_counter()
    refusal = keyed_service.call("one", "POST", "/v1/detect", files={"image": many_scans})
    assert (refusal.status_code, refusal.json()["code"]) == (413, "too_large")
    assert time.perf_counter() - start < 2


def test_a_json_body_of_a_million_lists_is_not_parsed(keyed_service: KeyedService) -> None:
    body = b'{"image": [' + b"[]," * 1_000_000 + b"0]}"
    headers = {"authorization": f"Bearer {keyed_service.keys['one']}", "content-type": "application/json"}
    refusal = keyed_service.service.client.post("/v1/detect", content=body, headers=headers)
    assert (refusal.status_code, refusal.json()["code"]) == (400, "bad_request")


def test_the_document_says_what_is_answered(keyed_service: KeyedService) -> None:
    paths = keyed_service.service.client.get("/openapi.json").json()["paths"]
    exported = keyed_service.call("one", "GET", "/v1/export").headers["content-type"].partition(";")[0]
    assert list(paths["/v1/export"]["get"]["responses"]["200"]["content"]) == [exported]
    assert "401" in paths["/v1/models/current"]["get"]["responses"]
    for path in ("/v1/people", "/v1/people/{person}", "/v1/export"):
        assert not {"413", "415"} & set(paths[path]["get"]["responses"]), path

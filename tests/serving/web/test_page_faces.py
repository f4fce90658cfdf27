"""What the page shows of the faces in a photo: boxes and landmarks where they are, and the crop the network sees."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageOps
from support import tiny_package
from support.page import CHROMIUM, beside, compare, files, lying, opened
from support.serving import People, RedisServer, Service, png, serve

from eolgul.faces.template import align_face
from eolgul.model.package import DetectorSettings, EmbeddingContract, ModelPackage

in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (or in EOLGUL_CHROMIUM)")


def detect(service: Service, data: bytes) -> dict[str, Any]:
    response = service.client.post("/v1/detect?crops=true", files={"image": ("x", data)})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def test_a_crop_is_the_aligned_face_that_the_network_sees(
    service: Service, people: People, package: ModelPackage
) -> None:
    for data in (png(beside(people.a1, people.b1)), lying(beside(people.a1, people.b1))):
        answer = detect(service, data)
        assert len(answer["faces"]) == 2
        for face in answer["faces"]:
            crop = pixels(base64.b64decode(face["crop"]))
            np.testing.assert_array_equal(crop, align_face(pixels(data), np.array(face["landmarks"], np.float32)))
    [face] = detect(service, people.a1)["faces"]
    crop = pixels(base64.b64decode(face["crop"])).astype(np.float32).transpose(2, 0, 1)[np.newaxis]
    session = onnxruntime.InferenceSession(str(package.path / "model.onnx"))
    views = [(crop - 127.5) / 127.5, (crop[..., ::-1] - 127.5) / 127.5]
    total = sum(session.run(None, {"faces": np.ascontiguousarray(view)})[0][0] for view in views)
    expected = service.embed(people.a1).json()["embedding"]
    np.testing.assert_allclose(total / np.linalg.norm(total), expected, atol=1e-5)


def test_crops_come_only_when_asked_for(service: Service, people: People) -> None:
    plain = service.client.post("/v1/detect", files={"image": ("x", people.a1)}).json()
    assert [face["crop"] for face in plain["faces"]] == [None]
    parameters = service.client.get("/openapi.json").json()["paths"]["/v1/detect"]["post"]["parameters"]
    assert [(one["name"], one["schema"]["type"]) for one in parameters] == [("crops", "boolean")]
    wrong = service.client.post("/v1/detect?crops=perhaps", files={"image": ("x", people.a1)})
    assert (wrong.status_code, wrong.json()["code"], wrong.json()["field"]) == (400, "bad_request", "crops")


def check_overlay(page: Any, answer: dict[str, Any]) -> None:
    """Every face's box and landmarks lie where the shown photo has that face."""
    whole = page.locator("[data-field=image1] .preview").bounding_box()  # of which the frame shows a part
    width, height = answer["size"]
    shown = page.evaluate(
        "(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight])"
        "(document.querySelector('[data-field=image1] .preview'))"
    )
    assert shown == [width, height]  # the browser turned it upright as the service did
    scale, left, top = whole["width"] / width, whole["x"], whole["y"]
    assert whole["height"] / height == pytest.approx(scale, rel=0.01)  # not stretched
    groups = page.locator("[data-field=image1] .overlay .face")
    faces = sorted(answer["faces"], key=lambda face: face["chosen"])
    assert groups.count() == len(faces)
    for row, face in enumerate(faces):
        group = groups.nth(row)
        assert ("chosen" in group.get_attribute("class")) == face["chosen"]
        box = group.locator("rect.box").bounding_box()
        x1, y1, x2, y2 = (value * scale for value in face["box"])
        assert box["x"] == pytest.approx(left + x1, abs=3) and box["y"] == pytest.approx(top + y1, abs=3)
        assert box["width"] == pytest.approx(x2 - x1, abs=5) and box["height"] == pytest.approx(y2 - y1, abs=5)
        points = group.locator(".landmark:not(.halo)")
        for number, (x, y) in enumerate(face["landmarks"]):
            point = points.nth(number).bounding_box()
            assert point["x"] + point["width"] / 2 == pytest.approx(left + x * scale, abs=1.5)
            assert point["y"] + point["height"] / 2 == pytest.approx(top + y * scale, abs=1.5)


@in_a_browser
@pytest.mark.parametrize("width", [1100, 390])
def test_boxes_lie_on_the_faces_of_a_photo_stored_on_its_side(
    browser: Any, service: Service, people: People, tmp_path: Path, width: int
) -> None:
    crowd = lying(beside(people.a1, people.b1))
    answer = detect(service, crowd)
    with opened(browser, service, viewport={"width": width, "height": 900}) as page:
        page.set_input_files("#file1", files(tmp_path, crowd=crowd)["crowd"])
        page.wait_for_selector("[data-field=image1] .overlay .face")
        check_overlay(page, answer)
        page.set_viewport_size({"width": width - 60, "height": 700})
        check_overlay(page, answer)
        assert page.inner_text("[data-field=image1] .note").startswith("2 faces found; the one with the solid frame")
        crop = page.locator("[data-field=image1] .crop")
        chosen = next(face for face in answer["faces"] if face["chosen"])
        assert crop.get_attribute("src") == f"data:image/png;base64,{chosen['crop']}"
        assert crop.evaluate("image => image.naturalWidth") == 112 and crop.get_attribute("alt")
        page.click("[data-field=image1] .remove")
        assert page.locator(".overlay .face").count() == 0 and crop.is_hidden()


@in_a_browser
def test_several_faces_where_the_model_takes_one(
    browser: Any, people: People, redis_server: RedisServer, detector_folder: Path, tmp_path: Path
) -> None:
    contract = EmbeddingContract(detector=DetectorSettings(which="single"))
    package = tiny_package.write(tmp_path / "single", detector_folder, contract=contract)
    photos = files(tmp_path, crowd=png(beside(people.a1, people.b1)), b1=people.b1)
    for service in serve(package, redis_server.url, tmp_path / "home"):
        with opened(browser, service) as page:
            page.set_input_files("#file1", photos["crowd"])
            page.wait_for_selector("[data-field=image1].wrong")
            assert "Click the one that is meant" in page.inner_text("[data-field=image1] .note")
            assert page.locator(".face").count() == 2 and page.locator(".face.chosen").count() == 0
            assert page.locator("[data-field=image1] .crop").is_hidden()
            page.set_input_files("#file2", photos["b1"])
            page.wait_for_load_state("networkidle")
            assert page.is_hidden("#answer") and page.locator("[data-field=image1].wrong").count() == 1
            assert page.locator("[data-field=image1] .face").count() == 2  # still shown beside the refusal
            page.locator(".picks button").first.click()
            page.wait_for_selector("#answer:not([hidden])")
            assert page.locator(".wrong").count() == 0 and page.locator("[data-field=image1] .face.chosen").count() == 1


@in_a_browser
def test_another_face_of_a_photo_can_be_chosen(browser: Any, service: Service, people: People, tmp_path: Path) -> None:
    crowd = png(beside(people.a1, people.b1))
    photos = files(tmp_path, crowd=crowd, b1=people.b1)
    pairs = service.client.post("/v1/verify?which=all", files={"image1": ("x", crowd), "image2": ("y", people.b1)})
    largest, other = sorted(pairs.json()["pairs"], key=lambda pair: int(pair["face1"]))  # the largest face is the first
    with opened(browser, service) as page:
        compare(page, photos["crowd"], photos["b1"])
        assert page.inner_text("#similarity") == f"{largest['similarity']:.3f}"
        page.wait_for_selector(".picks button")
        pick, drawn = (page.locator(one).bounding_box() for one in (".picks button", ".face:not(.chosen) rect.box"))
        assert pick["x"] == pytest.approx(drawn["x"], abs=3) and pick["width"] == pytest.approx(drawn["width"], abs=6)
        page.focus(".picks button")
        page.keyboard.press("Enter")
        page.wait_for_function(
            f"() => document.querySelector('#similarity').textContent === '{other['similarity']:.3f}'"
        )
        page.wait_for_selector("#working", state="hidden")
        assert page.evaluate("document.activeElement.parentElement.className") == "picks"  # and back by the same key
        page.keyboard.press("Enter")
        page.wait_for_function(
            f"() => document.querySelector('#similarity').textContent === '{largest['similarity']:.3f}'"
        )
        page.set_input_files("#file1", photos["b1"])  # a new photo begins with the face that the model chooses
        page.wait_for_function("() => document.querySelector('#similarity').textContent === '1.000'")
        assert page.locator(".picks button").count() == 0

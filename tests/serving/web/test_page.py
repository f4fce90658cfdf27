"""The web page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support import tiny_package
from support.page import CHROMIUM, address, compare, files, opened
from support.places import ROOT
from support.serving import People, Service, serve

from eolgul.serving.access.keys import new_key

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (or in EOLGUL_CHROMIUM)")


@pytest.fixture
def photos(people: People, tmp_path: Path) -> dict[str, str]:
    return files(tmp_path, a1=people.a1, a2=people.a2, b1=people.b1, text=b"no image")


@pytest.fixture
def page(browser, service: Service):  # type: ignore[no-untyped-def]
    with opened(browser, service) as page:
        yield page


def test_same_and_different(page, photos, service: Service, people: People) -> None:  # type: ignore[no-untyped-def]
    compare(page, photos["a1"], photos["a1"])
    assert page.inner_text("#verdict") == "The same person" and page.is_hidden("#why")
    assert "Fewer than about 1 in 1,200 pairs of strangers" in page.inner_text("#rate")
    assert page.inner_text("#similarity") == "1.000"
    assert page.locator(".overlay rect.box").count() == 2
    assert page.locator(".overlay .landmark:not(.halo)").count() == 10
    page.set_input_files("#file2", photos["b1"])
    expected = service.verify(people.a1, people.b1).json()
    page.wait_for_function(
        f"() => document.querySelector('#similarity').textContent === '{expected['similarity']:.3f}'"
    )
    same = expected["verdict"] == "same"
    assert page.inner_text("#verdict") == ("The same person" if same else "Different people")
    limit = page.locator("#limit").bounding_box()["x"]
    point = page.locator("#point").bounding_box()
    assert (point["x"] + point["width"] / 2 >= limit) == same


def test_the_box_is_drawn_on_the_face(page, photos, service: Service, people: People) -> None:  # type: ignore[no-untyped-def]
    compare(page, photos["a1"], photos["b1"])
    face = service.verify(people.a1, people.b1).json()["faces"][0]
    page.wait_for_selector("[data-field=image1] .crop:visible")  # every face is known, and nothing will be drawn anew
    page.wait_for_selector("[data-field=image2] .crop:visible")
    whole = page.locator(".preview").first.bounding_box()  # of which the frame shows a part
    drawn = page.locator(".overlay rect.box").first.bounding_box()
    width, height = face["size"]
    scale = whole["width"] / width
    assert whole["height"] / height == pytest.approx(scale, rel=0.01)  # not stretched
    left, top = whole["x"] + face["box"][0] * scale, whole["y"] + face["box"][1] * scale
    assert drawn["x"] == pytest.approx(left, abs=4) and drawn["y"] == pytest.approx(top, abs=4)
    assert drawn["width"] == pytest.approx((face["box"][2] - face["box"][0]) * scale, abs=8)


def test_errors_are_sentences_at_the_right_photo(page, photos) -> None:  # type: ignore[no-untyped-def]
    compare(page, photos["a1"], photos["text"], "[data-field=image2].wrong")
    page.wait_for_load_state("networkidle")
    sentence = "This file is not an image, or it is damaged. Choose another one."
    assert page.inner_text("[data-field=image2] .note") == sentence
    assert page.inner_text("main").count("not an image") == 1 and page.is_hidden("#problem")  # one error is said once
    assert page.inner_text("#lead") == "The second photo cannot be used: choose another one."
    assert page.inner_text("[data-field=image2] .file") == "text.png"  # what was chosen can still be seen
    assert "wrong" not in (page.get_attribute("[data-field=image1]", "class") or "")
    page.click("#clear")
    assert page.locator(".wrong, .full").count() == 0 and page.is_hidden("#clear")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_verdict_and_the_photos_are_seen_without_scrolling(
    browser, service: Service, photos, width, height
) -> None:  # type: ignore[no-untyped-def]
    with opened(browser, service, viewport={"width": width, "height": height}) as page:
        compare(page, photos["a1"], photos["b1"])
        page.wait_for_selector("[data-field=image2] .crop:visible")
        for language in ("en", "ko"):
            page.click(f"[data-language={language}]")
            answer = page.locator("#answer").bounding_box()
            tiles = [page.locator(".tile").nth(number).bounding_box() for number in (0, 1)]
            assert page.evaluate("scrollY") == 0 and answer["y"] >= 0
            assert all(answer["y"] + answer["height"] <= tile["y"] for tile in tiles)  # over the photos
            assert all(tile["y"] + tile["height"] <= height for tile in tiles)
        page.click("[data-language=en]")
        assert "trained on drawn people" in page.inner_text("#answer")


def test_a_service_that_cannot_be_reached_can_be_asked_again(page, photos) -> None:  # type: ignore[no-untyped-def]
    page.route("**/v1/verify", lambda route: route.abort())
    compare(page, photos["a1"], photos["a1"], "#problem")
    assert page.inner_text("main").count("cannot be reached") == 1
    page.unroute("**/v1/verify")
    page.click("#again")
    page.wait_for_selector("#answer:not([hidden])")
    assert page.is_hidden("#problem")


def test_what_a_frame_shows_of_a_photo(page) -> None:  # type: ignore[no-untyped-def]
    """The part lies in the photo, has the frame's shape and holds every face; else the photo is shown whole."""
    random = Random(0)
    cases: list[tuple[list[int], list[dict[str, Any]], float]] = []
    whole = 0
    for _ in range(500):
        width, height = (random.randint(40, 5000) for _ in range(2))
        faces: list[dict[str, Any]] = []
        for number in range(random.randint(1, 3)):
            x1, y1 = random.uniform(0, width * 0.8), random.uniform(0, height * 0.8)
            side = random.uniform(0.02, 0.6) * min(width, height)
            box = (x1, y1, min(width, x1 + side), min(height, y1 + 1.3 * side))
            faces.append({"box": box, "chosen": number == 0})
        cases.append(([width, height], faces, random.choice([1, 1.5])))
    script = "cases => import('/ui/view.js').then((view) => cases.map((one) => view.partShown(...one)))"
    for ((width, height), faces, shape), part in zip(cases, page.evaluate(script, cases), strict=True):
        if part is None:
            whole += 1
            continue
        x, y, wide, high = part
        assert wide / high == pytest.approx(shape)
        assert x >= -1e-6 and y >= -1e-6 and x + wide <= width + 1e-6 and y + high <= height + 1e-6
        for x1, y1, x2, y2 in (face["box"] for face in faces):
            assert x - 1e-6 <= x1 and y - 1e-6 <= y1 and x2 <= x + wide + 1e-6 and y2 <= y + high + 1e-6
    assert 0 < whole < 450


def test_korean_is_remembered(page, photos) -> None:  # type: ignore[no-untyped-def]
    page.click("[data-language=ko]")
    assert page.inner_text("h1") == "같은 사람일까요?"
    compare(page, photos["a1"], photos["a1"])
    assert page.inner_text("#verdict") == "같은 사람입니다"
    page.reload()
    assert page.inner_text("h1") == "같은 사람일까요?" and page.get_attribute("html", "lang") == "ko"


def test_korean_browser_gets_korean_on_a_phone(browser, service: Service, photos) -> None:  # type: ignore[no-untyped-def]
    with opened(browser, service, locale="ko-KR", viewport={"width": 360, "height": 700}, has_touch=True) as page:
        compare(page, photos["a1"], photos["b1"])
        assert page.get_attribute("html", "lang") == "ko"
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_badge_report_and_api_links(page, service: Service) -> None:  # type: ignore[no-untyped-def]
    page.wait_for_selector("#synthetic:not([hidden])")
    assert page.inner_text("#synthetic") == "Trained on drawn people"
    page.click("#report")
    assert "the report of the test" in page.content()
    page.go_back()
    page.click("a[href='api']")
    page.wait_for_selector("#operations details")


def test_the_report_can_be_opened_later_too(page) -> None:  # type: ignore[no-untyped-def]
    page.clock.install()
    page.reload()
    page.wait_for_selector("#report:not([hidden])")
    for _ in range(2):  # its cookie lasts five minutes
        with page.expect_response("**/ui/ticket"):
            page.clock.fast_forward("04:10")


def tab_to(page, name: str) -> None:  # type: ignore[no-untyped-def]
    for _ in range(15):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            return
    raise AssertionError(f"#{name} cannot be reached with the Tab key")


def test_keyboard_alone_is_enough(page, photos) -> None:  # type: ignore[no-untyped-def]
    tab_to(page, "file1")
    page.evaluate("""document.querySelector("#file1").addEventListener("click", (event) => {
        event.preventDefault();  // the browser's own dialog would follow
        window.opened = true;
    })""")
    page.keyboard.press("Enter")
    page.wait_for_function("() => window.opened")
    compare(page, photos["a1"], photos["text"], "[data-field=image2].wrong")
    page.set_input_files("#file2", photos["a1"])
    page.wait_for_selector("#answer:not([hidden])")
    tab_to(page, "clear")
    page.keyboard.press("Enter")
    assert page.is_hidden("#answer") and page.evaluate("document.activeElement.id") == "file1"


def run_curl(command: str, key: str, photo: Path, folder: Path) -> str | None:
    """The similarity that the page's command gives for the photo and itself; None where there is no curl."""
    curl = shutil.which("curl")
    if curl is None:
        return None
    for name in ("image1.jpg", "image2.jpg"):
        shutil.copy(photo, folder / name)
    environment = {"EOLGUL_API_KEY": key, "PATH": str(Path(curl).parent)}
    ran = subprocess.run(["/bin/sh", "-c", command], cwd=folder, env=environment, capture_output=True, check=True)
    return f"{json.loads(ran.stdout)['similarity']:.3f}"


def test_a_key_from_the_address_or_the_field(browser, package, redis_server, photos, tmp_path) -> None:  # type: ignore[no-untyped-def]
    key = new_key(tmp_path / "keys.json", tenant="one", scopes=("verify",))[0]
    settings = {"auth": "on", "api_keys_file": tmp_path / "keys.json"}
    for guarded in serve(package, redis_server.url, tmp_path / "home", **settings):
        page = browser.new_page(locale="en-GB")
        page.goto(f"{address(guarded)}#key={key}")
        assert page.url == address(guarded)
        compare(page, photos["a1"], photos["a1"])
        # It may not ask /v1/detect: the faces compared are shown all the same, and nobody is bothered.
        assert page.locator(".face.chosen").count() == 2 and page.locator(".crop:visible, .wrong").count() == 0
        page.click("#more summary")
        command, similarity = page.inner_text("#curl"), page.inner_text("#similarity")
        assert key not in page.content()
        assert run_curl(command, key, Path(photos["a1"]), tmp_path) in (similarity, None)
        page.click("nav a[href=api]")
        page.wait_for_function("() => document.querySelector('#curl').textContent")
        assert page.inner_text("#curl") == command
        page.close()
        page = browser.new_page(locale="en-GB")
        page.goto(address(guarded))
        page.wait_for_selector("#key:not([hidden])")
        assert "needs a valid API key" in page.inner_text("#key") and "whoever runs this service" in page.inner_text(
            "#key"
        )
        assert page.inner_text("#model-line") == ""  # nobody knows yet whether a model is loaded
        for unsendable in ("얼굴 키", "eolgul_\u00e9", "eolgul_a\tb", "eolgul_a\u0007b", "eolgul a"):
            page.fill("#key-field", unsendable)
            page.keyboard.press("Enter")
            assert page.inner_text("#key-said").startswith("An API key has only Latin letters"), unsendable
        page.fill("#key-field", "  ")
        page.keyboard.press("Enter")
        assert "needs a valid API key" in page.inner_text("#key-said") and page.is_visible("#key")
        page.fill("#key-field", "eolgul_nobody_" + "x" * 43)
        page.keyboard.press("Enter")
        page.wait_for_selector("#key:not([hidden])")  # it can be sent, and is refused
        page.fill("#key-field", f" {key} ")
        page.keyboard.press("Enter")
        compare(page, photos["a1"], photos["a1"])
        page.close()


def test_a_key_in_the_address_that_cannot_be_sent(browser, package, redis_server, tmp_path) -> None:  # type: ignore[no-untyped-def]
    new_key(tmp_path / "keys.json", tenant="one", scopes=("verify",))
    settings = {"auth": "on", "api_keys_file": tmp_path / "keys.json"}
    for guarded in serve(package, redis_server.url, tmp_path / "home", **settings):
        with opened(browser, guarded, "/ui/#key=%ED%82%A4%0A") as page:
            page.wait_for_selector("#key:not([hidden])")
            assert page.inner_text("#key-said").startswith("An API key has only Latin letters")
            assert page.url == address(guarded)


def test_undecided(browser, service: Service, people: People, photos, redis_server, detector_folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    similarity = service.verify(people.a1, people.b1).json()["similarity"]
    close = tiny_package.write(tmp_path / "close", detector_folder, threshold=similarity)  # its interval is ± 0.02
    for other in serve(close, redis_server.url, tmp_path / "home"):
        with opened(browser, other) as page:
            compare(page, photos["a1"], photos["b1"])
            assert page.inner_text("#verdict") == "Undecided" and page.locator("#answer.undecided").count() == 1
            assert "Clearer photos" in page.inner_text("#why")
            assert "undecided" in (page.get_attribute("#bar", "aria-label") or "")
            doubt, point = page.locator("#doubt").bounding_box(), page.locator("#point").bounding_box()
            assert doubt["x"] <= point["x"] + point["width"] / 2 <= doubt["x"] + doubt["width"]
            page.click("[data-language=ko]")
            assert page.inner_text("#verdict") == "판정을 보류합니다"


def test_both_languages_say_everything() -> None:
    words = (ROOT / "serving" / "web" / "static" / "words.js").read_text()
    english, korean = words.split("\n  ko: {")
    names = [set(re.findall(r"\b([a-zA-Z0-9_]+): (?:[\"(`]|\()", half)) for half in (english, korean)]
    assert names[0] - names[1] == names[1] - names[0] == set()


def test_the_score_stands_on_the_calibrated_histogram(page, photos: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    compare(page, photos["a1"], photos["b1"])
    assert page.is_visible("#bar") and page.is_hidden("#scores")  # one scale; the histogram is among the details
    page.click("#more summary")
    assert page.locator("#scores path").count() == 4  # strangers, one person, the threshold, this pair
    legend = ["two different people", "two photos of one person", "these two photos", "threshold"]
    assert page.locator(".legend").inner_text().split("\n") == legend
    box = page.locator("#doubt").bounding_box()
    limit = page.locator("#limit").bounding_box()
    assert box["x"] <= limit["x"] <= box["x"] + box["width"]  # the interval holds its threshold

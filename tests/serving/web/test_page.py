"""The web page in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

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
    assert page.is_disabled("#go")
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
    frame = page.locator(".preview").first.bounding_box()
    drawn = page.locator(".overlay rect.box").first.bounding_box()
    width, height = face["size"]
    scale = min(frame["width"] / width, frame["height"] / height)  # the preview shows the whole photo, centred
    left = frame["x"] + (frame["width"] - width * scale) / 2 + face["box"][0] * scale
    top = frame["y"] + (frame["height"] - height * scale) / 2 + face["box"][1] * scale
    assert drawn["x"] == pytest.approx(left, abs=4) and drawn["y"] == pytest.approx(top, abs=4)
    assert drawn["width"] == pytest.approx((face["box"][2] - face["box"][0]) * scale, abs=8)


def test_errors_are_sentences_at_the_right_photo(page, photos) -> None:  # type: ignore[no-untyped-def]
    compare(page, photos["a1"], photos["text"], "#problem")
    assert page.inner_text("#problem-text") == "This file is not an image, or it is damaged."
    assert "wrong" in (page.get_attribute("[data-field=image2]", "class") or "")
    assert "wrong" not in (page.get_attribute("[data-field=image1]", "class") or "")
    page.click("#clear")
    assert page.is_hidden("#problem") and page.is_disabled("#go")


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
    page.click("a[href='api.html']")
    page.wait_for_selector(".opblock")
    assert "/v1/verify" in page.inner_text("#swagger")


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
    compare(page, photos["a1"], photos["text"], "#problem")
    page.set_input_files("#file2", photos["a1"])
    page.wait_for_selector("#answer:not([hidden])")
    tab_to(page, "go")
    page.keyboard.press("Enter")  # a second time: now from the cache
    page.wait_for_function("() => document.querySelector('#facts').textContent.includes('yes · yes')")


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
        page.close()
        page = browser.new_page(locale="en-GB")
        page.goto(address(guarded))
        page.wait_for_selector("#key:not([hidden])")
        assert "needs a valid API key" in page.inner_text("#key")
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
    assert page.locator("#scores path").count() == 2
    assert page.locator(".legend").inner_text().split("\n") == ["pairs of strangers", "pairs of one person"]
    box = page.locator("#doubt").bounding_box()
    limit = page.locator("#limit").bounding_box()
    assert box["x"] <= limit["x"] <= box["x"] + box["width"]  # the interval holds its threshold

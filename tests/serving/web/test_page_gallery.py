"""The gallery page in a real browser: a real service with keys and a gallery in a real Redis."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.page import CHROMIUM, files, opened
from support.serving import People, RedisServer, Service, png, serve

from eolgul.model.package import ModelPackage
from eolgul.serving.access.keys import SCOPES, new_key
from eolgul.serving.keyring import new_line

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (or in EOLGUL_CHROMIUM)")
HOSTILE = '<img src=x onerror="window.hacked = true"><script>window.hacked = true<\\script>'


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


class World:
    """A service with a gallery, and keys of one tenant each with what they may do."""

    def __init__(self, browser: Any, service: Service, settings: dict[str, Any]) -> None:
        self.browser, self.service, self.settings = browser, service, settings

    def key(self, tenant: str, *scopes: str) -> str:
        """A new key, once the service knows it (it looks at the file every two seconds)."""
        key = new_key(self.settings["api_keys_file"], tenant=tenant, scopes=scopes or SCOPES)[0]
        deadline = time.monotonic() + 10
        while self.service.client.get("/v1/models/current", headers=bearer(key)).status_code != 200:
            assert time.monotonic() < deadline, "the service does not read its keys"
            time.sleep(0.1)
        return key

    def open(self, key: str, **options: Any) -> AbstractContextManager[Any]:
        return opened(self.browser, self.service, f"/ui/gallery#key={key}", **options)

    def people(self, key: str) -> list[str]:
        answer = self.service.client.get("/v1/people", headers=bearer(key)).json()
        return [one["person"] for one in answer["people"]]

    def enroll(self, key: str, person: str, photo: bytes) -> None:
        sent: dict[str, Any] = {"data": {"person": person}, "files": {"images": ("x", photo)}}
        answer = self.service.client.post("/v1/enroll", headers=bearer(key), **sent)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def world(
    browser: Any, package: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "encryption").write_text(new_line() + "\n")
    new_key(folder / "keys.json", tenant="nobody", scopes=("verify",))
    settings: dict[str, Any] = {
        "auth": "on",
        "api_keys_file": folder / "keys.json",
        "encryption_keys_file": folder / "encryption",
        "gallery_url": redis_server.url.removesuffix("/0") + "/8",  # other tests' galleries have other keys
        "gallery_timeout_s": 2,
        "redis_timeout_s": 0.4,
    }
    for service in serve(package, redis_server.url, tmp_path_factory.mktemp("bentoml"), **settings):
        yield World(browser, service, settings)


@pytest.fixture
def photos(people: People, tmp_path: Path) -> dict[str, str]:
    blank = png(Image.new("RGB", (200, 200), "white"))
    return files(tmp_path, a1=people.a1, a2=people.a2, b1=people.b1, blank=blank)


def enroll(page: Any, person: str, chosen: list[str]) -> None:
    page.fill("#person", person)
    page.set_input_files("#portraits .photo:last-child input", chosen)
    page.click("#keep:enabled")


def said(page: Any, section: str, text: str) -> None:
    page.wait_for_function(
        "([section, text]) => document.querySelector(`#${section}-said`).textContent.includes(text)",
        arg=[section, text],
    )


def test_from_enrolment_to_erasure(world: World, photos: dict[str, str], tmp_path: Path) -> None:
    key = world.key("whole")
    with world.open(key, accept_downloads=True) as page:
        assert page.url.endswith("/ui/gallery")  # the key is out of the address
        said(page, "people", "Nobody yet.")
        assert page.is_hidden("#export") and page.is_disabled("#keep") and page.is_disabled("#find")
        enroll(page, "Hong Gil-dong", [photos["a1"], photos["a2"]])
        said(page, "enroll", "Hong Gil-dong is enrolled with 2 photos.")
        assert page.locator("#portraits .photo").count() == 1 and page.input_value("#person") == ""
        enroll(page, HOSTILE, [photos["b1"]])
        said(page, "people", "2 people.")
        assert sorted(page.locator("#people strong").all_inner_texts()) == sorted(["Hong Gil-dong", HOSTILE])

        page.set_input_files("#wanted input", photos["a2"])
        page.select_option("#k", "20")
        page.click("#find")
        page.wait_for_selector("#candidates li")
        assert page.locator("#candidates strong").all_inner_texts() == ["Hong Gil-dong", HOSTILE]
        first = page.inner_text("#candidates li:first-child")
        assert "Similarity 1.000" in first and "Fewer than about 1 in 1,200 pairs of strangers" in first
        assert "2 people searched" in page.inner_text("#identify-said")
        page.select_option("#k", "1")
        page.click("#find")
        page.wait_for_function("() => document.querySelectorAll('#candidates li').length === 1")
        assert page.evaluate("window.hacked") is None and page.locator("main img[src=x]").count() == 0

        with page.expect_download() as download:
            page.click("#export")
        lines = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
        assert sorted(line["person"] for line in lines) == sorted([HOSTILE, "Hong Gil-dong", "Hong Gil-dong"])

        page.locator(".open", has_text="Hong Gil-dong").click()
        page.click(".saved > .erase")
        assert page.inner_text("#confirm-title") == "Erase Hong Gil-dong and all 2 saved faces?"
        page.keyboard.press("Escape")
        assert len(world.people(key)) == 2
        page.click(".saved > .erase")
        page.click("#confirm .danger")
        said(page, "people", "Hong Gil-dong was erased. People left: 1.")
        assert page.evaluate("document.activeElement.id") == "people-said"
        assert world.people(key) == [HOSTILE]
        page.click(".open")
        page.click(".saved > .erase")
        page.click("#confirm .danger")  # a name full of marks can be erased too
        said(page, "people", "People left: 0.")
        assert world.people(key) == [] and page.evaluate("window.hacked") is None


def test_what_is_wrong_is_said_in_its_place(world: World, photos: dict[str, str]) -> None:
    with world.open(world.key("wrong")) as page:
        enroll(page, "a/b", [photos["a1"]])
        said(page, "enroll", "A name or number has 1 to 128 characters, no slash")
        enroll(page, "Hong", [photos["blank"]])
        said(page, "enroll", "Nothing was saved: replace or remove the marked photo.")
        page.wait_for_selector("#portraits .photo.wrong")
        assert page.inner_text("main").count("No face was found") == 1  # at the photo, and nowhere else
        said(page, "people", "Nobody yet.")  # either every photo or none
        page.click("#portraits .photo.wrong .remove")
        page.click("#keep:enabled")
        said(page, "enroll", "Hong is enrolled with 1 photo.")
        page.set_input_files("#wanted input", photos["blank"])
        page.click("#find")
        page.wait_for_selector("#wanted .photo.wrong")
        said(page, "identify", "")
        assert page.inner_text("main").count("No face was found") == 1


def test_a_key_without_the_scope_is_told_which(world: World, photos: dict[str, str]) -> None:
    full = world.key("scopes")
    world.enroll(full, "Hong", Path(photos["a1"]).read_bytes())
    with world.open(world.key("scopes", "verify")) as page:
        said(page, "people", "This API key may not do this: it lacks the scope gallery.")
        enroll(page, "Kim", [photos["a1"]])
        said(page, "enroll", "This API key may not do this: it lacks the scope enroll.")
        page.set_input_files("#wanted input", photos["a1"])
        page.click("#find")
        said(page, "identify", "This API key may not do this: it lacks the scope identify.")
    with world.open(world.key("scopes", "gallery")) as page:
        page.click(".open")
        page.click(".saved > .erase")
        page.click("#confirm .danger")
        said(page, "people", "This API key may not do this: it lacks the scope enroll.")
        page.click("#export")
        said(page, "people", "This API key may not do this: it lacks the scope gallery, embed.")
    assert world.people(full) == ["Hong"]


def test_a_long_list_comes_in_pages(world: World, people: People) -> None:
    key = world.key("many")
    for number in range(27):
        world.enroll(key, f"person {number:02}", people.a1)
    with world.open(key) as page:
        said(page, "people", "27 people.")
        assert page.locator("#people li").count() == 25
        page.click("#next")
        page.wait_for_function("() => document.querySelectorAll('#people li').length === 27")
        assert page.is_hidden("#next")
        assert page.locator("#people strong").all_inner_texts() == [f"person {number:02}" for number in range(27)]
        page.fill("#search", " PERSON 2")
        said(page, "people", "7 of 27 people.")
        assert page.locator("#people strong").all_inner_texts() == [f"person {number}" for number in range(20, 27)]
        page.fill("#search", "nobody")
        said(page, "people", "0 of 27 people.")
        page.fill("#search", "")
        said(page, "people", "27 people.")


def test_a_person_can_be_opened_and_a_saved_face_erased(world: World, people: People) -> None:
    key = world.key("opened")
    for photo in (people.a1, people.a2):
        world.enroll(key, "홍길동", photo)
    told = {"metadata": {"badge": "0042", "note": HOSTILE}}
    assert world.service.client.patch("/v1/people/홍길동", headers=bearer(key), json=told).status_code == 200
    with world.open(key) as page:
        page.click(".open")
        page.wait_for_selector(".saved li")
        faces = page.locator(".saved li")
        year = re.compile(r"20\d\d")
        assert [bool(year.search(text)) for text in faces.all_inner_texts()] == [True, True]
        assert page.locator(".saved dd").all_inner_texts() == ["0042", HOSTILE]
        assert page.evaluate("document.activeElement.className") == "open"  # the focus is where it was
        page.locator(".saved li .erase").last.click()
        assert page.inner_text("#confirm-title") == "Erase “Saved face 2” of 홍길동?"
        page.click("#confirm .danger")
        said(page, "people", "One saved face of 홍길동 was erased.")
        page.click(".open")
        page.wait_for_selector(".saved li")
        assert faces.count() == 1 and page.locator(".saved li .erase").count() == 0  # the last one goes with the person
        stored = page.evaluate("JSON.stringify(sessionStorage)")
        assert "/v1/people/NAME" in stored and "홍길동" not in stored and "%ED" not in stored


def test_a_search_reads_the_whole_list(world: World, people: People) -> None:
    key = world.key("paged")
    for number in range(5):
        world.enroll(key, f"person {number}", people.a1)
    with opened(world.browser, world.service, "/ui/model") as page:  # its address is of no matter
        page.route(
            "**/v1/people?limit=1000*", lambda route: route.continue_(url=route.request.url.replace("1000", "2"))
        )
        page.goto(str(world.service.client.base_url.join(f"/ui/gallery#key={key}")))
        said(page, "people", "5 people.")
        page.fill("#search", "4")
        said(page, "people", "1 of 5 people.")
        assert page.locator("#people strong").all_inner_texts() == ["person 4"]


def test_people_whom_the_model_cannot_find_are_marked(
    world: World, other_package: ModelPackage, redis_server: RedisServer, people: People, tmp_path: Path
) -> None:
    key = world.key("swapped")
    for earlier in serve(other_package, redis_server.url, tmp_path, **world.settings):
        sent: dict[str, Any] = {"data": {"person": "Kim"}, "files": {"images": ("x", people.b1)}}
        assert earlier.client.post("/v1/enroll", headers=bearer(key), **sent).status_code == 200
    world.enroll(key, "Hong", people.a1)
    with world.open(key) as page:
        said(page, "people", "2 people.")
        rows = dict(
            zip(page.locator("#people strong").all_inner_texts(), page.locator("#people li").all(), strict=True)
        )
        assert "enroll again" in rows["Kim"].inner_text() and "enroll again" not in rows["Hong"].inner_text()
        page.set_input_files("#wanted input", files(tmp_path, b1=people.b1)["b1"])
        page.click("#find")
        said(page, "identify", "1 saved face of an earlier model could not be compared")


def test_several_photos_at_once_and_no_more_than_ten(world: World, people: People, tmp_path: Path) -> None:
    twelve = files(tmp_path, **{f"p{number}": people.a1 for number in range(12)})
    with world.open(world.key("ten"), locale="ko-KR") as page:
        page.set_input_files("#portraits input", list(twelve.values()))
        assert page.locator("#portraits .photo.full").count() == 10 and page.locator("#portraits .photo").count() == 10
        page.click("#portraits .photo:nth-child(3) .remove")
        assert page.locator("#portraits .photo.full").count() == 9 and page.locator("#portraits .photo").count() == 10
        page.fill("#person", "홍길동")
        page.click("#keep:enabled")
        said(page, "enroll", "홍길동: 사진 1장으로 등록했습니다.")  # they are one picture


def test_a_service_without_a_gallery_says_so(browser: Any, service: Service) -> None:
    with opened(browser, service, "/ui/gallery") as page:
        page.wait_for_selector("#unavailable:not([hidden])")
        assert "this service has no gallery, or it cannot be reached just now" in page.inner_text("#unavailable")
        assert page.is_hidden("#gallery")

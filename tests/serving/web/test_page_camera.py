"""Photos that come from the camera, the clipboard or a drop, in a real browser with a drawn camera."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.page import CAMERA, CHROMIUM, chromium, files, launched, opened
from support.serving import People, Service

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (or in EOLGUL_CHROMIUM)")
# Remembers every track that was opened, so that a test can ask whether they were let go.
SPY = """() => {
  window.tracks = [];
  const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await real(wanted);
    window.tracks.push(...stream.getTracks());
    return stream;
  };
}"""
ENDED = "() => window.tracks.length > 0 && window.tracks.every((track) => track.readyState === 'ended')"
TRANSFER = """([selector, kind, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], "face.png", { type: "image/png" }));
  const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true })
    : new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true });
  document.querySelector(selector).dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api")
    with chromium(CAMERA, "--use-fake-ui-for-media-stream") as browser:
        yield browser


@pytest.fixture
def page(browser: Any, service: Service) -> Iterator[Any]:
    with opened(browser, service) as page:
        page.evaluate(SPY)
        yield page


def open_camera(page: Any, field: str) -> None:
    page.click(f"[data-field={field}] .take")
    page.wait_for_selector("#camera[open]")


def chosen(page: Any, field: str) -> bool:
    return page.locator(f"[data-field={field}].full").count() == 1


def test_a_photo_is_taken_and_the_camera_let_go(page: Any) -> None:
    open_camera(page, "image2")
    assert page.inner_text("#camera-title") == "Camera · Second photo"
    page.wait_for_selector("#camera-take:enabled")
    shown = page.evaluate("[document.querySelector('video').videoWidth, document.querySelector('video').videoHeight]")
    assert page.evaluate("window.tracks.map((track) => track.kind)") == ["video"]  # and no microphone
    with page.expect_response("**/v1/detect?crops=true") as answered:
        page.click("#camera-take")
    assert answered.value.json()["size"] == shown and min(shown) >= 240  # what the camera showed, whole
    page.wait_for_function(ENDED)
    assert chosen(page, "image2") and not chosen(page, "image1")
    page.wait_for_selector("[data-field=image2].wrong")  # the drawn camera shows a clock, no face
    assert page.inner_text("[data-field=image2] .note").startswith("No face was found")


def test_cancel_and_escape_let_the_camera_go(page: Any) -> None:
    for close in (lambda: page.click("#camera-cancel"), lambda: page.keyboard.press("Escape")):
        page.evaluate("window.tracks.length = 0")
        open_camera(page, "image1")
        page.wait_for_selector("#camera-take:enabled")
        close()
        page.wait_for_function(ENDED)
        assert not page.is_visible("#camera") and not chosen(page, "image1")
        assert page.evaluate("document.activeElement.className") == "button take"  # the focus is where it was


def test_cancelled_before_the_camera_came(page: Any) -> None:
    page.evaluate("""() => {
      const real = navigator.mediaDevices.getUserMedia;
      navigator.mediaDevices.getUserMedia = async (wanted) => {
        await new Promise((resolve) => { window.permit = resolve; });
        return real(wanted);
      };
    }""")
    open_camera(page, "image1")
    page.click("#camera-cancel")
    page.evaluate("window.permit()")
    page.wait_for_function(ENDED)


def refusal(browser: Any, service: Service, *arguments: str, script: str = "") -> str:
    with launched(browser.browser_type, *arguments) as other, opened(other, service) as page:
        if script:
            page.evaluate(script)
        open_camera(page, "image1")
        page.wait_for_selector("#camera-said:not([hidden])")
        assert page.is_disabled("#camera-take") and page.is_hidden("#camera-video")
        said: str = page.inner_text("#camera-said")
        page.click("#camera-cancel")
        assert page.is_hidden("#camera")
        return said


def test_a_camera_that_cannot_be_had_is_a_sentence(browser: Any, service: Service) -> None:
    assert refusal(browser, service, "--use-fake-ui-for-media-stream").startswith("No camera was found.")
    denied = refusal(browser, service, CAMERA, "--use-fake-ui-for-media-stream=deny")
    assert denied.startswith("The camera is not allowed on this page.")
    hidden = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })"  # as on an http address
    assert refusal(browser, service, CAMERA, script=hidden).startswith("The browser allows the camera over https only.")


def test_the_headers_allow_the_camera_to_the_pages_alone(service: Service) -> None:
    for path in ("/ui/", "/ui/gallery", "/ui/model"):
        page = service.client.get(path)
        assert page.headers["permissions-policy"] == "camera=(self), microphone=(), geolocation=()"
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src": "'self'",
            "img-src": "'self' blob: data:",
            **dict.fromkeys(("object-src", "base-uri", "form-action", "frame-ancestors"), "'none'"),
        }
    assert service.client.get("/ui/report.html").headers["permissions-policy"].startswith("camera=()")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_paste_and_drop(page: Any, people: People, tmp_path: Path, kind: str) -> None:
    data = base64.b64encode(people.a1).decode()
    page.evaluate(TRANSFER, ["[data-field=image2] label", kind, data])
    # A drop goes where it falls; a paste goes to the first empty frame, or to the one that has the focus.
    assert chosen(page, "image2") == (kind == "drop") and chosen(page, "image1") == (kind == "paste")
    if kind == "paste":
        page.focus("#file2")
        page.evaluate(TRANSFER, ["#file2", kind, data])
    else:
        page.set_input_files("#file1", files(tmp_path, a1=people.a1)["a1"])
    page.wait_for_selector("#answer:not([hidden])")
    assert page.inner_text("#similarity") == "1.000"

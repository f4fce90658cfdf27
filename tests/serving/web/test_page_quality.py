"""What the pages say of photos that are too poor for a verdict."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFilter
from support.page import CHROMIUM, compare, files, opened
from support.serving import People, Service, png

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (or in EOLGUL_CHROMIUM)")
SHOTS = os.environ.get("EOLGUL_SCREENSHOTS")  # a folder, to look at


@pytest.fixture
def photos(people: People, tmp_path: Path) -> dict[str, str]:
    blurred = {
        name: png(Image.open(io.BytesIO(data)).convert("RGB").filter(ImageFilter.GaussianBlur(5)))
        for name, data in (("left", people.a1), ("right", people.b1))
    }
    return files(tmp_path, a1=people.a1, **blurred)


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_card_says_why_and_no_rate(browser: Any, service: Service, photos: dict[str, str], width: int) -> None:
    with opened(browser, service, viewport={"width": width, "height": 900}) as page:
        compare(page, photos["left"], photos["right"])
        assert page.inner_text("#verdict") == "These photos cannot be judged"
        lines = page.locator("#reasons li").all_inner_texts()
        assert lines == ["First photo: it is blurred or shaken.", "Second photo: it is blurred or shaken."]
        assert page.is_hidden("#rate") and "two strangers can look like one person" in page.inner_text("#why")
        assert "undecided" in (page.get_attribute("#answer", "class") or "")
        assert "blurred or shaken" in page.inner_text("#announced")
        page.wait_for_selector("[data-field=image1].poor")
        said = page.inner_text("#answer") + page.inner_text("#photos")
        assert said.count("blurred or shaken") == 2  # once per photo, and in the card only
        assert page.is_hidden("#bar")  # no number is known to hold
        shot(page, f"quality-en-{width}")
        page.click("[data-language=ko]")
        assert page.inner_text("#verdict") == "이 사진들로는 판정할 수 없습니다"
        assert page.locator("#reasons li").first.inner_text() == "첫 번째 사진: 흐리거나 흔들렸습니다."
        shot(page, f"quality-ko-{width}")
        page.click("[data-language=en]")
        page.set_input_files("#file2", photos["a1"])
        page.wait_for_function("() => document.querySelectorAll('#reasons li').length === 1")
        assert page.inner_text("#verdict") == "This photo cannot be judged"
        page.set_input_files("#file1", photos["a1"])
        page.wait_for_function("() => document.querySelector('#verdict').textContent === 'The same person'")
        assert page.is_hidden("#reasons") and page.is_visible("#rate") and page.is_hidden("#why")


def test_the_model_page_says_whether_the_quality_is_known(
    browser: Any, service: Service, other_service: Service
) -> None:
    for of, words in ((service, "Photos as clear as those"), (other_service, "It is not known for which photos")):
        with opened(browser, of, "/ui/model") as page:
            page.wait_for_selector("#served:not([hidden])")
            assert words in page.inner_text("#calibration")

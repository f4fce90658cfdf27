"""A toy world for training: coloured faces that a tiny network can tell apart in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from eolgul.images.decode import encode_png
from eolgul.train.recipe import Recipe
from support.datasets import make_dataset


class TinyNet(nn.Module):
    """A few convolutions with batch norm and dropout: everything a checkpoint has to remember, in milliseconds."""

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 7, 4, bias=False),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.Conv2d(8, 16, 5, 4),
            nn.AdaptiveAvgPool2d(2),
        )
        self.out = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, embedding_size))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.features(x))
        return out


class PlainNet(nn.Module):
    """No batch norm and no dropout: what it learns from a batch does not depend on how the batch is cut."""

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 8, 8), nn.PReLU(8), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(32, embedding_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def paint(colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """A 112x112 picture of one colour with noise and a brighter spot."""
    picture = np.full((112, 112, 3), colour, np.float64) + rng.normal(0, 12, (112, 112, 3))
    x, y = rng.integers(20, 80, 2)
    picture[y : y + 12, x : x + 12] += 40
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_assembled(
    out: Path,
    colours: dict[str, tuple[int, int, int]],
    rng: np.random.Generator,
    validation: tuple[str, ...],
    images: int = 12,
) -> Path:
    with make_dataset(out, step="assemble", recipe={}, inputs=[], synthetic=True) as writer:
        for name, colour in colours.items():
            for number in range(images):
                split = "validation" if name in validation else "train"
                writer.add(f"toy.{name}/{number}", f"toy.{name}", encode_png(paint(colour, rng)), extension="png",
                           size=(112, 112), source="toy", facts={"split": split})  # fmt: skip
        writer.describe(name="assembled", identities_known=True, aligned="arcface-112-v1", detector=None, splits={})
    return out


TINY = ["backbone=tiny", "embedding_size=16", "batch_size=12", "epochs=4", "learning_rate=0.1", "scale=16.0",
        "margin_warmup_epochs=1", "warmup_epochs=0", "precision=fp32"]  # fmt: skip


def tiny(*more: str) -> Recipe:
    """The demo's recipe with a network of a few thousand weights; `more` overrides it (key=value)."""
    return Recipe.load("demo-full", [*TINY, *more])

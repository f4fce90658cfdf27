"""The options of `eolgul demo`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is drawn, and the recipe that learns from it.

    Attributes:
        people: drawn people in the K-FACE tree.
        images: images per person there.
        rec_people: drawn people in `train.rec`.
        rec_images: images per person there.
        rec_style: their style, "rig" or "wild".
        bin_people: drawn people in the verification set (`.bin`).
        bin_pairs: pairs in the verification set, a multiple of 20.
        recipe: the name of the training recipe.
    """

    people: int
    images: int
    rec_people: int
    rec_images: int
    rec_style: str
    bin_people: int
    bin_pairs: int
    recipe: str


# What is drawn, and what learns from it, is compared in docs/numbers.md (benchmarks/demo_model.py).
QUICK = Amounts(60, 10, 150, 5, "rig", 40, 100, "demo")
FULL = Amounts(60, 24, 150, 12, "rig", 40, 300, "demo-full")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo draws or takes, trains and serves.

    Attributes:
        work: the absolute folder that holds everything the demo makes.
        source: a folder of one's own photos, `<identity>/<image>`; None: people are drawn.
        full: the longer run: more images and the larger network.
        keep: leave the service running at the end.
        people: drawn people in the K-FACE tree; None: as in `amounts`.
        rec_people: drawn people in `train.rec`; None: as in `amounts`.
        min_images: `source`: take identities with at least this many images.
        max_identities: `source`: take at most this many identities.
        which: which face of several counts, a value of `eolgul align --which`.
        recipe: the training recipe's name or file; "": that of `amounts`.
        overrides: recipe keys that replace the recipe's own, as `key=value`.
        port: the service's port.
        workers: processes that draw and align.
        json: print the facts as JSON on a terminal, too.
    """

    work: Path
    source: Path | None = None
    full: bool = False
    keep: bool = False
    people: int | None = None
    rec_people: int | None = None
    min_images: int = 4
    max_identities: int = 200
    which: str = "largest"
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    port: int = 3000
    workers: int = 2
    json: bool = False

    @property
    def amounts(self) -> Amounts:
        """How much is drawn and which recipe learns from it, with the numbers that were asked for."""
        usual = FULL if self.full else QUICK
        return replace(
            usual,
            people=self.people or usual.people,
            rec_people=self.rec_people or usual.rec_people,
            recipe=self.recipe or usual.recipe,
        )

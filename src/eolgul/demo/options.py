"""The options of `eolgul demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo draws or takes, trains and serves.

    Attributes:
        work: the absolute folder that holds everything the demo makes.
        source: a folder of one's own photos, `<identity>/<image>`; None: people are drawn.
        keep: leave the service running at the end.
        people: drawn people in the K-FACE tree.
        rec_people: drawn people in `train.rec`.
        rec_images: images per person in `train.rec`.
        bin_people: drawn people in the verification set (`.bin`).
        bin_pairs: pairs in the verification set, a multiple of 20.
        min_images: `source`: take identities with at least this many images.
        max_identities: `source`: take at most this many identities.
        which: which face of several counts, a value of `eolgul align --which`.
        recipe: the training recipe's name or file.
        overrides: recipe keys that replace the recipe's own, as `key=value`.
        port: the service's port.
        workers: processes that draw and align.
        json: print the facts as JSON on a terminal, too.
    """

    work: Path
    source: Path | None = None
    keep: bool = False
    people: int = 60
    rec_people: int = 150
    rec_images: int = 12
    bin_people: int = 40
    bin_pairs: int = 300
    min_images: int = 4
    max_identities: int = 200
    which: str = "largest"
    recipe: str = "demo"
    overrides: tuple[str, ...] = ()
    port: int = 3000
    workers: int = 2
    json: bool = False

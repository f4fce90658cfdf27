"""Is anybody of whom a figure speaks in the training data too? Counted from the images themselves, set by set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eolgul.dataset import FaceDataset


def audit(people: FaceDataset | None, benchmarks: Mapping[str, FaceDataset], held_out: str) -> dict[str, Any] | None:
    """Pictures (by sha256 of their bytes) and people (by name) that each set shares with `people`'s training split.

    A benchmark's people are looked for under their own names and under their names within a source, as assembling
    gives them (`source.name`); None where it does not say who they are. Another encoding of a picture, or a person under another name,
    is not found this way. None without `people`: what the model learned from is then unknown.
    """
    if people is None:
        return None
    rows = people.rows("train")
    hashes, identities = people.column("sha256"), people.column("identity")
    seen = {hashes[row] for row in rows}
    trained = {identities[row] for row in rows}
    trained |= {name.partition(".")[2] for name in trained if "." in name}
    test = [int(row) for row in people.rows("test")]
    sets = {held_out: _of(people, test, seen, trained)}
    for name, other in benchmarks.items():
        sets[name] = _of(other, list(range(len(other))), seen, trained)
    return {"people_sharing_images": people.artifact.contents.get("identities_sharing_images"), "sets": sets}


def _of(dataset: FaceDataset, rows: list[int], seen: set[str], trained: set[str]) -> dict[str, Any]:
    hashes = np.asarray(dataset.column("sha256"), dtype=object)[rows]
    names = None
    if dataset.artifact.contents.get("identities_known", True):
        names = len(set(np.asarray(dataset.column("identity"), dtype=object)[rows]) & trained)
    return {
        "images": len(rows),
        "images_in_training": sum(value in seen for value in hashes),
        "people_in_training": names,
    }

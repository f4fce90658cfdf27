"""Count the images and people of each set that are in the training split too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eolgul.dataset import FaceDataset
from eolgul.evaluation.reader import HELD_OUT
from eolgul.evaluation.schema import Leakage, SetLeakage


def leakage(people: FaceDataset | None, benchmarks: Mapping[str, FaceDataset]) -> Leakage | None:
    """Count what the held-out set and each benchmark (by name) share with the training split of `people`.

    Images are compared by the sha256 of their bytes, people by name: under their own names and under their names within
    a source, as assembling gives them (`source.name`). Another encoding of an image, or a person under another name, is
    not found. `people_in_training` is None where a set does not identify its people. The result is None without
    `people`: what the model learned from is then unknown.
    """
    if people is None:
        return None
    rows = people.rows("train")
    hashes, identities = people.column("sha256"), people.column("identity")
    seen = {hashes[row] for row in rows}
    trained = {identities[row] for row in rows}
    trained |= {name.partition(".")[2] for name in trained if "." in name}
    test = [int(row) for row in people.rows("test")]
    sets = {HELD_OUT: _set_leakage(people, test, seen, trained)}
    for name, benchmark in benchmarks.items():
        sets[name] = _set_leakage(benchmark, list(range(len(benchmark))), seen, trained)
    return Leakage(people_sharing_images=people.artifact.contents.get("identities_sharing_images"), sets=sets)


def _set_leakage(dataset: FaceDataset, rows: list[int], seen: set[str], trained: set[str]) -> SetLeakage:
    hashes = np.asarray(dataset.column("sha256"), dtype=object)[rows]
    names = None
    if dataset.artifact.contents.get("identities_known", True):
        names = len(set(np.asarray(dataset.column("identity"), dtype=object)[rows]) & trained)
    return SetLeakage(
        images=len(rows), images_in_training=sum(value in seen for value in hashes), people_in_training=names
    )

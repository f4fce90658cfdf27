"""Count the people and images of each set that the model learned from, by what its package says about its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset, Pairs
from eolgul.errors import InputError
from eolgul.evaluation.reader import HELD_OUT
from eolgul.evaluation.schema import Leakage, SetLeakage
from eolgul.model.provenance import Provenance


class Learned:
    """What the measured model learned from, as rows of the data sets that it is measured on.

    Images are compared by the SHA-256 of their bytes, people by name (`eolgul.model.provenance`); a person with an image
    that was learned from was learned from, under whatever name. Another encoding of an image, or other images of a person
    under another name, are not found: `eolgul audit` looks for those.
    """

    def __init__(self, provenance: Provenance | None) -> None:
        """`provenance` is None for a model whose training is unknown."""
        self.provenance = provenance
        self._rows: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}

    @property
    def known(self) -> bool:
        """Whether anything is known; then `rows` may be asked."""
        return self.provenance is not None

    def rows(self, dataset: FaceDataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each row's image, and whether its person, was learned from (two bool arrays, one value per row).

        Where a set does not identify its people, a person is an image.
        """
        digest = dataset.artifact.digest
        if digest not in self._rows:
            self._rows[digest] = self._find(dataset)
        return self._rows[digest]

    def _find(self, dataset: FaceDataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        assert self.provenance is not None
        images = self.provenance.knows_images(dataset.arrow("sha256"))
        if not dataset.identified:
            return images, images
        identities = dataset.column("identity")
        source = str(dataset.artifact.contents.get("name") or "")
        named = self.provenance.knows_people(identities, source)
        labels = np.unique(np.asarray(identities, dtype=object), return_inverse=True)[1]
        return images, (np.bincount(labels, weights=images | named) > 0)[labels]

    def pairs(self, dataset: FaceDataset, pairs: Pairs) -> NDArray[np.bool_] | None:
        """Whether a person of each pair was learned from (bool, one value per pair); None when that is unknown."""
        if self.provenance is None:
            return None
        people = self.rows(dataset)[1]
        found: NDArray[np.bool_] = people[pairs.left] | people[pairs.right]
        return found if self.provenance.complete or found.any() else None

    def people(self, dataset: FaceDataset, names: Sequence[str]) -> NDArray[np.bool_] | None:
        """Whether each of these people of a dataset was learned from (bool, one value each); None when that is unknown."""
        if self.provenance is None:
            return None
        identities = np.asarray(dataset.column("identity"), dtype=object)
        learned = set(identities[self.rows(dataset)[1]])
        found = np.array([name in learned for name in names], dtype=np.bool_)
        return found if self.provenance.complete or found.any() else None


def leakage(
    learned: Learned, people: FaceDataset | None, benchmarks: Mapping[str, FaceDataset], *, left_out: bool
) -> Leakage:
    """Count what the held-out people, the calibration people and each benchmark (by name) share with the training.

    Args:
        learned: What the model learned from.
        people: The assembled dataset; None when only benchmarks are measured.
        benchmarks: The benchmarks by name.
        left_out: Whether held-out and calibration people that were learned from are left out of the figures.
    """
    sets: dict[str, SetLeakage] = {}
    calibration = shared = None
    if people is not None:
        sets[HELD_OUT] = _count(learned, people, people.rows("test"))
        calibration = _count(learned, people, people.rows("calibration"))
        shared = people.artifact.contents.get("identities_sharing_images")
    for name, benchmark in benchmarks.items():
        sets[name] = _count(learned, benchmark, np.arange(len(benchmark)))
    provenance = learned.provenance
    return Leakage(
        known="none" if provenance is None else "all" if provenance.complete else "part",
        people_sharing_images=shared,
        left_out=left_out,
        sets=sets,
        calibration=calibration,
    )


def _count(learned: Learned, dataset: FaceDataset, rows: NDArray[np.int64]) -> SetLeakage:
    """Count; a figure is None where it is unknown: of a model of which only a part is known, no zero is known."""
    identities = np.asarray(dataset.column("identity"), dtype=object)[rows]
    identified = dataset.identified
    images = people = None
    provenance = learned.provenance
    if provenance is not None:
        known_images, known_people = learned.rows(dataset)
        images = int(np.count_nonzero(known_images[rows]))
        people = len(set(identities[known_people[rows]]))
        if not provenance.complete:
            images, people = images or None, people or None
    return SetLeakage(
        images=len(rows),
        people=len(set(identities)) if identified else None,
        images_in_training=images,
        people_in_training=people if identified else None,
    )


def unseen(learned: Learned, dataset: FaceDataset) -> NDArray[np.bool_]:
    """The rows of people that the model did not learn from (bool, one value per row); all where nothing is known."""
    return ~learned.rows(dataset)[1] if learned.known else np.ones(len(dataset), dtype=bool)


def unseen_pairs(dataset: FaceDataset, pairs: Pairs, kept: NDArray[np.bool_]) -> Pairs:
    """The pairs whose two rows are both `kept` (bool, one value per row of the dataset).

    Raises:
        InputError: Too few people remain to measure anything.
    """
    chosen = kept[pairs.left] & kept[pairs.right]
    same = pairs.same[chosen]
    fold = np.unique(pairs.fold[chosen], return_inverse=True)[1].astype(np.int32)
    folds = int(fold.max()) + 1 if len(fold) else 0
    if folds < 2 or not same.any() or same.all():
        names = np.asarray(dataset.column("identity"), dtype=object)
        test = dataset.rows("test")
        everybody, left = set(names[test]), set(names[test[kept[test]]])
        raise InputError(
            f"{dataset.path}: the model learned from {len(everybody) - len(left)} of the {len(everybody)} test people, and "
            f"the {len(left)} others are too few to measure it on"
        )
    return Pairs(pairs.left[chosen], pairs.right[chosen], same, fold)

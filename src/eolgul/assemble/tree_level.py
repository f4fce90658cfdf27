"""Signs that the identities of a source are not people but folders of people: the wrong level of a tree was extracted."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from eolgul.dataset import FaceDataset

FEW = 20  # identities; sets of people for training have more, folders above the people (train, test, batches) seldom
MANY = 100  # images per identity; scraped sets have less on average, K-FACE is recognised by its conditions


def warnings_of(source: FaceDataset) -> list[str]:
    """Sentences for the user, empty if nothing is suspicious.

    A source of fewer than `FEW` identities is suspicious if half of them have `MANY` images or more, or if the images of
    half of them lie in several folders. K-FACE is not: its tree is known, and a person has thousands of images there.
    """
    names, person = source.codes("identity")
    if not names or len(names) >= FEW or source.knows("camera"):
        return []
    name = source.artifact.contents["name"]
    found = f"source {name}: {len(names)} {'identity' if len(names) == 1 else 'identities'}"
    advice = "if these are not people but folders of people, extract the folder below them"
    typical = int(np.median(np.bincount(person)))
    if typical >= MANY:
        return [f"{found} with {typical} images each (median), few and huge; {advice}"]
    folders: dict[int, set[str]] = defaultdict(set)
    for identity, image in zip(person.tolist(), source.column("image_id"), strict=True):
        folders[identity].add(image.rpartition("/")[0])
    several = int(np.median([len(names) for names in folders.values()]))
    if several > 1:
        return [f"{found} whose images lie in {several} folders each (median); {advice}"]
    return []

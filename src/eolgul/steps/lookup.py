"""Find artifacts in workspaces by their digests: what a data set was assembled from, what an evaluation measured on."""

from __future__ import annotations

from collections.abc import Sequence

from eolgul import storage
from eolgul.artifact import Artifact
from eolgul.errors import InputError
from eolgul.steps.places import card_of, place_of, reference
from eolgul.steps.store import SHORT

_ARTIFACTS = "artifacts"


def parents(dataset: str, workspace: str) -> list[str]:
    """The aligned data sets that an assembled one was made from, so that they are assembled again with others.

    Args:
        dataset: The assembled FaceDataset.
        workspace: Where they lie, if they are not in the data set's own workspace.

    Raises:
        InputError: The data set is not assembled, or one of them is gone.
    """
    card = card_of(dataset)
    if card.kind != "FaceDataset" or "splits" not in card.contents:
        raise InputError(f"{dataset}: is not an assembled FaceDataset")
    return [_find(digest, dataset, workspace) for digest in _inputs(card)]


def data_of(evaluation: str, workspace: str) -> tuple[str, list[str]]:
    """The assembled FaceDataset and the benchmarks that an Evaluation was made from; arguments as for `parents`."""
    card = card_of(evaluation)
    if card.kind != "Evaluation":
        raise InputError(f"{evaluation}: is a {card.kind}, expected an Evaluation")
    found = [_find(digest, evaluation, workspace) for digest in _inputs(card)]
    people = [item for item in found if "splits" in card_of(item).contents]
    return (people[0] if people else ""), [item for item in found if item not in people]


def _inputs(card: Artifact) -> list[str]:
    """The digests of the FaceDatasets that an artifact was made from."""
    return [str(item["digest"]) for item in card.card["inputs"] if item["kind"] == "FaceDataset"]


def _find(digest: str, of: str, workspace: str) -> str:
    """The reference of an artifact with this digest, in the workspace or in the one that `of` lies in."""
    own = place_of(of).rpartition(f"/{_ARTIFACTS}/")[0]
    places = list(dict.fromkeys(place.rstrip("/") for place in (workspace, own) if place))
    for place in places:
        for step in ("align", "extract", "assemble"):
            folder = storage.join(place, _ARTIFACTS, step)
            for name in _names_with(folder, digest):
                found = reference(storage.join(folder, name), digest)
                card_of(found)
                return found
    raise InputError(
        f"{of}: was made from the data set {digest[:12]}, which is not in {' or '.join(places)}; expected it in the workspace "
        "where it was made"
    )


def _names_with(folder: str, digest: str) -> Sequence[str]:
    return [name for name in storage.list_names(folder) if name.endswith(f"-{digest[:SHORT]}")]

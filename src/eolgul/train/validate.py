"""Validation after each epoch, on identities that are not trained on. Only this chooses the best epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.faces.aligned import read_face
from eolgul.model.package import EmbeddingContract
from eolgul.model.recognizer import network_input

_BATCH = 64
_MOST_IMAGES = 4000  # they have 8 million pairs, which take seconds, however many identities a source holds out


class Validation:
    """Measures on the `validation` split: over all pairs of its images, and a closed-set loss against prototypes.

    For the loss, the mean embedding of the first half of an identity's images is its prototype. The other half is
    classified against all prototypes with the training scale and no margin; the loss is the mean cross-entropy.
    """

    def __init__(self, dataset: FaceDataset, contract: EmbeddingContract) -> None:
        self.rows = _thin(dataset.rows("validation"), dataset.numpy("label"))
        self._labels = dataset.numpy("label")[self.rows]
        identities, counts = np.unique(self._labels, return_counts=True)
        if len(identities) < 2 or counts.max() < 2:
            raise InputError(f"{dataset.path}: the validation split needs two identities, one with two images")
        self._dataset, self.contract = dataset, contract

    def embed(self, network: nn.Module, device: torch.device) -> NDArray[np.float32]:
        """Embeddings of the split, float32 N x D with rows of length 1 (no mirror image added)."""
        return _embed(network, device, self.rows, self.inputs)

    def faces(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The aligned faces at these manifest rows: uint8 RGB, N x 112 x 112 x 3."""
        return np.stack([read_face(self._dataset, int(row)) for row in rows])

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The same as network input: float32 N x 3 x 112 x 112, as the contract says."""
        return network_input(self.faces(rows), self.contract)

    def measure(self, embeddings: NDArray[np.float32], scale: float) -> dict[str, float]:
        """Measure over all pairs of images, and against prototypes.

        Args:
            embeddings: What `embed` returns, float32 N x D.
            scale: The training scale, for the loss.

        Returns:
            `auc` and the true accept rates at three false match rates over all pairs; `loss` and `accuracy` against
            prototypes. Where the impostor pairs are too few for a rate, the threshold is their highest similarity.
        """
        upper = np.triu_indices(len(embeddings), 1)
        similarity = (embeddings @ embeddings.T)[upper]
        same = (self._labels[:, None] == self._labels)[upper]
        genuine, impostor = similarity[same], np.sort(similarity[~same])
        # The rank statistic with ties at one half: the share of (genuine, impostor) pairs that are in order.
        below = np.searchsorted(impostor, genuine, "left") + np.searchsorted(impostor, genuine, "right")
        rates = {"1e-2": 0.99, "1e-3": 0.999, "1e-4": 0.9999}
        accepted = {
            f"tar_at_fmr_{name}": float((genuine > np.quantile(impostor, share, method="higher")).mean())
            for name, share in rates.items()
        }
        return {
            "auc": float(below.mean() / (2 * len(impostor))),
            **accepted,
            **closed_set(embeddings, self._labels, scale),
        }

    def counts(self) -> NDArray[np.int64]:
        """How many images each identity of the split has here."""
        counts: NDArray[np.int64] = np.unique(self._labels, return_counts=True)[1]
        return counts


class TrainingPeople:
    """As many training people as there are validation people, with as many images each, measured by the same closed-set loss.

    The loss depends on the number of people, so that only like numbers compare: what the loss of validation people exceeds
    this one by is what the network has learned by heart. The people are a fixed random sample, and their images are seen
    without augmentation. `rows` is None where the training people are too few for such a sample.
    """

    def __init__(self, dataset: FaceDataset, validation: Validation) -> None:
        rows = _alike(dataset.rows("train"), dataset.numpy("label"), validation.counts())
        self._dataset, self._contract = dataset, validation.contract
        self.rows = None if rows is None else np.array([row for row in rows if self._is_readable(int(row))], np.int64)
        self._labels = dataset.numpy("label")

    def measure(self, network: nn.Module, device: torch.device, scale: float) -> dict[str, float] | None:
        """`loss` and `accuracy` against prototypes, as `Validation.measure` has them; None if there is no sample."""
        if self.rows is None:
            return None
        embeddings = _embed(network, device, self.rows, self._inputs)
        return closed_set(embeddings, self._labels[self.rows], scale)

    def _inputs(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return network_input(np.stack([read_face(self._dataset, int(row)) for row in rows]), self._contract)

    def _is_readable(self, row: int) -> bool:
        try:
            read_face(self._dataset, row)
        except InputError:  # training counts it and goes on, within max_unreadable
            return False
        return True


def closed_set(embeddings: NDArray[np.float32], labels: NDArray[np.int32], scale: float) -> dict[str, float]:
    """Classify the second half of each identity's images against prototypes, the mean embeddings of the first halves.

    Args:
        embeddings: float32 N x D, rows of length 1.
        labels: The identities, N.
        scale: The factor of the cosines before the softmax; there is no margin.

    Returns:
        `loss` (mean cross-entropy) and `accuracy`.
    """
    prototypes: list[NDArray[np.float32]] = []
    probes: list[NDArray[np.float32]] = []
    truth: list[int] = []
    for identity in np.unique(labels):
        rows = np.flatnonzero(labels == identity)
        half = len(rows) // 2
        if half == 0:
            continue
        truth.extend([len(prototypes)] * (len(rows) - half))
        prototypes.append(embeddings[rows[:half]].mean(axis=0))
        probes.append(embeddings[rows[half:]])
    gallery = F.normalize(torch.from_numpy(np.stack(prototypes)))
    logits = scale * torch.from_numpy(np.concatenate(probes)) @ gallery.T
    target = torch.tensor(truth)
    return {
        "loss": float(F.cross_entropy(logits, target)),
        "accuracy": float((logits.argmax(dim=1) == target).float().mean()),
    }


def _embed(
    network: nn.Module,
    device: torch.device,
    rows: NDArray[np.int64],
    inputs: Callable[[NDArray[np.int64]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    network.eval()
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(rows), _BATCH):
            batch = torch.from_numpy(inputs(rows[begin : begin + _BATCH]))
            parts.append(F.normalize(network(batch.to(device)).float()).cpu().numpy())
    return np.concatenate(parts)


def _alike(rows: NDArray[np.int64], labels: NDArray[np.int32], counts: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The rows of a random training identity per entry of `counts`, as many as it says; None if there are too few."""
    identities, sizes = np.unique(labels[rows], return_counts=True)
    order = np.random.default_rng(0).permutation(len(identities))
    free = sizes[order]
    chosen: dict[int, int] = {}
    for wanted in sorted((int(count) for count in counts if count > 1), reverse=True):
        place = int(np.argmax(free >= wanted))
        if free[place] < wanted:
            return None
        chosen[int(identities[order[place]])] = wanted
        free[place] = 0
    by_identity = rows[np.argsort(labels[rows], kind="stable")]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    places = np.searchsorted(identities, sorted(chosen))
    return np.concatenate([by_identity[begins[n] : begins[n] + chosen[int(identities[n])]] for n in places])


def _thin(rows: NDArray[np.int64], labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """At most _MOST_IMAGES rows: the first n images of every identity, with the largest n that fits.

    If even two images per identity are too many, identities are left out evenly over their order, which is by source, so
    that every source keeps its share.
    """
    if len(rows) <= _MOST_IMAGES:
        return rows
    identities = np.unique(labels[rows])
    if len(identities) > _MOST_IMAGES // 2:
        kept = identities[np.linspace(0, len(identities) - 1, _MOST_IMAGES // 2).astype(int)]
        rows = rows[np.isin(labels[rows], kept)]
    labels_of_rows = labels[rows]
    order = np.argsort(labels_of_rows, kind="stable")
    number = np.empty(len(rows), np.int64)  # of the image within its identity
    number[order] = np.arange(len(rows)) - np.searchsorted(labels_of_rows[order], labels_of_rows[order], "left")
    most = next((n for n in range(int(number.max()) + 1, 2, -1) if (number < n).sum() <= _MOST_IMAGES), 2)
    return rows[number < most]

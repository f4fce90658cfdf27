"""Validation after each epoch, on identities that are not trained on. Only this chooses the best epoch."""

from __future__ import annotations

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
        network.eval()
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(self.rows), _BATCH):
                batch = torch.from_numpy(self.inputs(self.rows[begin : begin + _BATCH]))
                parts.append(F.normalize(network(batch.to(device)).float()).cpu().numpy())
        return np.concatenate(parts)

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
        loss, accuracy = self._prototypes(embeddings, scale)
        return {
            "auc": float(below.mean() / (2 * len(impostor))),
            **accepted,
            "loss": loss,
            "accuracy": accuracy,
        }

    def _prototypes(self, embeddings: NDArray[np.float32], scale: float) -> tuple[float, float]:
        prototypes: list[NDArray[np.float32]] = []
        probes: list[NDArray[np.float32]] = []
        truth: list[int] = []
        for identity in np.unique(self._labels):
            rows = np.flatnonzero(self._labels == identity)
            half = len(rows) // 2
            if half == 0:
                continue
            truth.extend([len(prototypes)] * (len(rows) - half))
            prototypes.append(embeddings[rows[:half]].mean(axis=0))
            probes.append(embeddings[rows[half:]])
        gallery = F.normalize(torch.from_numpy(np.stack(prototypes)))
        logits = scale * torch.from_numpy(np.concatenate(probes)) @ gallery.T
        target = torch.tensor(truth)
        return float(F.cross_entropy(logits, target)), float((logits.argmax(dim=1) == target).float().mean())


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

"""ArcFace against the paper's formula in float64, gradients included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eolgul.train.heads import ArcFace, add_margin


def by_the_paper(
    embeddings: np.ndarray, weight: np.ndarray, labels: np.ndarray, scale: float, margin: float
) -> np.ndarray:
    """Eq. 3 of arXiv:1801.07698 with angles taken literally; past pi, the published implementations' continuation."""
    e = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    w = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    cosine = e @ w.T
    logits = cosine.copy()
    for row, label in enumerate(labels):
        theta = math.acos(np.clip(cosine[row, label], -1, 1))
        if theta + margin < math.pi:
            logits[row, label] = math.cos(theta + margin)
        else:
            logits[row, label] = cosine[row, label] - margin * math.sin(margin)
    return scale * logits


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.2])
def test_logits_follow_the_paper(margin: float) -> None:
    rng = np.random.default_rng(0)
    embeddings, labels = rng.normal(size=(64, 16)), rng.integers(0, 10, 64)
    head = ArcFace(16, 10, scale=64.0, margin=margin)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rng.normal(size=(10, 16))))
        got = head(torch.from_numpy(embeddings).float(), torch.from_numpy(labels)).numpy()
    expected = by_the_paper(embeddings, head.weight.detach().double().numpy(), labels, 64.0, margin)
    np.testing.assert_allclose(got, expected, atol=2e-3)  # float32 cosines times 64


def test_gradients_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    cosine = (torch.rand(6, 5, generator=generator, dtype=torch.float64) * 1.9 - 0.95).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.autograd.gradcheck(lambda c: add_margin(c, labels, 0.5), (cosine,))


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_finite_where_embedding_and_prototype_coincide(value: float) -> None:
    head = ArcFace(4, 3, scale=64.0, margin=0.5)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3, 4))
    embedding = torch.tensor([[value, 0.0, 0.0, 0.0]], requires_grad=True)
    loss = torch.nn.functional.cross_entropy(head(embedding, torch.tensor([0])), torch.tensor([0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embedding.grad).all() and torch.isfinite(head.weight.grad).all()


def test_target_logit_falls_with_the_angle_all_the_way() -> None:
    angles = torch.linspace(0.01, math.pi - 0.01, 500)
    target = add_margin(torch.cos(angles)[:, None], torch.zeros(500, dtype=torch.long), 0.5)[:, 0]
    assert (target.diff() < 0).all()

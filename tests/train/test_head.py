"""Every head against its paper's formula in float64 with numpy, gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from eolgul.train.distributed import World
from eolgul.train.head import Head
from eolgul.train.margins import AdaFace, ArcFace, Combined, CosFace, Margin

RNG = np.random.default_rng(0)


def arcface(theta: float, m: float) -> float:
    return math.cos(theta + m) if theta + m < math.pi else math.cos(theta) - m * math.sin(m)


def combined(theta: float, m1: float, m2: float, m3: float) -> float:
    phi = m1 * theta + m2
    k = math.floor(phi / math.pi)
    return (-1) ** k * math.cos(phi) - 2 * k - m3


def adaface(theta: float, length: float, m: float, mean: float, std: float, h: float = 0.333) -> float:
    z = min(1.0, max(-1.0, (min(length, 100.0) - mean) / (std + 1e-3) * h))
    return math.cos(min(max(theta - m * z, 1e-3), math.pi - 1e-3)) - (m * z + m)


MARGINS: list[tuple[Margin, Callable[[float, float], float]]] = [
    (ArcFace(0.0), lambda theta, _: arcface(theta, 0.0)),
    (ArcFace(0.5), lambda theta, _: arcface(theta, 0.5)),
    (ArcFace(1.2), lambda theta, _: arcface(theta, 1.2)),
    (CosFace(0.35), lambda theta, _: math.cos(theta) - 0.35),
    (Combined(1.0, 0.3, 0.2), lambda theta, _: combined(theta, 1.0, 0.3, 0.2)),
    (Combined(1.35, 0.0, 0.0), lambda theta, _: combined(theta, 1.35, 0.0, 0.0)),
    (Combined(4.0, 0.1, 0.1), lambda theta, _: combined(theta, 4.0, 0.1, 0.1)),
    (AdaFace(0.4), lambda theta, length: adaface(theta, length, 0.4, 20.0, 100.0)),
    (Margin(), lambda theta, _: math.cos(theta)),
]


@pytest.mark.parametrize(("margin", "paper"), MARGINS)
def test_logits_follow_the_paper(margin: Margin, paper: Callable[[float, float], float]) -> None:
    """64 embeddings of lengths 1 to 250 against 10 centres, one of them opposite, taken through the whole head."""
    embeddings, labels = RNG.normal(size=(64, 16)), RNG.integers(0, 10, 64)
    embeddings *= (RNG.uniform(1, 250, 64) / np.linalg.norm(embeddings, axis=1))[:, None]
    head = Head(16, 10, margin, scale=64.0).double().eval()
    centres = RNG.normal(size=(10, 16))
    embeddings[0] = -7 * centres[labels[0]] + 0.01
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(centres)[:, None])
        got, own = head.logits(torch.from_numpy(embeddings), torch.from_numpy(labels))
    cosine = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)) @ (
        centres / np.linalg.norm(centres, axis=1, keepdims=True)
    ).T
    expected = cosine.copy()
    for row, label in enumerate(labels):
        theta = math.acos(np.clip(cosine[row, label], -1, 1))
        expected[row, label] = paper(theta, float(np.linalg.norm(embeddings[row])))
    assert own.tolist() == labels.tolist()
    np.testing.assert_allclose(got.numpy(), 64 * expected, atol=1e-6)


@pytest.mark.parametrize("margin", [margin for margin, _ in MARGINS])
def test_gradients_in_float64(margin: Margin) -> None:
    cosine = torch.from_numpy(RNG.uniform(-0.95, 0.95, 12)).requires_grad_()
    lengths = torch.from_numpy(RNG.uniform(1, 100, 12))
    margin = margin.double()
    assert torch.autograd.gradcheck(lambda c: margin(c, lengths), (cosine,))


@pytest.mark.parametrize("centers", [1, 3])
def test_gradients_of_the_whole_head(centers: int) -> None:
    head = Head(5, 6, ArcFace(0.4), scale=8.0, centers=centers).double()
    labels = torch.tensor([0, 2, 5, 1])
    embeddings = torch.from_numpy(RNG.normal(size=(4, 5))).requires_grad_()
    weight = torch.from_numpy(RNG.normal(size=(6, centers, 5))).requires_grad_()

    def loss(e: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(head, {"weight": w}, (e, labels))
        return out

    assert torch.autograd.gradcheck(loss, (embeddings, weight))


@pytest.mark.parametrize("margin", [margin for margin, _ in MARGINS])
@pytest.mark.parametrize("value", [1.0, -1.0])
def test_finite_where_embedding_and_centre_coincide(margin: Margin, value: float) -> None:
    head = Head(4, 3, margin.float(), scale=64.0)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3, 4)[:, None])
    embeddings = torch.tensor([[value, 0.0, 0.0, 0.0], [0.0, value, 0.0, 0.0]], requires_grad=True)
    loss = head(embeddings, torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert embeddings.grad is not None and head.weight.grad is not None
    assert torch.isfinite(embeddings.grad).all() and torch.isfinite(head.weight.grad).all()


@pytest.mark.parametrize("margin", [ArcFace(0.5), Combined(1.35, 0.2, 0.1), Combined(4.0, 0.0, 0.0), CosFace(0.3)])
def test_what_stands_for_the_cosine_falls_with_the_angle_all_the_way(margin: Margin) -> None:
    angles = torch.linspace(0.01, math.pi - 0.01, 500, dtype=torch.float64)
    assert (margin(torch.cos(angles), torch.ones(500)).diff() < 0).all()


def test_adaface_watches_the_lengths() -> None:
    margin = AdaFace(0.4)
    lengths = torch.tensor([10.0, 20.0, 60.0, 500.0])
    margin.observe(lengths)
    seen = np.array([10.0, 20.0, 60.0, 100.0])  # longer ones count as 100
    assert margin.mean.item() == pytest.approx(0.99 * 20 + 0.01 * seen.mean())
    assert margin.std.item() == pytest.approx(0.99 * 100 + 0.01 * seen.std(ddof=1))


def test_a_margin_warms_up() -> None:
    cosine = torch.linspace(-0.9, 0.9, 9)
    for margin in (ArcFace(0.5), CosFace(0.4), Combined(1.5, 0.3, 0.2), AdaFace(0.4)):
        margin.strength = 0.0
        torch.testing.assert_close(margin(cosine, torch.ones(9)), cosine)


def test_an_identity_is_as_near_as_its_nearest_centre() -> None:
    head = Head(8, 5, CosFace(0.2), scale=10.0, centers=3).double()
    embeddings = torch.from_numpy(RNG.normal(size=(7, 8)))
    labels = torch.from_numpy(RNG.integers(0, 5, 7))
    got, _ = head.logits(embeddings, labels)
    for row in range(7):
        for identity in range(5):
            cosines = [
                torch.cosine_similarity(embeddings[row], head.weight.detach()[identity, k], dim=0).item()
                for k in range(3)
            ]
            expected = max(cosines) - (0.2 if labels[row] == identity else 0.0)
            assert got[row, identity].item() == pytest.approx(10 * expected)


def test_sampling_keeps_the_batchs_people_and_moves_only_the_chosen() -> None:
    """The loss and the step are those of a plain head that has only the chosen centres, by torch's own SGD."""
    head = Head(8, 50, ArcFace(0.3), scale=16.0, sample=0.3, seed=3)
    embeddings, labels = torch.randn(6, 8), torch.tensor([3, 44, 3, 17, 8, 49])
    plain = None
    for step in range(3):
        before = head.weight.detach().clone()
        head.choose(labels, (0, step))
        rows = head._rows
        assert rows is not None and len(rows) == 15 and set(labels.tolist()) <= set(rows.tolist())
        loss = head(embeddings, labels)
        small = Head(8, 15, ArcFace(0.3), scale=16.0)
        with torch.no_grad():
            small.weight.copy_(before[rows])
        expected = small(embeddings, torch.searchsorted(rows, labels))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        loss.backward()
        expected.backward()
        if plain is None:
            plain = torch.zeros_like(before)
        optimizer = torch.optim.SGD([small.weight], lr=0.1, momentum=0.9, weight_decay=5e-4)
        optimizer.state[small.weight]["momentum_buffer"] = plain[rows].clone()
        optimizer.step()
        head.update(learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
        torch.testing.assert_close(head.weight[rows], small.weight)
        plain[rows] = optimizer.state[small.weight]["momentum_buffer"]
        others = torch.ones(50, dtype=torch.bool)
        others[rows] = False
        assert torch.equal(head.weight[others], before[others])
    again = Head(8, 50, ArcFace(0.3), sample=0.3, seed=3)
    again.choose(labels, (0, 2))
    assert again._rows is not None and head._rows is not None
    assert torch.equal(again._rows, head._rows)
    again.choose(labels, (0, 3))
    assert not torch.equal(again._rows, head._rows)


def test_centres_begin_alike_however_they_are_cut() -> None:
    whole = Head(4, 9001, ArcFace(), seed=1).weight
    parts: list[torch.Tensor] = [Head(4, 9001, ArcFace(), seed=1, world=World(rank, 3)).weight for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.std().item() == pytest.approx(0.01, rel=0.02)
    assert len(torch.unique(whole[:, 0, 0])) > 8900


def test_the_straight_through_gradient_is_one_and_the_value_the_margins() -> None:
    """As arcface_torch's CombinedMarginLoss, whose arccos and cos are under no_grad: also past pi, where the value rises again."""
    cosine = torch.linspace(-0.999, 0.999, 41, dtype=torch.float64, requires_grad=True)
    margin = ArcFace(0.5, straight_through=True)
    value = margin(cosine, torch.ones(41))
    assert torch.allclose(value, torch.cos(torch.acos(cosine) + 0.5))
    (slope,) = torch.autograd.grad(value.sum(), cosine)
    assert torch.equal(slope, torch.ones_like(slope))
    exact = ArcFace(0.5)(cosine, torch.ones(41))
    (true,) = torch.autograd.grad(exact.sum(), cosine)
    angle = torch.acos(cosine.detach())
    before_pi = angle < torch.pi - 0.5
    assert torch.allclose(true[before_pi], (torch.sin(angle + 0.5) / torch.sin(angle))[before_pi])


def test_first_centres_of_length_one() -> None:
    small, unit = Head(16, 30, ArcFace(), seed=2).weight, Head(16, 30, ArcFace(), seed=2, unit=True).weight
    assert torch.allclose(unit.norm(dim=2), torch.ones(30, 1))
    assert torch.allclose(unit, small / small.norm(dim=2, keepdim=True))
    assert float(small.detach().norm(dim=2).max()) < 0.1

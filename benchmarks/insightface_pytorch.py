"""How InsightFace_Pytorch (TreB1eN) trains MobileFaceNet, in plain torch: the counterpart of `benchmarks/reference_training.py`.

Written from what that project describes and does (train.py and utils.py at 38245c3f, config.py at 37e124e2, Learner.py at ca10159e,
model.py, data_pipe.py, verifacation.py), not from its code, and without anything of eolgul: its network, its head, its groups
of weight decay, its schedule, its way of reading images and its verification. Seeds decide the first weights, the order and
the mirror images by torch's global generator, as they do there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

SCALE, MARGIN = 64.0, 0.5
TO_INPUT = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]


class Shortcut(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)  # type: ignore[no-any-return]


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1, slope: bool = True
) -> list[nn.Module]:
    """Convolution without bias, batch norm, and a PReLU unless the layer is linear."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return [*layers, nn.PReLU(outputs)] if slope else layers


def bottleneck(inputs: int, outputs: int, width: int, stride: int) -> nn.Sequential:
    """1x1 to `width` channels, 3x3 on each, 1x1 to `outputs` without a PReLU."""
    return nn.Sequential(
        *convolution(inputs, width, 1),
        *convolution(width, width, 3, stride=stride, padding=1, groups=width),
        *convolution(width, outputs, 1, slope=False),
    )


def mobilefacenet(embedding_size: int = 512) -> nn.Sequential:
    """From float32 N x 3 x 112 x 112 to N x embedding_size, rows not normalised."""

    def same(channels: int, width: int, count: int) -> list[nn.Module]:
        return [Shortcut(bottleneck(channels, channels, width, 1)) for _ in range(count)]

    return nn.Sequential(
        *convolution(3, 64, 3, stride=2, padding=1),
        *convolution(64, 64, 3, padding=1, groups=64),
        bottleneck(64, 64, 128, 2),
        *same(64, 128, 4),
        bottleneck(64, 128, 256, 2),
        *same(128, 256, 6),
        bottleneck(128, 128, 512, 2),
        *same(128, 256, 2),
        *convolution(128, 512, 1),
        *convolution(512, 512, 7, groups=512, slope=False),
        nn.Flatten(),
        nn.Linear(512, embedding_size, bias=False),
        nn.BatchNorm1d(embedding_size),
    )


def take_over(network: nn.Module, values: Sequence[Tensor]) -> None:
    """Give the network these tensors, in the order of its own."""
    own = network.state_dict()
    assert [value.shape for value in own.values()] == [value.shape for value in values]
    network.load_state_dict(dict(zip(own, values, strict=True)))


class Arcface(nn.Module):
    """64 x the cosines to the columns of `kernel`, that of the own identity with a margin of 0.5 radians.

    Where the angle is beyond pi - 0.5, the margin is taken from the cosine instead: 0.5 x sin(0.5).
    """

    def __init__(self, embedding_size: int, identities: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(F.normalize(torch.empty(embedding_size, identities).uniform_(-1, 1), dim=0))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Logits, N x identities, of embeddings of length 1."""
        cosine = (embeddings @ F.normalize(self.kernel, dim=0)).clamp(-1, 1)
        sine = torch.sqrt(1 - cosine**2)
        moved = cosine * math.cos(MARGIN) - sine * math.sin(MARGIN)
        moved = torch.where(cosine > math.cos(math.pi - MARGIN), moved, cosine - MARGIN * math.sin(MARGIN))
        own = F.one_hot(labels, cosine.shape[1]).bool()
        return SCALE * torch.where(own, moved, cosine)


def optimizer_of(network: nn.Module, head: Arcface, learning_rate: float) -> torch.optim.SGD:
    """SGD of momentum 0.9; weight decay 4e-5, 4e-4 for the last linear layer and the head, 0 for batch norms."""
    norms: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for layer in network.modules():
        (norms if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) else others).extend(
            layer.parameters(recurse=False)
        )
    groups: list[dict[str, Any]] = [
        {"params": others[:-1], "weight_decay": 4e-5},
        {"params": [others[-1], head.kernel], "weight_decay": 4e-4},
        {"params": norms},
    ]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)


def read_bgr(path: str) -> Image.Image:
    """Its images have blue and red exchanged: OpenCV's order was saved as if it were R, G, B."""
    with Image.open(path) as image:
        red, green, blue = image.convert("RGB").split()
    return Image.merge("RGB", (blue, green, red))


def training_images(folder: Path, batch_size: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of a folder of people's folders in a new order each epoch, half of the images mirrored."""
    change = transforms.Compose([transforms.RandomHorizontalFlip(), *TO_INPUT])
    return DataLoader(ImageFolder(str(folder), change, loader=read_bgr), batch_size, shuffle=True)


def train(
    network: nn.Module,
    head: Arcface,
    batches: DataLoader[tuple[Tensor, Tensor]],
    *,
    learning_rate: float,
    epochs: int,
    milestones: Sequence[float],
    report: Callable[[int, list[float], float], None],
) -> None:
    """The loop; `batches` is gone through once per epoch, and at each milestone the rate is divided by ten.

    Args:
        network: From images to embeddings.
        head: From embeddings to logits.
        batches: Network input and labels, in a new order each time.
        learning_rate: The first rate.
        epochs: How often all batches are shown.
        milestones: After so many epochs; in a scaled run that may be within one.
        report: Called after each epoch with its number from 1, the loss of each of its steps, and its CPU seconds.
    """
    optimizer = optimizer_of(network, head, learning_rate)
    falls = [math.ceil(milestone * len(batches)) for milestone in milestones]
    step = 0
    for epoch in range(epochs):
        network.train()
        losses, started = [], time.process_time()
        for images, labels in batches:
            if step in falls:
                for group in optimizer.param_groups:
                    group["lr"] /= 10
            step += 1
            optimizer.zero_grad()
            loss = F.cross_entropy(head(F.normalize(network(images)), labels), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        report(epoch + 1, losses, time.process_time() - started)


def embed(network: nn.Module, files: Sequence[Path], *, bgr: bool = True) -> NDArray[np.float32]:
    """Sums of the embeddings of an image and of its mirror image, of length 1: float32 N x D."""
    network.eval()
    change = transforms.Compose(TO_INPUT)
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(files), 32):
            opened = [
                read_bgr(str(file)) if bgr else Image.open(file).convert("RGB") for file in files[begin : begin + 32]
            ]
            images = torch.stack([change(image) for image in opened])
            parts.append(
                F.normalize(F.normalize(network(images)) + F.normalize(network(images.flip(3)))).float().numpy()
            )
    return np.concatenate(parts)


def ten_fold_accuracy(
    embeddings: NDArray[np.float32], pairs: NDArray[np.int64], same: NDArray[np.bool_]
) -> tuple[float, float]:
    """Mean and deviation of the accuracy over ten consecutive folds, each at the threshold that is best on the others.

    The thresholds are squared distances from 0 to 3.99 in steps of 0.01.
    """
    distance = np.square(embeddings[pairs[:, 0]] - embeddings[pairs[:, 1]]).sum(axis=1)
    right = (distance[:, None] < np.arange(0, 4, 0.01)) == same[:, None]
    accuracies = []
    for fold in np.array_split(np.arange(len(pairs)), 10):
        others = np.setdiff1d(np.arange(len(pairs)), fold)
        accuracies.append(right[fold, int(right[others].mean(axis=0).argmax())].mean())
    return float(np.mean(accuracies)), float(np.std(accuracies))


def miss_rate(embeddings: NDArray[np.float32], people: NDArray[np.int64], false_match_rate: float) -> float:
    """The share of all pairs of one person below the threshold that this share of all pairs of two people reach."""
    upper = np.triu_indices(len(embeddings), 1)
    similarity = (embeddings @ embeddings.T)[upper]
    same = people[upper[0]] == people[upper[1]]
    threshold = np.quantile(similarity[~same], 1 - false_match_rate, method="higher")
    return float((similarity[same] < threshold).mean())

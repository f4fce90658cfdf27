"""Measure the images per second of a training step, beside its limit and beside InsightFace_Pytorch's loop, in one run.

A step is load, decode, augment, forward, head, backward, clip, update. The limit is the same step on one constant batch
in memory. The peer is a loop like InsightFace_Pytorch's: ImageFolder, PIL, torchvision's transforms, float32, unfused SGD.
Rounds of the three alternate, so that other load on the machine affects all of them equally; ratios are medians over
rounds. The images are noise in JPEG, of the size of MS1M's. The loader alone is measured first, in one process.
Options: --device cuda --batch 512 …
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from eolgul.dataset import FaceDataset, build_dataset
from eolgul.model.package import EmbeddingContract
from eolgul.train.backbones import build
from eolgul.train.data import TrainingData, to_input
from eolgul.train.head import Head
from eolgul.train.margins import ArcFace
from eolgul.train.optim import autocast_dtype, clip_gradients, make_optimizer
from eolgul.train.recipe import Recipe

PEOPLE, CONTRACT = 40, EmbeddingContract()


def draw(folder: Path, images: int) -> Path:
    """The same pictures as a FaceDataset and as folders of files."""
    rng = np.random.default_rng(0)
    with build_dataset(folder / "faces", {"step": "benchmark"}) as dataset:
        with dataset.shard(0, "noise") as shard:
            for number in range(images):
                small = rng.integers(0, 256, (14, 14, 3), np.uint8)
                face = cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC)
                face = np.clip(face + rng.normal(0, 6, face.shape), 0, 255).astype(np.uint8)
                buffer = BytesIO()
                Image.fromarray(face).save(buffer, "JPEG", quality=95)
                data, person = buffer.getvalue(), f"p{number % PEOPLE:03}"
                (folder / "files" / person).mkdir(parents=True, exist_ok=True)
                (folder / "files" / person / f"{number}.jpg").write_bytes(data)
                facts = {"split": "train"}
                shard.add(f"{person}/{number}", person, data, extension="jpg", size=(112, 112), facts=facts)
        dataset.finish(range(1))
        contents = {"name": "assembled", "identities_known": True, "aligned": "arcface-112-v1", "detector": None,
                    "splits": {}}  # fmt: skip
        dataset.seal(step="assemble", version=1, recipe={}, inputs=[], synthetic=True, facts=contents)
    return folder


class Ours:
    """The loop's own parts, in the loop's order."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(0)
        self.recipe, self.device = recipe, device
        self.autocast = autocast_dtype(recipe, device)
        self.network = build(recipe.backbone, 512).to(device).to(memory_format=torch.channels_last).train()
        self.head = Head(512, PEOPLE, ArcFace(recipe.margin), sample=recipe.sample).to(device)
        self.optimizer = make_optimizer(recipe, self.network, self.head)

    def step(self, faces: Tensor, labels: Tensor, position: tuple[int, int] = (0, 0)) -> Tensor:
        faces, labels = faces.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        self.head.choose(labels, position)
        kind = self.autocast or torch.bfloat16
        with torch.autocast(self.device.type, dtype=kind, enabled=self.autocast is not None):
            embeddings = self.network(to_input(faces, CONTRACT))
        loss: Tensor = self.head(embeddings, labels)
        loss.backward()
        clip_gradients(self.network, self.head, self.recipe.clip_norm, 1.0, self.head.world)
        self.optimizer.step()
        self.head.update(learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
        self.optimizer.zero_grad(set_to_none=True)
        return loss


class Theirs:
    """As InsightFace_Pytorch trains: normalised embeddings, a kernel of columns, float32, torch's plain SGD."""

    def __init__(self, backbone: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.network = build(backbone, 512).to(device).train()
        self.kernel = nn.Parameter(F.normalize(torch.rand(512, PEOPLE, device=device) - 0.5, dim=0))
        own = list(self.network.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [*(value for value in own if value.ndim > 1), self.kernel], "weight_decay": 5e-4},
            {"params": [value for value in own if value.ndim <= 1]},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, foreach=False, fused=False)
        self.margin = ArcFace(0.5)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        images, labels = images.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        embeddings = F.normalize(self.network(images))
        cosine = (embeddings @ F.normalize(self.kernel, dim=0)).clamp(-1, 1)
        moved = self.margin(cosine, torch.ones_like(cosine))
        output = cosine * 1.0
        rows = torch.arange(len(labels))
        output[rows, labels] = moved[rows, labels]
        loss = F.cross_entropy(output * 64, labels)
        loss.backward()
        self.optimizer.step()
        loss.item()
        return loss


def seconds(work: Callable[[], object], steps: int, device: torch.device) -> float:
    """A step's seconds: of the clock on a GPU; on a CPU, of this process's computing, since others share the machine.

    Preparing batches happens in worker processes, which that leaves out for all
    three; how long a step waited for them is said beside it.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    for _ in range(steps):
        last = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif isinstance(last, Tensor):
        last.item()
    return (clock() - started) / steps


def forever(make: Callable[[int], Iterator[object]]) -> Iterator[object]:
    epoch = 0
    while True:
        yield from make(epoch)
        epoch += 1


def measure(backbone: str, precision: str, batch: int, steps: int, rounds: int, workers: int, device: str) -> None:
    target = torch.device(device)
    recipe = Recipe.load(
        "mobilefacenet-ms1m-kface", [f"backbone={backbone}", f"precision={precision}", f"batch_size={batch}"]
    )
    with TemporaryDirectory() as name:
        folder = draw(Path(name), max(20 * batch, 640))
        data = TrainingData(FaceDataset(folder / "faces"), recipe, workers=workers, pin=target.type == "cuda")
        ours, limit, theirs = Ours(recipe, target), Ours(recipe, target), Theirs(backbone, target)
        batches = forever(data.batches)
        constant = next(data.batches(0))
        change = transforms.Compose(
            [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        )
        files = datasets.ImageFolder(str(folder / "files"), change)
        loader = DataLoader(files, batch, shuffle=True, num_workers=workers, drop_last=True)
        peers = forever(lambda epoch: iter(loader))

        waits: list[float] = []

        def full() -> Tensor:
            asked = time.perf_counter()
            part = next(batches)
            waits.append(time.perf_counter() - asked)
            return ours.step(part.faces, part.labels)  # type: ignore[attr-defined]

        works: dict[str, Callable[[], Tensor]] = {
            "eolgul": full,
            "constant batch": lambda: limit.step(constant.faces, constant.labels),
            "InsightFace_Pytorch's way": lambda: theirs.step(*next(peers)),  # type: ignore[misc]
        }
        took: dict[str, list[float]] = {key: [] for key in works}
        for work in works.values():
            seconds(work, 1, target)
        waits.clear()
        for number in range(rounds):
            order = list(works)[number % 3 :] + list(works)[: number % 3]
            for key in order:
                took[key].append(seconds(works[key], steps, target))
        share = statistics.median(c / e for c, e in zip(took["constant batch"], took["eolgul"], strict=True))
        ratio = statistics.median(t / e for t, e in zip(took["InsightFace_Pytorch's way"], took["eolgul"], strict=True))
    speeds = {key: round(batch / statistics.median(values), 1) for key, values in took.items()}
    print(json.dumps({"backbone": backbone, "precision": precision, "batch": batch, "device": device, "workers": workers,
                      "threads": torch.get_num_threads(), "images/s": speeds, "share of the limit": round(share, 3),
                      "data_wait ms a step": round(1000 * statistics.median(waits), 2),
                      "times InsightFace_Pytorch's way": round(ratio, 2),
                      "load": [round(value, 1) for value in os.getloadavg()]}), flush=True)  # fmt: skip


def measure_loader(images: int, rounds: int) -> None:
    """Images per processor second of the loader alone, in this process: read, decode, mirror, put into batches."""
    with TemporaryDirectory() as scratch:
        faces = FaceDataset(draw(Path(scratch), images) / "faces")
        for order in ("random", "windowed"):
            recipe = Recipe.from_json({"batch_size": 200, "read_order": order})
            training, rates = TrainingData(faces, recipe, workers=0), []
            for epoch in range(rounds):
                begun = time.process_time()
                read = sum(len(batch.labels) for batch in training.batches(epoch))
                rates.append(read / (time.process_time() - begun))
            row = {"loader": order, "images_per_cpu_s": round(statistics.median(rates))}
            print(json.dumps(row | {"load": round(os.getloadavg()[0], 1)}), flush=True)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--backbone", nargs="*", default=["mobilefacenet", "irse50"])
    words.add_argument("--precision", nargs="*", default=["fp32", "bf16"])
    words.add_argument("--batch", type=int, default=16)
    words.add_argument("--steps", type=int, default=2)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--workers", type=int, default=1)
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--device", default="cpu")
    options = words.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    measure_loader(4000, options.rounds)
    for backbone in options.backbone:
        for precision in options.precision:
            measure(backbone, precision, options.batch, options.steps, options.rounds, options.workers, options.device)


if __name__ == "__main__":
    main()

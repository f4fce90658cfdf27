"""Compare what `eolgul demo` could train: data, network and recipe, at equal cost, on drawn people and on LFW.

`data` draws, extracts, aligns and assembles once. `train` runs arms through `eolgul.train`, each seed on one thread, and appends
a line of JSON per run to `results.jsonl`. `table` prints mean and range over the seeds of each arm. `speed` prints the images per
processor second of a training step (forward, backward, update; batch 32, one thread) of the networks.

Measured of each run, with the packaged model through ONNX Runtime:

- `kface`, `wild`, `rig`: false non-match rate at a false match rate of 1 % (its own threshold), over all pairs of images of 40
  drawn people whom no arm trains on: 12 images each of K-FACE's kind, 6 in the wild, 6 like today's train.rec,
- `lfw`: accuracy of the pairs of `$EOLGUL_SHARED/lfw-1-5` (5 folds of LFW's protocol) where that is there. It chooses nothing,
- `cpu_s`: processor seconds of the whole training with validation and packaging.

Arms are compared by the mean of the three drawn rates. One run takes 3 to 4 minutes of one core, `FULL` up to 20.

Usage: demo_model.py data|train|table|speed FOLDER [--arm NAME ...] [--seed N ...] [--workers N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from numpy.typing import NDArray

from eolgul import steps
from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.dataset import FaceDataset
from eolgul.evaluate.calibrate import threshold_at
from eolgul.evaluate.embed import embed_rows
from eolgul.evaluate.pairs import score_all_pairs
from eolgul.evaluate.protocol import accuracy, squared_distance
from eolgul.extract.config import ExtractConfig
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer
from eolgul.synth import draw_kface, draw_rec
from eolgul.train.backbones import BACKBONES, build, mobilefacenet
from eolgul.train.loop import train
from eolgul.train.recipe import Recipe

SHARES = AssembleConfig(validation=0.05, calibration=0.15, test=0.15)  # the demo's
HELD_OUT = {"kface": ("held_kface",), "wild": ("held_wild",), "rig": ("held_rig",)}
DRAWN: dict[str, Callable[..., Any]] = {
    "rig150x5": lambda out, **how: draw_rec(out, people=150, images=5, **how),
    "kface60x10": lambda out, **how: draw_kface(out, people=60, images_per_person=10, **how),
    "rig250x3": lambda out, **how: draw_rec(out, people=250, images=3, **how),
    "kface100x6": lambda out, **how: draw_kface(out, people=100, images_per_person=6, **how),
    "wild150x3": lambda out, **how: draw_rec(out, people=150, images=3, style="wild", **how),
    "rig150x12": lambda out, **how: draw_rec(out, people=150, images=12, **how),
    "kface60x24": lambda out, **how: draw_kface(out, people=60, images_per_person=24, **how),
    "held_kface": lambda out, **how: draw_kface(out, people=40, first=5000, images_per_person=12, **how),
    "held_wild": lambda out, **how: draw_rec(out, people=40, images=6, first=700_000, style="wild", **how),
    "held_rig": lambda out, **how: draw_rec(out, people=40, images=6, first=700_000, **how),
}
# The first three take the same time to draw.
MIXES = {
    "demo": ("rig150x5", "kface60x10"),
    "people": ("rig250x3", "kface100x6"),
    "wild": ("wild150x3", "kface60x10"),
    "full": ("rig150x12", "kface60x24"),
}

# An arm is (data, recipe, overrides). All but the last show about as many images, or take about as much processor time.
SHOWN = 10_500
ARMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "demo": ("demo", "demo", ()),
    "average of the weights": ("demo", "demo", ("ema=0.98",)),
    "augmented": ("demo", "demo", ("crop=0.2", "low_resolution=0.2", "saturation=0.2")),
    "AdamW": ("demo", "demo", ("optimizer=adamw", "clip=none", "learning_rate=0.003", "weight_decay=0.05")),
    "clip 50, rate 0.01": ("demo", "demo", ("clip_norm=50", "learning_rate=0.01")),
    "half MobileFaceNet": ("demo", "demo", ("backbone=half",)),
    "more people": ("people", "demo", ()),
    "in the wild": ("wild", "demo", ()),
    "FULL": ("full", "demo-full", ()),
}
SLOWER = {"half MobileFaceNet": 0.55}  # images per processor second, as a share of resnet_small's: `speed`


class _Half(mobilefacenet.MobileFaceNet):
    """MobileFaceNet of half the channels and repeats 2, 3, 1: an arm that is not in the package."""

    def __init__(self, embedding_size: int) -> None:
        torch.nn.Module.__init__(self)
        conv, narrow, residuals = mobilefacenet._Conv, mobilefacenet._Bottleneck, mobilefacenet._Residuals
        self.conv1 = conv(3, 32, 3, 2, 1)
        self.conv2_dw = conv(32, 32, 3, 1, 1, groups=32)
        self.conv_23, self.conv_3 = narrow(32, 32, 64, 2, False), residuals(32, 2, 64)
        self.conv_34, self.conv_4 = narrow(32, 64, 128, 2, False), residuals(64, 3, 128)
        self.conv_45, self.conv_5 = narrow(64, 64, 256, 2, False), residuals(64, 1, 128)
        self.conv_6_sep, self.conv_6_dw = conv(64, 256, 1), conv(256, 256, 7, groups=256, linear=True)
        self.linear, self.bn = torch.nn.Linear(256, embedding_size, bias=False), torch.nn.BatchNorm1d(embedding_size)


BACKBONES["half"] = _Half


def prepare(folder: Path, workers: int) -> None:
    """Draw, extract, align and assemble what is missing."""
    for name, draw in DRAWN.items():
        if not (folder / "x" / name).is_dir():
            draw(folder / name, workers=workers)
    for name in DRAWN:
        extracted, aligned = folder / "x" / name, folder / "a" / name
        if not extracted.is_dir():
            steps.extract(str(folder / name), str(extracted), ExtractConfig(name=name, workers=workers))
        if "kface" in name and not aligned.is_dir():
            steps.align(str(extracted), str(aligned), AlignConfig(workers=workers))
    lfw = Path(os.environ.get("EOLGUL_SHARED", "")) / "lfw-1-5"
    if lfw.is_dir() and not (folder / "a" / "lfw").is_dir():
        config = ExtractConfig(name="lfw", pairs=str(lfw / "pairs.txt"), workers=workers)
        steps.extract(str(lfw / "images"), str(folder / "x" / "lfw"), config)
        steps.align(str(folder / "x" / "lfw"), str(folder / "a" / "lfw"), AlignConfig(which="center", workers=workers))
    for mix, names in MIXES.items():
        if not (folder / "s" / mix).is_dir():
            steps.assemble([str(_faces(folder, name)) for name in names], str(folder / "s" / mix), SHARES)


def _faces(folder: Path, name: str) -> Path:
    aligned = folder / "a" / name
    return aligned if aligned.is_dir() else folder / "x" / name


def run(folder: Path, arm: str, seed: int) -> dict[str, Any]:
    """Train one arm with one seed and measure it."""
    mix, name, overrides = ARMS[arm]
    recipe = Recipe.load(name, [*overrides, f"seed={seed}"])
    if mix != "full":
        epochs = round(SHOWN * SLOWER.get(arm, 1.0) / len(FaceDataset(folder / "s" / mix).rows("train")))
        recipe = Recipe.load(name, [*overrides, f"seed={seed}", f"epochs={epochs}"])
    torch.set_num_threads(1)
    out = folder / "m" / f"{arm.replace(' ', '_').replace(',', '')}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    cpu, wall = time.process_time(), time.monotonic()
    train(folder / "s" / mix, out, recipe=recipe, checkpoints=str(out.with_suffix(".checkpoints")), workers=0, device="cpu",
          checkpoint_seconds=1e9)  # fmt: skip
    line: dict[str, Any] = {"arm": arm, "seed": seed, "epochs": recipe.epochs, "cpu_s": round(time.process_time() - cpu),
                            "wall_s": round(time.monotonic() - wall)}  # fmt: skip
    shutil.rmtree(out.with_suffix(".checkpoints"), ignore_errors=True)
    recognizer = Recognizer.from_package(ModelPackage.open(out))
    for name, sets in HELD_OUT.items():
        if all(_faces(folder, item).is_dir() for item in sets):
            line[name] = round(fnmr([FaceDataset(_faces(folder, item)) for item in sets], recognizer), 4)
    if (folder / "a" / "lfw").is_dir():
        line["lfw"] = round(lfw_accuracy(FaceDataset(folder / "a" / "lfw"), recognizer), 4)
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def fnmr(datasets: list[FaceDataset], recognizer: Recognizer, fmr: float = 0.01) -> float:
    """The false non-match rate at a false match rate, over all pairs of images."""
    vectors = np.concatenate([embed_rows(data, range(len(data)), recognizer) for data in datasets])
    people: NDArray[np.int64] = np.concatenate([data.numpy("label") for data in datasets])
    scores = score_all_pairs(vectors, people)
    genuine, impostor = np.sort(scores.genuine), np.sort(scores.impostor)
    return float(np.mean(genuine.astype(np.float64) < threshold_at(genuine, impostor, fmr)))


def lfw_accuracy(data: FaceDataset, recognizer: Recognizer) -> float:
    """Accuracy of a benchmark's pairs by folds."""
    pairs = data.pairs()
    rows = np.unique(np.concatenate([pairs.left, pairs.right]))
    vectors = embed_rows(data, rows, recognizer)
    left, right = (vectors[np.searchsorted(rows, side)] for side in (pairs.left, pairs.right))
    return float(accuracy(squared_distance(left, right), pairs.same, pairs.fold)[0].mean)


def table(folder: Path) -> None:
    """Print mean (lowest to highest) of each arm over its seeds, as Markdown."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for text in (folder / "results.jsonl").read_text().splitlines():
        runs[json.loads(text)["arm"]].append(json.loads(text))
    print("| arm | seeds | epochs | CPU s | " + " | ".join(HELD_OUT) + " | mean of them | LFW |")
    print("|---|---|---|---|" + "---|" * (len(HELD_OUT) + 2))
    for arm, lines in runs.items():
        for line in lines:
            line["mean"] = mean(line[name] for name in HELD_OUT if name in line)
        cells = [_spread([line[key] for line in lines if key in line]) for key in (*HELD_OUT, "mean", "lfw")]
        cpu = mean(line["cpu_s"] for line in lines)
        print(f"| {arm} | {len(lines)} | {lines[0]['epochs']} | {cpu:.0f} | " + " | ".join(cells) + " |")


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{100 * mean(values):.1f} ({100 * min(values):.1f}–{100 * max(values):.1f}) %"


def speed(steps: int = 5, batch: int = 32) -> None:
    """Print the images per processor second of each network's best training step."""
    torch.set_num_threads(1)
    for name, size in (("mobilefacenet", 512), ("half", 128), ("resnet_small", 128)):
        network = build(name, size).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)
        faces = torch.randn(batch, 3, 112, 112).contiguous(memory_format=torch.channels_last)
        seconds = []
        for _ in range(steps):
            cpu = time.process_time()
            network(faces).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.process_time() - cpu)
        parameters = sum(value.numel() for value in network.parameters())
        line = {"network": name, "parameters": parameters, "images_per_cpu_s": round(batch / min(seconds), 1)}
        print(json.dumps(line), flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("data", "train", "table", "speed"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arm", action="append", choices=tuple(ARMS), help="default: all")
    parser.add_argument("--seed", action="append", type=int, help="default: 0, 1, 2")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if given.what == "data":
        prepare(given.folder, given.workers)
    elif given.what == "table":
        table(given.folder)
    elif given.what == "speed":
        speed()
    else:
        for seed in given.seed or (0, 1, 2):
            for arm in given.arm or ARMS:
                print(json.dumps(run(given.folder, arm, seed)), flush=True)


if __name__ == "__main__":
    main()

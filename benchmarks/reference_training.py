"""Train eolgul's recipe `mobilefacenet-ms1m-kface` and its original's loop on the same people, and compare the two.

Usage:
    reference_training.py prepare LFW OUT          people for training, validation and test, aligned once
    reference_training.py theirs OUT --seed 0      InsightFace_Pytorch's loop, `benchmarks/insightface_pytorch.py`
    reference_training.py ours OUT --seed 0        eolgul's loop with the recipe
    reference_training.py compare OUT [--plot FILE]

LFW is the folder of people's folders of LFW. Scaled down from MS1M are the people (28 with 5 images each), the batch (a twentieth of
the original's) and the epochs (half as many, with the milestones at the same shares of them); all else is the original's.
Two loops with the same seed share nothing but the network's first weights: neither those of the head, nor order, nor mirror
images. `compare` measures both at their last epoch by the same code on the same pairs of people whom neither has seen, and
prints a table.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import insightface_pytorch as peer
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from eolgul.dataset import FaceDataset, build_dataset
from eolgul.train.loop import train
from eolgul.train.recipe import Recipe

RECIPE = "mobilefacenet-ms1m-kface"
BATCH, RATE, EPOCHS, MILESTONES = 10, 1e-3, 10, (6, 7.5, 9)  # the original: 200, 1e-3, 20, (12, 15, 18)
SPLITS = {"train": (60, 8), "validation": (4, 3), "test": (60, 3)}  # people, images of each
CANDIDATES = {"train": 90, "validation": 12, "test": 230}  # people that are aligned: some pictures have no face


def prepare(lfw: Path, out: Path) -> None:
    """Choose people by their number of photos, align them, and write what both loops learn from."""
    photos = {folder.name: sorted(folder.glob("*.jpg")) for folder in sorted(lfw.iterdir()) if folder.is_dir()}
    names = np.random.default_rng(0).permutation(sorted(photos)).tolist()
    chosen: dict[str, list[str]] = {}
    free = set(names)
    for split, (_, images) in SPLITS.items():
        enough = [name for name in names if name in free and len(photos[name]) >= images]
        chosen[split] = enough[: CANDIDATES[split]]
        free -= set(chosen[split])
        for name in chosen[split]:
            (out / "photos" / name).mkdir(parents=True, exist_ok=True)
            for photo in photos[name][:images]:
                shutil.copy(photo, out / "photos" / name)
    for words in ("extract photos extracted", "align extracted aligned --which center --workers 1"):
        subprocess.run([sys.executable, "-m", "eolgul", *words.split()], cwd=out, check=True)
    write_sets(out, chosen)


def write_sets(out: Path, chosen: dict[str, list[str]]) -> None:
    """Write the aligned faces of the first of the chosen people of each split, as a FaceDataset and as files."""
    data = FaceDataset(out / "aligned")
    rows = defaultdict(list)
    for row, identity in enumerate(data.column("identity")):
        rows[identity.rpartition(".")[2]].append(row)
    taken = {
        split: [name for name in chosen[split] if len(rows[name]) >= images][:people]
        for split, (people, images) in SPLITS.items()
    }
    assert {split: len(those) for split, those in taken.items()} == {split: SPLITS[split][0] for split in SPLITS}
    shutil.rmtree(out / "faces", ignore_errors=True)
    with build_dataset(out / "faces", {"benchmark": str(out)}) as build:
        with build.shard(0, "") as shard:
            for split, those in taken.items():
                for name in sorted(those):
                    for number, row in enumerate(rows[name][: SPLITS[split][1]]):
                        image = data.read(row)
                        extension = "png" if image[:4] == b"\x89PNG" else "jpg"
                        shard.add(f"{name}/{number}", name, image, extension=extension, size=(112, 112), source="lfw",
                                  facts={"split": split})  # fmt: skip
                        file = out / "files" / split / name / f"{number}.{extension}"
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.write_bytes(image)
        build.finish(range(1))
        facts = {"name": "lfw", "identities_known": True, "aligned": "arcface-112-v1", "detector": None, "splits": {}}
        build.seal(
            step="assemble", version=1, recipe={}, inputs=[data.artifact.reference], synthetic=False, facts=facts
        )
    write_pairs(out)


def write_pairs(out: Path) -> None:
    """Ten folds of as many people: all pairs of one person, and as many pairs of two, drawn."""
    random = np.random.default_rng(1)
    people = random.permutation(sorted(folder.name for folder in (out / "files" / "test").iterdir())).tolist()
    rows = []
    for fold in np.array_split(np.asarray(people), 10):
        images = {name: sorted((out / "files" / "test" / name).iterdir()) for name in fold.tolist()}
        own = [pair for those in images.values() for pair in itertools.combinations(those, 2)]
        flat = [file for those in images.values() for file in those]
        other = [pair for pair in itertools.combinations(flat, 2) if pair[0].parent != pair[1].parent]
        drawn = [other[place] for place in random.choice(len(other), len(own), replace=False)]
        rows += [(str(a.relative_to(out)), str(b.relative_to(out)), 1) for a, b in own]
        rows += [(str(a.relative_to(out)), str(b.relative_to(out)), 0) for a, b in drawn]
    with (out / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_line(out: Path, name: str, row: dict[str, Any]) -> None:
    with (out / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(name, json.dumps(row), flush=True)


def theirs(out: Path, seed: int, rate: float, epochs: int, name: str) -> None:
    """Run the peer's loop; its curve and, after every epoch, its weights are kept."""
    (out / f"{name}.jsonl").unlink(missing_ok=True)
    torch.manual_seed(seed)
    network = peer.mobilefacenet()
    head = peer.Arcface(512, SPLITS["train"][0])

    def report(epoch: int, losses: list[float], seconds: float) -> None:
        write_line(out, name, {"epoch": epoch, "loss": float(np.mean(losses)), "cpu": round(seconds, 1)})
        torch.save(network.state_dict(), out / f"{name}.pth")

    peer.train(network, head, peer.training_images(out / "files" / "train", BATCH), learning_rate=rate, epochs=epochs,
               milestones=MILESTONES, report=report)  # fmt: skip


def ours(out: Path, seed: int, rate: float, name: str, overrides: Sequence[str]) -> None:
    """Run eolgul's loop, which goes on from its own checkpoints, with the original's values scaled."""
    recipe = Recipe.load(
        RECIPE,
        [f"batch_size={BATCH}", f"base_batch={BATCH}", f"learning_rate={rate}", f"epochs={EPOCHS}",
         f"milestones={list(MILESTONES)}", f"seed={seed}", *overrides],
    )  # fmt: skip
    (out / f"{name}.jsonl").unlink(missing_ok=True)
    started = time.process_time()

    def report(row: dict[str, Any]) -> None:
        nonlocal started
        if "train_loss" in row:
            seconds, started = time.process_time() - started, time.process_time()
            write_line(out, name, {"epoch": row["epoch"], "loss": row["train_loss"], "cpu": round(seconds, 1)})

    train(out / "faces", out / f"{name}.model", recipe=recipe, checkpoints=str(out / f"{name}.checkpoints"), device="cpu",
          workers=0, keep=1, checkpoint_seconds=600, report=report)  # fmt: skip


def last_of_ours(out: Path, name: str) -> nn.Module:
    """The weights of eolgul's last epoch, in the peer's network, whose tensors have the same order."""
    (index,) = (out / f"{name}.checkpoints").glob("*/checkpoints.json")
    newest = json.loads(index.read_text())["checkpoints"][0]
    assert newest["progress"]["epoch"] == EPOCHS, f"{name} is not finished"
    network = peer.mobilefacenet()
    from eolgul.train.backbones import build

    state = {f"network.{key}": value for key, value in build("mobilefacenet", 512).state_dict().items()}
    load(state, storage_reader=FileSystemReader(index.parent / newest["name"]), no_dist=True)
    peer.take_over(network, list(state.values()))
    return network


def measure(out: Path, name: str) -> dict[str, float]:
    """Figures of a run's last epoch on the held-out people; kept beside its curve."""
    kept = out / f"{name}.measured.json"
    if kept.is_file():
        return json.loads(kept.read_text())  # type: ignore[no-any-return]
    if name.startswith("ours"):
        network = last_of_ours(out, name)
    else:
        network = peer.mobilefacenet()
        network.load_state_dict(torch.load(out / f"{name}.pth", weights_only=True))
    files = sorted((out / "files" / "test").glob("*/*"))
    place = {str(file.relative_to(out)): number for number, file in enumerate(files)}
    rows = list(csv.reader((out / "pairs.csv").open(newline="")))
    pairs = np.array([[place[left], place[right]] for left, right, _ in rows])
    same = np.array([truth == "1" for *_, truth in rows])
    people = np.unique([file.parent.name for file in files], return_inverse=True)[1]
    embeddings = peer.embed(network, files, bgr=not name.startswith("ours"))
    found = {
        "accuracy": peer.ten_fold_accuracy(embeddings, pairs, same)[0],
        "fnmr": peer.miss_rate(embeddings, people, 1e-2),
    }
    kept.write_text(json.dumps(found))
    return found


def curves(out: Path, kind: str, epochs: int) -> tuple[list[str], NDArray[np.float64], float]:
    """The names of the runs of a kind that have come so far, their loss by epoch (runs x epochs), and their CPU minutes."""
    names, losses, minutes = [], [], 0.0
    for file in sorted(out.glob(f"{kind}-*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()][:epochs]
        if len(rows) == epochs and file.stem.removeprefix(f"{kind}-").isdigit():
            names.append(file.stem)
            losses.append([row["loss"] for row in rows])
            minutes += sum(row["cpu"] for row in rows) / 60
    return names, np.array(losses), minutes


def figures_of(out: Path, runs: dict[str, list[str]]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The figures of finished runs: by figure and kind, a number per run."""
    found = {kind: [measure(out, name) for name in names] for kind, names in runs.items()}
    keys = ("accuracy", "fnmr") if runs else ()
    return {key: {kind: np.array([row[key] for row in rows]) for kind, rows in found.items()} for key in keys}


def difference(one: NDArray[np.float64], two: NDArray[np.float64]) -> str:
    """Mean difference with its 95 % interval and the p value, by Welch's t."""
    found = stats.ttest_ind(one, two, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return f"{one.mean() - two.mean():+.4f} [{low:+.4f}, {high:+.4f}], p {found.pvalue:.2f}"


def farthest(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """The largest difference of the two mean curves, in standard errors, over the epochs."""
    error = np.sqrt(one.var(axis=0, ddof=1) / len(one) + two.var(axis=0, ddof=1) / len(two))
    return float((np.abs(one.mean(axis=0) - two.mean(axis=0)) / error).max())


def by_permutation(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """The share of all ways to share out the runs in which the curves are at least that far apart at some epoch."""
    both, count = np.concatenate([one, two]), len(one)
    seen = farthest(one, two)
    ways = []
    for own in itertools.combinations(range(len(both)), count):
        rest = [row for row in range(len(both)) if row not in own]
        ways.append(farthest(both[list(own)], both[rest]) >= seen - 1e-12)
    return float(np.mean(ways))


def compare(out: Path, epochs: int, plot: Path | None) -> None:
    """Print the tables of the first so many epochs, the figures if these are all, and draw the curves."""
    our_names, our, our_minutes = curves(out, "ours", epochs)
    their_names, their, their_minutes = curves(out, "theirs", epochs)
    if min(len(our), len(their)) < 2:
        sys.exit(f"{out}: {len(our)} and {len(their)} runs have come to epoch {epochs}, expected two of each at least")
    print(f"{len(our)} and {len(their)} runs, {our_minutes:.0f} and {their_minutes:.0f} CPU minutes")
    print("| epoch | InsightFace_Pytorch's loop | eolgul | difference of the means, 95 % interval |\n|---|---|---|---|")
    for epoch in range(1, epochs + 1):
        a, b = their[:, epoch - 1], our[:, epoch - 1]
        print(
            f"| {epoch} | {a.mean():.3f} ± {a.std(ddof=1):.3f} | {b.mean():.3f} ± {b.std(ddof=1):.3f} | {difference(b, a)} |"
        )
    print(
        f"| mean of all | {their.mean():.3f} | {our.mean():.3f} | {difference(our.mean(axis=1), their.mean(axis=1))} |"
    )
    apart, share = farthest(our, their), by_permutation(our, their)
    print(f"farthest apart: {apart:.1f} standard errors; as far in {share:.2f} of the ways to share out the runs")
    for key, row in figures_of(out, {"theirs": their_names, "ours": our_names} if epochs == EPOCHS else {}).items():
        a, b = row["theirs"], row["ours"]
        print(
            f"| {key} | {a.mean():.4f} ± {a.std(ddof=1):.4f} | {b.mean():.4f} ± {b.std(ddof=1):.4f} | {difference(b, a)} |"
        )
    for file in sorted(out.glob("ours-*-*.jsonl")):  # runs with other values of the recipe, by --set and --name
        rows = [json.loads(line)["loss"] for line in file.read_text().splitlines()][:epochs]
        error = their.std(axis=0, ddof=1)[: len(rows)] * np.sqrt(1 + 1 / len(their))
        away = np.abs(np.array(rows) - their.mean(axis=0)[: len(rows)]) / error
        print(f"{file.stem}: up to {away.max():.1f} deviations of a seed from theirs, mean loss {np.mean(rows):.3f}")
    if plot is not None:
        draw(plot, our, their)


def draw(file: Path, our: NDArray[np.float64], their: NDArray[np.float64]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    epochs = np.arange(1, our.shape[1] + 1)
    for label, runs, colour, style in (
        ("InsightFace_Pytorch's loop", their, "#c05000", "-"),
        ("eolgul", our, "#1f5fa8", "--"),
    ):
        axes.fill_between(epochs, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        axes.plot(epochs, runs.mean(axis=0), color=colour, linestyle=style, label=f"{label}, {len(runs)} seeds")
    axes.set(xlabel="epoch", ylabel="training loss", xticks=range(0, our.shape[1] + 1, 2), ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    words = commands.add_parser("prepare")
    words.add_argument("lfw", type=Path)
    words.add_argument("out", type=Path)
    for command in ("theirs", "ours"):
        words = commands.add_parser(command)
        words.add_argument("out", type=Path)
        words.add_argument("--seed", type=int, default=0)
        words.add_argument("--rate", type=float, default=RATE)
        words.add_argument("--epochs", type=int, default=EPOCHS, help="end sooner, for a first look")
        words.add_argument("--set", nargs="*", default=[], help="ours: other values of the recipe, key=value")
        words.add_argument("--name", help="of the run's files; default: <command>-<seed>")
    words = commands.add_parser("compare")
    words.add_argument("out", type=Path)
    words.add_argument("--epochs", type=int, default=EPOCHS, help="compare the first so many of unfinished runs")
    words.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "prepare":
        prepare(options.lfw, options.out)
    elif options.command == "theirs":
        theirs(options.out, options.seed, options.rate, options.epochs, options.name or f"theirs-{options.seed}")
    elif options.command == "ours":
        ours(options.out, options.seed, options.rate, options.name or f"ours-{options.seed}", options.set)
    else:
        compare(options.out, options.epochs, options.plot)


if __name__ == "__main__":
    main()

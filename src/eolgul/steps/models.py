"""Steps 4 and 5 at the places where their artifacts lie: train, import, evaluate, compare."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eolgul import storage
from eolgul.align.config import AlignConfig
from eolgul.artifact import open_artifact
from eolgul.assemble.config import AssembleConfig
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.steps.data import align, assemble, extract
from eolgul.steps.places import Facts, bring, bring_tables, facts_of, place_of, places_of
from eolgul.train.config import TrainConfig

_TRAINING_PEOPLE = 2  # the fewest that assemble leaves for training; nobody learns from them here
_FEWEST_PEOPLE = 8  # four to choose a threshold, four in two folds to measure it


def train(
    dataset: str,
    out: str,
    config: TrainConfig = TrainConfig(),
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Facts:
    """Step 4: an assembled FaceDataset → ModelPackage. `report` is called as `eolgul.train.loop.train` says.

    Checkpoints lie next to `out` by default: in S3 when `out` does, so that another machine can go on. Under torchrun
    every process calls this. Each finds the package whole at the end, and publishing what is there already does nothing.
    """
    started = time.monotonic()
    if config.nodes > 1:
        from eolgul.train.launch import on_nodes

        on_nodes(dataset, out, config)
        package = open_artifact(bring(out), "ModelPackage")
        return facts_of(package, out, started) | {"best_epoch": package.contents["best_epoch"]}
    if config.gpus > 1:
        from eolgul.train.launch import torchrun

        return torchrun(dataset, out, config)
    if config.stream and not storage.is_s3(dataset):
        raise InputError(f"{place_of(dataset)}: lies on a disk and is read where it is; stream is for datasets in S3")
    import torch

    from eolgul.dataset.far import cache_folder
    from eolgul.train.distributed import machine
    from eolgul.train.loop import train as step

    if config.threads:
        torch.set_num_threads(config.threads)
    recipe = config.load_recipe()
    # The first machine writes the package. Another one cannot see that disk, and has nothing to publish.
    elsewhere = machine() > 0 and storage.is_s3(out)
    checkpoints = config.checkpoints or storage.join(out.rstrip("/").rpartition("/")[0] or ".", "checkpoints")
    inputs = places_of([dataset, config.init or ""])
    with (
        _nowhere() if elsewhere else storage.destination(out, inputs) as local,
        cache_folder(_cache_bytes(config)) as cache,
    ):
        tables, shards = bring_tables(dataset, cache) if config.stream else (bring(dataset), None)
        made = step(
            tables,
            local,
            shards=shards,
            recipe=recipe,
            init=bring(config.init) if config.init else None,
            init_color=config.init_color,
            checkpoints=checkpoints,
            checkpoint_seconds=config.checkpoint_seconds,
            device=config.device,
            workers=config.workers,
            stall_seconds=config.stall_seconds,
            tensorboard=config.tensorboard,
            report=report,
        )
    if made is None and elsewhere:
        return {"artifact": out}
    if made is None:
        raise InputError("training was stopped before its end; run the same command again to go on from its checkpoint")
    return facts_of(made, out, started) | {"best_epoch": made.contents["best_epoch"]}


def _cache_bytes(config: TrainConfig) -> int:
    """The bytes of disk that this process may take for images; torchrun's processes share the machine's."""
    share = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return int(config.stream_cache * 1e9) // share if config.stream else 0


@contextmanager
def _nowhere() -> Iterator[Path]:
    """A place that no package is written to."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "model"


def import_weights(
    weights: str,
    out: str,
    *,
    layout: str,
    backbone: str | None = None,
    color: str | None = None,
    prefix: str | None = None,
    licence: str | None = None,
    which: str | None = None,
    flip: str | None = None,
) -> Facts:
    """Published weights as a ModelPackage; the options are those of `eolgul.train.import_weights.import_weights`."""
    from eolgul.train.import_weights import import_weights as step

    started = time.monotonic()
    with storage.destination(out, [weights]) as local:
        made = step(
            storage.fetch(weights),
            local,
            layout=layout,
            backbone=backbone,
            color=color,
            prefix=prefix,
            licence=licence,
            which=which,
            flip=flip,
        )
    shown = ("backbone", "layout", "color", "also_fits", "ignored")
    return facts_of(made, out, started) | {name: made.contents[name] for name in shown}


def import_onnx(
    onnx: str,
    out: str,
    *,
    contract: str,
    color: str | None = None,
    licence: str | None = None,
    which: str | None = None,
    flip: str | None = None,
) -> Facts:
    """An ONNX recognizer as a ModelPackage; the options are those of `eolgul.train.import_onnx.import_onnx`."""
    from eolgul.train.import_onnx import import_onnx as step

    started = time.monotonic()
    with storage.destination(out, [onnx]) as local:
        made = step(storage.fetch(onnx), local, contract=contract, color=color, licence=licence, which=which, flip=flip)
    shown = ("backbone", "embedding_size", "color", "dropped_outputs", "batch")
    return facts_of(made, out, started) | {name: made.contents[name] for name in shown}


def calibrate(
    model: str,
    photos: str,
    out: str,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    work: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Facts:
    """Steps 1, 2, 3 and 5 for a model that is there already: a folder of people's photos → Evaluation.

    Faces are found with the settings of the model's contract, as in serving. Nobody is trained on, so that half of the
    people set the threshold and the other half show the errors.

    Args:
        model: A ModelPackage's place.
        photos: A folder `<person>/<image>`, or any other raw source with people.
        out: Where the Evaluation goes.
        config: The options of the evaluation.
        work: The local folder for the datasets between the steps; None puts it next to `out`.
        progress: Called with a sentence about what is done next.

    Raises:
        InputError: There are too few people with two usable photos, or a step refuses its input.
    """
    from eolgul.dataset import FaceDataset
    from eolgul.model.package import ModelPackage

    say = progress or (lambda _: None)
    started = time.monotonic()
    if work is None and storage.is_s3(out):
        raise InputError(f"{out}: the datasets between the steps lie on this machine; say where with --work")
    detector = ModelPackage.open(bring(model)).contract.detector
    how = AlignConfig(min_face_size=detector.min_face_size, min_score=detector.thresholds[2], which=detector.which)
    if how.detector != detector:
        raise InputError(f"{model}: align cannot find faces with the settings of its contract ({detector})")
    folder = Path(work) if work is not None else Path(f"{out.rstrip('/')}-data")
    say(f"reading the photos into {folder / 'photos'}")
    extract(photos, str(folder / "photos"))
    say("finding and aligning the faces")
    aligned = align(str(folder / "photos"), str(folder / "aligned"), how, keep_aligned=True)["artifact"]
    people = Counter(FaceDataset(Path(aligned)).column("identity"))
    usable = sum(count > 1 for count in people.values())
    held = min(usable, len(people) - _TRAINING_PEOPLE)
    if held < _FEWEST_PEOPLE:
        raise InputError(
            f"{photos}: {usable} of {len(people)} people have two photos or more with a face, expected at least "
            f"{_FEWEST_PEOPLE + _TRAINING_PEOPLE}: half of them set the threshold, the others show its errors"
        )
    one = 1 / len(people)
    shares = AssembleConfig(validation=0, calibration=(held + 1) // 2 * one, test=held // 2 * one)
    assembled = str(folder / "assembled")
    splits = assemble([aligned], assembled, shares)["splits"]
    facts = evaluate(model, assembled, (), out, config, progress=progress)
    return facts | {"dataset": assembled, "splits": splits, "seconds": round(time.monotonic() - started, 3)}


def evaluate(
    model: str,
    dataset: str,
    benchmarks: Sequence[str],
    out: str,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    progress: Callable[[str], None] | None = None,
) -> Facts:
    """Step 5: a model → Evaluation; with `dataset` "", on the benchmarks alone. `progress` gets sentences.

    The facts include `metrics`, the figures (`eolgul.evaluation.schema.Metrics`).
    """
    from eolgul.evaluate.step import evaluate as step
    from eolgul.evaluation.reader import read_metrics

    started = time.monotonic()
    places = [bring(item) for item in benchmarks]
    with storage.destination(out, places_of([model, dataset, *benchmarks])) as local:
        people, shards = bring_tables(dataset) if dataset else (None, None)
        made = step(bring(model), people, places, local, config, shards=shards, progress=progress)
        metrics = read_metrics(local)
    return facts_of(made, out, started) | {"metrics": metrics}


def compare(candidate: str, current: str, *, seed: int = 0) -> Facts:
    """Two Evaluations on the same data: the paired difference of every figure, and whether the first would win."""
    from eolgul.evaluation.compare import compare as step

    return step(bring(candidate), bring(current), seed=seed).to_json()

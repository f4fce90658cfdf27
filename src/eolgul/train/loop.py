"""The training loop: from an assembled FaceDataset to a ModelPackage."""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from eolgul import storage
from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.dataset import FaceDataset
from eolgul.dataset.far import FarShards
from eolgul.errors import InputError
from eolgul.train.backbones import build, keep_last_layer_fp32
from eolgul.train.checkpoint import Checkpoints, pause
from eolgul.train.config import VERSION
from eolgul.train.data import TrainingData, count_unreadable, to_input
from eolgul.train.distributed import World, connection_lost, joined, pick_device
from eolgul.train.head import Head
from eolgul.train.initial_weights import Initial, begin_with, contract_of, read_initial, resolved
from eolgul.train.journal import Clock, Journal
from eolgul.train.loader import STALL_SECONDS, ended_worker
from eolgul.train.margins import make_margin
from eolgul.train.optim import Average, LossScale, autocast_dtype, clip_gradients, learning_rate, make_optimizer
from eolgul.train.package import write_package
from eolgul.train.recipe import Recipe
from eolgul.train.runs import Run, go_on
from eolgul.train.state import tensors
from eolgul.train.validate import TrainingPeople, Validation

Report = Callable[[dict[str, Any]], None]
_AGREE = 20  # updates between two decisions of all ranks whether to save, which take a broadcast
HEAD_ROWS = "classification_head"  # the name of the head's rows beside the network's tensors in the best epoch's file
_NAMED = 1000  # unreadable images that training.json names


def train(
    dataset: Path,
    out: Path,
    *,
    recipe: Recipe,
    shards: FarShards | None = None,
    init: Path | None = None,
    init_color: str | None = None,
    checkpoints: str | None = None,
    checkpoint_seconds: float = 60.0,
    keep: int = 2,
    device: str = "auto",
    workers: int = 2,
    stall_seconds: float = STALL_SECONDS,
    max_steps: int | None = None,
    report: Report | None = None,
    tensorboard: bool = False,
) -> Artifact | None:
    """Train on the `train` split, choose the best epoch on the `validation` split, and write the package.

    A run that finds checkpoints continues from the newest, with the result of a run that was never stopped: to the bit on
    the same kind of machine with the same number of processes, and with the same images in the same steps on any number.
    Without checkpoints of its own it goes on from those of the same recipe for fewer epochs, where the schedule allows it
    (`eolgul.train.runs`). Under `torchrun` every process calls this; the first one writes the package.

    Memory: what `TrainingData` and `Checkpoints` hold, and in shared memory the batches that workers have ready
    (`eolgul.train.loader`); on the device network, head and momentum (8 bytes per parameter, 4 kB per identity with 512 numbers) and
    the activations of a batch.

    Args:
        dataset: An assembled FaceDataset.
        out: Where the ModelPackage goes.
        recipe: Everything that decides what is learned.
        shards: The shards of `dataset` in S3, where it has only the tables: images are read from there as they are needed.
        init: A ModelPackage or a weights file to begin with, for fine-tuning.
        init_color: The colour order of a weights file that does not tell it, RGB or BGR.
        checkpoints: Place (path or `s3://`, default beside `out`) of the checkpoints and `logs/` (metrics.jsonl, TensorBoard
            events), below `<recipe digest>/`.
        checkpoint_seconds: Least seconds between checkpoints; 0 for one after every step. The time is longer where saving
            would otherwise stop the training for more than 1 % of it. One more is written at the end of every epoch.
        keep: Number of checkpoints that are kept.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.
        workers: Processes that decode images; 0 decodes in this one.
        stall_seconds: End the run if a batch is missing and no worker has read an image for this long.
        max_steps: Stop after this many steps, with a checkpoint and without a package; tests interrupt a run with it.
        report: Gets one dict per second while training, one after each epoch, and {"warning": sentence}, {"note": sentence}.
        tensorboard: Whether to write TensorBoard events.

    Returns:
        The package; None after `max_steps`, and on a machine that has no access to the first one's disk.

    Raises:
        InputError: The data or the start is unsuitable; the loss is not finite (the ids of the batch's images are saved); more images
            than `recipe.max_unreadable` are broken; a batch is lost; or memory runs out.
    """
    data = FaceDataset(dataset, shards=shards)
    if data.artifact.contents.get("aligned") is None or "splits" not in data.artifact.contents:
        raise InputError(f"{dataset}: not an assembled dataset of aligned faces; run eolgul assemble first")
    target = pick_device(device)
    initial = None if init is None else read_initial(init, init_color, backbone=recipe.backbone)
    recipe = resolved(recipe, initial)
    inputs = [data.artifact.reference, *([initial.reference] if initial else [])]
    with joined(target) as world:
        # The first process decides for all: on another machine there is no package to look at.
        done = (
            reuse(out, "ModelPackage", step="train", version=VERSION, recipe=recipe.to_json(), inputs=inputs)
            if world.first
            else None
        )
        if world.share(done is not None):
            return done or _package(out, world)
        autocast = autocast_dtype(recipe, target)
        run = Run(recipe, data.artifact.digest, str(autocast), initial.identity if initial else None)
        root = checkpoints or str(out.parent / "checkpoints")
        if initial is not None and initial.doubt and report is not None:
            report({"warning": initial.doubt})
        saved = Checkpoints(
            storage.join(root, run.digest), recipe=run.digest, run=run.to_json(), keep=keep, world=world
        )
        try:
            return _run(data, out, run, initial, autocast, saved, root, checkpoint_seconds, target, workers, stall_seconds,
                        max_steps, report or (lambda row: None), tensorboard, world)  # fmt: skip
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and (ended := ended_worker(error)) is not None:
                raise ended from error
            if world.size > 1 and connection_lost(error):
                raise InputError(
                    f"process {world.rank} of {world.size}: another process of this run ended; its own message says why"
                ) from error
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise InputError(
                f"out of memory on {target} ({str(error).splitlines()[0][:120]}): set accumulation="
                f"{2 * recipe.accumulation} (the same result in smaller parts), precision=bf16, sample below 1 when the "
                "identities are many, or a smaller batch_size"
            ) from error
        finally:
            saved.close()


def _run(
    data: FaceDataset,
    out: Path,
    run: Run,
    initial: Initial | None,
    autocast: torch.dtype | None,
    saved: Checkpoints,
    root: str,
    checkpoint_seconds: float,
    target: torch.device,
    workers: int,
    stall_seconds: float,
    max_steps: int | None,
    report: Report,
    tensorboard: bool,
    world: World,
) -> Artifact | None:
    recipe = run.recipe
    contract = contract_of(data, initial, recipe.embed_flip)
    training = TrainingData(data, recipe, workers=workers, stall_seconds=stall_seconds, world=world,
                            pin=target.type == "cuda")  # fmt: skip
    validation = Validation(data, contract)
    learned = TrainingPeople(data, validation) if world.first else None

    torch.manual_seed(recipe.seed)
    torch.backends.cudnn.deterministic = True  # a resumed run must repeat the sums of one never stopped
    torch.backends.cudnn.benchmark = False
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network = initial.network() if initial else build(recipe.backbone, recipe.embedding_size)
    if recipe.last_layer_fp32:
        keep_last_layer_fp32(network)
    network = network.to(target, memory_format=layout)  # type: ignore[call-overload]
    margin = make_margin(recipe.head, recipe.margin, recipe.margin_m1, recipe.margin_m3,
                         straight_through=recipe.margin_gradient == "straight-through")  # fmt: skip
    head = Head(recipe.embedding_size, training.identities, margin, scale=recipe.scale, centers=recipe.centers,
                sample=recipe.sample, unit=recipe.head_init == "unit", seed=recipe.seed, world=world).to(target)  # fmt: skip
    begun_with = begin_with(initial, head, training.names if recipe.init_head else None)
    optimizer = make_optimizer(recipe, network, head)
    average = Average(network, recipe.ema) if recipe.ema else None
    loss_scale = LossScale(fp16=autocast == torch.float16)
    model: nn.Module = torch.compile(network) if recipe.compile else network  # type: ignore[assignment]
    if world.size > 1:
        model = DistributedDataParallel(model, device_ids=[target.index] if target.type == "cuda" else None)

    progress: dict[str, Any] = {"epoch": 0, "step": 0, "loss_sum": 0.0, "curve": [], "best": None, "unreadable": {}}
    state = tensors(network, head, optimizer, average, world)
    found = go_on(saved, root, run, state, training.steps, report) if saved.empty else saved.load(state)
    progress = found or progress
    for warning in saved.warnings:
        report({"warning": warning})
    loss_scale.factor, loss_scale.calm = progress.get("loss_scale", (loss_scale.factor, loss_scale.calm))
    unreadable: dict[str, str] = progress["unreadable"]
    updates = progress["epoch"] * training.steps + progress["step"]
    logs = _logs(saved.uri, world)
    journal = Journal(logs, update=updates, tensorboard=tensorboard) if world.first else None
    clock = Clock(recipe.batch_size, recipe.epochs * training.steps - updates)
    unsettled: tuple[Tensor, Tensor, Tensor] | None = None
    value = math.nan

    def settle() -> None:
        """Check the loss of the last step; one step late, so that a GPU always has the next one to compute."""
        nonlocal unsettled, value
        if unsettled is None:
            return
        (loss, norm, rows), unsettled = unsettled, None
        value = loss.item()
        if not math.isfinite(value) or (not loss_scale.fp16 and not math.isfinite(norm.item())):
            raise InputError(_report_non_finite(data, saved.uri, world, rows, value, progress))
        progress["loss_sum"] += value

    def save(best: dict[str, Tensor] | None = None) -> None:
        settle()
        for named in world.collect(unreadable):
            unreadable.update(named)
        progress["loss_scale"] = [loss_scale.factor, loss_scale.calm]
        saved.save(tensors(network, head, optimizer, average, world), progress, best)

    taken, saved_at, said_at, until_next = 0, time.monotonic(), 0.0, checkpoint_seconds
    while progress["epoch"] < recipe.epochs and not _ended(recipe, progress):
        epoch = progress["epoch"]
        head.train()
        batches = training.batches(epoch, progress["step"])
        for step in range(progress["step"], training.steps):
            asked = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - asked
            count_unreadable(batch.unreadable, unreadable, training, data, recipe.max_unreadable, report)

            position = epoch + step / training.steps
            learns = position >= recipe.freeze_epochs
            if network.training != learns:  # frozen, batch norms keep their figures too
                model.train(learns)
            rate = learning_rate(recipe, position)
            for group in optimizer.param_groups:
                group["lr"] = rate
            warm = recipe.margin_warmup_epochs
            head.margin.strength = min(1.0, position / warm) if warm else 1.0
            # Dropout's random numbers depend on the position too, so that no generator's state has to be kept.
            torch.manual_seed(hash((recipe.seed, epoch, step, world.rank)) % 2**63)

            labels = batch.labels.to(target, non_blocking=True)
            faces = batch.faces.to(target, non_blocking=True)
            head.choose(labels, (epoch, step))
            loss = torch.zeros((), device=target)
            size = len(labels) // recipe.accumulation
            for part in range(recipe.accumulation):
                rows = slice(part * size, (part + 1) * size)
                last = part == recipe.accumulation - 1
                with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
                    inputs = to_input(faces[rows], contract).contiguous(memory_format=layout)
                    with (
                        torch.set_grad_enabled(learns),
                        torch.autocast(target.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None),
                    ):
                        embeddings = model(inputs)
                    share = head(embeddings, labels[rows]) / recipe.accumulation
                    (share * loss_scale.factor).backward()
                loss += share.detach()
            norm = clip_gradients(network, head, recipe.clip_norm, loss_scale.factor, world, which=recipe.clip)
            if loss_scale.accept(norm):
                optimizer.step()
                head.update(
                    learning_rate=rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay * recipe.last_decay
                )
                if average is not None:
                    average.update(network)
            optimizer.zero_grad(set_to_none=True)

            settle()
            unsettled = (loss, norm, batch.rows)
            progress["step"] = step + 1
            updates += 1
            taken += 1
            clock.tick(waited)
            now = time.monotonic()
            if now - said_at > 1 and world.first:
                if math.isfinite(value):
                    row = {"loss": value, "lr": rate, **clock.lap()}
                    report(
                        {"epoch": epoch + 1, "epochs": recipe.epochs, "step": step + 1, "steps": training.steps, **row}
                    )
                    if journal is not None:
                        journal.write("step", updates, row)
                said_at = now
            if max_steps is not None and taken >= max_steps:
                save()
                saved.wait()
                return None
            if (world.size == 1 or updates % _AGREE == 0) and world.share(now - saved_at > until_next):
                save()
                saved_at = time.monotonic()
                until_next = pause(checkpoint_seconds, saved_at - now)

        settle()
        begun = time.monotonic()
        judged = network
        if average is not None:
            judged = copy.deepcopy(network)
            judged.load_state_dict(average.state)
        measured = world.share(
            validation.measure(validation.embed(judged, target), recipe.scale) if world.first else {}
        )
        known = world.share(learned.measure(judged, target, recipe.scale) if learned is not None else None)
        done = {"epoch": epoch + 1, "train_loss": progress["loss_sum"] / training.steps, "training_people": known,
                "validation": measured}  # fmt: skip
        progress["curve"].append(done)
        best = None
        if _better(recipe, measured, progress["best"]):
            progress["best"] = {"epoch": epoch + 1, recipe.choose_by: measured[recipe.choose_by]}
            best = judged.state_dict()
        if recipe.keep_head and world.share(best is not None):
            centres = tensors(network, head, optimizer, average, world)["head.weight"]
            centres = centres.full_tensor() if isinstance(centres, DTensor) else centres
            best = None if best is None else {**best, HEAD_ROWS: centres}
        progress.update(epoch=epoch + 1, step=0, loss_sum=0.0)
        save(best)
        saved_at = time.monotonic()
        clock.pause(saved_at - begun)
        if journal is not None:
            journal.write("epoch", updates, {**done, "data_wait": clock.waited})
            report(done)
            if storage.is_s3(saved.uri):
                storage.publish(logs, storage.join(saved.uri, "logs"), replace=True)

    saved.wait()
    if journal is not None:
        journal.close()
        kept = saved.best()
        rows_kept = kept.pop(HEAD_ROWS, None)
        chosen = initial.network() if initial else build(recipe.backbone, recipe.embedding_size)
        chosen.load_state_dict(kept)
        facts = {
            "identities": training.identities,
            "images": len(training.rows),
            "curve": progress["curve"],
            "best_epoch": progress["best"]["epoch"],
            "unreadable": {"images": len(unreadable), "named": dict(sorted(unreadable.items())[:_NAMED])},
        }
        if begun_with is not None:
            facts["init"] = begun_with
        write_package(
            chosen,
            out,
            recipe=recipe,
            contract=contract,
            dataset=data,
            validation=validation,
            training=facts,
            begun_with=initial.reference if initial else None,
            past=initial.provenance if initial else None,
            synthetic=initial is not None and initial.synthetic,
            head=None if rows_kept is None else (rows_kept, training.names),
        )
    world.wait()
    return _package(out, world)


def _package(out: Path, world: World) -> Artifact | None:
    """The package that the first process wrote; None on another machine that does not see it."""
    if world.machine > 0 and not out.is_dir():
        return None
    return open_artifact(out)


def _better(recipe: Recipe, measured: dict[str, float], best: dict[str, Any] | None) -> bool:
    if best is None:
        return True
    new, old = measured[recipe.choose_by], best[recipe.choose_by]
    return bool(new < old if recipe.choose_by == "loss" else new > old)


def _ended(recipe: Recipe, progress: dict[str, Any]) -> bool:
    """Early stopping: whether the last `patience` epochs are no better than the best one."""
    best = progress["best"]
    return bool(recipe.patience and best is not None and progress["epoch"] - best["epoch"] >= recipe.patience)


def _report_non_finite(
    data: FaceDataset, place: str, world: World, rows: Tensor, loss: float, progress: dict[str, Any]
) -> str:
    """Save the ids of the images of a step whose loss or gradients are not finite; returns the sentence for the error."""
    shown = [row for part in world.collect(rows.tolist()) for row in part]
    where = {"epoch": progress["epoch"] + 1, "step": progress["step"], "loss": str(loss)}
    file = storage.join(place, "not-finite.json")
    if world.first:
        storage.write_bytes(file, json.dumps({**where, "images": data.values("image_id", shown)}, indent=1).encode())
    return (
        f"the loss is {loss} or its gradients are not finite at epoch {where['epoch']}, step {where['step']}: lower the "
        f"learning rate; the images of that step are named in {file}"
    )


def _logs(place: str, world: World) -> Path:
    """The folder of metrics.jsonl and TensorBoard's events; for checkpoints in S3 a local copy, uploaded every epoch."""
    if not storage.is_s3(place):
        return Path(place) / "logs"
    folder = Checkpoints.staging(place) / "logs"
    if world.first and not folder.is_dir() and storage.exists(storage.join(place, "logs")):
        shutil.copytree(storage.fetch(storage.join(place, "logs")), folder)
    return folder

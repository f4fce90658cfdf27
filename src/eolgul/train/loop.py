"""The training loop, from an assembled FaceDataset to a ModelPackage, to be read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from eolgul import storage
from eolgul.artifact import Artifact, recipe_digest, reuse
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.modelpackage import DetectorSettings, EmbeddingContract
from eolgul.train import checkpoint
from eolgul.train.backbones import build
from eolgul.train.data import TrainingData
from eolgul.train.heads import ArcFace
from eolgul.train.package import write_package
from eolgul.train.recipe import Recipe
from eolgul.train.validate import Validation

Report = Callable[[dict[str, Any]], None]


def train(
    dataset: Path,
    out: Path,
    *,
    recipe: Recipe,
    checkpoints: str | None = None,
    checkpoint_seconds: float = 60.0,
    device: str = "auto",
    workers: int = 2,
    max_steps: int | None = None,
    report: Report | None = None,
) -> Artifact | None:
    """Train on the `train` split, choose the epoch on the `validation` split, package it at `out`.

    `checkpoints` is where `<recipe digest>/last.pt` is kept (path or `s3://`; default beside `out`): every epoch's end
    and every `checkpoint_seconds`, and a run that finds it goes on from there, with the result of a run that was never
    stopped (to the bit on the same kind of machine). `max_steps` ends the run after so many steps in this call, with a
    checkpoint and without a package (None is returned): how tests interrupt it. `report` gets a dict a second while
    training and one after each epoch.
    """
    data = FaceDataset(dataset)
    if data.artifact.contents.get("aligned") is None or "splits" not in data.artifact.contents:
        raise InputError(f"{dataset}: not an assembled dataset of aligned faces; run eolgul assemble first")
    target = _device(device)
    inputs = [data.artifact.reference]
    done = reuse(out, "ModelPackage", step="train", recipe=recipe.to_json(), inputs=inputs)
    if done is not None:
        return done
    contract = EmbeddingContract(detector=_detector_settings(data))
    training = TrainingData(data, recipe, contract, workers=workers)
    validation = Validation(data, contract)

    torch.manual_seed(recipe.seed)
    torch.backends.cudnn.deterministic = True  # a resumed run must repeat the sums of one never stopped
    torch.backends.cudnn.benchmark = False
    network = build(recipe.backbone, recipe.embedding_size).to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = ArcFace(recipe.embedding_size, training.identities, scale=recipe.scale, margin=recipe.margin).to(target)
    optimizer = _optimizer(recipe, network, head)
    autocast = _autocast_dtype(recipe, target)

    digest = recipe_digest({"recipe": recipe.to_json(), "dataset": data.artifact.digest, "precision": str(autocast)})
    last = storage.join(checkpoints or str(out.parent / "checkpoints"), digest, "last.pt")
    progress: dict[str, Any] = {"epoch": 0, "step": 0, "curve": [], "best": None, "loss_sum": 0.0}
    saved = checkpoint.load(last, recipe=digest)
    if saved is not None:
        network.load_state_dict(saved["network"])
        head.load_state_dict(saved["head"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if target.type == "cuda" and saved["cuda_rng"] is not None:  # None: begun on a CPU, going on here
            torch.cuda.set_rng_state(saved["cuda_rng"], target)
        progress = saved["progress"]

    def save() -> None:
        state = {
            "recipe": digest,
            "network": network.state_dict(),
            "head": head.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(target) if target.type == "cuda" else None,
            "progress": progress,
        }
        checkpoint.save(last, state)

    taken, saved_at, said_at = 0, time.monotonic(), 0.0
    while progress["epoch"] < recipe.epochs:
        epoch = progress["epoch"]
        network.train()
        for images, labels in training.batches(epoch, progress["step"]):
            started = time.monotonic()
            position = epoch + progress["step"] / training.steps
            head.margin = (
                recipe.margin * min(1.0, position / recipe.margin_warmup_epochs)
                if recipe.margin_warmup_epochs
                else recipe.margin
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, position)
            with torch.autocast(target.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
                embeddings = network(images.to(target, memory_format=torch.channels_last, non_blocking=True))
            loss = F.cross_entropy(head(embeddings, labels.to(target)), labels.to(target))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([*network.parameters(), *head.parameters()], recipe.clip_norm)
            optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise InputError(
                    f"the loss is {value} at epoch {epoch + 1}, step {progress['step'] + 1}: lower the learning rate"
                )
            progress["step"] += 1
            progress["loss_sum"] += value
            taken += 1
            now = time.monotonic()
            if report and now - said_at > 1:
                speed = len(labels) / (now - started)
                report({"epoch": epoch + 1, "epochs": recipe.epochs, "step": progress["step"], "steps": training.steps,
                        "loss": value, "lr": learning_rate(recipe, position), "images_per_second": speed})  # fmt: skip
                said_at = now
            if max_steps is not None and taken >= max_steps:
                save()
                return None
            if now - saved_at > checkpoint_seconds:
                save()
                saved_at = time.monotonic()

        measured = validation.measure(validation.embed(network, target), recipe.scale)
        row = {"epoch": epoch + 1, "train_loss": progress["loss_sum"] / training.steps, "validation": measured}
        progress["curve"].append(row)
        if progress["best"] is None or measured["auc"] > progress["best"]["auc"]:
            weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            progress["best"] = {"epoch": epoch + 1, "auc": measured["auc"], "weights": weights}
        progress.update(epoch=epoch + 1, step=0, loss_sum=0.0)
        save()
        saved_at = time.monotonic()
        if report:
            report(row)

    best = build(recipe.backbone, recipe.embedding_size).eval()
    best.load_state_dict(progress["best"]["weights"])
    return write_package(
        best,
        out,
        recipe=recipe,
        contract=contract,
        dataset=data,
        identities=training.identities,
        images=len(training.rows),
        curve=progress["curve"],
        best_epoch=progress["best"]["epoch"],
        probe=validation.inputs(validation.rows[:: max(1, len(validation.rows) // 16)]),
    )


def learning_rate(recipe: Recipe, position: float) -> float:
    """The rate at `position` (epochs done, with fraction): linear warm-up, then steps of a tenth or half a cosine."""
    if position < recipe.warmup_epochs:
        return recipe.learning_rate * (0.01 + 0.99 * position / recipe.warmup_epochs)
    if recipe.schedule == "step":
        return float(recipe.learning_rate * 0.1 ** sum(position >= milestone for milestone in recipe.milestones))
    share = (position - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _optimizer(recipe: Recipe, network: nn.Module, head: nn.Module) -> torch.optim.Optimizer:
    """Weight decay pulls weights only: norms, PReLU slopes and biases (one-dimensional) are left alone."""
    parameters = [*network.parameters(), *head.parameters()]
    groups = [
        {"params": [value for value in parameters if value.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: torch finds no GPU here")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r}: expected auto, cpu, cuda or cuda:<number>") from error


def _autocast_dtype(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is computed natively; fp16 is not offered, since it would need loss scaling."""
    if recipe.precision == "fp32":
        return None
    if recipe.precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    native = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else None


def _detector_settings(data: FaceDataset) -> DetectorSettings:
    """The settings the faces were aligned with, so that serving finds them the same way."""
    detector = data.artifact.contents.get("detector")
    if detector is None:
        return DetectorSettings()
    return DetectorSettings(**{**detector, "thresholds": tuple(detector["thresholds"])})

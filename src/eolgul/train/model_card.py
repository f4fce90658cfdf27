"""CARD.md: the model card of a trained package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eolgul.dataset import FaceDataset
from eolgul.model.onnx_export import OPSET
from eolgul.model.package import EmbeddingContract
from eolgul.train.recipe import Recipe

_LICENCES = """The weights were learned from the images above: what the licence of each source allows (many face sets, MS1M-ArcFace
and AI Hub's K-FACE among them, are for research only and may not be passed on) bounds what may be done with this model.
The code that made it is Apache-2.0."""


def card(recipe: Recipe, contract: EmbeddingContract, training: Mapping[str, Any], dataset: FaceDataset) -> str:
    """Write the card as Markdown; `training` is the content of training.json."""
    best = training["curve"][training["best_epoch"] - 1]
    warning = (
        "\n> **Synthetic.** Trained on drawn people who do not exist. It shows that the pipeline works; it is not fit to\n"
        "> recognise real people.\n"
        if dataset.artifact.synthetic
        else ""
    )
    contents = dataset.artifact.contents
    sources = ", ".join(contents.get("sources") or sorted(set(dataset.column("source"))))
    return f"""# {recipe.backbone}, {recipe.embedding_size}-d face embedding
{warning}
Trained on {training["images"]} images of {training["identities"]} identities, {len(training["curve"])} epochs, head {recipe.head}
(scale {recipe.scale:g}, margin {recipe.margin:g}). Epoch {training["best_epoch"]} was chosen on held-out validation
identities (AUC {best["validation"]["auc"]:.4f}); no benchmark took part in any choice.
{_learned_from(training["learned_from"])}

{_init(training)}{_head(recipe)}

## Input and output
{contract.color} faces, {contract.size}x{contract.size}, aligned to `{contract.template}`, `(pixel - {contract.mean:g}) / {contract.std:g}`;
ONNX opset {OPSET}, any batch size.
{contract.output()}
{_variants(training)}
## Data
Sources: {sources}. Dataset digest `{training["dataset"]["digest"]}`.

| split | identities | images |
|---|---|---|
{_splits(contents.get("splits") or {})}
{_corrupt(training)}
## Curves
Validation is on people the network does not train on: all pairs of their images, and a closed-set loss against
prototypes (the mean embedding of each person's first half of images; the other half is classified, no margin). The same loss
of as many training people, without augmentation, stands beside it: the difference is overfitting. The training loss is not
comparable with either: it has the margin, and all training people as classes.

| epoch | training loss | closed-set loss, training people | validation people | AUC | TAR@FMR 1% | TAR@FMR 0.1% |
|---|---|---|---|---|---|---|
{_curves(training)}

## Intended use and limits
One-to-one verification of cooperative people in aligned pictures, with the threshold that `eolgul evaluate` calibrates.
Not for identifying people in crowds, nor for guessing age, sex, origin or mood. Error rates differ between groups of
people and kinds of cameras that the sources show unequally: measure on your own people before you decide anything by
it, and leave a person in the decision. It does not tell a face from a photograph of one (no liveness).

## Licence
{_LICENCES}

## Recipe
```json
{json.dumps(training["recipe"], indent=1)}
```
"""


def _learned_from(facts: Mapping[str, Any]) -> str:
    text = (
        f"`provenance.parquet` has hashes of the {facts['people']} people and {facts['images']} images that it learned from, so\n"
        "that `eolgul evaluate` can tell which of a set's people and images are among them."
    )
    if facts["complete"]:
        return text
    return f"{text} What the weights that training began with\nhad learned from before is unknown in part or whole."


def _init(training: Mapping[str, Any]) -> str:
    """What the run began with, when it did not begin with random weights."""
    init = training.get("init")
    if init is None:
        return ""
    rows = init["head_rows"]
    frozen = training["recipe"]["freeze_epochs"]
    text = (
        f"Fine-tuned: it began with the weights of a {init['kind']} (sha256 `{init['digest']}`, {init['color']} images), "
        f"{init['tensors']} tensors of the network; of its head {rows['taken']} identities' rows were taken, {rows['new']} "
        f"identities are new, {rows['left']} were left behind. What that model learned from, and its licence, count here too."
    )
    if frozen:
        text += (
            f" For the first {frozen:g} epochs the network was frozen, the means and variances of its batch norms too, and only "
            "the head learned."
        )
    return f"{text}\n\n"


def _head(recipe: Recipe) -> str:
    if recipe.keep_head:
        return (
            "The classification head is in this package (`head.safetensors`, by keep_head): one row per training identity, which\n"
            "is an embedding of that person, named by a hash. It serves further training only; recognition does not use it."
        )
    return (
        "The classification head is not in this package: its classes are the training people, and recognition compares embeddings\n"
        "of people it never saw."
    )


def _splits(splits: Mapping[str, Mapping[str, int]]) -> str:
    return "\n".join(f"| {name} | {facts['identities']} | {facts['images']} |" for name, facts in splits.items())


def _curves(training: Mapping[str, Any]) -> str:
    lines = []
    for row in training["curve"]:
        held = row["validation"]
        known = row.get("training_people")
        beside = "unknown" if known is None else f"{known['loss']:.3f}"
        fine = f"{held['tar_at_fmr_1e-3']:.3f}" if "tar_at_fmr_1e-3" in held else ""
        lines.append(
            f"| {row['epoch']} | {row['train_loss']:.3f} | {beside} | {held['loss']:.3f} | {held['auc']:.4f} "
            f"| {held['tar_at_fmr_1e-2']:.3f} | {fine} |"
        )
    return "\n".join(lines)


def _variants(training: Mapping[str, Any]) -> str:
    lines = [
        f"`{facts['file']}` ({facts['bytes'] / 1e6:.1f} MB): cosine to model.onnx {facts['mean_cosine']:.5f} on average, "
        f"{facts['least_cosine']:.5f} at least; validation AUC {facts['validation']['auc']:.4f} "
        f"(model.onnx {facts['validation_fp32']['auc']:.4f})."
        for facts in training["variants"].values()
    ]
    return "".join(f"\n{line}\n" for line in lines)


def _corrupt(training: Mapping[str, Any]) -> str:
    unreadable = training["unreadable"]
    if not unreadable["images"]:
        return "\nEvery training image could be read.\n"
    return f"\n{unreadable['images']} training images could not be read and were left out (training.json names them).\n"

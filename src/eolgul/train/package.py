"""From a trained network to a ModelPackage, proven to give the same embeddings through ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from eolgul.align.networks import export_onnx
from eolgul.artifact import Artifact, canonical_json, open_artifact, seal, writing
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.modelpackage import EmbeddingContract
from eolgul.onnxexport import export
from eolgul.recognizer import onnx_session
from eolgul.train.recipe import Recipe

_TOLERANCE = 1e-4  # on the cosine of the two embeddings of one image


def write_package(
    network: nn.Module,
    out: Path,
    *,
    recipe: Recipe,
    contract: EmbeddingContract,
    dataset: FaceDataset,
    identities: int,
    images: int,
    curve: Sequence[dict[str, Any]],
    best_epoch: int,
    probe: NDArray[np.float32],
) -> Artifact:
    """Export, check and seal. `probe` is network input (N x 3 x 112 x 112) of real faces to check the export with.

    Raises InputError, and leaves nothing, when ONNX Runtime's embeddings differ from torch's or do not depend on the
    image at all.
    """
    network = network.cpu().eval()
    reference = dataset.artifact.reference
    with writing(out) as folder:
        save_file(
            {name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors"
        )
        example = torch.from_numpy(probe[:2])
        free = {"images": {0: "n"}, "embeddings": {0: "n"}}
        export(network, example, folder / "model.onnx", ["embeddings"], free)
        check_export(network, folder / "model.onnx", probe)
        export_onnx(folder / "detector")
        config = {"backbone": recipe.backbone, "embedding_size": recipe.embedding_size, "contract": contract.to_json()}
        (folder / "config.json").write_bytes(canonical_json(config))
        training = {"recipe": recipe.to_json(), "dataset": reference, "identities": identities, "images": images,
                    "curve": list(curve), "best_epoch": best_epoch}  # fmt: skip
        (folder / "training.json").write_bytes(canonical_json(training))
        (folder / "CARD.md").write_text(_card(recipe, contract, training, dataset), encoding="utf-8")
        seal(
            folder,
            "ModelPackage",
            step="train",
            recipe=recipe.to_json(),
            inputs=[reference],
            contents={"backbone": recipe.backbone, "embedding_size": recipe.embedding_size, "best_epoch": best_epoch},
            synthetic=dataset.artifact.synthetic,
        )
    return open_artifact(out)


def check_export(network: nn.Module, onnx: Path, probe: NDArray[np.float32]) -> None:
    """Compare torch and ONNX Runtime on real faces; InputError when they disagree or all faces embed alike."""
    with torch.inference_mode():
        expected = F.normalize(network(torch.from_numpy(probe))).numpy()
    got = onnx_session(onnx, threads=1).run(None, {"images": probe})[0]
    got = got / np.linalg.norm(got, axis=1, keepdims=True)
    worst = float((1 - (expected * got).sum(axis=1)).max())
    if not worst < _TOLERANCE:
        raise InputError(f"the ONNX export gives other embeddings than torch (cosine distance {worst:.2g})")
    if float((got @ got.T).min()) > 1 - _TOLERANCE:
        raise InputError(
            "the model gives every face the same embedding: it has learned nothing that tells people apart"
        )


def _card(recipe: Recipe, contract: EmbeddingContract, training: dict[str, Any], dataset: FaceDataset) -> str:
    best = training["curve"][training["best_epoch"] - 1]
    warning = (
        "\n> **Synthetic.** Trained on drawn people who do not exist. It shows that the pipeline works; it is not fit to\n"
        "> recognise real people.\n"
        if dataset.artifact.synthetic
        else ""
    )
    return f"""# {recipe.backbone}, {recipe.embedding_size}-d face embedding
{warning}
Trained on {training["images"]} images of {training["identities"]} identities, {recipe.epochs} epochs, ArcFace
(scale {recipe.scale:g}, margin {recipe.margin:g}). Epoch {training["best_epoch"]} was chosen on held-out validation
identities (AUC {best["validation"]["auc"]:.4f}); no benchmark took part in any choice.

The ArcFace head is not in this package: its classes are the training people, and recognition compares embeddings of
people it never saw.

Input: RGB faces, {contract.size}x{contract.size}, aligned to `{contract.template}`, `(pixel - {contract.mean:g}) / {contract.std:g}`.
Output: the embedding of the image plus that of its mirror image (flip: {contract.flip}), L2-normalised. Compare by cosine.

```json
{json.dumps(training["recipe"], indent=1)}
```
"""

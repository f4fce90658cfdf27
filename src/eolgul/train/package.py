"""Write a trained network as a ModelPackage, after a check that ONNX Runtime gives the same embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from eolgul.artifact import Artifact, canonical_json, open_artifact, seal, writing
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.faces.networks import export_onnx
from eolgul.model.onnx_export import OPSET, export
from eolgul.model.onnx_network import onnx_session, run_session
from eolgul.model.package import EmbeddingContract
from eolgul.model.provenance import Provenance
from eolgul.train.backbones import epsilon_of
from eolgul.train.config import VERSION
from eolgul.train.head_rows import save_head
from eolgul.train.model_card import card
from eolgul.train.recipe import Recipe
from eolgul.train.validate import Validation
from eolgul.train.variants import write_variants

_TOLERANCE = 1e-5  # on each number of the normalised embeddings
_PROBES = 16


def write_package(
    network: nn.Module,
    out: Path,
    *,
    recipe: Recipe,
    contract: EmbeddingContract,
    dataset: FaceDataset,
    validation: Validation,
    training: Mapping[str, Any],
    begun_with: Mapping[str, str] | None = None,
    past: Provenance | None = None,
    synthetic: bool = False,
    head: tuple[Tensor, Sequence[str]] | None = None,
) -> Artifact:
    """Export, check on validation faces, and seal.

    Args:
        network: The trained network.
        out: Where the package goes.
        recipe: The recipe.
        contract: The embedding contract.
        dataset: What it was trained on.
        validation: Faces of people that it was not trained on.
        training: What training.json says beside recipe and dataset.
        begun_with: Kind and digest of what the run began with, if not with random weights.
        past: What that learned from; None where it is unknown.
        synthetic: Whether that learned from drawn people.
        head: The head's rows to keep and the names of their identities.

    Raises:
        InputError: ONNX Runtime's embeddings differ from torch's or do not depend on the image; nothing is left at `out`.
    """
    network = network.cpu().eval()
    reference = dataset.artifact.reference
    learned = provenance(dataset)
    if begun_with is not None:
        learned = learned.joined(past)
    inputs = [reference, *([begun_with] if begun_with else [])]
    facts = {"recipe": recipe.to_json(), "dataset": reference, "learned_from": learned.facts(), **training}
    with writing(out) as folder:
        probe = validation.inputs(validation.rows[:: max(1, len(validation.rows) // _PROBES)])
        write_network(network, folder, backbone=recipe.backbone, embedding_size=recipe.embedding_size,
                      contract=contract, probe=probe)  # fmt: skip
        facts["variants"] = write_variants(folder, recipe.variants, validation, recipe.scale)
        if head is not None:
            save_head(folder, *head)
        (folder / "training.json").write_bytes(canonical_json(facts))
        learned.write(folder)
        (folder / "CARD.md").write_text(card(recipe, contract, facts, dataset), encoding="utf-8")
        seal(
            folder,
            "ModelPackage",
            step="train",
            version=VERSION,
            recipe=recipe.to_json(),
            inputs=inputs,
            contents={
                "backbone": recipe.backbone,
                "embedding_size": recipe.embedding_size,
                "best_epoch": training["best_epoch"],
                "learned_from": learned.facts(),
            },
            synthetic=dataset.artifact.synthetic or synthetic,
        )
    return open_artifact(out)


def provenance(dataset: FaceDataset) -> Provenance:
    """What is learned from by training on the dataset's `train` split.

    Validation people are not among it: they choose between epochs, and no weight is learned from them.
    """
    rows = dataset.table(["identity", "sha256"]).take(pa.array(dataset.rows("train")))
    return Provenance.of(rows["identity"].to_pylist(), rows["sha256"], dataset.artifact.digest)


def write_network(
    network: nn.Module,
    folder: Path,
    *,
    backbone: str,
    embedding_size: int,
    contract: EmbeddingContract,
    probe: NDArray[np.float32],
) -> None:
    """Write model.safetensors, model.onnx, config.json and detector/ into `folder`.

    Args:
        network: The trained network, in eval mode, on the CPU.
        folder: The package's folder.
        backbone: Name of the network.
        embedding_size: Length of its embeddings.
        contract: The embedding contract.
        probe: Network input on which the export is checked, float32 N x 3 x 112 x 112.

    Raises:
        InputError: The export does not reproduce the network.
    """
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    free = {"images": {0: "n"}, "embeddings": {0: "n"}}
    export(network, torch.from_numpy(probe[:2]), folder / "model.onnx", ["embeddings"], free)
    check_export(network, folder / "model.onnx", probe)
    export_onnx(folder / "detector")
    config = {
        "backbone": backbone,
        "embedding_size": embedding_size,
        "contract": contract.to_json(),
        "batch_norm_epsilon": epsilon_of(network),
        "onnx": {"opset": OPSET, "input": "images", "output": "embeddings", "batch": "any"},
    }
    (folder / "config.json").write_bytes(canonical_json(config))


def check_export(network: nn.Module, onnx: Path, probe: NDArray[np.float32]) -> None:
    """Compare torch and ONNX Runtime on `probe`, float32 N x 3 x 112 x 112.

    Raises:
        InputError: Their embeddings differ, or all embeddings are the same.
    """
    with torch.inference_mode():
        expected = F.normalize(network(torch.from_numpy(probe))).numpy()
    got = run_session(onnx_session(onnx, threads=1), {"images": probe}, str(onnx))[0]
    got = got / np.linalg.norm(got, axis=1, keepdims=True)
    worst = float(np.abs(expected - got).max())
    if not worst < _TOLERANCE:
        raise InputError(
            f"the ONNX export gives embeddings that differ from torch's by {worst:.2g}, expected less than {_TOLERANCE:g}"
        )
    if float((got @ got.T).min()) > 1 - _TOLERANCE:
        raise InputError(
            "the model gives every face the same embedding: it has learned nothing that tells people apart; train for more "
            "epochs, or with another learning_rate"
        )

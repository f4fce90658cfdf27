"""A published ONNX recognizer as a ModelPackage: measured, calibrated, promoted and served as a trained one is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from eolgul.artifact import Artifact, canonical_json, open_artifact, reuse, seal, writing
from eolgul.errors import InputError, one_line
from eolgul.faces.networks import export_onnx
from eolgul.files import sha256_file
from eolgul.model.contracts import find_contract
from eolgul.model.package import SIZE, TEMPLATE_NAME
from eolgul.model.recognizer import Recognizer
from eolgul.train.import_weights import VERSION, adjusted, card

_PROBES = 4
_IDENTICAL = 1e-5  # 1 - cosine similarity below which two embeddings count as equal


def import_onnx(
    onnx: Path,
    out: Path,
    *,
    contract: str,
    color: str | None = None,
    licence: str | None = None,
    which: str | None = None,
    flip: str | None = None,
) -> Artifact:
    """Make a ModelPackage of an ONNX recognizer, with this project's detector and no `model.safetensors`.

    Args:
        onnx: The ONNX file; weights in a file beside it are taken into the package's own.
        out: Where the package goes.
        contract: How the network sees faces: a name or a file, as `eolgul.model.contracts.find_contract` takes it.
        color: The channel order that the network expects, "rgb" or "bgr"; None takes the contract's.
        licence: The model's licence, for the card; None if it is not known.
        which: Which face of several counts, one of `POLICIES`; None takes the contract's.
        flip: Whether an embedding adds the mirror image's, one of `FLIPS`; None takes the contract's.

    Raises:
        InputError: ONNX Runtime cannot run the file, it is no embedding network of the contract, or all faces get one
            embedding.
    """
    chosen = adjusted(find_contract(contract), color, which, flip)
    if chosen.size != SIZE:
        raise InputError(f"{contract}: size {chosen.size}, expected {SIZE}: aligned faces have that size")
    if chosen.template != TEMPLATE_NAME:
        raise InputError(
            f"{contract}: template {chosen.template!r}, expected {TEMPLATE_NAME}: serving aligns faces to it"
        )
    recognizer = Recognizer(onnx, chosen)
    network = recognizer.network
    _check_sees(recognizer, onnx)
    reference = {"kind": "Weights", "digest": sha256_file(onnx)}
    recipe = {"contract": chosen.to_json()} | ({} if licence is None else {"licence": licence})
    done = reuse(out, "ModelPackage", step="import", version=VERSION, recipe=recipe, inputs=[reference])
    if done is not None:
        return done
    contents = {
        "backbone": onnx.stem,
        "embedding_size": network.embedding_size,
        "color": chosen.color,
        "dropped_outputs": network.dropped,
        "batch": network.batch,
    }
    config = {
        "backbone": onnx.stem,
        "embedding_size": network.embedding_size,
        "contract": chosen.to_json(),
        "onnx": {"input": network.input, "output": network.output, "batch": network.batch or "any"},
    }
    with writing(out) as folder:
        _copy(onnx, folder / "model.onnx")
        export_onnx(folder / "detector")
        (folder / "config.json").write_bytes(canonical_json(config))
        (folder / "training.json").write_bytes(canonical_json({"imported": recipe, "weights": reference}))
        (folder / "CARD.md").write_text(
            card(chosen, contents, onnx.name, reference["digest"], licence), encoding="utf-8"
        )
        seal(folder, "ModelPackage", step="import", version=VERSION, recipe=recipe, inputs=[reference], contents=contents,
             synthetic=False)  # fmt: skip
    return open_artifact(out)


def _check_sees(recognizer: Recognizer, onnx: Path) -> None:
    """Refuse a network to which all images are one; there are no faces here, so it sees coarse random patterns."""
    coarse = np.random.default_rng(0).integers(0, 256, (_PROBES, 14, 14, 3), np.uint8)
    embeddings = recognizer.embed(np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2)))
    if float((embeddings @ embeddings.T).min()) > 1 - _IDENTICAL:
        raise InputError(f"{onnx}: gives different images the same embedding: it ignores its input")


def _copy(source: Path, target: Path) -> None:
    """Copy an ONNX file, with what it keeps in files beside it taken in."""
    import onnx

    try:
        outside = any(
            tensor.data_location == onnx.TensorProto.EXTERNAL
            for tensor in _tensors(onnx.load(source, load_external_data=False).graph)
        )
        if outside:
            onnx.save(onnx.load(source), target)
            return
    except Exception as error:  # protobuf's errors, and those of a file of more than 2 GB
        raise InputError(f"{source}: cannot be written as one file ({one_line(error)})") from error
    shutil.copyfile(source, target)


def _tensors(graph: Any) -> list[Any]:
    return [*graph.initializer, *(item.t for node in graph.node for item in node.attribute if item.HasField("t"))]

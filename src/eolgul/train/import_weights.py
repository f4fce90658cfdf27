"""Published weights of InsightFace_Pytorch and arcface_torch as a ModelPackage."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from eolgul.artifact import Artifact, canonical_json, open_artifact, reuse, seal, writing
from eolgul.errors import InputError
from eolgul.files import sha256_file
from eolgul.model.package import EmbeddingContract
from eolgul.train.backbones import LAYOUTS, build
from eolgul.train.package import VERSION, write_network

# InsightFace_Pytorch's training images and its .bin sets went through the network as B, G, R; arcface_torch's as R, G, B.
_COLOR = {"insightface_pytorch": "BGR", "arcface_torch": "RGB"}
_PROBES = 8


def import_weights(weights: Path, out: Path, *, layout: str, backbone: str | None = None) -> Artifact:
    """Make a ModelPackage of published weights.

    Args:
        weights: A state dict file: `.safetensors`, or `.pth`/`.pt`, of which only tensors are unpickled.
        out: Where the package goes.
        layout: The project whose parameter names the file has, a key of `LAYOUTS`.
        backbone: The network; None finds it by the names and shapes of the parameters.

    Raises:
        InputError: The file holds anything but tensors, or its names or shapes are not those of a network of `layout`.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if backbone is not None and backbone not in LAYOUTS[layout]:
        raise InputError(f"backbone {backbone!r}: {layout} has {', '.join(LAYOUTS[layout])}")
    state = read_state(weights)
    reference = {"kind": "Weights", "digest": sha256_file(weights)}
    name, size, network = match(state, layout, backbone, str(weights))
    recipe = {"layout": layout, "backbone": name}
    done = reuse(out, "ModelPackage", step="import", version=VERSION, recipe=recipe, inputs=[reference])
    if done is not None:
        return done
    contract = EmbeddingContract(color=_COLOR[layout])
    # There are no faces here: smooth random images, to which a working network gives different embeddings.
    noise = torch.randn(_PROBES, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    probe = nn.functional.interpolate(noise, size=(112, 112), mode="bicubic").clamp(-1, 1).numpy()
    with writing(out) as folder:
        write_network(network, folder, backbone=name, embedding_size=size, contract=contract, probe=probe)
        (folder / "training.json").write_bytes(canonical_json({"imported": recipe, "weights": reference}))
        (folder / "CARD.md").write_text(_card(name, size, layout, weights, reference, contract), encoding="utf-8")
        contents = {"backbone": name, "embedding_size": size, "layout": layout}
        seal(folder, "ModelPackage", step="import", version=VERSION, recipe=recipe, inputs=[reference], contents=contents,
             synthetic=False)  # fmt: skip
    return open_artifact(out)


def read_state(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file by name; nothing in it is executed.

    Raises:
        InputError: The file is missing, or is not a state dict of plain tensors.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _unwrapped(load_file(file))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({error})") from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a file of plain tensors ({str(error).splitlines()[0]})") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: expected a state dict: tensors by name")
    return _unwrapped(state)


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that DistributedDataParallel and torch.compile put before names."""
    return {str(name).removeprefix("module.").removeprefix("_orig_mod."): value for name, value in state.items()}


def match(state: Mapping[str, Tensor], layout: str, backbone: str | None, where: str) -> tuple[str, int, nn.Module]:
    """Find the network of `layout` that has these parameters.

    Returns:
        Its name, its embedding size, and the network with the weights loaded.

    Raises:
        InputError: No network of `layout` fits, or a number is not finite.
    """
    size = _embedding_size(state, layout, where)
    complaints = {}
    for name in [backbone] if backbone else LAYOUTS[layout]:
        with torch.device("meta"):  # names and shapes only: trying seven networks costs nothing
            shapes = {key: tuple(value.shape) for key, value in build(name, size).state_dict().items()}
        complaint = _difference({key: tuple(value.shape) for key, value in state.items()}, shapes)
        if complaint is None:
            network = build(name, size)
            kept = network.state_dict()
            network.load_state_dict({key: state.get(key, value) for key, value in kept.items()})
            bad = next((key for key, value in state.items() if not torch.isfinite(value).all()), None)
            if bad is not None:
                raise InputError(f"{where}: {bad} holds numbers that are not finite")
            return name, size, network.eval()
        complaints[name] = complaint
    nearest = min(complaints, key=lambda name: complaints[name][0])
    raise InputError(
        f"{where}: no network of {layout} has these parameters; nearest is {nearest}, but {complaints[nearest][1]}"
    )


def _embedding_size(state: Mapping[str, Tensor], layout: str, where: str) -> int:
    last = {
        "insightface_pytorch": ("linear.weight", "output_layer.3.weight"),
        "arcface_torch": ("fc.weight", "features.layers.2.weight"),
    }
    found = next((state[name] for name in last[layout] if name in state), None)
    if found is None or found.ndim != 2:
        raise InputError(f"{where}: not of layout {layout}, expected one of {', '.join(last[layout])}")
    return int(found.shape[0])


def _difference(have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]]) -> tuple[int, str] | None:
    """The number of names or shapes that differ, and a sentence about the first; None if all fit.

    Counters of batches (`num_batches_tracked`) may be missing: older files have none, and nothing reads them.
    """
    missing = sorted(name for name in want.keys() - have.keys() if not name.endswith("num_batches_tracked"))
    extra = sorted(have.keys() - want.keys())
    wrong = sorted(name for name in want.keys() & have.keys() if want[name] != have[name])
    if wrong:
        text = f"{wrong[0]} is {'x'.join(map(str, have[wrong[0]]))}, expected {'x'.join(map(str, want[wrong[0]]))}"
    elif missing:
        text = f"{missing[0]} is missing"
    elif extra:
        text = f"{extra[0]} does not belong to it"
    else:
        return None
    return len(missing) + len(extra) + len(wrong), text


def _card(
    name: str, size: int, layout: str, weights: Path, reference: Mapping[str, str], contract: EmbeddingContract
) -> str:
    return f"""# {name}, {size}-d face embedding, imported

Weights: `{weights.name}` (sha256 {reference["digest"]}), in {layout}'s layout. What they were trained on, on whom and
under which licence is not known here: see where they were published.

Input: {contract.color} faces, {contract.size}x{contract.size}, aligned to `{contract.template}`,
`(pixel - {contract.mean:g}) / {contract.std:g}`.
Output: the embedding of the image plus that of its mirror image (flip: {contract.flip}), L2-normalised. Compare by cosine.

```json
{json.dumps(contract.to_json(), indent=1)}
```
"""

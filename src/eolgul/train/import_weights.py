"""Published weights as a ModelPackage."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eolgul.artifact import Artifact, canonical_json, open_artifact, reuse, seal, writing
from eolgul.errors import InputError
from eolgul.files import sha256_file
from eolgul.model.package import FLIPS, POLICIES, EmbeddingContract
from eolgul.train.backbones import LAYOUTS
from eolgul.train.layouts import CONTRACTS, also_fits, difference, match
from eolgul.train.package import write_network
from eolgul.train.weights_file import read_weights

VERSION = 3  # of the results: raise it when the same inputs and recipe give others
COLORS = ("rgb", "bgr")
_PROBES = 8
_logger = logging.getLogger("eolgul.import")


def import_weights(
    weights: Path,
    out: Path,
    *,
    layout: str,
    backbone: str | None = None,
    color: str | None = None,
    prefix: str | None = None,
    licence: str | None = None,
    which: str | None = None,
    flip: str | None = None,
) -> Artifact:
    """Make a ModelPackage of published weights. A warning says which other project's weights look the same.

    Args:
        weights: A weights file or a training checkpoint (`eolgul.train.weights_file`).
        out: Where the package goes.
        layout: The project whose parameter names the file has, a key of `LAYOUTS`.
        backbone: The network; None finds it by the names and shapes of the parameters.
        color: The channel order that the network expects, "rgb" or "bgr"; None takes the project's.
        prefix: What stands before the network's parameter names, where the file holds several; None finds it.
        licence: The weights' licence, for the card; None if it is not known.
        which: Which face of several counts, one of `POLICIES`; None for the largest.
        flip: Whether an embedding adds the mirror image's, one of `FLIPS`; None takes the project's.

    Raises:
        InputError: The file is no weights file, or its names or shapes are not those of one network of `layout`.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if backbone is not None and backbone not in LAYOUTS[layout]:
        raise InputError(f"backbone {backbone!r}: {layout} has {', '.join(LAYOUTS[layout])}")
    contract = adjusted(CONTRACTS[layout], color, which, flip)
    read = read_weights(weights)
    reference = {"kind": "Weights", "digest": sha256_file(weights)}
    found = match(read.state, layout, backbone, str(weights), prefix=prefix)
    others = also_fits(found.name, layout)
    if color is None:
        for other in others:
            _logger.warning(
                "%s: taken as %s's weights; %s's have the same names and shapes, but its contract has %s: if the file is "
                "%s's, import it with --layout %s",
                weights.name, layout, other, difference(layout, other), other, other)  # fmt: skip
    recipe = {"layout": layout, "backbone": found.name}
    given = {"color": color, "prefix": prefix, "licence": licence, "which": which, "flip": flip}
    recipe |= {name: value for name, value in given.items() if value is not None}
    done = reuse(out, "ModelPackage", step="import", version=VERSION, recipe=recipe, inputs=[reference])
    if done is not None:
        return done
    # There are no faces here: smooth random images, to which a working network gives different embeddings.
    noise = torch.randn(_PROBES, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    probe = nn.functional.interpolate(noise, size=(112, 112), mode="bicubic").clamp(-1, 1).numpy()
    contents = {
        "backbone": found.name,
        "embedding_size": found.size,
        "layout": layout,
        "color": contract.color,
        "also_fits": others,
        "prefix": found.prefix,
        "ignored": {"tensors": found.ignored, "objects": read.objects},
    }
    with writing(out) as folder:
        write_network(
            found.network, folder, backbone=found.name, embedding_size=found.size, contract=contract, probe=probe
        )
        (folder / "training.json").write_bytes(canonical_json({"imported": recipe, "weights": reference}))
        (folder / "CARD.md").write_text(
            card(contract, contents, weights.name, reference["digest"], licence), encoding="utf-8"
        )
        seal(folder, "ModelPackage", step="import", version=VERSION, recipe=recipe, inputs=[reference], contents=contents,
             synthetic=False)  # fmt: skip
    return open_artifact(out)


def adjusted(contract: EmbeddingContract, color: str | None, which: str | None, flip: str | None) -> EmbeddingContract:
    """The contract with the channel order `color` ("rgb" or "bgr"), the policy `which` and `flip`, where they are given."""
    if color is not None:
        if color not in COLORS:
            raise InputError(f"color {color!r}: expected {' or '.join(COLORS)}")
        contract = replace(contract, color=color.upper())
    if which is not None:
        if which not in POLICIES:
            raise InputError(f"which {which!r}: expected one of {', '.join(POLICIES)}")
        contract = replace(contract, detector=replace(contract.detector, which=which))
    if flip is not None:
        if flip not in FLIPS:
            raise InputError(f"flip {flip!r}: expected {' or '.join(FLIPS)}")
        contract = replace(contract, flip=flip)
    return contract


def card(contract: EmbeddingContract, contents: Mapping[str, Any], file: str, digest: str, licence: str | None) -> str:
    """CARD.md of an imported model as Markdown; `contents` are those of the package's manifest."""
    layout = f", in {contents['layout']}'s layout" if "layout" in contents else ""
    return f"""# {contents["backbone"]}, {contents["embedding_size"]}-d face embedding, imported

Source: `{file}` (sha256 {digest}){layout}. What it was trained on, and on whom, is not known here: see where it was
published. It may have been trained on people of your test data.
{_doubts(contents)}{_ignored(contents)}
## Licence
{licence or "Not known here: see where the model was published."}

## Input and output
{contract.color} faces, {contract.size}x{contract.size}, aligned to `{contract.template}`, `(pixel - {contract.mean:g}) / {contract.std:g}`.
{contract.output()}

```json
{json.dumps(contract.to_json(), indent=1)}
```
"""


def _doubts(contents: Mapping[str, Any]) -> str:
    """A paragraph per project whose weights look the same."""
    lines = [
        f"The same names and shapes are also those of {other}'s weights, whose contract has "
        f"{difference(contents['layout'], other)}: in the wrong one of the two, embeddings are quietly worse."
        for other in contents.get("also_fits", ())
    ]
    return "".join(f"\n{line}\n" for line in lines)


def _ignored(contents: Mapping[str, Any]) -> str:
    ignored = contents.get("ignored") or {}
    tensors, objects = ignored.get("tensors", {}), ignored.get("objects", {})
    parts = [f"{count} tensor{'s' * (count > 1)} of `{name}`" for name, count in tensors.items()]
    parts += [f"{count} objects of class `{name}`, which were not read" for name, count in objects.items()]
    return f"\nNot taken from the file: {'; '.join(parts)}.\n" if parts else ""

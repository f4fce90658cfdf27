"""Where a fine-tuning run begins: the weights of a ModelPackage or of a weights file, and the rows of its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eolgul.artifact import Artifact, open_artifact
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.files import sha256_file
from eolgul.model.package import DetectorSettings, EmbeddingContract, ModelPackage
from eolgul.model.provenance import Provenance
from eolgul.train.backbones import BACKBONES, EPSILON, LAYOUTS, build, epsilon_of, set_epsilon
from eolgul.train.head import Head
from eolgul.train.head_rows import HEAD_FILE, HeadRows, hashed, read_head
from eolgul.train.layouts import CONTRACTS, also_fits, difference, match, package_epsilon
from eolgul.train.recipe import AS_INIT, Recipe
from eolgul.train.weights_file import load_tensors, read_state


@dataclass(frozen=True, slots=True)
class Initial:
    """What a run begins with instead of random weights.

    Attributes:
        reference: Kind (ModelPackage or Weights) and digest, as a card names an input.
        backbone: The network's name.
        embedding_size: The length of its embeddings.
        contract: How it sees faces; its colour order, scaling and mirror image are those of the trained model too.
        state: Its parameters and buffers by name.
        head: The centres of its training identities, if it has them.
        synthetic: Whether it learned from drawn people; False for a weights file, which does not say.
        provenance: What it learned from; None where that is unknown.
        epsilon: Of its batch norms, which the weights do not hold.
        doubt: A sentence where other weights than those it is taken for have the same names and shapes, else "".
    """

    reference: dict[str, str]
    backbone: str
    embedding_size: int
    contract: EmbeddingContract
    state: Mapping[str, Tensor]
    head: HeadRows | None
    synthetic: bool
    provenance: Provenance | None = None
    epsilon: float = EPSILON
    doubt: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What makes another run of another start, as JSON values."""
        return {**self.reference, "color": self.contract.color}

    def network(self) -> nn.Module:
        """The network with these weights, in float32 on the CPU."""
        network = build(self.backbone, self.embedding_size)
        kept = network.state_dict()
        network.load_state_dict({name: self.state.get(name, value) for name, value in kept.items()})
        set_epsilon(network, self.epsilon)
        return network

    def fill(self, head: Head, names: Sequence[str]) -> dict[str, int]:
        """Copy the rows of identities that are in both into a head; the others keep their random start.

        Args:
            head: The head of the new run, or this rank's share of it.
            names: The names of all its identities, in the order of the labels.

        Returns:
            How many identities were taken from here, are new, and are here alone.

        Raises:
            InputError: There are no rows, none is of an identity in `names`, or the head has another number of centres.
        """
        if self.head is None:
            raise InputError(
                "init_head: the model given by --init holds no rows of its head; train it with keep_head=true, or leave "
                "init_head out"
            )
        if self.head.weight.shape[1:] != head.weight.shape[1:]:
            raise InputError(
                f"init_head: {self.head.weight.shape[1]} centres per identity there, {head.weight.shape[1]} in the recipe; "
                f"set centers={self.head.weight.shape[1]}"
            )
        found = [
            (new, self.head.places[key]) for new, name in enumerate(names) if (key := hashed(name)) in self.head.places
        ]
        if not found:
            raise InputError(
                f"init_head: none of the {len(names)} training identities is one of the {len(self.head.places)} that the model "
                "given by --init learned; leave init_head out"
            )
        own = [(new - head.begin, old) for new, old in found if head.begin <= new < head.end]
        if own:
            here, there = (torch.tensor(values) for values in zip(*own, strict=True))
            with torch.no_grad():
                head.weight[here.to(head.weight.device)] = self.head.weight[there].to(head.weight.device)
        return {"taken": len(found), "new": len(names) - len(found), "left": len(self.head.places) - len(found)}


def read_initial(place: Path, color: str | None = None, *, backbone: str = AS_INIT) -> Initial:
    """Read what a run begins with.

    Args:
        place: A ModelPackage, or a weights file that `eolgul.train.weights_file` reads.
        color: RGB or BGR: the channels' order of a weights file whose names do not tell it. A package says it itself.
        backbone: The network that a weights file is expected to fit; `AS_INIT` finds it.

    Raises:
        InputError: It is neither, its parameters fit no network, or its colour order is not known.
    """
    if place.is_dir():
        return _read_package(place, color)
    return _read_weights(place, color, backbone)


def resolved(recipe: Recipe, initial: Initial | None) -> Recipe:
    """The recipe with the network of the start, where it leaves that to the start.

    Raises:
        InputError: The recipe needs a start and there is none, or its network is another one than the start's.
    """
    if initial is None:
        wanted = {
            f"backbone = {AS_INIT!r}": recipe.backbone == AS_INIT,
            "freeze_epochs": recipe.freeze_epochs > 0,
            "init_head": recipe.init_head,
        }
        for name, wants in wanted.items():
            if wants:
                raise InputError(f"recipe: {name} is for fine-tuning; give the model to begin with, --init MODEL")
        return recipe
    if recipe.backbone == AS_INIT:
        if recipe.embedding_size not in (Recipe().embedding_size, initial.embedding_size):
            raise InputError(
                f"recipe: embedding_size is {recipe.embedding_size}, but the model given by --init has embeddings of "
                f"{initial.embedding_size}; leave embedding_size out"
            )
        return replace(recipe, backbone=initial.backbone, embedding_size=initial.embedding_size)
    if (recipe.backbone, recipe.embedding_size) != (initial.backbone, initial.embedding_size):
        raise InputError(
            f"--init: is a {initial.backbone} with embeddings of {initial.embedding_size}, the recipe wants a {recipe.backbone} "
            f"of {recipe.embedding_size}; set backbone={AS_INIT}"
        )
    return recipe


def begin_with(initial: Initial | None, head: Head, names: list[str] | None) -> dict[str, Any] | None:
    """Copy the head's rows where `names` asks for it; returns what was taken from the start, for the card."""
    if initial is None:
        return None
    taken: dict[str, Any] = {**initial.identity, "tensors": len(initial.state)}
    rows = 0 if initial.head is None else len(initial.head.places)
    taken["head_rows"] = (
        {"taken": 0, "new": head.identities, "left": rows} if names is None else initial.fill(head, names)
    )
    return taken


def contract_of(data: FaceDataset, initial: Initial | None, embed_flip: str) -> EmbeddingContract:
    """How the trained model sees faces: as the model that it begins with does, in the alignment and detector's settings of the data.

    `embed_flip` is the recipe's; without a model to begin with, "auto" is "sum".
    """
    aligned = data.artifact.contents["aligned"]
    before = EmbeddingContract(template=aligned) if initial is None else initial.contract
    if before.template != aligned:
        raise InputError(f"--init: sees faces aligned to {before.template}, but {data.path} is aligned to {aligned}")
    flip = before.flip if embed_flip == "auto" else embed_flip
    return replace(before, detector=_detector_settings(data), flip=flip)


def _detector_settings(data: FaceDataset) -> DetectorSettings:
    """The settings with which the faces were aligned, so that serving finds faces in the same way."""
    detector = data.artifact.contents.get("detector")
    if detector is None:
        return DetectorSettings()
    return DetectorSettings(**{**detector, "thresholds": tuple(detector["thresholds"])})


def _read_package(place: Path, color: str | None) -> Initial:
    package = ModelPackage.open(place)
    listed = package.artifact.card["files"]
    if "model.safetensors" not in listed:
        raise InputError(f"{place}: holds no model.safetensors, and an ONNX network alone cannot be trained further")
    if color not in (None, package.contract.color):
        raise InputError(
            f"init_color {color}: {place} says itself that it was trained on {package.contract.color} images"
        )
    if package.backbone not in BACKBONES:
        raise InputError(f"{place}: has the backbone {package.backbone!r}, expected one of {', '.join(BACKBONES)}")
    state = load_tensors(place / "model.safetensors")
    with torch.device("meta"):
        wanted = {
            name: value.shape for name, value in build(package.backbone, package.embedding_size).state_dict().items()
        }
    if {name: value.shape for name, value in state.items()} != wanted:
        raise InputError(f"{place}/model.safetensors: its parameters are not those of {package.backbone}")
    head = read_head(place) if HEAD_FILE in listed else None
    return Initial(
        reference=package.artifact.reference,
        backbone=package.backbone,
        embedding_size=package.embedding_size,
        contract=package.contract,
        state=state,
        head=head,
        synthetic=package.artifact.synthetic,
        provenance=Provenance.read(place),
        epsilon=package_epsilon(package),
    )


def _read_weights(file: Path, color: str | None, backbone: str) -> Initial:
    if file.name == "model.safetensors" and (card := _package_around(file)) is not None:
        raise InputError(f"{file}: is part of a ModelPackage; give its folder {card.path}, which says how to feed it")
    state = read_state(file)
    complaints, found = [], None
    for layout, names in LAYOUTS.items():
        if backbone != AS_INIT and backbone not in names:
            continue
        try:
            fits = match(state, layout, None if backbone == AS_INIT else backbone, str(file))
        except InputError as error:
            complaints.append(str(error))
            continue
        found = fits, layout
        break
    if found is None:
        raise InputError(
            complaints[0] if complaints else f"{file}: the layout of {backbone} is not known; import it first"
        )
    fits, layout = found
    contract = CONTRACTS[layout]
    if color is None and fits.name not in LAYOUTS["arcface_torch"]:
        raise InputError(
            f"{file}: is a {fits.name}, whose names and shapes InsightFace_Pytorch (BGR) and face.evoLVe (RGB) share; "
            "say which with --init-color"
        )
    return Initial(
        reference={"kind": "Weights", "digest": sha256_file(file)},
        backbone=fits.name,
        embedding_size=fits.size,
        contract=replace(contract, color=color or contract.color),
        state=fits.network.state_dict(),
        head=None,
        synthetic=False,
        epsilon=epsilon_of(fits.network),
        doubt=_doubt(file, fits.name, layout),
    )


def _doubt(file: Path, name: str, layout: str) -> str:
    """What else the weights may be, where that would change more than the colour order, which --init-color says."""
    same = replace(CONTRACTS[layout], color="RGB")
    others = [other for other in also_fits(name, layout) if replace(CONTRACTS[other], color="RGB") != same]
    if not others:
        return ""
    differences = "; ".join(f"{other}'s have {difference(layout, other)}" for other in others)
    return (
        f"{file}: taken for {layout}'s, whose names and shapes are also those of other weights ({differences}); if it is of "
        "those, import it with its --layout and give the package to --init"
    )


def _package_around(file: Path) -> Artifact | None:
    try:
        return open_artifact(file.parent, "ModelPackage")
    except InputError:
        return None

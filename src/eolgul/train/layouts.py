"""Find the network that a file's parameters belong to, and the embedding contract of the project that published it.

The parameters may lie below any prefix, beside a classification head, an optimizer and other networks.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eolgul.errors import InputError
from eolgul.model.package import EmbeddingContract, ModelPackage
from eolgul.train.backbones import EPSILON, LAYOUTS, build, set_epsilon

# How each project's networks see faces, from its own inference code: InsightFace_Pytorch and MagFace read with OpenCV
# (B, G, R), face.evoLVe with Pillow and arcface_torch from RGB records; MagFace scales to 0…1 and adds no mirror image.
CONTRACTS: dict[str, EmbeddingContract] = {
    "insightface_pytorch": EmbeddingContract(color="BGR"),
    "face_evolve": EmbeddingContract(color="RGB"),
    "arcface_torch": EmbeddingContract(color="RGB"),
    "magface": EmbeddingContract(color="BGR", mean=0.0, std=255.0, flip="none"),
}
_EPSILON = {"magface": 2e-5}  # of its batch norms, where torch's default is 1e-5
_COUNTER = "num_batches_tracked"  # older files lack these counters of batches, and nothing reads them
_INPUTS_224 = 512 * 14 * 14  # of the last linear layer, for faces of 224 pixels
# What tells networks that eolgul does not have, by a part of a parameter's name.
_STRANGERS = (
    (
        "res_layer.2.running_mean",
        "AdaFace's and CVLface's IR networks, with a batch norm between a block's convolutions",
    ),
    ("attn.qkv.weight", "a vision transformer"),
    ("patch_embed.", "a vision transformer"),
    ("mixed_6a.", "facenet-pytorch's InceptionResnetV1"),
    ("layer4.2.conv3.weight", "a ResNet with bottleneck blocks"),
    ("layer1.0.conv2.weight", "a ResNet of another kind"),
)


def package_epsilon(package: ModelPackage) -> float:
    """The epsilon of a package's batch norms; one of an older version names the project that it was imported from."""
    if package.batch_norm_epsilon is not None:
        return package.batch_norm_epsilon
    return _EPSILON.get(str(package.artifact.card["recipe"].get("layout")), EPSILON)


@dataclass(frozen=True, slots=True)
class Match:
    """A network with its weights loaded, in eval mode.

    Attributes:
        name: Its name, a key of `BACKBONES`.
        size: The length of its embeddings.
        network: The network.
        prefix: What stands before its parameters' names in the file: "" or something that ends with a dot.
        ignored: How many tensors of the file do not belong to it, by what stands before them.
    """

    name: str
    size: int
    network: nn.Module
    prefix: str
    ignored: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How well the tensors below a prefix fit a network: None in `complaint` if they do."""

    name: str
    prefix: str
    size: int
    shared: int
    wrong: int
    complaint: str | None


def match(
    state: Mapping[str, Tensor], layout: str, backbone: str | None, where: str, *, prefix: str | None = None
) -> Match:
    """Find the network of `layout` that has these parameters.

    Args:
        state: The tensors of a file by name.
        layout: A key of `LAYOUTS`.
        backbone: The network; None tries all of the layout's.
        where: The file, for messages.
        prefix: What stands before the parameters' names; None finds it.

    Raises:
        InputError: No network of `layout` fits, several do, or a number is not finite.
    """
    names = [backbone] if backbone else LAYOUTS[layout]
    prefix = f"{prefix}." if prefix and not prefix.endswith(".") else prefix
    attempts = list(_attempts(state, names, prefix))
    fitting = [attempt for attempt in attempts if attempt.complaint is None]
    if not fitting:
        raise InputError(f"{where}: {_explain(state, layout, backbone, attempts, prefix)}")
    first = fitting[0]
    for other in fitting[1:]:
        if not _equal(state, first, other):
            found = ", ".join(repr(attempt.prefix) for attempt in fitting)
            raise InputError(f"{where}: holds {len(fitting)} such networks, below {found}; choose one with --prefix")
    return Match(
        first.name,
        first.size,
        _load(state, first, layout, where),
        first.prefix,
        _ignored(state, first),
    )


def also_fits(name: str, layout: str) -> list[str]:
    """The other layouts whose weights of this network have the same names and shapes."""
    return [other for other, names in LAYOUTS.items() if other != layout and name in names]


def difference(layout: str, other: str) -> str:
    """What is different in the contracts of two layouts, in words."""
    one, two = CONTRACTS[layout].to_json(), CONTRACTS[other].to_json()
    return ", ".join(f"{key} {two[key]} instead of {one[key]}" for key in one if one[key] != two[key])


def _attempts(state: Mapping[str, Tensor], names: Sequence[str], prefix: str | None) -> Iterator[_Attempt]:
    for name in names:
        wanted, last = _shapes(name, 512)
        prefixes = [prefix] if prefix is not None else _prefixes(state, wanted, last)
        for place in prefixes:
            head = state.get(place + last)
            size = int(head.shape[0]) if head is not None and head.ndim == 2 else 512
            yield _attempt(state, name, place, size, _shapes(name, size)[0])


@functools.cache
def _shapes(name: str, size: int) -> tuple[dict[str, tuple[int, ...]], str]:
    """The shapes of a network's tensors by name, and the name of its last linear layer's weight."""
    with torch.device("meta"):  # no numbers: trying all networks costs nothing
        network = build(name, size)
    last = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}, f"{last}.weight"


def _prefixes(state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], last: str) -> list[str]:
    """What stands before the names of a network's first or last weight in the file, most frequent names first."""
    found: Counter[str] = Counter()
    for anchor in {next(iter(wanted)), last}:
        found.update(key[: -len(anchor)] for key in state if key == anchor or key.endswith("." + anchor))
    return sorted(found, key=lambda place: (-found[place], len(place), place))


def _attempt(
    state: Mapping[str, Tensor], name: str, prefix: str, size: int, want: Mapping[str, tuple[int, ...]]
) -> _Attempt:
    have = {key[len(prefix) :]: tuple(value.shape) for key, value in state.items() if key.startswith(prefix)}
    missing = sorted(key for key in want.keys() - have.keys() if not key.endswith(_COUNTER))
    wrong = sorted(key for key in want.keys() & have.keys() if want[key] != have[key])
    own = {key.partition(".")[0] for key in want}
    extra = sorted(
        key for key in have.keys() - want.keys() if key.partition(".")[0] in own or not _beside(key, have, size)
    )
    complaint = None
    if wrong:
        complaint = f"{prefix}{wrong[0]} is {_times(have[wrong[0]])}, expected {_times(want[wrong[0]])}"
    elif missing:
        complaint = f"{prefix}{missing[0]} is missing"
    elif extra:
        complaint = f"{prefix}{extra[0]} does not belong to it"
    shared = sum(key in have and have[key] == shape for key, shape in want.items())
    return _Attempt(name, prefix, size, shared, len(missing) + len(wrong) + len(extra), complaint)


def _beside(key: str, have: Mapping[str, tuple[int, ...]], size: int) -> bool:
    """Whether a tensor next to a network is part of a classification head or an optimizer, or a single number of a margin.

    A head has a weight with one row or column of the embedding's size per person.
    """
    group = key.partition(".")[0]
    shapes = [shape for name, shape in have.items() if name.partition(".")[0] == group]
    head = any(len(shape) == 2 and size in shape for shape in shapes) and all(len(shape) <= 2 for shape in shapes)
    return head or "optim" in group or all(math.prod(shape) <= 1 for shape in shapes)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _equal(state: Mapping[str, Tensor], one: _Attempt, two: _Attempt) -> bool:
    """Whether two places of a file hold the same numbers of one network."""
    return one.name == two.name and all(
        torch.equal(state[one.prefix + key], state[two.prefix + key])
        for key in _shapes(one.name, one.size)[0]
        if one.prefix + key in state and two.prefix + key in state
    )


def _load(state: Mapping[str, Tensor], found: _Attempt, layout: str, where: str) -> nn.Module:
    network = build(found.name, found.size)
    kept = network.state_dict()
    own = {key: state[found.prefix + key] for key in kept if found.prefix + key in state}
    for key, value in own.items():
        if value.is_meta or value.is_quantized or value.is_sparse or value.is_complex():
            raise InputError(
                f"{where}: {found.prefix}{key} is not a tensor of plain numbers, expected float32 or float16"
            )
        if not torch.isfinite(value.float()).all():
            raise InputError(f"{where}: {found.prefix}{key} holds numbers that are not finite")
    network.load_state_dict({**kept, **own})
    set_epsilon(network, _EPSILON.get(layout, EPSILON))
    return network.eval()


def _ignored(state: Mapping[str, Tensor], found: _Attempt) -> dict[str, int]:
    """Count the tensors that are not the network's, by the first part of their name, and the prefix if they are below it."""
    own = {found.prefix + key for key in _shapes(found.name, found.size)[0]}
    counts: Counter[str] = Counter()
    for key in state:
        if key not in own:
            below = found.prefix if key.startswith(found.prefix) else ""
            counts[below + key[len(below) :].partition(".")[0]] += 1
    return dict(sorted(counts.items()))


def _explain(
    state: Mapping[str, Tensor], layout: str, backbone: str | None, attempts: list[_Attempt], prefix: str | None
) -> str:
    """Why no network of `layout` fits, and what the file may be instead."""
    every = dict.fromkeys(name for names in LAYOUTS.values() for name in names)
    fits = next((attempt for attempt in _attempts(state, [*every], prefix) if attempt.complaint is None), None)
    if fits is not None and fits.name in LAYOUTS[layout]:
        return f"its parameters are those of {fits.name}, expected {backbone}'s"
    if fits is not None:
        others = " or ".join(f"--layout {name}" for name in LAYOUTS if fits.name in LAYOUTS[name])
        return f"no network of {layout} has these parameters; they are those of {fits.name}: {others}"
    if prefix and not any(key.startswith(prefix) for key in state):
        below = ", ".join(sorted({key.partition(".")[0] + "." for key in state})[:5])
        return f"no parameter's name begins with {prefix!r}, expected one of {below}"
    stranger = next((what for part, what in _STRANGERS if any(part in key for key in state)), None)
    nearest = max(attempts, key=lambda attempt: (attempt.shared, -attempt.wrong), default=None)
    if nearest is not None and _is_for_224(state, nearest):
        return (
            f"is a {nearest.name} for faces of 224x224 pixels, expected one for 112x112: eolgul's faces have that size"
        )
    total = nearest.shared + nearest.wrong if nearest else 1
    if nearest is None or nearest.shared * 2 < total or (stranger and nearest.shared < 0.9 * total):
        some = ", ".join(list(state)[:3])
        kind = f"they look like {stranger}" if stranger else "they are another network's"
        return f"no network of {layout} has these parameters ({some}, …); {kind}, which eolgul does not have"
    return f"no network of {layout} has these parameters; nearest is {nearest.name}, but {nearest.complaint}"


def _is_for_224(state: Mapping[str, Tensor], nearest: _Attempt) -> bool:
    last = _shapes(nearest.name, nearest.size)[1]
    weight = state.get(nearest.prefix + last)
    return weight is not None and weight.ndim == 2 and weight.shape[1] == _INPUTS_224 and nearest.wrong == 1

"""A training recipe: every number that decides what a run learns. Named recipes are in `recipes/*.toml`."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from eolgul.errors import InputError
from eolgul.model.package import FLIPS
from eolgul.train.heard import unheard

_FOLDER = Path(__file__).parent / "recipes"
# By the key and the value with which earlier versions' runs and packages do not name them.
_LATER_KEYS = {"read_order": ("random", ("read_order", "read_window")), "embed_flip": ("auto", ("embed_flip",))}
AS_INIT = "init"  # the backbone of a recipe that takes the network of the model that the run begins with


@dataclass(frozen=True, slots=True)
class About:
    """The table `about` of a recipe: where its values come from.

    Attributes:
        source: The project and its run, in a sentence.
        commit: The commit of that project; empty for a recipe of our own.
        files: The files there that hold the values.
        deviations: What is not as it was there, each with its reason.
    """

    source: str = ""
    commit: str = ""
    files: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: Any, where: str) -> Self:
        """Check and take the table. Raises InputError for anything else."""
        texts, lists = ("source", "commit"), ("files", "deviations")
        if not isinstance(table, Mapping) or not set(table) <= {*texts, *lists}:
            raise InputError(f"{where}: about holds {', '.join((*texts, *lists))}, and nothing else")
        good = all(isinstance(table.get(key, ""), str) for key in texts) and all(
            isinstance(table.get(key, []), list) and all(isinstance(item, str) for item in table.get(key, []))
            for key in lists
        )
        if not good:
            raise InputError(f"{where}: about holds texts (source, commit) and lists of texts (files, deviations)")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
        }
        return cls(**values)


def about(name: str) -> About:
    """What a recipe that comes with the package says about its values."""
    path = _FOLDER / f"{name}.toml"
    return About.from_table(tomllib.loads(path.read_text(encoding="utf-8")).get("about", {}), str(path))


@dataclass(frozen=True, slots=True)
class Recipe:
    """The values of a recipe. The table `about` of `recipes/*.toml` says where they come from and what is another value, and why."""

    backbone: str = "mobilefacenet"  # "init": that of the model to begin with (--init), and its size
    embedding_size: int = 512  # numbers of an embedding
    freeze_epochs: float = 0.0  # fine-tuning: only the head learns, the network stays, its batch norms' figures too
    init_head: bool = False  # fine-tuning: begin with the head's rows of identities learned before, too
    keep_head: bool = False  # keep the head's rows in the package, for another run's init_head
    head: str = "arcface"  # arcface, cosface, adaface, combined (margin_m1, margin, margin_m3), softmax (no margin)
    scale: float = 64.0  # the factor of the cosines before the softmax
    margin: float = 0.5  # radians; cosface: of the cosine; adaface: its m
    margin_gradient: str = "exact"  # arcface: exact, or straight-through as insightface's tables had it
    margin_m1: float = 1.0  # combined: the factor of the angle
    margin_m3: float = 0.0  # combined: what is taken from the cosine
    margin_warmup_epochs: float = 0.0  # the margin grows linearly from 0 over these epochs
    centers: int = 1  # centres per identity (Sub-center ArcFace has 3)
    head_init: str = "small"  # the first centres: small (deviation 0.01) or unit (of length 1)
    sample: float = 1.0  # share of all identities whose centres take part in a step (PartialFC)
    epochs: int = 20  # times that every training image is shown
    batch_size: int = 128  # images of one update, over all processes
    accumulation: int = 1  # parts into which a process cuts its share of a batch, to save memory
    optimizer: str = "sgd"  # sgd or adamw
    learning_rate: float = 0.1  # the highest rate
    base_batch: int = 0  # sgd: the batch_size that the rate is for; another scales it; 0: not scaled
    momentum: float = 0.9  # of SGD
    weight_decay: float = 5e-4  # of the parameters that `decay` names
    decay: str = "weights"  # weights (no norms, slopes, biases), no_batch_norm (all but theirs) or all
    last_decay: float = 1.0  # weight decay of last layer and head, in multiples of weight_decay
    schedule: str = "step"  # step, cosine or poly: how the rate falls
    milestones: tuple[float, ...] = (12, 15, 18)  # epochs at which a "step" schedule divides the rate by ten
    poly_power: float = 2.0  # of a "poly" schedule
    warmup_epochs: float = 0.0  # the rate grows linearly over these epochs, after freeze_epochs
    clip: str = "joint"  # gradients' norm: joint (network and head), backbone or none
    clip_norm: float = 5.0  # the largest norm, where gradients are clipped
    ema: float = 0.0  # share of the averaged weights that an update keeps; 0: no average
    embed_flip: str = "auto"  # the mirror image's embedding is added (sum) or not (none, half the time); auto: as init
    last_layer_fp32: bool = False  # the layer that makes the embedding in float32, too
    precision: str = "auto"  # auto: bf16 where the hardware has it, else fp32; fp16 scales its loss
    channels_last: bool = True  # memory order of images, for speed
    compile: bool = False  # torch.compile the network
    flip: float = 0.5  # share of training images that are mirrored
    photometric: float = 0.0  # strength of brightness and contrast changes, as a share of 255
    saturation: float = 0.0  # strength of changes of saturation
    shift: int = 0  # largest random shift of the crop in pixels
    crop: float = 0.0  # share of training images that are black outside a random window
    low_resolution: float = 0.0  # share of training images that are reduced and enlarged again
    low_resolution_side: int = 22  # the smallest, in pixels of 112
    source_weights: Mapping[str, float] = field(
        default_factory=dict
    )  # relative frequency of a source's images; 1 for those not named
    max_unreadable: float = 0.001  # largest share of the training images that may be broken
    choose_by: str = "auc"  # the validation figure that chooses the best epoch
    patience: int = 0  # epochs without a better one after which the run ends; 0: no limit
    variants: tuple[str, ...] = ()  # more ONNX files in the package: fp16, int8
    read_order: str = "random"  # of an epoch's images: random, or windowed for a slow disk
    read_window: int = 131072  # windowed: images that are mixed at a time
    seed: int = 0  # of the first weights, the order of images and their augmentation

    @classmethod
    def load(cls, name: str, overrides: Sequence[str] = ()) -> Self:
        """Read a named recipe or a `.toml` file, then apply `key=value` overrides.

        Raises:
            InputError: There is no such recipe, a key is unknown, or a value has the wrong type or lies out of range.
        """
        path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
        if not path.is_file():
            raise InputError(f"recipe {name!r}: expected a .toml file or one of {', '.join(recipe_names())}")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: {error}") from error
        About.from_table(values.pop("about", {}), str(path))
        given = []
        for override in overrides:
            key, equals, text = override.partition("=")
            given.append(key)
            if not equals:
                raise InputError(f"override {override!r}: expected key=value")
            values[key] = _value(text)
        recipe = cls.from_json(values, name)
        if wrong := unheard(recipe, given):
            raise InputError(f"recipe {name}: {wrong}")
        return recipe

    @classmethod
    def from_json(cls, values: Mapping[str, Any], name: str = "of a card") -> Self:
        """Make a recipe of JSON or TOML values; a key that is missing has its default. Raises InputError as `load` does."""
        known = {item.name: getattr(cls(), item.name) for item in fields(cls)}
        taken = {}
        for key, value in values.items():
            if key not in known:
                raise InputError(f"recipe {name}: unknown key {key!r}; known are {', '.join(known)}")
            taken[key] = _cast(key, value, known[key])
        recipe = cls(**taken)
        recipe._check(name)
        return recipe

    def _check(self, name: str) -> None:
        choices = {
            "head": ("arcface", "cosface", "adaface", "combined", "softmax"),
            "margin_gradient": ("exact", "straight-through"),
            "head_init": ("small", "unit"),
            "optimizer": ("sgd", "adamw"),
            "decay": ("weights", "no_batch_norm", "all"),
            "clip": ("joint", "backbone", "none"),
            "embed_flip": ("auto", *FLIPS),
            "schedule": ("step", "cosine", "poly"),
            "precision": ("auto", "fp32", "bf16", "fp16"),
            "read_order": ("random", "windowed"),
            "choose_by": ("auc", "loss", "accuracy", "tar_at_fmr_1e-2", "tar_at_fmr_1e-3", "tar_at_fmr_1e-4"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"recipe {name}: {key} = {getattr(self, key)!r}, expected one of {', '.join(allowed)}")
        for item in fields(self):
            value = getattr(self, item.name)
            numbers = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
            for number in numbers:
                if isinstance(number, float) and not math.isfinite(number):
                    raise InputError(f"recipe {name}: {item.name} must be a finite number")
                if isinstance(number, int | float) and number < 0:
                    raise InputError(f"recipe {name}: {item.name} must not be below 0")
        for key in ("epochs", "batch_size", "learning_rate", "scale", "embedding_size", "clip_norm", "sample",
                    "centers", "accumulation", "low_resolution_side", "read_window"):  # fmt: skip
            if getattr(self, key) <= 0:
                raise InputError(f"recipe {name}: {key} must be above 0")
        shares = ("flip", "photometric", "saturation", "crop", "low_resolution", "max_unreadable", "sample")
        if any(getattr(self, key) > 1 for key in shares):
            raise InputError(f"recipe {name}: {', '.join(shares)} are shares, 1 at most")
        if self.batch_size < 2 or self.batch_size // self.accumulation < 2:
            raise InputError(f"recipe {name}: batch_size must be 2 or more for each part (batch norm)")
        if self.freeze_epochs >= self.epochs:
            raise InputError(
                f"recipe {name}: freeze_epochs must be below epochs: in those epochs the network learns nothing"
            )
        if self.ema >= 1:
            raise InputError(f"recipe {name}: ema must be below 1")
        if self.margin_gradient != "exact" and self.head != "arcface":
            raise InputError(f"recipe {name}: margin_gradient {self.margin_gradient} is only for head arcface")
        if self.base_batch and self.optimizer != "sgd":
            raise InputError(
                f"recipe {name}: base_batch is only for optimizer sgd: AdamW's steps do not grow with the batch"
            )
        if self.sample < 1 and self.optimizer != "sgd":
            raise InputError(f"recipe {name}: sample below 1 updates the chosen centres by SGD; set optimizer=sgd")
        unknown = sorted(set(self.variants) - {"fp16", "int8"})
        if unknown:
            raise InputError(f"recipe {name}: variants {', '.join(unknown)}, expected fp16, int8")

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON values, as the card of a package holds it; keys of later versions only where they do something."""
        lists = {"milestones": list(self.milestones), "variants": list(self.variants)}
        values = asdict(self) | lists | {"source_weights": dict(self.source_weights)}
        later = {name for key, (value, names) in _LATER_KEYS.items() if values[key] == value for name in names}
        return {key: value for key, value in values.items() if key not in later}


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _cast(key: str, value: Any, default: Any) -> Any:
    if key == "variants" and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if key == "milestones" and isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return tuple(value)
    if isinstance(default, dict) and isinstance(value, dict):
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value.values()):
            raise InputError(f"recipe key {key!r}: {value!r}, expected a table of numbers")
        return {name: float(number) for name, number in value.items()}
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise InputError(f"recipe key {key!r}: {value!r}, expected a {type(default).__name__}")
    return value

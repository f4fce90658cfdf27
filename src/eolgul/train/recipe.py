"""A training recipe: every number that decides what a run learns, as data. Named ones are in `recipes/*.toml`."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from eolgul.errors import InputError

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class Recipe:
    """See the comments in `recipes/*.toml` for where the values come from."""

    backbone: str = "mobilefacenet"
    embedding_size: int = 512
    head: str = "arcface"
    scale: float = 64.0
    margin: float = 0.5  # radians
    margin_warmup_epochs: float = 0.0  # the margin grows linearly from 0 over these epochs
    epochs: int = 20
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "step"
    milestones: tuple[float, ...] = (12, 15, 18)  # epochs at which a "step" schedule divides the rate by ten
    warmup_epochs: float = 0.0
    clip_norm: float = 5.0
    precision: str = "auto"  # auto: bf16 where the hardware has it, else fp32
    flip: float = 0.5  # share of training images that are mirrored
    photometric: float = 0.0  # strength of brightness and contrast changes, share of 255
    shift: int = 0  # largest random shift of the crop in pixels
    seed: int = 0

    @classmethod
    def load(cls, name: str, overrides: Sequence[str] = ()) -> Self:
        """A named recipe or a `.toml` file, then `key=value` overrides. InputError for unknown keys or wrong types."""
        path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
        if not path.is_file():
            raise InputError(f"recipe {name!r}: expected a .toml file or one of {', '.join(recipe_names())}")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: {error}") from error
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals:
                raise InputError(f"override {override!r}: expected key=value")
            values[key] = _value(text)
        known = {field.name: field.default for field in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise InputError(f"recipe {name}: unknown key {key!r}; known are {', '.join(known)}")
            values[key] = _cast(key, value, known[key])
        recipe = cls(**values)
        recipe._check(name)
        return recipe

    def _check(self, name: str) -> None:
        choices = {
            "head": ("arcface",),
            "optimizer": ("sgd", "adamw"),
            "schedule": ("step", "cosine"),
            "precision": ("auto", "fp32", "bf16"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"recipe {name}: {key} = {getattr(self, key)!r}, expected one of {', '.join(allowed)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"recipe {name}: {field.name} must be a finite number")
            if isinstance(value, int | float) and value < 0:
                raise InputError(f"recipe {name}: {field.name} must not be below 0")
        for key in ("epochs", "batch_size", "learning_rate", "scale", "embedding_size", "clip_norm"):
            if getattr(self, key) <= 0:
                raise InputError(f"recipe {name}: {key} must be above 0")
        if self.flip > 1 or self.photometric > 1:
            raise InputError(f"recipe {name}: flip and photometric are shares, 1 at most")
        if self.batch_size < 2:
            raise InputError(f"recipe {name}: batch_size must be 2 or more (batch norm)")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"milestones": list(self.milestones)}


def recipe_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _cast(key: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple) and isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise InputError(f"recipe key {key!r}: {value!r}, expected a {type(default).__name__}")
    return value

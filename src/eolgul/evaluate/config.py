"""The options of step 5."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from eolgul.config import Config, option
from eolgul.errors import InputError

_QUALITY_IMAGES = 160
_OF_PEOPLE = (
    "fmr",
    "quality_images",
    "without_anchored",
    "unseen_only",
)  # a benchmark chooses no threshold and is measured as it is published


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """How a model is measured and what the report shows."""

    contract: str | None = option(
        None,
        "Embedding contract of an ONNX file: insightface (RGB), insightface-bgr, insightface-noflip, or a JSON or TOML file. "
        "Default: insightface.",
        in_recipe=False,
    )
    fmr: float = option(1e-4, "False match rate that the threshold is calibrated for.", least=1e-9, most=0.5)
    without_anchored: bool = option(
        False, "Leave out held-out and calibration faces whose landmarks came from another image.", in_recipe=False
    )
    unseen_only: bool = option(
        False,
        "Leave out held-out and calibration people that the model is known to have learned from.",
        in_recipe=False,
    )
    pictures: bool = option(True, "Put thumbnails of the worst pairs into the report.")
    language: str = option(
        "auto",
        "Language that the report opens in; auto follows the browser.",
        choices=("auto", "en", "ko"),
        in_recipe=False,
    )
    cache: str | None = option(
        None, "Folder that keeps embeddings between runs.", in_recipe=False, envvar="EOLGUL_EMBEDDINGS"
    )
    quality_images: int = option(
        _QUALITY_IMAGES,
        "Calibration faces that are degraded in about forty ways, to find the picture quality for which the false match rate "
        "holds; 0: not found.",
        least=0,
        most=4096,
        in_recipe=False,
    )
    device: str = option(
        "auto",
        "ONNX Runtime's device; auto takes a GPU if there is one.",
        choices=("auto", "cpu", "cuda"),
        in_recipe=False,
    )
    threads: int = option(2, "ONNX Runtime's threads.", least=1, in_recipe=False)
    seed: int = option(0, "Decides the pairs and the bootstrap.")
    resamples: int = option(
        1000,
        "Bootstrap resamples of the intervals of accuracy and AUC; FMR, FNMR and the threshold have a jackknife's.",
        least=1,
        internal=True,
    )

    def check_uses(self, *, people: bool) -> None:
        """Raise InputError when an option is given that needs people of an assembled dataset and there are none."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in _OF_PEOPLE and not people and value != item.default:
                raise InputError(
                    f"{item.name} {value}: is only for an evaluation with a DATASET of people, not for benchmarks"
                )

    def to_recipe(self) -> dict[str, Any]:
        """As `Config.to_recipe`, with the options that count only when they are set."""
        recipe = super().to_recipe()
        recipe |= {name: True for name in ("without_anchored", "unseen_only") if getattr(self, name)}
        if self.quality_images != _QUALITY_IMAGES:
            recipe["quality_images"] = self.quality_images
        return recipe | ({"language": self.language} if self.language != "auto" else {})

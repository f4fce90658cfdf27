"""The options of step 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eolgul.config import Config, option, share_of
from eolgul.errors import InputError
from eolgul.model.package import POLICIES, TEMPLATE_NAME, DetectorSettings

STORED_AS = ("png", "jpeg")
_DEFAULTS = DetectorSettings()


@dataclass(frozen=True)
class AlignConfig(Config):
    """How faces are found, chosen and cut out."""

    min_face_size: int = option(_DEFAULTS.min_face_size, "Smallest side of a face in pixels.", least=12)
    min_score: float = option(
        _DEFAULTS.thresholds[2], "Smallest detection score of a face.", least=0, most=1, in_recipe=False
    )
    min_eyes: float = option(0.0, "Smallest distance between the eyes in pixels.", least=0)
    which: str = option(
        _DEFAULTS.which,
        "Which face counts when there are several; annotated is the one that fits the annotation, single rejects the "
        "image.",
        choices=POLICIES,
    )
    crop: str = option(
        "similarity",
        "How a face is cut out: similarity moves five landmarks to the template, box takes the detector's box as the "
        "original project did.",
        choices=("similarity", "box"),
        in_recipe=False,
    )
    anchor: str = option(
        "none",
        "Where no face is found in a K-FACE image: none rejects it, rig uses landmarks of the same person and camera.",
        choices=("none", "rig"),
    )
    stored_as: str = option(
        "png",
        "How faces are stored: png keeps every pixel; jpeg (quality 95, colours at full size) takes less space and is read "
        "faster.",
        choices=STORED_AS,
        in_recipe=False,
    )
    part: str = option("", "Do only the i-th of n shares, as i/n, for a later merge.", in_recipe=False)
    backend: str = option("onnx", "What runs the detector: onnx (CPU) or torch.", choices=("onnx", "torch"))
    device: str = option("cpu", "Device of the torch backend.", choices=("cpu", "cuda"), in_recipe=False)
    workers: int = option(2, "Threads.", least=1, in_recipe=False)
    # What a kill costs at most, and a shard of about 40 MB.
    part_rows: int = option(2048, "Most images per shard, the unit that survives a kill.", least=1, internal=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part:
            self.share(1)
        if self.device != "cpu" and self.backend != "torch":
            raise InputError(f"device {self.device}: is only for the backend torch; onnx runs on the CPU")

    @property
    def detector(self) -> DetectorSettings:
        """The detector's settings."""
        thresholds = (*_DEFAULTS.thresholds[:2], self.min_score)
        return DetectorSettings(min_face_size=self.min_face_size, thresholds=thresholds, which=self.which)

    def share(self, shards: int, part: str = "") -> range:
        """The numbers of the shards, of `shards` in all, that `part` stands for.

        Raises:
            InputError: When the part is not i/n with 1 <= i <= n.
        """
        return share_of(shards, part or self.part)

    @property
    def template(self) -> str:
        """The name of the template that faces are cut out on."""
        from eolgul.faces.template import BOX_NAME  # it imports OpenCV

        return BOX_NAME if self.crop == "box" else TEMPLATE_NAME

    def to_recipe(self) -> dict[str, Any]:
        """As `Config.to_recipe`, with the detector's settings and the template's name in full; JPEG only where it is chosen."""
        settings = self.detector
        full = {"thresholds": list(settings.thresholds), "factor": settings.factor, "template": self.template}
        chosen = {"stored_as": self.stored_as} if self.stored_as != "png" else {}
        return super().to_recipe() | full | chosen | ({"part": self.part} if self.part else {})

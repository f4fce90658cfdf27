"""The options of step 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eolgul.config import Config, option
from eolgul.errors import InputError


@dataclass(frozen=True)
class AssembleConfig(Config):
    """How identities are shared out to the splits."""

    validation: float = option(0.05, "Share of identities whose figures choose the best epoch.")
    calibration: float = option(0.15, "Share of identities that set the threshold.")
    test: float = option(0.15, "Share of identities that the result is measured on.")
    most_held_out: int = option(
        1000,
        "Most identities of one held-out split, over all sources; where the shares ask for more, small sources come first. "
        "Each source still gives the few that evaluation needs (4 to test, 3 to calibrate, 2 to validate).",
        least=1,
    )
    held_out_sources: tuple[str, ...] = option(
        (), "Names of the sources to hold identities back from. Default: all sources."
    )
    exclude: tuple[str, ...] = option(
        (),
        "An Audit or its audit.json; leave out the training identities that it found.",
        in_recipe=False,
    )
    seed: int = option(0, "Decides which identities are held back.")
    copy: bool = option(
        False,
        "Copy the images into new shards. Default: the result refers to the shards of the datasets (hard links, or their "
        "objects in S3), which takes no space and no time.",
    )
    shard_bytes: int = option(512 << 20, "Largest size of a shard in bytes.", least=1, in_recipe=False, internal=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.shares
        if not (min(shares.values()) >= 0 and sum(shares.values()) < 1):  # NaN is neither
            raise InputError(f"held-out shares {shares}: each must be 0 or more and their sum below 1")
        if self.held_out_sources and not any(shares.values()):
            names = ", ".join(self.held_out_sources)
            raise InputError(
                f"held_out_sources {names}: is for a share of identities to hold back, but every share is 0"
            )

    @property
    def shares(self) -> dict[str, float]:
        """The share of identities of each held-out split."""
        return {"test": self.test, "calibration": self.calibration, "validation": self.validation}

    def to_recipe(self) -> dict[str, Any]:
        """As `Config.to_recipe`; the order of the sources does not count."""
        recipe = super().to_recipe() | {"held_out_sources": sorted(self.held_out_sources)}
        if self.copy:  # the only way of versions before there was a choice: the recipe of a copy is still theirs
            del recipe["copy"]
        return recipe

"""What an extraction states about a source besides its images: the same whether one machine wrote it or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.plan import Plan
from eolgul.extract.worker import also_read
from eolgul.model.package import TEMPLATE_NAME

VERSION = 2  # of the results: raise it when the same inputs and recipe give others


@dataclass(frozen=True)
class About:
    """What the plan of a whole source says, as JSON values. The card of a share holds it, and all shares must agree on it.

    Attributes:
        kind: The kind of the source.
        identities_known: Whether it is known who is on the images.
        aligned: The template that the faces lie on, as the source itself says; or None.
        synthetic: Whether the images were drawn.
        passed_over: What is neither image nor rejected (`PassedOver.to_json`).
        facts: Further contents of the card.
        warnings: Sentences for people.
        stamp: What the source's content is known by.
        shards: How many shards it makes.
        division: SHA-256 (hex) of how it is cut into them.
        also: Lines of the source's digest behind those of the shards.
    """

    kind: str
    identities_known: bool
    aligned: str | None
    synthetic: bool
    passed_over: Mapping[str, Any]
    facts: Mapping[str, Any]
    warnings: list[str]
    stamp: str
    shards: int
    division: str
    also: str

    @classmethod
    def of(cls, plan: Plan, kind: str, *, synthetic: bool, stamp: str) -> Self:
        """What a plan says."""
        return cls(
            kind=kind,
            identities_known=plan.identities_known,
            aligned=plan.aligned,
            synthetic=synthetic,
            passed_over=plan.passed_over.to_json(),
            facts=dict(plan.facts),
            warnings=list(plan.warnings),
            stamp=stamp,
            shards=plan.division.shards,
            division=plan.division.digest,
            also=also_read(plan).decode(),
        )

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` gives. Raises InputError for anything else."""
        try:
            return cls(**value)
        except TypeError as error:
            raise InputError("expected a share of an extraction by this version of eolgul") from error

    def to_json(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self)

    def inputs(self, digest: str) -> list[dict[str, str]]:
        """How the card names the source, whose digest is given."""
        return [{"kind": f"raw:{self.kind}", "digest": digest}]

    def facts_of(self, config: ExtractConfig, counted: int) -> dict[str, Any]:
        """What the card of the whole says; `counted` are its images and rejected inputs."""
        return {
            "aligned": TEMPLATE_NAME if config.aligned else self.aligned,
            "verified": config.verify,
            "color": config.color,
            "inputs": counted + self.passed_over["total"],
            "passed_over": dict(self.passed_over),
            **self.facts,
        }

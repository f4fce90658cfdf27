"""The options of step 6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eolgul.config import Config, option
from eolgul.kubeflow.model_registry import check

if TYPE_CHECKING:
    from eolgul.evaluation.requirements import Requirement


@dataclass(frozen=True)
class PromoteConfig(Config):
    """What a candidate must reach besides being better than the model in production."""

    require: tuple[str, ...] = option(
        (),
        "Least quality, such as fnmr<=0.1@fmr=1e-3 or accuracy>=0.99@set=lfw; of the held-out people where no set is named.",
    )
    reference_margin: float = option(
        0.01,
        "How far accuracy and FNMR may fall behind those of the registry's reference model.",
        least=0,
        most=1,
    )
    model_registry: str | None = option(
        None,
        "Address of a Kubeflow Model Registry, such as http://model-registry-service.kubeflow.svc.cluster.local:8080, with "
        "which a promoted model is registered.",
    )
    registered_as: str = option("eolgul", "Name of the registered model there; its versions are the promoted models.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.require:
            self.requirements()
        if self.model_registry:
            check(self.model_registry, self.registered_as)

    def requirements(self) -> list[Requirement]:
        """Read `require`. Raises InputError for a text that is no requirement."""
        from eolgul.evaluation.requirements import Requirement  # with all of an evaluation's figures

        return [Requirement.parse(text) for text in self.require]

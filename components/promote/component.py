"""Step 6 as a Kubeflow component."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import compiler, dsl

from eolgul.components import documented, image
from eolgul.promote.config import PromoteConfig


@dsl.component(base_image=image("promote"), install_kfp_package=False)
@documented(PromoteConfig)
def promote(
    model: str,
    evaluation: str,
    current_evaluation: str,
    reference_evaluation: str,
    registry: str,
    workspace: str,
    run: str,
    promotion: dsl.Output[dsl.Metrics],
    decision: dsl.Output[dsl.Markdown],
    model_card: dsl.Output[dsl.Markdown],
    require: List[str] = [],  # noqa: B006, UP006
    reference_margin: float = 0.01,
    model_registry: str = "",
    registered_as: str = "eolgul",
) -> NamedTuple("Outputs", [("digest", str), ("promoted", bool)]):  # type: ignore[valid-type]
    """Publish the model and point production at it, when it beats the one there. A tie keeps the current model.

    Args:
        model: The ModelPackage.
        evaluation: Its Evaluation.
        current_evaluation: That of production's model on the same data; "" where none is needed.
        reference_evaluation: That of the registry's reference model; "" where none is needed.
        registry: The model registry (s3://).
        workspace: Prefix (s3://) below which the run says how it ended.
        run: The run's id.
        promotion: Whether it was promoted, 1 or 0.
        decision: The decision and its reasons.
        model_card: The model's card.

    Returns:
        digest: The model's identity in the registry.
        promoted: Whether it is in production now.
    """
    from pathlib import Path

    from eolgul import steps, storage
    from eolgul.promote.config import PromoteConfig
    from eolgul.steps import figures, outcome

    config = PromoteConfig.from_parameters(locals())
    with outcome.told(workspace, run, "promote"):
        made = steps.promote(
            model,
            evaluation,
            registry,
            config,
            current_evaluation=current_evaluation,
            reference_evaluation=reference_evaluation,
            run=run,
        )
    outcome.keep_result(workspace, run, made)
    figures.log_metrics(promotion, {"promoted": made["promoted"]})
    print(made["reason"])
    Path(decision.path).write_text(figures.decision(made), encoding="utf-8")
    card = storage.read_bytes(storage.join(steps.split_reference(model)[0], "CARD.md"))
    Path(model_card.path).write_bytes(card or b"This model has no card.\n")
    return (made["digest"], made["promoted"])


if __name__ == "__main__":
    compiler.Compiler().compile(promote, "promote.yaml")

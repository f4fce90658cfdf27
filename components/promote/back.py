"""An earlier model back into production, as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from eolgul.components import image


@dsl.component(base_image=image("promote"), install_kfp_package=False)
def roll_back(
    model: str,
    reason: str,
    registry: str,
    workspace: str,
    run: str,
    decision: dsl.Output[dsl.Markdown],
) -> NamedTuple("Outputs", [("digest", str), ("promoted", bool)]):  # type: ignore[valid-type]
    """Point production at an earlier model of the registry, after every file of it is checked.

    Args:
        model: The model, as the first task found it in the registry.
        reason: Why, for the registry's history.
        registry: The model registry (s3://).
        workspace: Prefix (s3://) below which the run says how it ended.
        run: The run's id.
        decision: What was done.

    Returns:
        digest: The model's identity in the registry.
        promoted: Whether it is in production now.
    """
    from pathlib import Path

    from eolgul import steps
    from eolgul.steps import figures, outcome

    with outcome.told(workspace, run, "roll-back"):
        made = steps.roll_back(registry, str(steps.split_reference(model)[1]), reason=reason)
    outcome.keep_result(workspace, run, made)
    print(made["reason"])
    Path(decision.path).write_text(figures.decision(made), encoding="utf-8")
    return (made["digest"], made["promoted"])

"""The pipelines `promote`, of a model with its evaluation, and `roll-back`, to a model that was in production before."""
# No `from __future__ import annotations` here: KFP reads the pipelines' annotations as types, not as strings.

from typing import Any, List  # noqa: UP035 - KFP reads this name

from kfp import dsl

from eolgul.components.evaluate.others import measure_others
from eolgul.components.promote.back import roll_back
from eolgul.components.promote.check import check
from eolgul.components.promote.component import promote
from eolgul.pipelines.face_recognition import face_recognition
from eolgul.pipelines.graph import (
    EVERY_POD,
    Definition,
    Inherited,
    equip,
    named,
    of_step,
    register,
    run_id,
)


@Inherited(
    face_recognition,
    ("promote_", "evaluate_device", "evaluate_threads", "k8s_data_", "k8s_evaluate_", *EVERY_POD),
)
def _promote(
    model: str,
    evaluation: str,
    dataset: str = "",
    benchmarks: List[str] = [],  # noqa: B006, UP006
    workspace: str = "s3://eolgul",
    registry: str = "s3://eolgul/registry",
    **given: Any,
) -> None:
    """Promote a model with its evaluation by the rules of the other pipelines: when it beats the model in production.

    Production's model is measured on the data of the evaluation first, where its own evaluation is of other data.

    Args:
        model: The ModelPackage (s3://).
        evaluation: Its Evaluation (s3://).
        dataset: The assembled FaceDataset that the evaluation was made from. Default: found in the workspace, by its digest.
        benchmarks: The aligned Benchmarks that it was made from, where dataset is given.
        workspace: Prefix (s3://) of the artifacts, which runs share, and of what each run made or found (runs/<run id>).
        registry: The model registry (s3://), whose production model is the one to beat.
    """
    place = {"workspace": workspace, "run": run_id()}
    checked = check(
        **named(given, "promote_", "evaluate_"),
        pipeline="promote",
        model=model,
        evaluation=evaluation,
        dataset=dataset,
        benchmarks=benchmarks,
        registry=registry,
        **place,
    )
    equip(checked, given, "Check everything", retry=False)
    register(checked.outputs["uri"], dsl.Model, "Model")
    others = measure_others(
        evaluation=evaluation, dataset=dataset, benchmarks=benchmarks, registry=registry, **place,
        **of_step("evaluate_", given),
    ).after(checked)  # fmt: skip
    equip(others, given, "Measure the models of the registry", "evaluate")
    promoted = promote(
        model=checked.outputs["model"],
        evaluation=evaluation,
        current_evaluation=others.outputs["current_evaluation"],
        reference_evaluation=others.outputs["reference_evaluation"],
        registry=registry,
        **place,
        **of_step("promote_", given),
    )
    equip(promoted, given, "Promote")


@Inherited(face_recognition, ("k8s_data_", *EVERY_POD))
def _roll_back(
    to: str = "previous",
    reason: str = "",
    workspace: str = "s3://eolgul",
    registry: str = "s3://eolgul/registry",
    **given: Any,
) -> None:
    """Put a model that was in production before back into production, without a comparison.

    Args:
        to: The model: previous for the one that was in production before this one, or a digest or its beginning.
        reason: Why, for the registry's history.
        workspace: Prefix (s3://) below which the run says how it ended (outcomes/<run id>).
        registry: The model registry (s3://).
    """
    place = {"workspace": workspace, "run": run_id()}
    checked = check(pipeline="roll-back", to=to, registry=registry, **place)
    equip(checked, given, "Check everything", retry=False)
    back = roll_back(model=checked.outputs["model"], reason=reason, registry=registry, **place)
    equip(back, given, "Roll back")


PROMOTE = Definition("promote", "Promote a model", _promote)
ROLL_BACK = Definition("roll-back", "Roll production back", _roll_back)

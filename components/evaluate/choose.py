"""The choice between candidates, after each was trained and measured: the end of the pipeline's loop over recipes."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import dsl

from eolgul.components import image


@dsl.component(base_image=image("evaluate"), install_kfp_package=False)
def choose(
    recipes: List[str],  # noqa: UP006
    models: List[str],  # noqa: UP006
    evaluations: List[str],  # noqa: UP006
    dataset: str,
    benchmarks: List[str],  # noqa: UP006
    registry: str,
    workspace: str,
    run: str,
    choice: dsl.Output[dsl.Metrics],
    candidates: dsl.Output[dsl.Markdown],
    without_anchored: bool = False,
    unseen_only: bool = False,
    quality_images: int = 160,
    pictures: bool = True,
    language: str = "auto",
    fmr: float = 1e-4,
    device: str = "auto",
    threads: int = 2,
    seed: int = 0,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", [("model", str), ("evaluation", str), ("current_evaluation", str), ("reference_evaluation", str)]
):
    """Choose the winner by the paired comparison on the same people, and measure the registry's models on its data.

    A candidate takes the lead when it is better beyond doubt; a tie keeps the one whose recipe is named first. The model in
    production and the registry's reference are measured on the same data, when their own evaluations were made from other
    data.

    Args:
        recipes: The candidates' recipes, in order.
        models: Their ModelPackages.
        evaluations: Their Evaluations.
        dataset: The assembled FaceDataset.
        benchmarks: Aligned Benchmarks.
        registry: The model registry (s3://), whose production model is the one to beat.
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.
        without_anchored: As the evaluation's.
        unseen_only: As the evaluation's.
        quality_images: As the evaluation's.
        pictures: As the evaluation's.
        language: As the evaluation's.
        fmr: As the evaluation's.
        device: As the evaluation's.
        threads: As the evaluation's.
        seed: As the evaluation's.
        choice: The figures of the candidate that was chosen, and how many there were.
        candidates: The figures of all candidates side by side, and the comparisons.

    Returns:
        model: The chosen ModelPackage.
        evaluation: Its Evaluation.
        current_evaluation: The Evaluation of production's model on this data; "" when none is needed.
        reference_evaluation: The same of the reference model.
    """
    from pathlib import Path

    from eolgul.evaluate.config import EvaluateConfig
    from eolgul.steps import choosing, figures, tasks
    from eolgul.steps.store import Store

    names = [tasks.recipe_name(recipe) for recipe in recipes]
    chosen = choosing.choose(evaluations, names)
    at = chosen.winner
    for reason in chosen.reasons:
        print(reason)
    print(f"chosen: {names[at]}")
    figures.log_metrics(choice, figures.evaluation_figures(chosen.metrics[at]) | {"candidates": len(names)})
    Path(candidates.path).write_text(choosing.choice_table(chosen, names, models), encoding="utf-8")
    config = EvaluateConfig.from_parameters(locals())
    store = Store(workspace, run)
    earlier = tasks.evaluate_others(store, evaluations[at], dataset, benchmarks, registry, config, print)
    return (models[at], evaluations[at], *earlier)

"""Measure the registry's models on the data of a model that is to be promoted."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import dsl

from eolgul.components import image


@dsl.component(base_image=image("evaluate"), install_kfp_package=False)
def measure_others(
    evaluation: str,
    dataset: str,
    benchmarks: List[str],  # noqa: UP006
    registry: str,
    workspace: str,
    run: str,
    device: str = "auto",
    threads: int = 2,
) -> NamedTuple("Outputs", [("current_evaluation", str), ("reference_evaluation", str)]):  # type: ignore[valid-type]
    """Measure production's model and the registry's reference on an evaluation's data, where promotion needs that.

    They are measured with the options of the evaluation. Nothing is done where their own evaluations are of this data.

    Args:
        evaluation: The Evaluation of the model that is to be promoted.
        dataset: The assembled FaceDataset that it was made from; "" finds that and the benchmarks in the workspace, by digest.
        benchmarks: The Benchmarks that it was made from, where `dataset` is given.
        registry: The model registry (s3://).
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.
        device: As the evaluation's.
        threads: As the evaluation's.

    Returns:
        current_evaluation: The Evaluation of production's model on this data; "" when none is needed.
        reference_evaluation: The same of the reference model.
    """
    from eolgul.steps import lookup, outcome, tasks
    from eolgul.steps.store import Store

    with outcome.told(workspace, run, "measure-others"):
        config = tasks.as_measured(evaluation, device=device, threads=threads)
        if tasks.others_needed(evaluation, registry) and not dataset:
            dataset, benchmarks = lookup.data_of(evaluation, workspace)
        return tasks.evaluate_others(Store(workspace, run), evaluation, dataset, benchmarks, registry, config, print)

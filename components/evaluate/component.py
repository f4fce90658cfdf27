"""Step 5 as a Kubeflow component."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import compiler, dsl

from eolgul.components import documented, image
from eolgul.evaluate.config import EvaluateConfig


@dsl.component(base_image=image("evaluate"), install_kfp_package=False)
@documented(EvaluateConfig)
def evaluate(
    model: str,
    dataset: str,
    benchmarks: List[str],  # noqa: UP006
    registry: str,
    workspace: str,
    facts: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    fmr: float = 1e-4,
    without_anchored: bool = False,
    unseen_only: bool = False,
    pictures: bool = True,
    language: str = "auto",
    device: str = "auto",
    threads: int = 2,
    seed: int = 0,
    audit: bool = False,
) -> NamedTuple("Outputs", [("evaluation", str), ("current_evaluation", str), ("reference_evaluation", str)]):  # type: ignore[valid-type]
    """Measure the model on people it never saw and on benchmarks, and calibrate its threshold.

    The model in production and the registry's reference are measured on the same data too, when their own evaluations were
    made from other data.

    Args:
        model: The ModelPackage.
        dataset: The assembled FaceDataset.
        benchmarks: Aligned Benchmarks.
        registry: The model registry (s3://), whose production model is the one to beat.
        workspace: Prefix (s3://) under which this run's artifacts go.
        audit: Look for the held-out people and the benchmarks in the training split with the trained model (`eolgul audit`).
        facts: The main figures.
        report: The report, for the Kubeflow UI.

    Returns:
        evaluation: The place of the Evaluation.
        current_evaluation: The Evaluation of production's model on this data; "" when none is needed.
        reference_evaluation: The same of the reference model.
    """
    import json
    import shutil

    from eolgul import steps, storage
    from eolgul.audit.config import AuditConfig
    from eolgul.evaluate.config import EvaluateConfig

    config = EvaluateConfig.from_parameters(locals())
    out = storage.join(workspace, "evaluation")
    made = steps.evaluate(model, dataset, benchmarks, out, config, progress=print)
    metrics = made["metrics"]
    for name, figures in metrics.sets.items():
        facts.log_metric(f"{name} accuracy", figures.accuracy.mean)
        facts.log_metric(f"{name} auc", figures.auc)
    facts.log_metric("threshold", metrics.calibration.threshold)
    shutil.copyfile(storage.fetch(storage.join(out, "metrics.json")), facts.path)
    shutil.copyfile(storage.fetch(storage.join(out, "report.html")), report.path)
    if audit:
        shared = AuditConfig(device=config.device, threads=config.threads, pictures=config.pictures)
        place = storage.join(workspace, "audit")
        found = steps.audit([dataset], benchmarks, place, shared, model=model, progress=print)
        facts.metadata["audit"] = json.dumps(found)
    other = storage.join(workspace, "evaluation-current")
    earlier = steps.evaluate_current(out, dataset, benchmarks, registry, other, config, progress=print)
    return (out, *earlier)


if __name__ == "__main__":
    compiler.Compiler().compile(evaluate, "evaluate.yaml")

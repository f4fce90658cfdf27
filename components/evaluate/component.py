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
    workspace: str,
    run: str,
    evaluation_figures: dsl.Output[dsl.Metrics],
    evaluation_curves: dsl.Output[dsl.ClassificationMetrics],
    evaluation_report: dsl.Output[dsl.HTML],
    contract: str = "",
    fmr: float = 1e-4,
    without_anchored: bool = False,
    unseen_only: bool = False,
    pictures: bool = True,
    language: str = "auto",
    quality_images: int = 160,
    device: str = "auto",
    threads: int = 2,
    seed: int = 0,
    audit: bool = False,
) -> NamedTuple("Outputs", [("evaluation", str), ("uri", str)]):  # type: ignore[valid-type]
    """Measure the model on people it never saw and on benchmarks, and calibrate its threshold.

    Args:
        model: The ModelPackage, or an .onnx file.
        dataset: The assembled FaceDataset; "" measures on the benchmarks alone, and gives no threshold.
        benchmarks: Aligned Benchmarks.
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.
        audit: Look for the held-out people and the benchmarks in the training split with the trained model (`eolgul audit`).
        evaluation_figures: The main figures of each set, and the threshold.
        evaluation_curves: ROC curve of the held-out people, and the confusion matrix at the one threshold.
        evaluation_report: The report.

    Returns:
        evaluation: The Evaluation, as place#sha256:digest.
        uri: Its place alone.
    """
    import json
    import shutil
    from dataclasses import replace

    from eolgul import storage
    from eolgul.audit.config import AuditConfig
    from eolgul.evaluate.config import EvaluateConfig
    from eolgul.steps import figures, tasks
    from eolgul.steps.store import Store

    store, config = Store(workspace, run), EvaluateConfig.from_parameters(locals())
    if model.endswith(".onnx") and not contract:
        config = replace(config, contract="insightface")
    made = tasks.evaluate_one(store, model, dataset, benchmarks, config, print)
    metrics = tasks.metrics_of(made["reference"])
    figures.log_metrics(evaluation_figures, figures.evaluation_figures(metrics))
    figures.log_curves(evaluation_curves, made["reference"], metrics)
    shutil.copyfile(storage.fetch(storage.join(made["artifact"], "report.html")), evaluation_report.path)
    if audit:
        shared = AuditConfig(device=config.device, threads=config.threads, pictures=config.pictures)
        found = tasks.audit_one(store, model, dataset, benchmarks, shared, print)
        evaluation_figures.metadata["audit"] = json.dumps(found)
    return (made["reference"], made["artifact"])


if __name__ == "__main__":
    compiler.Compiler().compile(evaluate, "evaluate.yaml")

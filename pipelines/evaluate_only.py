"""The `evaluate-only` pipeline: a model × benchmarks, with the figures, curves and report of an evaluation."""
# No `from __future__ import annotations` here: KFP reads the pipeline's annotations as types, not as strings.

from typing import Any, List  # noqa: UP035 - KFP reads this name

from kfp import dsl

from eolgul.components.evaluate.component import evaluate
from eolgul.components.extract.component import extract
from eolgul.components.promote.check import check
from eolgul.pipelines.face_recognition import face_recognition
from eolgul.pipelines.graph import (
    EVERY_POD,
    Definition,
    Inherited,
    equip,
    inner,
    named,
    of_step,
    register,
    run_id,
)

_OF_BENCHMARKS = (
    "extract_max_pairs_lost",
    "extract_any_size",
    "extract_verify",
    "extract_workers",
    "extract_benchmark_pairs",
    "extract_benchmark_selection",
    "extract_benchmark_identities",
)


@Inherited(face_recognition, (*_OF_BENCHMARKS, "align_", "evaluate_", "k8s_data_", "k8s_evaluate_", *EVERY_POD))
def _evaluate_only(
    model: str = "production",
    benchmarks: List[str] = ["s3://eolgul/raw/faces_emore/lfw.bin"],  # noqa: B006, UP006
    dataset: str = "",
    workspace: str = "s3://eolgul",
    registry: str = "s3://eolgul/registry",
    evaluate_contract: str = "",
    **given: Any,
) -> None:
    """Measure a model on benchmarks, and on the held-out people of an assembled data set where one is given.

    A parameter is called by its step and the name of the step's option. 0, "" and [] stand for an option that is not set.

    Args:
        model: The model: production or reference of the registry, the digest of a model that was promoted there or its
            beginning (8 digits or more), the place (s3://) of a ModelPackage, or that of an .onnx file.
        benchmarks: Places of .bin verification sets, of trees that extract_benchmark_pairs make benchmarks of, and of
            extracted or aligned Benchmarks.
        dataset: An assembled FaceDataset (s3://), whose calibration people give the threshold and whose test people are
            measured. Without one there is no threshold.
        workspace: Prefix (s3://) of the artifacts, which runs share, and of what each run made or found (runs/<run id>).
        registry: The model registry (s3://).
        evaluate_contract: Embedding contract of an .onnx file: insightface, insightface-bgr, insightface-noflip, or a JSON
            or TOML file (s3://). Default: insightface.
    """
    given |= {"evaluate_contract": evaluate_contract}
    place = {"workspace": workspace, "run": run_id()}
    checked = check(
        **named(given, "extract_", "align_", "evaluate_"),
        pipeline="evaluate-only",
        model=model,
        dataset=dataset,
        benchmarks=benchmarks,
        registry=registry,
        **place,
    )
    equip(checked, given, "Check everything", retry=False)
    register(checked.outputs["uri"], dsl.Model, "Model")
    extracted = extract(
        sources=checked.outputs["sources"], benchmarks=benchmarks, **place, **of_step("extract_", given)
    )
    equip(extracted, given, "Extract the benchmarks")
    aligned = inner("align")(
        datasets=extracted.outputs["datasets"],
        benchmarks=extracted.outputs["benchmarks"],
        **place,
        **named(given, "align_", *EVERY_POD, "k8s_data_"),
    )
    aligned.set_caching_options(False).set_display_name("Align")
    evaluated = evaluate(
        model=checked.outputs["model"],
        dataset=dataset,
        benchmarks=aligned.outputs["benchmarks"],
        **place,
        **of_step("evaluate_", given),
    )
    equip(evaluated, given, "Evaluate", "evaluate")
    register(evaluated.outputs["uri"], dsl.Artifact, "Evaluation")


DEFINITION = Definition("evaluate-only", "Evaluate a model on benchmarks", _evaluate_only, ("align",))

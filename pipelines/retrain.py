"""The `retrain` pipeline: an assembled data set and new people → candidates → evaluation → promotion."""
# No `from __future__ import annotations` here: KFP reads the pipeline's annotations as types, not as strings.

from typing import Any, List  # noqa: UP035 - KFP reads this name

from eolgul.components.promote.check import check
from eolgul.pipelines.face_recognition import face_recognition, learn
from eolgul.pipelines.graph import (
    Definition,
    Inherited,
    equip,
    named,
    run_id,
)

_PREFIXES = ("extract_", "align_", "assemble_", "train_", "evaluate_", "promote_", "k8s_")


@Inherited(face_recognition, _PREFIXES, defaults={"train_recipes": ["finetune-kface"]})
def _retrain(
    dataset: str,
    sources: List[str],  # noqa: UP006
    benchmarks: List[str] = ["s3://eolgul/raw/faces_emore/lfw.bin"],  # noqa: B006, UP006
    workspace: str = "s3://eolgul",
    registry: str = "s3://eolgul/registry",
    train_init: str = "production",
    **given: Any,
) -> None:
    """Train on an assembled data set and new people, measure the candidates, and promote the winner if it is better.

    What the data set was assembled from is assembled again with the new people, and nobody who was trained on before is held
    out now. A parameter is called by its step and the name of the step's option. 0, "" and [] stand for an option that is not
    set.

    Args:
        dataset: The assembled FaceDataset (s3://) of an earlier run. What it was assembled from is found in its workspace.
        sources: Places of the new people: a folder with train.rec, a K-FACE tree, identity folders, or an extracted or
            aligned FaceDataset.
        benchmarks: Places of .bin verification sets, of trees that extract_benchmark_pairs make benchmarks of, and of
            extracted or aligned Benchmarks.
        workspace: Prefix (s3://) of the artifacts, which runs share, and of what each run made or found (runs/<run id>).
        registry: The model registry (s3://), whose production model is the one to beat.
        train_init: The weights that training begins with: production or reference of the registry, a digest of it, the place
            of a ModelPackage or of a weights file. Empty: none, for recipes that train from nothing.
    """
    given |= {"benchmarks": benchmarks, "workspace": workspace, "registry": registry}
    checked = check(
        **named(given, "extract_", "align_", "assemble_", "train_", "evaluate_", "promote_"),
        pipeline="retrain",
        dataset=dataset,
        sources=sources,
        benchmarks=benchmarks,
        registry=registry,
        workspace=workspace,
        train_init=train_init,
        run=run_id(),
    )
    equip(checked, given, "Check everything", retry=False)
    learn(given, checked, checked.outputs["model"])


DEFINITION = Definition("retrain", "Retrain with new people", _retrain, ("extract", "align", "candidates"))

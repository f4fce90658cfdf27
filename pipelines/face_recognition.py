"""The `face-recognition` pipeline: raw data → extract → align → assemble → train → evaluate → promote.

Artifacts are handed on as places in S3 (`workspace`), not as KFP artifacts: a data set of tens of gigabytes would be
copied in and out by every step's launcher, and the commands, the tests and KFP's local runner all read the same places.
Figures and the report are KFP artifacts, so that the Kubeflow UI shows them.
"""
# No `from __future__ import annotations` here: KFP reads the pipeline's annotations as types, not as strings.

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import Client, compiler, dsl, local
from kfp_server_api import ApiException
from urllib3.exceptions import HTTPError

from eolgul.components.align.component import align
from eolgul.components.align.part import align_part, align_plan
from eolgul.components.assemble.component import assemble
from eolgul.components.evaluate.component import evaluate
from eolgul.components.extract.component import extract
from eolgul.components.promote.component import promote
from eolgul.components.train.component import train
from eolgul.errors import InputError

# Names that `k8s/kubeflow` creates in the namespace where pipelines run.
S3_CONFIG, S3_SECRET = "eolgul-s3", "eolgul-s3"
# A pod's resources are fixed when the pipeline is compiled: EOLGUL_TRAIN_GPUS=0 compiles it for a cluster without GPUs.
TRAIN_GPUS = int(os.environ.get("EOLGUL_TRAIN_GPUS", "1"))
_CONFIG_KEYS = ("EOLGUL_S3_ENDPOINT", "EOLGUL_S3_SECURE", "EOLGUL_S3_REGION")
_SECRET_KEYS = ("EOLGUL_S3_ACCESS_KEY", "EOLGUL_S3_SECRET_KEY")


def _on_cluster(task: dsl.PipelineTask) -> None:
    """What a task needs in Kubeflow and a local run ignores: S3's address and credentials, and no execution cache.

    KFP's cache knows only the parameters, which are places: it would skip a step although what lies there has changed.
    The steps look at digests and skip what is done by themselves.
    """
    from kfp import kubernetes

    task.set_caching_options(False)
    task.set_env_variable("ORT_DISABLE_TELEMETRY", "1")
    kubernetes.use_config_map_as_env(task, S3_CONFIG, {key: key for key in _CONFIG_KEYS})
    kubernetes.use_secret_as_env(task, S3_SECRET, {key: key for key in _SECRET_KEYS})


class Aligned(NamedTuple):
    """What alignment hands on: places."""

    datasets: List[str]  # noqa: UP006
    benchmarks: List[str]  # noqa: UP006


@dsl.pipeline(name="align", description="Step 2 in parts that run beside each other, and their merge.")
def alignment(
    datasets: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    align_parts: int,
    min_face_size: int,
    which: str,
    anchor: str,
    backend: str,
    workers: int,
) -> Aligned:
    """See the components for what each parameter means. A pipeline of its own, so that the graph shows six steps."""
    options = {
        "datasets": datasets,
        "benchmarks": benchmarks,
        "workspace": workspace,
        "min_face_size": min_face_size,
        "which": which,
        "anchor": anchor,
        "backend": backend,
        "device": "cpu",
        "workers": workers,
    }
    planned = align_plan(align_parts=align_parts)
    with dsl.ParallelFor(planned.output) as part:
        done = align_part(part=part, **options)
        _on_cluster(done)
    merged = align(parts=dsl.Collected(done.output), **options)
    for task in (planned, merged):
        _on_cluster(task)
    return Aligned(merged.outputs["datasets"], merged.outputs["benchmarks"])


@dsl.pipeline(name="face-recognition", description="Train, measure and promote a face-recognition model.")
def face_recognition(
    workspace: str,
    sources: List[str] = ["s3://eolgul/raw/faces_emore", "s3://eolgul/raw/kface"],  # noqa: B006, UP006
    benchmarks: List[str] = ["s3://eolgul/raw/faces_emore/lfw.bin"],  # noqa: B006, UP006
    registry: str = "s3://eolgul/registry",
    checkpoints: str = "s3://eolgul/checkpoints",
    selection: str = "original",
    min_images: int = 1,
    max_identities: int = 0,
    verify: bool = True,
    min_face_size: int = 40,
    which: str = "largest",
    anchor: str = "none",
    backend: str = "onnx",
    align_parts: int = 2,
    device: str = "auto",
    validation: float = 0.05,
    calibration: float = 0.15,
    test: float = 0.15,
    held_out_sources: List[str] = [],  # noqa: B006, UP006
    recipe: str = "irse50-ms1m-kface",
    overrides: List[str] = [],  # noqa: B006, UP006
    fmr: float = 1e-4,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """See the components for what each parameter means; `workspace` is where this run's artifacts go."""
    extracted = extract(
        sources=sources,
        benchmarks=benchmarks,
        workspace=workspace,
        selection=selection,
        min_images=min_images,
        max_identities=max_identities,
        verify=verify,
        workers=workers,
    )
    aligned = alignment(
        datasets=extracted.outputs["datasets"],
        benchmarks=extracted.outputs["benchmarks"],
        workspace=workspace,
        min_face_size=min_face_size,
        which=which,
        anchor=anchor,
        backend=backend,
        align_parts=align_parts,
        workers=workers,
    )
    aligned.set_caching_options(False)
    assembled = assemble(
        datasets=aligned.outputs["datasets"],
        workspace=workspace,
        validation=validation,
        calibration=calibration,
        test=test,
        held_out_sources=held_out_sources,
        seed=seed,
    )
    trained = train(
        dataset=assembled.outputs["Output"],
        workspace=workspace,
        checkpoints=checkpoints,
        recipe=recipe,
        overrides=overrides,
        device=device,
        workers=workers,
    )
    evaluated = evaluate(
        model=trained.outputs["Output"],
        dataset=assembled.outputs["Output"],
        benchmarks=aligned.outputs["benchmarks"],
        registry=registry,
        workspace=workspace,
        fmr=fmr,
        seed=seed,
        workers=workers,
    )
    promoted = promote(
        model=trained.outputs["Output"],
        evaluation=evaluated.outputs["evaluation"],
        current_evaluation=evaluated.outputs["current_evaluation"],
        registry=registry,
    )
    for task in (extracted, assembled, trained, evaluated, promoted):
        _on_cluster(task)
    if TRAIN_GPUS:
        trained.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(TRAIN_GPUS)


def parameters(texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` words as pipeline arguments; lists and numbers as JSON. InputError for an unknown name."""
    known = face_recognition.component_spec.inputs
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise InputError(f"parameter {text!r}: expected name=value with a name of {', '.join(sorted(known))}")
        values[name] = _parameter(name, value, "List" if "List" in str(known[name].type) else str(known[name].type))
    if "workspace" not in values:
        raise InputError(
            "parameter workspace is missing: where this run's artifacts go, such as s3://eolgul/runs/first"
        )
    return values


def _parameter(name: str, text: str, kind: str) -> Any:
    """A parameter's value of the kind that the pipeline declares; InputError when the text is none."""
    if kind == "String":
        return text
    expected: dict[str, type | tuple[type, ...]] = {
        "List": list,
        "Integer": int,
        "Float": (int, float),
        "Boolean": bool,
    }
    names = {"List": 'a JSON list such as ["a", "b"]', "Integer": "a whole number", "Float": "a number"}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, expected.get(kind, object)) or (isinstance(value, bool) and kind != "Boolean"):
        raise InputError(f"parameter {name}={text}: expected {names.get(kind, kind)}")
    return float(text) if kind == "Float" else value


def compile_to(out: Path) -> None:
    """Write the pipeline as YAML. InputError for a name that KFP does not take."""
    if out.suffix not in (".yaml", ".yml") or out.is_dir():
        raise InputError(f"{out}: expected a file called .yaml")
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(face_recognition, str(out))


def run_local(arguments: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run every component here, each in a process of its own, with KFP's local runner; their outputs by task.

    InputError when a component fails; what it said is on stderr by then.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # a component's process imports nothing from the working directory
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    try:
        face_recognition(**arguments)
    except RuntimeError as error:  # KFP's own, after the component's output
        raise InputError(f"the pipeline failed: {str(error).strip().splitlines()[0]}; its output is above") from error
    return {"workspace": arguments["workspace"], "root": str(root)}


def submit(arguments: dict[str, Any], *, host: str, experiment: str, run_name: str | None) -> dict[str, Any]:
    """Submit the pipeline to a Kubeflow Pipelines API and return the run's id. InputError when it does not take it."""
    try:
        run = Client(host=host).create_run_from_pipeline_func(
            face_recognition, arguments=arguments, experiment_name=experiment, run_name=run_name
        )
    except (HTTPError, ApiException, OSError) as error:
        reason = str(getattr(error, "reason", None) or error).strip().splitlines()[0]
        raise InputError(f"{host}: Kubeflow Pipelines does not take the run ({reason})") from error
    return {"run_id": run.run_id}

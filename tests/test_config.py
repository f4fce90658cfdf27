"""One declaration per option: command line, components, pipeline and recipe agree with the steps' configs."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from typing import Any

import pytest
import typer

from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.cli.main import app
from eolgul.components.align.component import align
from eolgul.components.align.part import align_part
from eolgul.components.assemble.component import assemble
from eolgul.components.evaluate.component import evaluate
from eolgul.components.extract.component import extract
from eolgul.components.extract.part import extract_part
from eolgul.components.promote.component import promote
from eolgul.components.train.component import train
from eolgul.config import Config, describe, offered
from eolgul.dataset import SHARD_BYTES
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluation.bootstrap import RESAMPLES
from eolgul.extract.config import ExtractConfig
from eolgul.pipelines.face_recognition import face_recognition
from eolgul.promote.config import PromoteConfig
from eolgul.train.config import TrainConfig

STEPS: dict[str, tuple[type[Config], Any]] = {
    "extract": (ExtractConfig, extract),
    "align": (AlignConfig, align),
    "assemble": (AssembleConfig, assemble),
    "train": (TrainConfig, train),
    "evaluate": (EvaluateConfig, evaluate),
    "promote": (PromoteConfig, promote),
}
# Options that only code sets.
INTERNAL = {
    "extract.shard_bytes": "every user's shards have one size; tests want small ones",
    "extract.one_of_several": "the pipeline knows how many sources there are",
    "align.part_rows": "as extract.shard_bytes",
    "assemble.shard_bytes": "as extract.shard_bytes",
    "evaluate.resamples": "every published interval has the same number; tests want few",
}
# Options of a component that the pipeline has in another form.
NOT_IN_PIPELINE = {
    "train.recipe": "train_recipes: the pipeline trains several candidates",
    "evaluate.contract": "the pipeline measures the package that it has trained; evaluate-only has it, for ONNX files",
}
# Options that components and pipeline do not have.
NOT_IN_KUBEFLOW = {
    "extract.pairs": "a list of pairs makes a benchmark: benchmark_pairs, which takes several",
    "extract.share": "the pipeline's loop gives it to extract_part; extract_parts says how many there are",
    "align.part": "the pipeline's loop gives it to align_part; align_parts says how many there are",
    "evaluate.cache": "a folder of one machine, which ends with the pod",
}
# Defaults of the pipeline that are not the step's.
OTHER_DEFAULTS = {
    "extract_selection": "the original project's images; all of K-FACE takes weeks",
    "extract_verify": "an image that cannot be decoded should not be met by the training",
}
# Parameters of components and pipeline that are no option of a step.
OWN = {
    "extract": {"benchmark_pairs", "benchmark_selection", "benchmark_identities", "parts"},
    "align": {"parts"},
    "evaluate": {"audit"},
}
# Parameters of the pipeline that are no option of a component.
IN_PIPELINE = {"train": {"recipes"}}
# Flags of the command line that are not called as their field.
FLAGS = {"train.overrides": "--set"}


def as_parameter(default: Any) -> Any:
    """A field's default as Kubeflow has it: nothing is 0, "" or []."""
    return list(default) if isinstance(default, tuple) else default


def equal(given: Any, item: Any) -> bool:
    """Whether a Kubeflow default stands for the field's."""
    return given in (0, "") if item.default is None else given == as_parameter(item.default)


@pytest.mark.parametrize("step", STEPS)
def test_every_option_has_one_name_and_one_default(step: str) -> None:
    config, component = STEPS[step]
    internal = {f"{step}.{item.name}" for item in fields(config)} - {f"{step}.{item.name}" for item in offered(config)}
    assert internal == {name for name in INTERNAL if name.startswith(f"{step}.")}

    command = typer.main.get_command(app).commands[step]  # type: ignore[attr-defined]
    options = {option.name: option for option in command.params}
    shell = inspect.signature(component.python_func).parameters
    pipeline = face_recognition.component_spec.inputs
    for item in offered(config):
        name = f"{step}.{item.name}"
        flag = FLAGS.get(name, f"--{item.name.replace('_', '-')}")
        assert flag in options[item.name].opts
        assert options[item.name].default == (None if isinstance(item.default, tuple) else item.default)
        assert str(options[item.name].help).startswith(describe(item))
        assert (item.name not in shell) == (name in NOT_IN_KUBEFLOW)
        assert (f"{step}_{item.name}" not in pipeline) == (name in NOT_IN_KUBEFLOW or name in NOT_IN_PIPELINE)
        if name in NOT_IN_KUBEFLOW:
            continue
        assert equal(shell[item.name].default, item)
        assert f"{item.name}: {describe(item)}" in component.python_func.__doc__
        if name in NOT_IN_PIPELINE:
            continue
        parameter = pipeline[f"{step}_{item.name}"]
        assert equal(parameter.default, item) != (f"{step}_{item.name}" in OTHER_DEFAULTS)
        assert parameter.description == describe(item)


@pytest.mark.parametrize("step", STEPS)
def test_nothing_else_is_a_parameter(step: str) -> None:
    config, component = STEPS[step]
    known = {item.name for item in offered(config)} | OWN.get(step, set())
    shell = inspect.signature(component.python_func).parameters.values()
    assert {item.name for item in shell if item.default is not inspect.Parameter.empty} <= known
    prefix = f"{step}_"
    names = {name.removeprefix(prefix) for name in face_recognition.component_spec.inputs if name.startswith(prefix)}
    assert names <= known | IN_PIPELINE.get(step, set())
    assert all(item.description for item in face_recognition.component_spec.inputs.values())


def test_a_part_takes_the_options_of_the_whole() -> None:
    whole = inspect.signature(align.python_func).parameters
    part = inspect.signature(align_part.python_func).parameters
    assert {name: item.default for name, item in part.items() if name != "part"} == {
        name: item.default for name, item in whole.items() if name not in ("align_counts", "align_table", "parts")
    }
    whole = inspect.signature(extract.python_func).parameters
    part = inspect.signature(extract_part.python_func).parameters
    of_benchmarks = {name for name in whole if name.startswith("benchmark")}
    assert {name: item.default for name, item in part.items() if name != "share"} == {
        name: item.default
        for name, item in whole.items()
        if name not in ("extract_counts", "extract_table", "parts") and name not in of_benchmarks
    }


@pytest.mark.parametrize("config", [config for config, _ in STEPS.values()])
def test_parameters_of_kubeflow_give_the_default_config(config: type[Config]) -> None:
    nothing = ""
    given = {item.name: nothing if item.default is None else as_parameter(item.default) for item in offered(config)}
    assert config.from_parameters(given | {"workspace": "elsewhere", "facts": None}) == config()
    assert json.loads(json.dumps(config().to_recipe())) == config().to_recipe()


def test_numbers_of_kubeflow_are_numbers_of_the_field() -> None:
    """A whole number for a fraction must not make another recipe."""
    config = AlignConfig.from_parameters({"min_eyes": 3, "min_score": 1})
    assert json.dumps(config.to_recipe()["min_eyes"]) == "3.0" and config.min_score == 1.0
    taken = ExtractConfig.from_parameters({"max_identities": 0, "selection": "", "min_images": 2})
    assert (taken.max_identities, taken.selection, taken.min_images) == (None, None, 2)


def test_recipes_hold_what_they_held_before() -> None:
    """An artifact made by an earlier version is reused only as long as these do not change."""
    assert ExtractConfig(kind="rec", name="x").to_recipe() == {
        "kind": "rec",
        "name": "x",
        "selection": None,
        "identity_from": None,
        "depth": None,
        "identities": None,
        "without_identities": None,
        "min_images": 1,
        "max_identities": None,
        "max_images_per_identity": None,
        "pairs": None,
        "max_pairs_lost": 0.1,
        "part": None,
        "color": "rgb",
        "aligned": False,
        "any_size": False,
        "verify": False,
        "shard_bytes": SHARD_BYTES,
    }
    aligned = {
        "min_face_size": 40,
        "thresholds": [0.6, 0.7, 0.9],
        "factor": 0.709,
        "which": "largest",
        "template": "arcface-112-v1",
        "anchor": "none",
        "min_eyes": 0.0,
        "backend": "onnx",
        "part_rows": 2048,
    }
    assert AlignConfig(min_score=0.9).to_recipe() == aligned
    assert AlignConfig(min_score=0.9, part="1/2", workers=7).to_recipe() == aligned | {"part": "1/2"}
    assert AlignConfig(min_score=0.9, backend="torch", device="cuda").to_recipe() == aligned | {"backend": "torch"}
    assert AlignConfig(crop="box").to_recipe()["template"] == "box-112-v1"
    assert AlignConfig(min_score=0.9, stored_as="jpeg").to_recipe() == aligned | {"stored_as": "jpeg"}
    assembled = {
        "validation": 0.05,
        "calibration": 0.15,
        "test": 0.15,
        "most_held_out": 1000,
        "held_out_sources": ["a", "b"],
        "seed": 0,
    }
    assert AssembleConfig(held_out_sources=("b", "a"), copy=True).to_recipe() == assembled
    assert AssembleConfig(held_out_sources=("b", "a")).to_recipe() == assembled | {"copy": False}
    evaluated = {"fmr": 1e-4, "seed": 0, "pictures": True, "resamples": RESAMPLES}
    assert EvaluateConfig(threads=5, cache="x").to_recipe() == evaluated
    assert EvaluateConfig(without_anchored=True, unseen_only=True, language="ko").to_recipe() == evaluated | {
        "without_anchored": True,
        "unseen_only": True,
        "language": "ko",
    }


def test_options_of_a_calibration_need_people() -> None:
    for options in ({"fmr": 1e-3}, {"without_anchored": True}, {"unseen_only": True}):
        EvaluateConfig(**options).check_uses(people=True)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="is only for an evaluation with a DATASET"):
            EvaluateConfig(**options).check_uses(people=False)  # type: ignore[arg-type]
    EvaluateConfig(seed=3).check_uses(people=False)


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        (ExtractConfig, {"kind": "zip"}, "kind 'zip': expected one of auto, rec"),
        (ExtractConfig, {"min_images": 0}, "min_images 0: expected 1 or more"),
        (ExtractConfig, {"workers": 0}, "workers 0: expected 1 or more"),
        (ExtractConfig, {"selection": "lights=L99"}, "selection lights="),
        (ExtractConfig, {"part": "3/2"}, "part '3/2': expected i/n"),
        (AlignConfig, {"min_face_size": 5}, "min_face_size 5: expected 12 or more"),
        (AlignConfig, {"min_score": 1.5}, "min_score 1.5: expected 0 to 1"),
        (AlignConfig, {"min_eyes": float("nan")}, "min_eyes nan: expected 0 or more"),
        (AlignConfig, {"crop": "round"}, "crop 'round': expected one of similarity, box"),
        (AlignConfig, {"part": "0/2"}, "part '0/2': expected i/n"),
        (AssembleConfig, {"test": 1.0}, "held-out shares"),
        (EvaluateConfig, {"fmr": 0.7}, "fmr 0.7: expected 1e-09 to 0.5"),
        (EvaluateConfig, {"device": "tpu"}, "device 'tpu': expected one of auto, cpu, cuda"),
        (TrainConfig, {"threads": 0}, "threads 0: expected 1 or more"),
        (TrainConfig, {"workers": 0, "stall_seconds": 9}, "stall_seconds 9: is only for worker processes"),
        (AlignConfig, {"device": "cuda"}, "device cuda: is only for the backend torch"),
        (
            AssembleConfig,
            {"test": 0, "validation": 0, "calibration": 0, "held_out_sources": ("a",)},
            "held_out_sources a",
        ),
    ],
)
def test_a_wrong_value_is_a_sentence(config: type[Config], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        config(**options)

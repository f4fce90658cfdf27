"""The commands that make, measure and publish models: train, import, calibrate, evaluate, compare, promote."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated

import typer

from eolgul.cli.options import contract_of, options_of
from eolgul.cli.output import print_line, say
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.promote.config import PromoteConfig
from eolgul.train.config import TrainConfig
from eolgul.train.journal import TrainingLines

app = typer.Typer()
_PANEL = "Models"


@app.command(rich_help_panel=_PANEL)
@options_of(TrainConfig, flags={"overrides": "--set"})
def train(
    dataset: Annotated[str, typer.Argument(help="An assembled FaceDataset; path or s3://.")],
    out: Annotated[str, typer.Argument(help="Where the ModelPackage goes; path or s3://.")],
    config: TrainConfig,
) -> None:
    """Step 4: train a model. It goes on from the last checkpoint when there is one.

    --gpus N starts N processes with torchrun; under a torchrun of your own, leave it out.
    """
    from eolgul import steps

    facts = steps.train(dataset, out, config, report=TrainingLines())
    if os.environ.get("RANK", "0") == "0":  # torchrun's other processes have nothing to add
        say(facts)


@app.command("import", rich_help_panel=_PANEL)
def import_(
    model: Annotated[
        str,
        typer.Argument(
            help="A state dict or checkpoint (.pth, .pt, .ckpt, .safetensors) with --layout, or an ONNX file with "
            "--contract; path or s3://.",
            metavar="FILE",
        ),
    ],
    out: Annotated[str, typer.Argument(help="Where the ModelPackage goes; path or s3://.")],
    layout: Annotated[
        str | None,
        typer.Option(help="Project of the weights: insightface_pytorch, face_evolve, arcface_torch or magface."),
    ] = None,
    contract: Annotated[
        str | None,
        typer.Option(
            help="Embedding contract of an ONNX file: insightface (RGB), insightface-bgr, insightface-noflip, or a JSON "
            "or TOML file."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="With --layout: the network. Default: the one that the weights fit.")
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            help="With --layout: what stands before the network's parameter names, where the file holds several networks."
        ),
    ] = None,
    color: Annotated[
        str | None,
        typer.Option(help="Channel order that the network expects: rgb or bgr. Default: the project's or contract's."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="The model's licence, for CARD.md.")] = None,
    which: Annotated[
        str | None,
        typer.Option(
            help="Which face of several counts: largest, center or single. Default: the contract's, which is largest."
        ),
    ] = None,
    flip: Annotated[
        str | None,
        typer.Option(
            help="Whether an embedding adds the mirror image's (sum) or not (none: half the time of the network, another "
            "model to calibrate). Default: the project's or contract's."
        ),
    ] = None,
) -> None:
    """Make a ModelPackage of a published model: weights whose names and shapes fit a known network, or an ONNX file."""
    from eolgul import steps

    if (layout is None) == (contract is None):
        raise InputError(f"{model}: expected --layout PROJECT for weights, or --contract CONTRACT for an ONNX file")
    if layout is not None:
        say(
            steps.import_weights(
                model,
                out,
                layout=layout,
                backbone=backbone,
                color=color,
                prefix=prefix,
                licence=licence,
                which=which,
                flip=flip,
            )
        )
        return
    assert contract is not None
    for name, value in (("backbone", backbone), ("prefix", prefix)):
        if value is not None:
            raise InputError(f"{name} {value}: is only for weights with --layout; an ONNX file holds its own network")
    say(steps.import_onnx(model, out, contract=contract, color=color, licence=licence, which=which, flip=flip))


@app.command(rich_help_panel=_PANEL)
@options_of(EvaluateConfig)
def calibrate(
    model: Annotated[str, typer.Argument(help="A ModelPackage, for example an imported one; path or s3://.")],
    photos: Annotated[str, typer.Argument(help="A folder of your own photos, <person>/<image>; path or s3://.")],
    out: Annotated[str, typer.Argument(help="Where the Evaluation goes; path or s3://.")],
    *,
    work: Annotated[
        str | None, typer.Option(help="Folder for the datasets between the steps. Default: OUT-data.")
    ] = None,
    config: EvaluateConfig,
) -> None:
    """Calibrate a model on your own people without training: extract, align, assemble and evaluate in one."""
    from eolgul import steps

    if config.contract:
        raise InputError(
            f"contract {config.contract}: is only for evaluate --onnx; a ModelPackage holds its own contract"
        )
    facts = steps.calibrate(model, photos, out, config, work=work, progress=print_line)
    facts.pop("metrics")
    say(facts)


@app.command(rich_help_panel=_PANEL)
@options_of(EvaluateConfig)
def evaluate(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            help="A ModelPackage (not with --onnx) and an assembled FaceDataset; paths or s3://.",
            metavar="[MODEL] [DATASET]",
        ),
    ] = None,
    *,
    out: Annotated[str, typer.Option(help="Where the Evaluation goes; path or s3://.")],
    benchmarks: Annotated[
        list[str] | None,
        typer.Option("--benchmark", help="An aligned benchmark; path or s3://. Repeatable."),
    ] = None,
    onnx: Annotated[str | None, typer.Option(help="An ONNX file to measure instead of MODEL; path or s3://.")] = None,
    config: EvaluateConfig,
) -> None:
    """Step 5: measure a model on people it never saw, calibrate its threshold, write the report.

    Without DATASET only the benchmarks are measured, and no threshold is given.
    """
    from eolgul import steps

    given = [*([onnx] if onnx else []), *(places or [])]
    if not 1 <= len(given) <= 2:
        raise InputError(f"{len(given)} places: expected MODEL DATASET, or --onnx FILE and optionally DATASET")
    config = replace(config, contract=contract_of(onnx, config.contract))
    dataset = given[1] if len(given) > 1 else ""
    facts = steps.evaluate(given[0], dataset, benchmarks or (), out, config, progress=print_line)
    facts.pop("metrics")
    say(facts)


@app.command(rich_help_panel=_PANEL)
def compare(
    candidate: Annotated[str, typer.Argument(help="An Evaluation; path or s3://.")],
    current: Annotated[str, typer.Argument(help="Another model's Evaluation on the same data; path or s3://.")],
    seed: Annotated[int, typer.Option(help="Decides the bootstrap.")] = 0,
) -> None:
    """Compare two evaluations: differences on every set with paired intervals, and whether CANDIDATE would be promoted."""
    from eolgul import steps

    say(steps.compare(candidate, current, seed=seed))


@app.command(rich_help_panel=_PANEL)
@options_of(PromoteConfig)
def promote(
    registry: Annotated[str, typer.Option(help="The registry: a folder or s3://bucket/prefix.")],
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL EVALUATION]", help="The model to promote and its Evaluation; paths or s3://."),
    ] = None,
    *,
    to: Annotated[
        str,
        typer.Option(
            help="Instead of MODEL: digest, or its beginning, of an earlier model to go back to; previous, for the one that "
            "was in production before; or production, for the one that is, to sign it with --signing-key."
        ),
    ] = "",
    reason: Annotated[str, typer.Option(help="With --to: why, for the registry's history.")] = "",
    current_evaluation: Annotated[
        str, typer.Option(help="Evaluation of production's model on the candidate's data; path or s3://.")
    ] = "",
    reference: Annotated[
        str,
        typer.Option(help="Instead of MODEL: digest, or its beginning, of a promoted model that none may fall behind."),
    ] = "",
    reference_evaluation: Annotated[
        str, typer.Option(help="Evaluation of the reference model on the candidate's data; path or s3://.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the comparison says.")] = False,
    signing_key: Annotated[
        str, typer.Option(envvar="EOLGUL_SIGNING_KEY_FILE", help="File of the private key that signs the model.")
    ] = "",
    config: PromoteConfig,
) -> None:
    """Step 6: publish a model, and make it production's model if it beats the current one. Or go back with --to."""
    from eolgul import steps

    places = places or []
    if to or reference:
        chosen = "--to goes back to a published model" if to else "--reference chooses a published model"
        compared = places or current_evaluation or reference_evaluation or force or config != PromoteConfig()
        if compared or (to and reference) or (reason and reference):
            raise InputError(f"{chosen}: no MODEL, EVALUATION, comparison, requirement or --force with it")
        say(
            steps.roll_back(registry, to, reason=reason, signing_key=signing_key)
            if to
            else steps.choose_reference(registry, reference)
        )
        return
    if reason:
        raise InputError(f"reason {reason}: is only for --to; a promotion's reasons are its comparison's")
    if len(places) != 2:
        raise InputError(f"{len(places)} places: expected MODEL EVALUATION, --to DIGEST, or --reference DIGEST")
    model, evaluation = places
    facts = steps.promote(
        model,
        evaluation,
        registry,
        config,
        current_evaluation=current_evaluation,
        reference_evaluation=reference_evaluation,
        force=force,
        signing_key=signing_key,
    )
    say(facts)

"""The commands that make, show and keep data: synth, extract, align, assemble, audit, export, mirror, inspect."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.audit.config import AuditConfig
from eolgul.cli.options import contract_of, options_of
from eolgul.cli.output import bar, extra, print_line, say
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig

app = typer.Typer()
_PANEL = "Data"


@app.command(rich_help_panel=_PANEL)
def synth(
    out: Annotated[Path, typer.Argument(help="Folder for a K-FACE tree, a .rec or photos; for bin a .bin file.")],
    kind: Annotated[str, typer.Option(help="What to write: kface, rec, bin or folders.")] = "kface",
    people: Annotated[int, typer.Option(help="Number of people.", min=1)] = 60,
    first: Annotated[
        int | None, typer.Option(help="Number of the first person. Default: each kind has its own people.", min=0)
    ] = None,
    selection: Annotated[
        str | None,
        typer.Option(
            help="Conditions to draw, a preset or 'lights=L1-L3 cameras=C5-C10 …'. Only for kface. Default: demo."
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            help="Images per person; for kface at most this many, 0 for all. Not for bin. "
            "Default: 24, or all of the selections original and all.",
            min=0,
        ),
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Number of pairs. Only for bin. Default: 300.", min=1)] = None,
    style: Annotated[
        str | None,
        typer.Option(
            help="rig (K-FACE's studio) or wild (any camera, light and place). Only for rec and bin. Default: rig."
        ),
    ] = None,
    origins: Annotated[
        str | None, typer.Option(help="Shares of people by origin. Default: asian=0.7,african=0.15,caucasian=0.15.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same people and images.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that draw.", min=1)] = 2,
) -> None:
    """Draw people who do not exist, in K-FACE's or InsightFace's formats."""
    from eolgul.synth import draw_kind

    with bar("synth") as progress:
        facts = draw_kind(
            out,
            kind,
            people=people,
            first=first,
            selection=selection,
            images=images,
            pairs=pairs,
            style=style,
            origins=origins,
            seed=seed,
            workers=workers,
            progress=progress,
        )
    say({"artifact": str(out), **facts})


@app.command(rich_help_panel=_PANEL)
@options_of(ExtractConfig)
def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="A .rec file or its folder, a .bin, a .lst, a K-FACE tree or identity folders; path or s3://."
        ),
    ],
    out: Annotated[str, typer.Argument(help="Where the FaceDataset goes; path or s3://.")],
    config: ExtractConfig,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            help="Place of a share; put all shares together. Give the options they were made with. Repeatable."
        ),
    ] = None,
) -> None:
    """Step 1: turn a raw source into a FaceDataset. Run it again after a kill and it goes on."""
    from eolgul import steps

    with bar("extract") as progress:
        facts = steps.extract(source, out, config, merge=merge or (), progress=progress)
    say(facts)


@app.command(rich_help_panel=_PANEL)
@options_of(AlignConfig)
def align(
    dataset: Annotated[str, typer.Argument(help="A FaceDataset of pictures; path or s3://.")],
    out: Annotated[str, typer.Argument(help="Where the FaceDataset of faces goes; path or s3://.")],
    config: AlignConfig,
    merge: Annotated[
        list[str] | None,
        typer.Option(help="Place of a part; put all parts together. Give the options they were made with. Repeatable."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Contact sheet of the faces to write (.png), with one of the rejected images.")
    ] = None,
) -> None:
    """Step 2: find the face in every image (MTCNN), turn it upright, cut out 112x112.

    Run it again after a kill and it goes on.
    """
    from eolgul import steps

    with bar("align") as progress:
        facts = steps.align(dataset, out, config, merge=merge or (), sheet=sheet, progress=progress)
    say(facts)


@app.command(rich_help_panel=_PANEL)
@options_of(AssembleConfig)
def assemble(
    datasets: Annotated[list[str], typer.Argument(help="Aligned FaceDatasets to merge; paths or s3://.")],
    out: Annotated[str, typer.Option(help="Where the assembled FaceDataset goes; path or s3://.")],
    config: AssembleConfig,
) -> None:
    """Step 3: merge aligned FaceDatasets and split them by identity."""
    from eolgul import steps
    from eolgul.assemble.splits import lines

    with bar("assemble") as progress:
        facts = steps.assemble(datasets, out, config, progress=progress)
    for line in lines(facts):
        print_line(line)
    say(facts)


@app.command(rich_help_panel=_PANEL)
@options_of(AuditConfig)
def audit(
    train: Annotated[list[str], typer.Argument(help="FaceDatasets to learn from; paths or s3://.")],
    out: Annotated[str, typer.Option(help="Where audit.json and the report go; path or s3://.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="A benchmark, or another FaceDataset of people who should not be in training. Repeatable. "
            "The held-out splits of assembled TRAIN are always compared."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="A ModelPackage whose embeddings are compared; path or s3://.")] = "",
    onnx: Annotated[str, typer.Option(help="An ONNX file instead of --model; path or s3://.")] = "",
    *,
    config: AuditConfig,
) -> None:
    """Look for people and images of benchmarks in training data, by name, bytes, perceptual hash and embedding."""
    from eolgul import steps

    if model and onnx:
        raise InputError(f"--model {model} and --onnx {onnx}: expected one of them")
    config = replace(config, contract=contract_of(onnx, config.contract))
    with extra("evaluate"):
        say(steps.audit(train, against or (), out, config, model=model or onnx, progress=print_line))


@app.command(rich_help_panel=_PANEL)
def export(
    dataset: Annotated[str, typer.Argument(help="A FaceDataset; path or s3://.")],
    out: Annotated[str, typer.Argument(help="A folder, for bin a file; path or s3://.")],
    to: Annotated[str, typer.Option(help="Format: rec, folders, bin (a benchmark) or webdataset.")],
    split: Annotated[
        str | None, typer.Option(help="Only this split: train, validation, calibration or test. Default: all.")
    ] = None,
) -> None:
    """Write a FaceDataset in another format. Every image keeps its bytes."""
    from eolgul import steps

    with bar("export") as progress:
        say(steps.export(dataset, out, to=to, split=split, progress=progress))


@app.command(rich_help_panel=_PANEL)
def mirror(
    source: Annotated[str, typer.Argument(help="s3://bucket or a place in it; to restore: the folder.")],
    target: Annotated[str, typer.Argument(help="The folder of the backup; to restore: s3://bucket….")],
) -> None:
    """Back a bucket up to a folder, or restore it: copy what is not there yet, and count. Nothing is deleted."""
    from eolgul import storage

    with bar("copying", unit="obj") as progress:
        say(storage.mirror(source, target, progress))


@app.command(rich_help_panel=_PANEL)
def inspect(
    place: Annotated[
        str, typer.Argument(help="An artifact, a registry, a .rec, a .bin or another raw source; path or s3://.")
    ],
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet of up to 60 images to write (.png).")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Hash the images, too, and compare them with the card; without it their lengths."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on a terminal, too.")] = False,
) -> None:
    """Show what an artifact, a registry or a raw source is and what it holds."""
    from eolgul.inspection.summary import inspect as summarize
    from eolgul.inspection.summary import render

    facts = summarize(place, sheet, check=check)
    if as_json or not sys.stdout.isatty():
        say(facts)
    else:
        print(f"{place}: {render(facts)}", flush=True)

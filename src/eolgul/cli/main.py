"""The command line: a thin function a command. Facts go to stdout as one JSON line, everything else to stderr.

Exit codes: 0 when the artifact is whole, 2 on bad input (with one sentence), 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from eolgul import __version__, steps
from eolgul.cli import gallery, keys, pipeline
from eolgul.cli.output import bar, extra, say
from eolgul.errors import InputError
from eolgul.model.package import DetectorSettings
from eolgul.train.journal import training_line
from eolgul.train.recipe import recipe_names

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(keys.app, name="key")
app.add_typer(keys.signing_app, name="signing-key")
app.add_typer(gallery.app, name="gallery")

Workers = Annotated[int, typer.Option(help="Processes or threads that do the work.", min=1)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Face verification from raw data to a served verdict."""


def main() -> None:
    """Run the command line, turning bad input into one sentence and exit code 2."""
    # A stop of either kind unwinds the blocks that remove half-made artifacts and end what was started. SIGINT is set
    # too, since a shell starts background jobs with it ignored.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except InputError as error:
        print(f"eolgul: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # what no step has put into words: a disk that fails, a file that went away
        place = f"{error.filename}: " if error.filename else ""
        print(f"eolgul: {place}{error.strerror or type(error).__name__}", file=sys.stderr)
        sys.exit(2)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder for a K-FACE tree, a .rec or photos, or a .bin file.")],
    kind: Annotated[str, typer.Option(help="kface, rec, bin or folders")] = "kface",
    people: Annotated[int, typer.Option(min=1)] = 60,
    first: Annotated[
        int | None, typer.Option(help="Number of the first person (each kind has its own people).", min=0)
    ] = None,
    selection: Annotated[
        str, typer.Option(help="K-FACE conditions: a preset or 'lights=L1-L3 cameras=C5-C10 …'.")
    ] = "demo",
    images: Annotated[
        int | None,
        typer.Option(
            help="Images a person (kface: at most; 0: all; by default 24, all of 'original' and 'all').", min=0
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of a .bin.", min=1)] = 300,
    style: Annotated[str, typer.Option(help="rig (K-FACE's studio) or wild (any camera, light and place)")] = "rig",
    origins: Annotated[
        str | None, typer.Option(help="Shares of people: asian=0.7,african=0.15,caucasian=0.15 is the default.")
    ] = None,
    seed: Seed = 0,
    workers: Workers = 2,
) -> None:
    """Draw people who do not exist, in K-FACE's or InsightFace's formats."""
    from eolgul.synth import draw_kind

    with tqdm(desc="draw", unit="img", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        facts = draw_kind(
            out, kind, people=people, first=first, selection=selection, images=images, pairs=pairs, style=style,
            origins=origins, seed=seed, workers=workers, progress=progress,
        )  # fmt: skip
    say({"artifact": str(out), **facts})


@app.command()
def extract(
    source: Annotated[
        str,
        typer.Argument(help="A .rec or its folder, a .bin, a .lst, a K-FACE tree, identity folders; path or s3://."),
    ],
    out: Annotated[str, typer.Argument(help="Where the FaceDataset goes; path or s3://.")],
    kind: Annotated[str, typer.Option(help="auto, rec, bin, kface, folders, lst or carrays")] = "auto",
    name: Annotated[str | None, typer.Option(help="The source's name in manifests (default: its own).")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="An LFW pairs.txt over folders or a K-FACE pair list: makes a benchmark.")
    ] = None,
    selection: Annotated[
        str | None, typer.Option(help="K-FACE conditions: original, T1…T4, demo, all or 'lights=L1-L3 …'.")
    ] = None,
    identities: Annotated[
        str | None, typer.Option(help="Folders, K-FACE: a file with an identity a line; only those.")
    ] = None,
    without_identities: Annotated[
        str | None, typer.Option(help="Folders, K-FACE: a file with an identity a line; all but those.")
    ] = None,
    min_images: Annotated[int, typer.Option(help="Folders: leave out identities with fewer images.", min=1)] = 1,
    max_identities: Annotated[int | None, typer.Option(help="Folders: take at most so many identities.", min=1)] = None,
    max_images_per_identity: Annotated[int | None, typer.Option(help="Folders: at most so many each.", min=1)] = None,
    part: Annotated[
        str | None, typer.Option(help="A .rec: only the records in byte range i of n equal ones, as i/n.")
    ] = None,
    reader: Annotated[str, typer.Option(help="A .rec: own, or mxnet (make mxnet-env).")] = "own",
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Take images of another size than the format states.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Decode every image, not only its header and end.")] = False,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
) -> None:
    """Step 1: a raw source → FaceDataset."""
    with bar("extract") as progress:
        facts = steps.extract(
            source,
            out,
            kind=kind,
            name=name,
            pairs=pairs,
            selection=selection,
            identities=identities,
            without_identities=without_identities,
            min_images=min_images,
            max_identities=max_identities,
            max_images_per_identity=max_images_per_identity,
            part=part,
            reader=reader,
            any_size=any_size,
            verify=verify,
            workers=workers,
            progress=progress,
        )
    say(facts)


@app.command()
def export(
    dataset: Annotated[str, typer.Argument(help="A FaceDataset; path or s3://.")],
    out: Annotated[str, typer.Argument(help="A folder, or a file for bin; path or s3://.")],
    to: Annotated[str, typer.Option(help="rec, folders, bin (a benchmark) or webdataset")],
    split: Annotated[str | None, typer.Option(help="Only this split: train, validation, calibration or test.")] = None,
) -> None:
    """Write a FaceDataset in another format, every image's bytes as they came."""
    with bar("export") as progress:
        say(steps.export(dataset, out, to=to, split=split, progress=progress))


@app.command()
def align(
    dataset: Annotated[str, typer.Argument(help="A FaceDataset of pictures; path or s3://.")],
    out: Annotated[str, typer.Argument(help="Where the FaceDataset of faces goes; path or s3://.")],
    min_face_size: Annotated[
        int, typer.Option(help="Smallest face side in pixels.", min=12)
    ] = DetectorSettings().min_face_size,
    min_score: Annotated[
        float, typer.Option(help="Least score of a face.", min=0, max=1)
    ] = DetectorSettings().thresholds[2],
    min_eyes: Annotated[float, typer.Option(help="Least distance between the eyes in pixels.", min=0)] = 0.0,
    which: Annotated[
        str,
        typer.Option(
            help="Which face counts: largest, center, annotated (fits the annotation) or single (several → rejected)."
        ),
    ] = "largest",
    crop: Annotated[
        str, typer.Option(help="similarity (five landmarks to the template) or box (the original project's plain crop)")
    ] = "similarity",
    anchor: Annotated[
        str, typer.Option(help="rig: where no face is found, landmarks of the same person and K-FACE camera. Or none.")
    ] = "none",
    sheet: Annotated[Path | None, typer.Option(help="A contact sheet (.png), and one of the rejected.")] = None,
    part: Annotated[
        str, typer.Option(help="i/n: only the i-th of n shares, for another machine's --merge.", metavar="I/N")
    ] = "",
    merge: Annotated[
        list[str] | None,
        typer.Option(help="Put parts together: the place of each, with the options they were made with."),
    ] = None,
    backend: Annotated[str, typer.Option(help="onnx (CPU) or torch")] = "onnx",
    device: Annotated[str, typer.Option(help="torch backend: cpu or cuda")] = "cpu",
    workers: Workers = 2,
) -> None:
    """Step 2: find the face (MTCNN), turn it upright, cut out 112x112. Killed, it goes on when it is run again."""
    proposal, refinement, _ = DetectorSettings().thresholds
    settings = DetectorSettings(min_face_size=min_face_size, thresholds=(proposal, refinement, min_score), which=which)
    with tqdm(desc="align", unit="img", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:  # an earlier run's images count as done, not as this one's speed
                bar.total = total
                bar.initial = bar.n = done
            bar.update(done - bar.n)

        facts = steps.align(
            dataset, out, settings=settings, crop=crop, anchor=anchor, min_eyes=min_eyes, sheet=sheet,
            part=part, merge=merge or (), backend=backend, device=device, workers=workers, progress=progress,
        )  # fmt: skip
    say(facts)


@app.command()
def assemble(
    datasets: Annotated[list[str], typer.Argument(help="Aligned FaceDatasets to merge.")],
    out: Annotated[str, typer.Option(help="Where the assembled dataset goes.")],
    validation: Annotated[float, typer.Option(help="Share of identities that choose the best epoch.")] = 0.05,
    calibration: Annotated[float, typer.Option(help="Share of identities that set the threshold.")] = 0.15,
    test: Annotated[float, typer.Option(help="Share of identities the result is measured on.")] = 0.15,
    held_out_sources: Annotated[list[str] | None, typer.Option(help="Hold back from these sources only.")] = None,
    seed: Seed = 0,
) -> None:
    """Step 3: merge sources and split them by identity."""
    with bar("assemble") as progress:
        facts = steps.assemble(
            datasets,
            out,
            validation=validation,
            calibration=calibration,
            test=test,
            held_out_sources=held_out_sources or (),
            seed=seed,
            progress=progress,
        )
    say(facts)


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="An assembled FaceDataset; path or s3://.")],
    out: Annotated[str, typer.Argument(help="Where the ModelPackage goes; path or s3://.")],
    recipe: Annotated[
        str, typer.Option(help=f"A .toml file or one of {', '.join(recipe_names())}.")
    ] = "mobilefacenet-ms1m-kface",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: key=value.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Where checkpoints are kept (default: beside OUT); path or s3://.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int | None, typer.Option(help="torch threads (default: one a core).", min=1)] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that decode images; 0: the training process does.", min=0)
    ] = 2,
    stall_seconds: Annotated[
        float, typer.Option(help="End when a batch is missing and no worker has read an image for this long.", min=1)
    ] = 40,
    tensorboard: Annotated[bool, typer.Option(help="TensorBoard's event files beside metrics.jsonl.")] = True,
) -> None:
    """Step 4: train an embedding, going on from the last checkpoint when there is one → ModelPackage.

    On several processes: torchrun --nproc-per-node N -m eolgul train …
    """
    facts = steps.train(
        dataset,
        out,
        recipe=recipe,
        overrides=set_ or (),
        checkpoints=checkpoints,
        device=device,
        threads=threads,
        workers=workers,
        stall_seconds=stall_seconds,
        tensorboard=tensorboard,
        report=training_line,
    )
    if os.environ.get("RANK", "0") == "0":  # torchrun's other processes have nothing to add
        say(facts)


@app.command("import")
def import_(
    weights: Annotated[str, typer.Argument(help="A state dict: .pth, .pt or .safetensors; path or s3://.")],
    out: Annotated[str, typer.Argument(help="Where the ModelPackage goes; path or s3://.")],
    layout: Annotated[str, typer.Option(help="Whose weights: insightface_pytorch or arcface_torch.")],
    backbone: Annotated[str | None, typer.Option(help="Which network (default: the one that fits).")] = None,
) -> None:
    """Published weights → ModelPackage, when their names and shapes are those of a network of that project."""
    say(steps.import_weights(weights, out, layout=layout, backbone=backbone))


@app.command()
def evaluate(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            help="MODEL DATASET: a ModelPackage (not with --onnx), an assembled FaceDataset.",
            metavar="MODEL DATASET",
        ),
    ] = None,
    *,
    out: Annotated[str, typer.Option(help="Where the Evaluation goes.")],
    benchmark: Annotated[list[str] | None, typer.Option(help="An aligned benchmark (repeatable).")] = None,
    fmr: Annotated[
        float, typer.Option(help="False match rate the threshold is calibrated for.", min=1e-9, max=0.5)
    ] = 1e-4,
    onnx: Annotated[str | None, typer.Option(help="Any ONNX recognizer instead of MODEL.")] = None,
    contract: Annotated[
        str, typer.Option(help="How --onnx wants its pixels: insightface, insightface-bgr or a JSON file.")
    ] = "insightface",
    pictures: Annotated[bool, typer.Option(help="Put thumbnails of the worst pairs into the report.")] = True,
    language: Annotated[str, typer.Option(help="What the report opens in: en, ko or auto (the browser's).")] = "auto",
    without_anchored: Annotated[
        bool, typer.Option("--without-anchored", help="Leave out faces whose landmarks came from another picture.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(envvar="EOLGUL_EMBEDDINGS", help="Folder that keeps embeddings between runs.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda (ONNX Runtime's)")] = "cpu",
    threads: Annotated[int, typer.Option(help="ONNX Runtime threads.", min=1)] = 2,
    seed: Seed = 0,
) -> None:
    """Step 5: measure on people the model never saw, calibrate the threshold, write the report.

    Without DATASET only the benchmarks are measured, and no threshold is given.
    """
    given = [*([onnx] if onnx else []), *(places or [])]
    if not 1 <= len(given) <= 2:
        raise InputError(f"{len(given)} places: expected MODEL DATASET, or --onnx FILE and perhaps DATASET")
    facts = steps.evaluate(
        given[0], given[1] if len(given) > 1 else "", benchmark or (), out, fmr=fmr, pictures=pictures,
        threads=threads, seed=seed, progress=_line, contract=contract if onnx else None, cache=cache, device=device,
        without_anchored=without_anchored, language=language,
    )  # fmt: skip
    facts.pop("metrics")
    say(facts)


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@app.command()
def compare(
    candidate: Annotated[str, typer.Argument(help="An Evaluation; path or s3://.")],
    current: Annotated[str, typer.Argument(help="Another model's, on the same data.")],
    seed: Seed = 0,
) -> None:
    """Two evaluations: differences on every set with paired intervals, and whether the first would be promoted."""
    say(steps.compare(candidate, current, seed=seed))


@app.command()
def promote(
    registry: Annotated[str, typer.Option(help="The registry: a folder or s3://bucket/prefix.")],
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL EVALUATION]", help="What is promoted; paths or s3://.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="Instead: back to this earlier model (its digest or the beginning of it).")
    ] = "",
    current_evaluation: Annotated[str, typer.Option(help="Production's model measured on the candidate's data.")] = "",
    force: Annotated[bool, typer.Option(help="Promote in spite of the comparison.")] = False,
    signing_key: Annotated[
        str, typer.Option(envvar="EOLGUL_SIGNING_KEY_FILE", help="Private key file that signs the model.")
    ] = "",
) -> None:
    """Step 6: publish the model and point production at it, if it beats the one there. Or go back with --to."""
    places = places or []
    if to:
        if places or current_evaluation or force:
            raise InputError("--to goes back to a published model: no MODEL, EVALUATION, comparison or --force with it")
        say(steps.roll_back(registry, to, signing_key=signing_key))
        return
    if len(places) != 2:
        raise InputError(f"{len(places)} places: expected MODEL EVALUATION, or --to DIGEST")
    model, evaluation = places
    say(
        steps.promote(
            model, evaluation, registry, current_evaluation=current_evaluation, force=force, signing_key=signing_key
        )
    )


@app.command()
def inspect(
    place: Annotated[str, typer.Argument(help="An artifact, a registry, a .rec, a .bin or another raw source.")],
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of up to 60 images (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on a terminal too.")] = False,
) -> None:
    """Say what something is and what is in it."""
    from eolgul.inspection.summary import inspect as look
    from eolgul.inspection.summary import render

    facts = look(place, sheet)
    if as_json or not sys.stdout.isatty():
        say(facts)
    else:
        print(f"{place}: {render(facts)}", flush=True)


@app.command()
def serve(
    registry: Annotated[
        str, typer.Option(envvar="EOLGUL_REGISTRY", help="Registry whose production model is served.")
    ] = "",
    model: Annotated[Path | None, typer.Option(envvar="EOLGUL_MODEL", help="A model package folder instead.")] = None,
    redis_url: Annotated[str, typer.Option(envvar="EOLGUL_REDIS_URL", help="Embedding cache; empty for none.")] = "",
    host: str = "127.0.0.1",
    port: int = 3000,
) -> None:
    """Serve the production model over HTTP (BentoML) until stopped."""
    with extra("serve"):
        from eolgul.serving import launch

    raise typer.Exit(launch.serve(port=port, host=host, registry=registry, model=model, redis_url=redis_url))


@app.command()
def verify(
    image1: Path,
    image2: Path,
    url: Annotated[str, typer.Option(help="Ask this service; else the model is loaded here.")] = "",
    registry: Annotated[str, typer.Option(envvar="EOLGUL_REGISTRY")] = "",
    model: Annotated[Path | None, typer.Option(envvar="EOLGUL_MODEL")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="With --url: a file that holds the API key (or EOLGUL_API_KEY holds it).")
    ] = None,
) -> None:
    """Are these two pictures of the same person?"""
    from eolgul.cli.verify import read_key, verify_here, verify_over_http

    if url:
        say(verify_over_http(url, image1, image2, api_key=read_key(key_file)))
    else:
        say(verify_here(image1, image2, registry=registry, model=model))


@app.command()
def demo(
    source: Annotated[
        Path | None, typer.Option(help="Your own photos, <identity>/<image>; without it people are drawn.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    keep: Annotated[bool, typer.Option(help="Leave the service running at the end, until Ctrl-C.")] = False,
    people: Annotated[int, typer.Option(help="Drawn people in the K-FACE tree.", min=12)] = 60,
    rec_people: Annotated[int, typer.Option(help="Drawn people in train.rec.", min=12)] = 150,
    min_images: Annotated[int, typer.Option(help="SOURCE: identities with at least so many images.", min=2)] = 4,
    max_identities: Annotated[int, typer.Option(help="SOURCE: at most so many identities.", min=12)] = 200,
    which: Annotated[
        str, typer.Option(help="Which face of several counts (default: drawn people largest, your photos center).")
    ] = "",
    recipe: str = "demo",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: key=value.")] = None,
    port: Annotated[int, typer.Option(help="Port of the service.")] = 3000,
) -> None:
    """Run everything on this machine: raw data, pipeline, registry, service, verdicts."""
    from eolgul.demo import DemoOptions
    from eolgul.demo import run as run_demo

    run_demo(
        DemoOptions(
            source=source,
            work=work.absolute(),
            keep=keep,
            people=people,
            rec_people=rec_people,
            min_images=min_images,
            max_identities=max_identities,
            # Collections of single people (LFW among them) put the person they name in the middle.
            which=which or ("center" if source else "largest"),
            recipe=recipe,
            overrides=tuple(set_ or ()),
            port=port,
        )
    )

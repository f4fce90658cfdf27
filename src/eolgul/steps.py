"""The six steps at the places where their artifacts lie: paths or `s3://bucket/key`, in and out.

What a Kubeflow component and a command run alike. Each brings its inputs to the local disk, calls the step, publishes
what it made, and returns the facts that both print: artifact, digest, counts, seconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eolgul import storage
from eolgul.align.config import AlignConfig
from eolgul.artifact import Artifact, open_artifact
from eolgul.assemble.config import AssembleConfig
from eolgul.audit.config import AuditConfig
from eolgul.config import Progress, count_up
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.extract.config import FILES, PEOPLE_FACTS, ExtractConfig, source_name
from eolgul.formats.synthetic import mark_of
from eolgul.promote.config import PromoteConfig
from eolgul.train.config import TrainConfig

if TYPE_CHECKING:
    from eolgul.promote.step import Promotion
    from eolgul.registry.signing import SigningKey

Facts = dict[str, Any]


PIPELINE_SELECTION = "original"
"""The pipeline's default of the selection, which counts as not given: Kubeflow knows no other way to say that."""


class Extraction(NamedTuple):
    """One source to extract, with its options; their `name` is set."""

    source: str
    config: ExtractConfig


def extract(
    source: str, out: str, config: ExtractConfig = ExtractConfig(), *, progress: Progress | None = None
) -> Facts:
    """Step 1: a raw source → FaceDataset. Files that `config` names are paths or `s3://` places, too."""
    from eolgul.extract.step import extract as step

    started = time.monotonic()
    local: dict[str, Any] = {name: str(storage.fetch(place)) for name in FILES if (place := getattr(config, name))}
    if config.root:
        local["root"] = str(storage.fetch(config.root))
    config = replace(config, name=config.name or source_name(source), **local)
    with storage.destination(out, [source]) as target:
        made = step(_raw(source), target, config, progress=progress)
    counted = ("inputs", "passed_over", *PEOPLE_FACTS)
    return _facts(made, out, started) | {name: made.contents[name] for name in counted if name in made.contents}


def plan_extraction(
    sources: Sequence[str],
    benchmarks: Sequence[str],
    config: ExtractConfig,
    *,
    benchmark_pairs: Sequence[str] = (),
    benchmark_selection: str | None = None,
    benchmark_identities: str | None = None,
) -> tuple[list[Extraction], list[Extraction]]:
    """Give each of several sources the options that are for its kind.

    Args:
        sources: Places of what to learn from.
        benchmarks: Places of `.bin` sets and carrays, which are benchmarks by themselves, and of trees, of which each of
            `benchmark_pairs` makes one.
        config: The options of the sources. Benchmarks share `any_size`, `verify` and `workers`, and the lists of
            `benchmark_pairs` have `max_pairs_lost`.
        benchmark_pairs: Places of pair lists.
        benchmark_selection: The selection of the trees among `benchmarks`.
        benchmark_identities: The identities of the trees among `benchmarks`.

    Returns:
        What to extract for the sources and for the benchmarks, in order.

    Raises:
        InputError: When an option is for none of the sources, a benchmark has no pairs, or two have one name.
    """
    from eolgul.extract.kinds import detect_kind, kind_of

    share = config.max_pairs_lost
    if not config.pairs:  # it is for the lists of the benchmarks then
        config = replace(config, max_pairs_lost=ExtractConfig.max_pairs_lost)
    kinds = [kind_of(_raw(source), config) for source in sources]
    for name in config.unused(kinds):
        # The pipeline's default asks for nothing, and without a K-FACE tree there is nothing to select.
        if (name, getattr(config, name)) != ("selection", PIPELINE_SELECTION):
            raise InputError(
                f"{name} {getattr(config, name)}: is for none of the sources ({', '.join(kinds) or 'none'})"
            )
    if config.name and len(sources) != 1:
        raise InputError(f"name {config.name}: is for one source, but there are {len(sources)}")
    learned = [
        Extraction(
            source,
            replace(config.for_kind(kind), name=config.name or source_name(source), one_of_several=len(sources) > 1),
        )
        for source, kind in zip(sources, kinds, strict=True)
    ]
    common = ExtractConfig(any_size=config.any_size, verify=config.verify, workers=config.workers)
    trees = replace(common, selection=benchmark_selection, identities=benchmark_identities, max_pairs_lost=share)
    measured: list[Extraction] = []
    used: list[str] = []
    for source in benchmarks:
        kind, name = detect_kind(_raw(source)), source_name(source)
        if kind in ("bin", "carrays"):
            measured.append(Extraction(source, replace(common.for_kind(kind), name=name)))
            continue
        if not benchmark_pairs:
            raise InputError(f"{source}: {kind} has no pairs of its own; expected a pair list for this benchmark")
        used.append(kind)
        measured += [
            Extraction(source, replace(trees.for_kind(kind), name=f"{name}-{source_name(Path(file).stem)}", pairs=file))
            for file in benchmark_pairs
        ]
    if not used:
        given = {
            "benchmark_pairs": list(benchmark_pairs),
            "max_pairs_lost": share if share != config.max_pairs_lost else None,
            "benchmark_selection": benchmark_selection,
            "benchmark_identities": benchmark_identities,
        }
        for what, value in given.items():
            if value:
                raise InputError(f"{what} {value}: is for none of the benchmarks, expected a tree among them")
    if used and benchmark_selection and "kface" not in used:
        raise InputError(
            f"benchmark_selection {benchmark_selection}: is for none of the benchmarks, expected a K-FACE tree"
        )
    check_names([*learned, *measured])
    return learned, measured


def check_lists(extractions: Sequence[Extraction], facts: Sequence[Facts]) -> None:
    """Refuse a list of people to leave out that names nobody in any of the sources, after they were extracted."""
    from eolgul.formats.identities import read_identities

    place = extractions[0].config.without_identities if extractions else None
    if place is None:
        return
    names = len(read_identities(storage.fetch(place)))
    if all(one.get("without_identities_unmatched") == names for one in facts):
        raise InputError(f"{place}: none of its {names} names is an identity of any source")


def check_names(extractions: Sequence[Extraction]) -> None:
    """Refuse sources whose artifacts would overwrite each other: InputError names the two."""
    seen: dict[str | None, str] = {}
    for source, config in extractions:
        other = seen.setdefault(config.name, source)
        if other != source:
            raise InputError(f"{other} and {source} are both called {config.name!r}; rename one")


def export(dataset: str, out: str, *, to: str, split: str | None = None, progress: Progress | None = None) -> Facts:
    """Write a FaceDataset in another format; `to` and `split` as `eolgul.export.export` takes them.

    At an `s3://` place the card goes last, so what has one is whole; there nothing is ever replaced.
    """
    from eolgul.export import card_place
    from eolgul.export import export as step

    started = time.monotonic()
    local = storage.fetch(dataset)
    if not storage.is_s3(out):
        card = step(local, Path(out), to=to, split=split, progress=count_up(progress))
    else:
        if storage.exists(out) or storage.exists(card_place(out, to)):
            raise InputError(f"{out}: something is there already; choose another place")
        with tempfile.TemporaryDirectory(prefix="eolgul-export-") as folder:
            made = Path(folder) / (out.rstrip("/").rpartition("/")[2] or "export")
            card = step(local, made, to=to, split=split, progress=count_up(progress))
            file = Path(card_place(str(made), to))
            text = file.read_bytes()
            file.unlink()
            for beside in made.parent.glob(f"{made.name}.*") if to == "bin" else ():
                storage.publish(beside, f"{out}{beside.name.removeprefix(made.name)}")
            storage.publish(made, out)
            storage.write_bytes(card_place(out, to), text)
    counts = {key: value for key, value in card.items() if key not in ("kind", "version", "dataset", "files")}
    return {"artifact": out, "dataset": card["dataset"], **counts, "seconds": round(time.monotonic() - started, 3)}


def align(
    dataset: str,
    out: str,
    config: AlignConfig = AlignConfig(),
    *,
    merge: Sequence[str] = (),
    keep_aligned: bool = False,
    sheet: Path | None = None,
    progress: Progress | None = None,
) -> Facts:
    """Step 2: FaceDataset of pictures → FaceDataset of aligned faces.

    Args:
        dataset: The FaceDataset's place.
        out: Where the result goes.
        config: The options.
        merge: The places of all parts.
        keep_aligned: The dataset is one of several with the same options: hand it on when it is aligned already, and
            accept options that are not for it, instead of refusing.
        sheet: A PNG to draw: a contact sheet of the faces, and one of the rejected images next to it.
        progress: Called with (images done, images in all).
    """
    from eolgul.align.step import align as step
    from eolgul.align.step import is_aligned
    from eolgul.dataset import FaceDataset
    from eolgul.inspection.alignment_sheet import sheets
    from eolgul.inspection.contact_sheet import check_name

    started = time.monotonic()
    if sheet:
        check_name(sheet)
        if config.part:
            raise InputError("sheet: a part has no sheet; expected it with the merge")
    local = storage.fetch(dataset)
    if keep_aligned and is_aligned(open_artifact(local, "FaceDataset")):
        return _facts(open_artifact(local, "FaceDataset"), dataset, started)
    with storage.destination(out, [dataset, *merge]) as target:
        made = step(local, target, config, merge=[storage.fetch(place) for place in merge],
                    may_be_unused=keep_aligned, progress=progress)  # fmt: skip
        drawn = sheets(FaceDataset(local), FaceDataset(target), sheet) if sheet else []
    extra: Facts = {"sheets": [str(path) for path in drawn]} if drawn else {}
    return _facts(made, out, started) | {"rejected_by_reason": made.contents["rejected_by_reason"]} | extra


def check_alignment(datasets: Sequence[str], config: AlignConfig) -> None:
    """Refuse options that are for none of several datasets: InputError says what they are for."""
    from eolgul.align.step import is_aligned, unused
    from eolgul.dataset import FaceDataset

    opened = [FaceDataset(storage.fetch(dataset)) for dataset in datasets]
    wrong = [unused(dataset, config) for dataset in opened if not is_aligned(dataset.artifact)]
    if wrong and all(wrong):
        raise InputError(wrong[0])


def assemble(
    datasets: Sequence[str], out: str, config: AssembleConfig = AssembleConfig(), *, progress: Progress | None = None
) -> Facts:
    """Step 3: aligned FaceDatasets → one FaceDataset with splits."""
    from eolgul.assemble.step import assemble as step
    from eolgul.dataset import SHARDS

    started = time.monotonic()
    config = replace(config, exclude=tuple(str(storage.fetch(place)) for place in config.exclude))
    # From S3 to S3 no image passes through this machine: the result refers to the objects of the datasets.
    far = [place for place in datasets if storage.is_s3(place)] if storage.is_s3(out) and not config.copy else []
    with storage.destination(out, [*datasets, *config.exclude], refer_to=far) as local:
        paths = [storage.fetch(place, without=(SHARDS,) if place in far else ()) for place in datasets]
        elsewhere = [path for path, place in zip(paths, datasets, strict=True) if place in far]
        made = step(paths, local, config, elsewhere=elsewhere, progress=progress)
    told = ("splits", "held_back", "excluded", "warnings")
    return _facts(made, out, started) | {key: made.contents[key] for key in told if key in made.contents}


def train(
    dataset: str,
    out: str,
    config: TrainConfig = TrainConfig(),
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Facts:
    """Step 4: an assembled FaceDataset → ModelPackage. `report` is called as `eolgul.train.loop.train` says.

    Checkpoints lie next to `out` by default: in S3 when `out` does, so that another machine can go on. Under torchrun
    every process calls this. Each finds the package whole at the end, and publishing what is there already does nothing.
    """
    import torch

    from eolgul.train.loop import train as step

    started = time.monotonic()
    if config.threads:
        torch.set_num_threads(config.threads)
    recipe = config.load_recipe()
    checkpoints = config.checkpoints or storage.join(out.rstrip("/").rpartition("/")[0] or ".", "checkpoints")
    with storage.destination(out, [dataset, *([config.init] if config.init else [])]) as local:
        made = step(
            storage.fetch(dataset),
            local,
            recipe=recipe,
            init=storage.fetch(config.init) if config.init else None,
            init_color=config.init_color,
            checkpoints=checkpoints,
            checkpoint_seconds=config.checkpoint_seconds,
            device=config.device,
            workers=config.workers,
            stall_seconds=config.stall_seconds,
            tensorboard=config.tensorboard,
            report=report,
        )
    if made is None:
        raise InputError("training was stopped before its end; run the same command again to go on from its checkpoint")
    return _facts(made, out, started) | {"best_epoch": made.contents["best_epoch"]}


def import_weights(
    weights: str,
    out: str,
    *,
    layout: str,
    backbone: str | None = None,
    color: str | None = None,
    prefix: str | None = None,
    licence: str | None = None,
    which: str | None = None,
) -> Facts:
    """Published weights as a ModelPackage; the options are those of `eolgul.train.import_weights.import_weights`."""
    from eolgul.train.import_weights import import_weights as step

    started = time.monotonic()
    with storage.destination(out, [weights]) as local:
        made = step(
            storage.fetch(weights),
            local,
            layout=layout,
            backbone=backbone,
            color=color,
            prefix=prefix,
            licence=licence,
            which=which,
        )
    shown = ("backbone", "layout", "color", "also_fits", "ignored")
    return _facts(made, out, started) | {name: made.contents[name] for name in shown}


def import_onnx(
    onnx: str,
    out: str,
    *,
    contract: str,
    color: str | None = None,
    licence: str | None = None,
    which: str | None = None,
) -> Facts:
    """An ONNX recognizer as a ModelPackage; the options are those of `eolgul.train.import_onnx.import_onnx`."""
    from eolgul.train.import_onnx import import_onnx as step

    started = time.monotonic()
    with storage.destination(out, [onnx]) as local:
        made = step(storage.fetch(onnx), local, contract=contract, color=color, licence=licence, which=which)
    shown = ("backbone", "embedding_size", "color", "dropped_outputs", "batch")
    return _facts(made, out, started) | {name: made.contents[name] for name in shown}


def calibrate(
    model: str,
    photos: str,
    out: str,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    work: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Facts:
    """Steps 1, 2, 3 and 5 for a model that is there already: a folder of people's photos → Evaluation.

    Faces are found with the settings of the model's contract, as in serving. Nobody is trained on, so that half of the
    people set the threshold and the other half show the errors.

    Args:
        model: A ModelPackage's place.
        photos: A folder `<person>/<image>`, or any other raw source with people.
        out: Where the Evaluation goes.
        config: The options of the evaluation.
        work: The local folder for the datasets between the steps; None puts it next to `out`.
        progress: Called with a sentence about what is done next.

    Raises:
        InputError: There are too few people with two usable photos, or a step refuses its input.
    """
    from eolgul.dataset import FaceDataset
    from eolgul.model.package import ModelPackage

    say = progress or (lambda _: None)
    started = time.monotonic()
    if work is None and storage.is_s3(out):
        raise InputError(f"{out}: the datasets between the steps lie on this machine; say where with --work")
    detector = ModelPackage.open(storage.fetch(model)).contract.detector
    how = AlignConfig(min_face_size=detector.min_face_size, min_score=detector.thresholds[2], which=detector.which)
    if how.detector != detector:
        raise InputError(f"{model}: align cannot find faces with the settings of its contract ({detector})")
    folder = Path(work) if work is not None else Path(f"{out.rstrip('/')}-data")
    say(f"reading the photos into {folder / 'photos'}")
    extract(photos, str(folder / "photos"))
    say("finding and aligning the faces")
    aligned = align(str(folder / "photos"), str(folder / "aligned"), how, keep_aligned=True)["artifact"]
    people = Counter(FaceDataset(Path(aligned)).column("identity"))
    usable = sum(count > 1 for count in people.values())
    held = min(usable, len(people) - _TRAINING_PEOPLE)
    if held < _FEWEST_PEOPLE:
        raise InputError(
            f"{photos}: {usable} of {len(people)} people have two photos or more with a face, expected at least "
            f"{_FEWEST_PEOPLE + _TRAINING_PEOPLE}: half of them set the threshold, the others show its errors"
        )
    one = 1 / len(people)
    shares = AssembleConfig(validation=0, calibration=(held + 1) // 2 * one, test=held // 2 * one)
    assembled = str(folder / "assembled")
    splits = assemble([aligned], assembled, shares)["splits"]
    facts = evaluate(model, assembled, (), out, config, progress=progress)
    return facts | {"dataset": assembled, "splits": splits, "seconds": round(time.monotonic() - started, 3)}


_TRAINING_PEOPLE = 2  # the fewest that assemble leaves for training; nobody learns from them here
_FEWEST_PEOPLE = 8  # four to choose a threshold, four in two folds to measure it


def evaluate(
    model: str,
    dataset: str,
    benchmarks: Sequence[str],
    out: str,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    progress: Callable[[str], None] | None = None,
) -> Facts:
    """Step 5: a model → Evaluation; with `dataset` "", on the benchmarks alone. `progress` gets sentences.

    The facts include `metrics`, the figures (`eolgul.evaluation.schema.Metrics`).
    """
    from eolgul.evaluate.step import evaluate as step
    from eolgul.evaluation.reader import read_metrics

    started = time.monotonic()
    places = [storage.fetch(item) for item in benchmarks]
    with storage.destination(out, [item for item in (model, dataset, *benchmarks) if item]) as local:
        people = storage.fetch(dataset) if dataset else None
        made = step(storage.fetch(model), people, places, local, config, progress=progress)
        metrics = read_metrics(local)
    return _facts(made, out, started) | {"metrics": metrics}


def evaluate_current(
    evaluation: str,
    dataset: str,
    benchmarks: Sequence[str],
    registry: str,
    out: str,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    progress: Callable[[str], None] | None = None,
) -> tuple[str, str]:
    """Measure production's model and the registry's reference on a candidate's data where `promote` needs that.

    People of the candidate's data that such a model learned from are left out of its figures.

    Args:
        evaluation: The candidate's Evaluation.
        dataset: The candidate's data.
        benchmarks: Its benchmarks.
        registry: The registry.
        out: Where production's Evaluation goes; the reference's goes to the same with `-reference` behind.
        config: The options of the candidate's Evaluation.
        progress: Called with a sentence about what is done next.

    Returns:
        The places of production's and of the reference's Evaluation, "" for what is not needed.
    """
    from eolgul.model.provenance import Provenance
    from eolgul.promote.step import needed_evaluations
    from eolgul.registry.store import download, model_uri

    places = {"current": "", "reference": ""}
    for role, digest in needed_evaluations(storage.fetch(evaluation), registry).items():
        places[role] = out if role == "current" else f"{out.rstrip('/')}-reference"
        known = Provenance.read(download(registry, digest).path) is not None
        options = replace(config, unseen_only=config.unseen_only or known)
        evaluate(model_uri(registry, digest), dataset, benchmarks, places[role], options, progress=progress)
    return places["current"], places["reference"]


def audit(
    train: Sequence[str],
    against: Sequence[str],
    out: str,
    config: AuditConfig = AuditConfig(),
    *,
    model: str = "",
    progress: Callable[[str], None] | None = None,
) -> Facts:
    """Look for people and images of benchmarks in training data → Audit. Places as `eolgul.audit.step.audit` takes paths."""
    from eolgul.audit.step import audit as step

    started = time.monotonic()
    with storage.destination(out, [item for item in (*train, *against, model) if item]) as local:
        made = step(
            [storage.fetch(place) for place in train],
            [storage.fetch(place) for place in against],
            local,
            config,
            model=storage.fetch(model) if model else None,
            progress=progress,
        )
    return _facts(made, out, started) | {key: made.contents[key] for key in ("people", "found", "excluded")}


def compare(candidate: str, current: str, *, seed: int = 0) -> Facts:
    """Two Evaluations on the same data: the paired difference of every figure, and whether the first would win."""
    from eolgul.evaluation.compare import compare as step

    return step(storage.fetch(candidate), storage.fetch(current), seed=seed).to_json()


def promote(
    model: str,
    evaluation: str,
    registry: str,
    config: PromoteConfig = PromoteConfig(),
    *,
    current_evaluation: str = "",
    reference_evaluation: str = "",
    force: bool = False,
    signing_key: str | None = None,
) -> Facts:
    """Step 6. `signing_key` is a private key's file; None takes EOLGUL_SIGNING_KEY_FILE's, so that a component signs."""
    from eolgul.promote.step import promote as step

    started = time.monotonic()
    decided = step(
        storage.fetch(model),
        storage.fetch(evaluation),
        registry,
        config=config,
        current_evaluation=storage.fetch(current_evaluation) if current_evaluation else None,
        reference_evaluation=storage.fetch(reference_evaluation) if reference_evaluation else None,
        force=force,
        signing_key=_signing_key(signing_key),
    )
    return _decision(registry, decided, started)


def roll_back(registry: str, digest: str, *, signing_key: str | None = None) -> Facts:
    """An earlier model into production again; `digest` may be its beginning, `signing_key` as for `promote`."""
    from eolgul.promote.step import roll_back as step

    started = time.monotonic()
    return _decision(registry, step(registry, digest, signing_key=_signing_key(signing_key)), started)


def choose_reference(registry: str, digest: str) -> Facts:
    """Make a promoted model the registry's reference; `digest` may be its beginning."""
    from eolgul.promote.step import choose_reference as step

    return {"registry": registry, "reference": step(registry, digest)}


def _signing_key(file: str | None) -> SigningKey | None:
    from eolgul.registry.signing import SigningKey

    file = os.environ.get("EOLGUL_SIGNING_KEY_FILE", "") if file is None else file
    return SigningKey.read(Path(file)) if file else None


def _decision(registry: str, decided: Promotion, started: float) -> Facts:
    from eolgul.registry.store import model_uri

    return {
        "artifact": model_uri(registry, decided.digest),
        "digest": decided.digest,
        "promoted": decided.promoted,
        "reason": decided.reason,
        "reasons": list(decided.reasons),
        "seconds": round(time.monotonic() - started, 3),
    }


def _raw(source: str) -> Path:
    """A raw source on the local disk, with the files that belong to it by name."""
    if storage.is_s3(source) and source.endswith(".lst"):  # its images lie below its folder
        folder, _, name = source.rpartition("/")
        return storage.fetch(folder) / name
    local = storage.fetch(source)
    if (
        storage.is_s3(source)
        and (local / "meta" / "storage").is_file()
        and storage.exists(f"{source.rstrip('/')}_list.npy")
    ):
        storage.fetch(f"{source.rstrip('/')}_list.npy")
    if storage.is_s3(source) and source.endswith((".rec", ".bin")):
        folder, _, name = source.rpartition("/")
        stem = name.rpartition(".")[0]
        beside = [*([f"{stem}.idx", "property"] if name.endswith(".rec") else []), mark_of(Path(name)).name]
        for other in beside:
            if storage.exists(f"{folder}/{other}"):
                storage.fetch(f"{folder}/{other}")
            else:  # nor is an old copy of what S3 had once
                local.with_name(other).unlink(missing_ok=True)
    return local


def _facts(artifact: Artifact, place: str, started: float) -> Facts:
    counts: Facts = {
        key: artifact.contents[key]
        for key in ("images", "identities", "rejected", "pairs", "pairs_lost")
        if key in artifact.contents
    }
    if artifact.contents.get("identities_known") is False:  # a .bin says who is alike, not who is who
        counts["identities"] = None
    return {
        "artifact": place,
        "kind": artifact.kind,
        "digest": artifact.digest,
        **counts,
        "synthetic": artifact.synthetic,
        "seconds": round(time.monotonic() - started, 3),
    }

"""Step 5: a model package measured on held-out people and benchmarks → Evaluation.

It writes `metrics.json` (every figure), `scores.parquet` (one row per pair), `people.parquet` (the errors of the held-out
people), `calibration.json` (the threshold that serving uses) and `report.html`, which prints only what `metrics.json` contains.

Memory: 2 kB per embedded image, which are those of the pairs and the counted comparisons and not all that are held out, and
columns of the manifest, one after another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eolgul.artifact import Artifact, canonical_json, reuse, seal, writing
from eolgul.dataset import SPLITS, FaceDataset, Pairs
from eolgul.dataset.far import FarShards
from eolgul.errors import InputError
from eolgul.evaluate.acquisition import acquisition
from eolgul.evaluate.all_pairs import count_all_pairs, similarity_of
from eolgul.evaluate.cache import Embed, cached
from eolgul.evaluate.calibrate import calibrate
from eolgul.evaluate.conditions import QUALITIES, breakdown, discards, groups
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluate.embed import Progress, check_aligned, embed_rows, embedding_size
from eolgul.evaluate.leakage import Learned, leakage, unseen, unseen_pairs
from eolgul.evaluate.metrics import ScoredSet, set_figures, worst
from eolgul.evaluate.pairs import MAX_COUNTED, calibration_rows, held_out_pairs, score_all_pairs, split_rows
from eolgul.evaluate.protocol import squared_distance
from eolgul.evaluate.quality import measure_region
from eolgul.evaluate.recognizers import open_model
from eolgul.evaluate.report.plots import Curves
from eolgul.evaluate.report.published import published
from eolgul.evaluate.report.training import training_curve
from eolgul.evaluate.scores import write_people, write_scores
from eolgul.evaluation.bootstrap import Subjects
from eolgul.evaluation.people_file import FILE as PEOPLE_FILE
from eolgul.evaluation.reader import HELD_OUT
from eolgul.evaluation.schema import (
    FMR_LEVELS,
    METRICS_FORMAT,
    Acquisition,
    Breakdown,
    CalibrationSummary,
    Contract,
    Discard,
    EvaluationOptions,
    Group,
    Leakage,
    MeasuredDataset,
    MeasuredModel,
    Metrics,
    SetKind,
    SplitSize,
    SplitSizes,
    Worst,
)
from eolgul.files import sha256_bytes
from eolgul.model.calibration import Calibration
from eolgul.model.provenance import Provenance

VERSION = 4  # of the results: raise it when the same inputs and recipe give others


def evaluate(
    model: Path,
    dataset: Path | None,
    benchmarks: Sequence[Path],
    out: Path,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    shards: FarShards | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Measure `model` and write an Evaluation to `out`; an Evaluation from the same inputs and options is reused.

    The calibration people of `dataset` give the threshold, its test people the set "held-out". Without a dataset only
    the benchmarks are measured, and there is no threshold: a benchmark never chooses one.

    Args:
        model: A ModelPackage, or an ONNX file with `config.contract` (`eolgul.evaluate.recognizers`).
        dataset: An assembled FaceDataset, or None.
        benchmarks: Aligned FaceDatasets with pairs.
        out: Where the Evaluation goes.
        config: The options.
        shards: The shards of `dataset` in S3, where it has only the tables: images are read from there one by one.
        progress: Called with a sentence about what is done next.

    Raises:
        InputError: When test or calibration people are also in training, when an input is not what it should be, or
            when the model gives all images one embedding.
    """
    from eolgul.evaluate.report.page import render  # needs jinja2, which reading metrics does not

    say: Progress = progress or (lambda _: None)
    config.check_uses(people=dataset is not None)
    tested = open_model(model, config.contract)
    people = None if dataset is None else FaceDataset(dataset, shards=shards)
    others = [FaceDataset(path) for path in benchmarks]
    measured_on = [*([] if people is None else [people]), *others]
    if not measured_on:
        raise InputError("neither a dataset nor a benchmark is given: there is nothing to measure on")
    inputs = [tested.reference, *(item.artifact.reference for item in measured_on)]
    recipe = config.to_recipe()
    seed, resamples = config.seed, config.resamples
    done = reuse(out, "Evaluation", step="evaluate", version=VERSION, recipe=recipe, inputs=inputs)
    if done is not None:
        say("already evaluated from these inputs with these options")
        return done
    names = _names(others)
    recognizer = tested.recognizer(threads=config.threads, device=config.device)
    # What would fail after hours of embedding fails now.
    for data in measured_on:
        check_aligned(data, recognizer.contract)
    pairs = [other.pairs() for other in others]
    learned = Learned(Provenance.read(tested.onnx.parent) if tested.kind == "ModelPackage" else None)
    if config.unseen_only and not learned.known:
        raise InputError(f"{model}: unseen_only: what this model learned from is unknown, so nobody can be left out")
    for other, compared in zip(others, pairs, strict=True):
        folds = len(set(compared.fold.tolist()))
        if folds < 2:
            raise InputError(
                f"{other.path}: its {len(compared.fold)} pairs are of {folds} fold: the protocol chooses the threshold on "
                "the other folds, so it needs at least 2"
            )
    calibration, sets = None, []

    def embedder(data: FaceDataset) -> Embed:
        return cached(
            Path(config.cache) if config.cache else None,
            tested.digest,
            data.artifact.digest,
            lambda rows: embed_rows(data, rows, recognizer, progress=progress),
        )

    if people is not None:
        check_disjoint(people)
        embed = embedder(people)
        kept = unseen(learned, people) if config.unseen_only else None
        say("calibrating the threshold")
        chosen = _calibration_rows(people, config, kept)
        calibration = calibrate(score_all_pairs(embed(chosen), people.numpy("label")[chosen]), config.fmr)
        say(f"threshold {calibration.threshold:.4f} for FMR {calibration.fmr_target:.3g}")
        if config.quality_images:
            say("finding the picture quality for which the rate holds")
            region = measure_region(
                people, chosen, recognizer, calibration, images=config.quality_images, seed=seed, progress=say
            )
            calibration = replace(calibration, region=region)
        sets.append(_held_out(people, embed, calibration.threshold, config, kept))
    for name, other, compared in zip(names, others, pairs, strict=True):
        say(f"scoring {name}")
        sets.append(_benchmark(name, other, compared, embedder(other)))
    overlap = leakage(learned, people, dict(zip(names, others, strict=True)), left_out=config.unseen_only)
    for sentence in _warnings(overlap):
        say(sentence)
    say("computing figures and intervals")
    synthetic = tested.synthetic or any(item.artifact.synthetic for item in measured_on)
    measured = {item.name: set_figures(item, calibration, seed=seed, resamples=resamples) for item in sets}
    first, shown = sets[0], measured_on[0]
    # The rows of its pairs, and the pairs as numbers of those: the other rows of a large set are of no use here.
    shown_rows, numbers = np.unique(np.concatenate([first.left, first.right]), return_inverse=True)
    first = replace(first, left=numbers[: len(first.left)], right=numbers[len(first.left) :])
    image_ids = shown.values("image_id", shown_rows)
    conditions, by_group, quality = _failures(
        first, shown.take([*Breakdown.model_fields, *QUALITIES], shown_rows), calibration
    )
    trained = training_curve(tested.onnx.parent) if tested.kind == "ModelPackage" else None
    metrics = Metrics(
        format=METRICS_FORMAT,
        synthetic=synthetic,
        model=MeasuredModel(
            digest=tested.digest,
            kind=tested.kind,
            backbone=tested.backbone,
            embedding_size=embedding_size(recognizer),
            contract=Contract.model_validate(tested.contract.to_json()),
        ),
        dataset=None if people is None else _describe(people),
        options=EvaluationOptions.model_validate(recipe),
        calibration=None if calibration is None else CalibrationSummary.model_validate(calibration.summary()),
        sets=measured,
        breakdown=conditions,
        groups=by_group,
        quality=quality,
        audit=overlap,
        worst=worst(first, image_ids),
        published=published([item.name for item in sets if not item.synthetic]),
        **({} if trained is None else {"training": trained}),
    )
    say("writing the report")
    thumbnails = (
        _thumbnails(shown, dict(zip(image_ids, shown_rows.tolist(), strict=True)), metrics.worst)
        if config.pictures
        else {}
    )
    report = render(metrics, {item.name: _curves(item) for item in sets}, calibration, thumbnails, config.language)
    with writing(out) as folder:
        (folder / "metrics.json").write_bytes(canonical_json(metrics.to_json()))
        if calibration is not None:
            (folder / "calibration.json").write_bytes(canonical_json(calibration.to_json()))
        (folder / "report.html").write_text(report, encoding="utf-8")
        seen = [learned.pairs(data, Pairs(item.left, item.right, item.same, item.fold))
                for data, item in zip(measured_on, sets, strict=True)]  # fmt: skip
        write_scores(folder / "scores.parquet", sets, measured_on, seen)
        if people is not None:
            write_people(folder / PEOPLE_FILE, sets[0], learned.people(people, sets[0].people))
        artifact = seal(
            folder,
            "Evaluation",
            step="evaluate",
            version=VERSION,
            recipe=recipe,
            inputs=inputs,
            contents=_contents(metrics),
            synthetic=synthetic,
        )
    return Artifact(out, artifact.kind, artifact.card, artifact.digest)


def _failures(
    scored: ScoredSet, facts: pa.Table, calibration: Calibration | None
) -> tuple[Breakdown, list[Group], dict[str, Discard]]:
    """Compute where the one threshold fails: by condition, by group, by quality; empty without a threshold.

    Args:
        scored: The pairs, as numbers of the rows of `facts`.
        facts: The columns of the manifest that say under which conditions an image was taken.
        calibration: The threshold.
    """
    if calibration is None:
        return Breakdown(), [], {}
    conditions = {column: facts[column].to_pylist() for column in Breakdown.model_fields}
    qualities = {column: facts[column].to_pylist() for column in QUALITIES}
    by_group = []
    if scored.all_pairs is not None:
        by_group = groups(scored.all_pairs.errors, scored.groups)
    return (
        breakdown(scored, conditions, calibration.threshold),
        by_group,
        discards(scored, qualities, calibration.threshold),
    )


def check_disjoint(dataset: FaceDataset) -> None:
    """Check that test and calibration people are in no other split that could bias the figures.

    Raises:
        InputError: Test or calibration people are in training, or test people chose the threshold or the epoch.
    """
    identities, person = dataset.codes("identity")
    people = {split: {identities[code] for code in np.unique(person[dataset.rows(split)])} for split in SPLITS}
    for split, other in (("test", "train"), ("calibration", "train"), ("test", "calibration"), ("test", "validation")):
        shared = sorted(people[split] & people[other])
        if shared:
            names = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
            raise InputError(
                f"{dataset.path}: {len(shared)} people are in the {split} and the {other} split ({names}); "
                "results on them would be biased; assemble the dataset again"
            )


def _names(benchmarks: Sequence[FaceDataset]) -> list[str]:
    """Return one name per benchmark, usable as a key of `metrics.json` and in the report's dotted paths."""
    names = [str(item.artifact.contents.get("name") or item.path.name).replace(".", "_") for item in benchmarks]
    for name, count in Counter([HELD_OUT, *names]).items():
        if count > 1:
            raise InputError(f"two sets are named {name!r}; expected a different name for each")
    return names


def _warnings(overlap: Leakage) -> list[str]:
    """A sentence for each set with people or images that the model learned from."""
    sets = dict(overlap.sets) | ({} if overlap.calibration is None else {"calibration": overlap.calibration})
    return [
        f"warning: the model learned from {item.people_in_training or 0} of the people and {item.images_in_training or 0} "
        f"of the images of {name}"
        for name, item in sets.items()
        if item.people_in_training or item.images_in_training
    ]


def _calibration_rows(
    dataset: FaceDataset, config: EvaluateConfig, kept: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """The rows of the calibration people; with `kept` (bool, one value per row) only of those."""
    rows = calibration_rows(dataset, seed=config.seed, without_anchored=config.without_anchored)
    if kept is not None:
        rows = rows[kept[rows]]
        if len(set(dataset.numpy("label")[rows])) < 2:
            raise InputError(f"{dataset.path}: the model learned from all its calibration people, or all but one")
    return rows


def _held_out(
    dataset: FaceDataset, embed: Embed, threshold: float, config: EvaluateConfig, kept: NDArray[np.bool_] | None
) -> ScoredSet:
    """Score the test people; with `kept` (bool, one value per row) only those rows, in the same pairs as without."""
    seed, without_anchored = config.seed, config.without_anchored
    pairs = held_out_pairs(dataset, seed=seed, without_anchored=without_anchored)
    if kept is not None:
        pairs = unseen_pairs(dataset, pairs, kept)
    left, right = (dataset.values("sha256", side) for side in (pairs.left, pairs.right))
    compared = [[one, other, bool(same)] for one, other, same in zip(left, right, pairs.same, strict=True)]
    # The digest identifies the compared pairs, so that two models are compared on the same pairs only.
    digest = sha256_bytes(canonical_json(compared))
    compared_rows = calibration_rows(dataset, "test", seed=seed, without_anchored=without_anchored, most=MAX_COUNTED)
    presented = dataset.rows("test")
    if kept is not None:
        compared_rows = compared_rows[kept[compared_rows]]
        presented = split_rows(dataset, "test", without_anchored)
        presented = presented[kept[presented]]
    identities, person = dataset.codes("identity")
    names = {identities[code] for code in np.unique(person[presented]).tolist()}
    # No figure needs the others, which can be most of them: pairs and counts have limits.
    rows = np.unique(np.concatenate([pairs.left, pairs.right, compared_rows]))
    embeddings = embed(rows)
    labels = dataset.numpy("label")[compared_rows]
    counts = count_all_pairs(embeddings[np.searchsorted(rows, compared_rows)], labels, threshold, FMR_LEVELS)
    scored = _score(HELD_OUT, "held-out", digest, dataset, pairs, rows, embeddings, acquisition(dataset, names))
    first = compared_rows[np.unique(labels, return_index=True)[1]]
    people, groups = (tuple(dataset.values(column, first)) for column in ("identity", "source"))
    return replace(scored, all_pairs=counts, people=people, groups=groups)


def _benchmark(name: str, dataset: FaceDataset, pairs: Pairs, embed: Embed) -> ScoredSet:
    if len(pairs) == 0:
        raise InputError(f"{dataset.path / 'pairs.parquet'}: contains no pair")
    digest = dataset.artifact.digest
    rows = np.unique(np.concatenate([pairs.left, pairs.right]))
    return _score(name, "benchmark", digest, dataset, pairs, rows, embed(rows), acquisition(dataset))


def _score(
    name: str,
    kind: SetKind,
    digest: str,
    dataset: FaceDataset,
    pairs: Pairs,
    rows: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    acquired: Acquisition,
) -> ScoredSet:
    """Score the pairs; `embeddings` are those of `rows`, which are ascending and include every row of the pairs."""
    left, right = (embeddings[np.searchsorted(rows, side)] for side in (pairs.left, pairs.right))
    return ScoredSet(
        name=name,
        kind=kind,
        digest=digest,
        synthetic=dataset.artifact.synthetic,
        left=pairs.left,
        right=pairs.right,
        same=pairs.same,
        fold=pairs.fold,
        similarity=np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64)),
        distance=squared_distance(left, right),
        subjects=_subjects(dataset, pairs),
        acquisition=acquired,
    )


def _curves(scored: ScoredSet) -> Curves:
    """Return the scores that a set's plots show: all comparisons where they were made, else the pairs."""
    if scored.all_pairs is not None:
        counts, filled = scored.all_pairs, np.flatnonzero(scored.all_pairs.impostor)
        return Curves(
            similarity_of(counts.bin),
            similarity_of(filled),
            counts.errors.subject_pairs,
            counts.person,
            counts.genuine,
            counts.impostor[filled],
        )
    genuine, impostor = scored.similarity[scored.same], scored.similarity[~scored.same]
    independent = len(impostor) if scored.subjects is None else scored.subjects.distinct_pairs(~scored.same)
    person = None if scored.subjects is None else scored.subjects.left[scored.same]
    return Curves(genuine, impostor, independent, person)


def _subjects(dataset: FaceDataset, pairs: Pairs) -> Subjects | None:
    """Return the people of the pairs; None when the set does not identify them, or contradicts its own flags."""
    if not dataset.identified:
        return None
    identities, person = dataset.codes("identity")
    left, right = person[pairs.left], person[pairs.right]
    if not np.array_equal(left == right, pairs.same):
        return None
    return Subjects.from_identities([identities[code] for code in left], [identities[code] for code in right])


def _describe(dataset: FaceDataset) -> MeasuredDataset:
    _, person = dataset.codes("identity")
    sizes = {}
    for split in SPLITS:
        rows = dataset.rows(split)
        sizes[split] = SplitSize(images=len(rows), identities=len(np.unique(person[rows])))
    contents = dataset.artifact.contents
    return MeasuredDataset(
        digest=dataset.artifact.digest,
        synthetic=dataset.artifact.synthetic,
        name=contents.get("name"),
        images=contents["images"],
        identities=contents["identities"],
        rejected=contents["rejected"],
        splits=SplitSizes(**sizes),
    )


def _thumbnails(dataset: FaceDataset, row_of: Mapping[str, int], shown: Worst) -> dict[str, bytes]:
    wanted = {name for pair in (*shown.genuine, *shown.impostor) for name in (pair.left, pair.right)}
    return {name: dataset.read(row_of[name]) for name in sorted(wanted)}


def _contents(metrics: Metrics) -> dict[str, Any]:
    """Return the main figures, for the card and for logs."""
    contents: dict[str, Any] = {"model": metrics.model.digest, "sets": sorted(metrics.sets), "threshold": None}
    held_out = metrics.sets.get(HELD_OUT)
    if metrics.calibration is None or held_out is None or held_out.all_pairs is None:
        return contents
    return contents | {
        "threshold": metrics.calibration.threshold,
        "fmr_target": metrics.calibration.fmr_target,
        "held_out": {
            "accuracy": held_out.accuracy.mean,
            "auc": held_out.auc,
            "fmr": held_out.all_pairs.fmr,
            "fnmr": held_out.all_pairs.fnmr,
        },
    }

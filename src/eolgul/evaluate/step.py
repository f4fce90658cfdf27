"""Step 5: a model package measured on held-out people and benchmarks → Evaluation.

`metrics.json` (every figure), `scores.parquet` (a row a pair), `calibration.json` (what serving judges by) and
`report.html`, which prints nothing that `metrics.json` does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.artifact import Artifact, canonical_json, reuse, seal, writing
from eolgul.dataset import SPLITS, FaceDataset, Pairs
from eolgul.errors import InputError
from eolgul.evaluate import metrics as figures
from eolgul.evaluate.all_pairs import compare_everything, similarity_of
from eolgul.evaluate.cache import Embed, cached
from eolgul.evaluate.calibrate import AllPairs, calibrate
from eolgul.evaluate.conditions import QUALITIES, breakdown, discards, groups
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluate.embed import Progress, check_aligned, embed_rows, embedding_size
from eolgul.evaluate.leakage import audit
from eolgul.evaluate.metrics import CONDITIONS, ScoredSet
from eolgul.evaluate.pairs import MAX_COUNTED, all_pairs, calibration_rows, held_out_pairs, split_rows
from eolgul.evaluate.protocol import squared_distance
from eolgul.evaluate.recognizers import open_source
from eolgul.evaluate.report.plots import Curves
from eolgul.evaluate.report.published import published
from eolgul.evaluate.scores import write_scores
from eolgul.evaluation.bootstrap import Subjects
from eolgul.evaluation.reader import HELD_OUT, METRICS_FORMAT, read_metrics
from eolgul.files import sha256_bytes
from eolgul.model.calibration import Calibration

VERSION = 1  # of the results: raise it when the same inputs and recipe give others
__all__ = ["HELD_OUT", "check_disjoint", "evaluate", "read_metrics"]
# Why an input became no image although a face should have been there; subsets and duplicates are choices, not failures.
_CHOICES = ("duplicate", "too_few", "leak", "overlap", "not_selected", "no_identity")


def evaluate(
    model: Path,
    dataset: Path | None,
    benchmarks: Sequence[Path],
    out: Path,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Measure `model` and write an Evaluation to `out` (returned as it is when already made from the same inputs).

    The calibration people of `dataset` give the threshold, its test people the set "held-out". Without a dataset only
    the benchmarks are measured, and there is no threshold: a benchmark never chooses one.

    Args:
        model: A ModelPackage, or an ONNX file with `config.contract` (`eolgul.evaluate.recognizers`).
        dataset: An assembled FaceDataset, or None.
        benchmarks: Aligned FaceDatasets with pairs.
        out: Where the Evaluation goes.
        config: The options.
        progress: Called with a sentence about what is done next.

    Raises:
        InputError: When test or calibration people are also in training, when an input is not what it should be, or
            when the model gives all images one embedding.
    """
    from eolgul.evaluate.report.page import render  # needs jinja2, which reading metrics does not

    say: Progress = progress or (lambda _: None)
    source = open_source(model, config.contract)
    people = None if dataset is None else FaceDataset(dataset)
    others = [FaceDataset(path) for path in benchmarks]
    measured_on = [*([] if people is None else [people]), *others]
    if not measured_on:
        raise InputError("neither a dataset nor a benchmark is given; there is nothing to measure on")
    inputs = [source.reference, *(item.artifact.reference for item in measured_on)]
    recipe = config.to_recipe()
    seed, resamples, without_anchored = config.seed, config.resamples, config.without_anchored
    done = reuse(out, "Evaluation", step="evaluate", version=VERSION, recipe=recipe, inputs=inputs)
    if done is not None:
        say("already evaluated from these inputs with these options")
        return done
    names = _names(others)
    recognizer = source.recognizer(threads=config.threads, device=config.device)
    # What would fail after hours of embedding fails now.
    for data in measured_on:
        check_aligned(data, recognizer.contract)
    pairs = [other.pairs() for other in others]
    calibration, sets = None, []

    def embedder(data: FaceDataset) -> Embed:
        return cached(
            Path(config.cache) if config.cache else None,
            source.digest,
            data.artifact.digest,
            lambda rows: embed_rows(data, rows, recognizer, progress=progress),
        )

    if people is not None:
        check_disjoint(people)
        embed = embedder(people)
        say("calibrating the threshold")
        calibration = calibrate(_calibration_pairs(people, embed, seed, without_anchored), config.fmr, seed, resamples)
        say(f"threshold {calibration.threshold:.4f} for FMR {calibration.fmr_target:.3g}")
        sets.append(_held_out(people, embed, calibration.threshold, seed, without_anchored))
    for name, other, asked in zip(names, others, pairs, strict=True):
        say(f"scoring {name}")
        sets.append(_benchmark(name, other, asked, embedder(other)))
    say("computing figures and intervals")
    synthetic = source.synthetic or any(item.artifact.synthetic for item in measured_on)
    measured = {item.name: figures.set_metrics(item, calibration, seed=seed, resamples=resamples) for item in sets}
    first, shown = sets[0], measured_on[0]
    image_ids = shown.column("image_id")
    hardest = figures.worst(first, image_ids)
    metrics: dict[str, Any] = {
        "format": METRICS_FORMAT,
        "synthetic": synthetic,
        "model": {
            "digest": source.digest,
            "kind": source.kind,
            "backbone": source.backbone,
            "embedding_size": embedding_size(recognizer),
            "contract": source.contract.to_json(),
        },
        "dataset": None if people is None else _describe(people),
        "options": recipe,
        "calibration": None if calibration is None else calibration.summary(),
        "sets": measured,
        **_failures(first, shown, calibration, seed, resamples),
        "audit": audit(people, dict(zip(names, others, strict=True)), HELD_OUT),
        "worst": hardest,
        "published": published([item.name for item in sets if not item.synthetic]),
    }
    say("writing the report")
    thumbnails = _thumbnails(shown, image_ids, hardest) if config.pictures else {}
    report = render(metrics, {item.name: _curves(item) for item in sets}, calibration, thumbnails, config.language)
    with writing(out) as folder:
        (folder / "metrics.json").write_bytes(canonical_json(metrics))
        if calibration is not None:
            (folder / "calibration.json").write_bytes(canonical_json(calibration.to_json()))
        (folder / "report.html").write_text(report, encoding="utf-8")
        write_scores(folder / "scores.parquet", sets, measured_on)
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
    scored: ScoredSet, dataset: FaceDataset, calibration: Calibration | None, seed: int, resamples: int
) -> dict[str, Any]:
    """Where the one threshold fails: by condition, by group, by quality; empty where there is no threshold."""
    if calibration is None:
        return {"breakdown": {}, "groups": [], "quality": {}}
    at = calibration.threshold
    facts = {column: dataset.column(column) for column in CONDITIONS}
    qualities = {column: dataset.column(column) for column in QUALITIES}
    everything = scored.everything
    return {
        "breakdown": breakdown(scored, facts, at, seed=seed, resamples=resamples),
        "groups": []
        if everything is None
        else groups(everything.counts, scored.groups, seed=seed, resamples=resamples),
        "quality": discards(scored, qualities, at),
    }


def check_disjoint(dataset: FaceDataset) -> None:
    """Refuse a dataset whose test or calibration people were trained on, or whose threshold was chosen on test people."""
    identities = np.asarray(dataset.column("identity"), dtype=object)
    people = {split: set(identities[dataset.rows(split)]) for split in SPLITS}
    for split, other in (("test", "train"), ("calibration", "train"), ("test", "calibration"), ("test", "validation")):
        shared = sorted(people[split] & people[other])
        if shared:
            names = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
            raise InputError(
                f"{dataset.path}: {len(shared)} people are in the {split} and the {other} split ({names}); "
                "figures from them would be a lie"
            )


def _names(benchmarks: Sequence[FaceDataset]) -> list[str]:
    """A name a benchmark, usable as a key of `metrics.json` and in the report's dotted paths."""
    names = [str(item.artifact.contents.get("name") or item.path.name).replace(".", "_") for item in benchmarks]
    for name, count in Counter([HELD_OUT, *names]).items():
        if count > 1:
            raise InputError(f"two sets are named {name!r}; each needs a name of its own")
    return names


def _calibration_pairs(dataset: FaceDataset, embed: Embed, seed: int, without_anchored: bool) -> AllPairs:
    rows = calibration_rows(dataset, seed=seed, without_anchored=without_anchored)
    return all_pairs(embed(rows), dataset.numpy("label")[rows])


def _held_out(dataset: FaceDataset, embed: Embed, threshold: float, seed: int, without_anchored: bool) -> ScoredSet:
    pairs = held_out_pairs(dataset, seed=seed, without_anchored=without_anchored)
    hashes = dataset.column("sha256")
    compared = [
        [hashes[left], hashes[right], bool(same)]
        for left, right, same in zip(pairs.left, pairs.right, pairs.same, strict=True)
    ]
    names = set(np.asarray(dataset.column("identity"), dtype=object)[dataset.rows("test")])
    rejected = [row for row in dataset.rejected() if row["identity"] in names]
    acquisition = _acquisition(rejected, len(dataset.rows("test")), None)
    # The digest names what was compared, so that two models are set against each other on the same pairs only.
    digest = sha256_bytes(canonical_json(compared))
    rows = split_rows(dataset, "test", without_anchored)
    embeddings = embed(rows)
    compared_rows = calibration_rows(dataset, "test", seed=seed, without_anchored=without_anchored, most=MAX_COUNTED)
    some = np.searchsorted(rows, compared_rows)
    everything = compare_everything(embeddings[some], dataset.numpy("label")[rows[some]], threshold, figures.FMR_LEVELS)
    scored = _score(HELD_OUT, "held-out", digest, dataset, pairs, rows, embeddings, acquisition)
    source, (_, first) = dataset.column("source"), np.unique(dataset.numpy("label")[rows[some]], return_index=True)
    return replace(scored, everything=everything, groups=tuple(source[row] for row in rows[some][first]))


def _benchmark(name: str, dataset: FaceDataset, pairs: Pairs, embed: Embed) -> ScoredSet:
    if len(pairs) == 0:
        raise InputError(f"{dataset.path}: its pairs.parquet holds no pair")
    acquisition = _acquisition(dataset.rejected(), len(dataset), dataset.artifact.contents.get("pairs_lost"))
    digest = dataset.artifact.digest
    rows = np.unique(np.concatenate([pairs.left, pairs.right]))
    return _score(name, "benchmark", digest, dataset, pairs, rows, embed(rows), acquisition)


def _score(
    name: str,
    kind: str,
    digest: str,
    dataset: FaceDataset,
    pairs: Pairs,
    rows: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    acquisition: Mapping[str, Any],
) -> ScoredSet:
    """Score the pairs; `embeddings` are those of `rows`, ascending, which hold every row of the pairs."""
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
        acquisition=acquisition,
    )


def _curves(scored: ScoredSet) -> Curves:
    """The scores that a set's plots show: all comparisons where they were made, else the pairs."""
    if scored.everything is not None:
        everything, filled = scored.everything, np.flatnonzero(scored.everything.impostor)
        return Curves(
            similarity_of(everything.bin),
            similarity_of(filled),
            everything.counts.subject_pairs,
            everything.person,
            everything.genuine,
            everything.impostor[filled],
        )
    genuine, impostor = scored.similarity[scored.same], scored.similarity[~scored.same]
    independent = len(impostor) if scored.subjects is None else scored.subjects.pairs(~scored.same)
    person = None if scored.subjects is None else scored.subjects.left[scored.same]
    return Curves(genuine, impostor, independent, person)


def _subjects(dataset: FaceDataset, pairs: Pairs) -> Subjects | None:
    """Whom the pairs compare, or None when the set does not know (or contradicts its own flags)."""
    if not dataset.artifact.contents.get("identities_known", True):
        return None
    identities = dataset.column("identity")
    left, right = [identities[row] for row in pairs.left], [identities[row] for row in pairs.right]
    agree = np.asarray([one == two for one, two in zip(left, right, strict=True)]) == pairs.same
    return Subjects.of(left, right) if agree.all() else None


def _acquisition(rejected: Sequence[Mapping[str, Any]], images: int, pairs_lost: int | None) -> dict[str, Any]:
    """Failure to acquire: images in which no usable face was found, and the pairs that a benchmark lost by it."""
    reasons = Counter(row["reason"] for row in rejected if not str(row["reason"]).startswith(_CHOICES))
    failed = sum(reasons.values())
    return {
        "images": images,
        "failed": failed,
        "rate": failed / (failed + images) if images else None,
        "by_reason": dict(sorted(reasons.items())),
        "pairs_lost": pairs_lost,
    }


def _describe(dataset: FaceDataset) -> dict[str, Any]:
    identities = np.asarray(dataset.column("identity"), dtype=object)
    splits = {}
    for split in SPLITS:
        rows = dataset.rows(split)
        splits[split] = {"images": len(rows), "identities": len(set(identities[rows]))}
    contents = dataset.artifact.contents
    return {
        "digest": dataset.artifact.digest,
        "synthetic": dataset.artifact.synthetic,
        "name": contents.get("name"),
        "images": contents["images"],
        "identities": contents["identities"],
        "rejected": contents["rejected"],
        "splits": splits,
    }


def _thumbnails(
    dataset: FaceDataset, image_ids: Sequence[str], worst: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, bytes]:
    wanted = {pair[side] for pairs in worst.values() for pair in pairs for side in ("left", "right")}
    return {name: dataset.read(row) for row, name in enumerate(image_ids) if name in wanted}


def _contents(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The headline figures, for the card and for logs."""
    if metrics["calibration"] is None:
        return {"model": metrics["model"]["digest"], "sets": sorted(metrics["sets"]), "threshold": None}
    held_out, calibration = metrics["sets"][HELD_OUT], metrics["calibration"]
    return {
        "model": metrics["model"]["digest"],
        "sets": sorted(metrics["sets"]),
        "threshold": calibration["threshold"],
        "fmr_target": calibration["fmr_target"],
        "held_out": {
            "accuracy": held_out["accuracy"]["mean"],
            "auc": held_out["auc"],
            "fmr": held_out["all_pairs"]["fmr"],
            "fnmr": held_out["all_pairs"]["fnmr"],
        },
    }

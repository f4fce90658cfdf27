"""The six steps at the places where their artifacts lie: paths or `s3://bucket/key`, in and out.

What a Kubeflow component and a command run alike. Each brings its inputs to the local disk, calls the step, publishes
what it made, and returns the facts that both print: artifact, digest, counts, seconds.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eolgul import storage
from eolgul.artifact import Artifact, open_artifact
from eolgul.errors import InputError
from eolgul.model.package import DetectorSettings

if TYPE_CHECKING:
    from eolgul.promote import Promotion
    from eolgul.registry.signing import SigningKey

Facts = dict[str, Any]
Progress = Callable[[int], None]


def extract(
    source: str,
    out: str,
    *,
    pairs: str | None = None,
    identities: str | None = None,
    without_identities: str | None = None,
    name: str | None = None,
    **options: Any,
) -> Facts:
    """Step 1. `options` are those of `eolgul.extract.extract`."""
    from eolgul.extract import extract as step

    started = time.monotonic()
    with storage.destination(out, [source]) as local:
        made = step(
            _raw(source),
            local,
            pairs=storage.fetch(pairs) if pairs else None,
            identities=storage.fetch(identities) if identities else None,
            without_identities=storage.fetch(without_identities) if without_identities else None,
            name=name or source_name(source),
            **options,
        )
    return _facts(made, out, started)


def export(dataset: str, out: str, *, to: str, **options: Any) -> Facts:
    """A FaceDataset in another format. `options` are those of `eolgul.export.export`.

    At an `s3://` place the card goes last, so what has one is whole; there nothing is ever replaced.
    """
    from eolgul.export import card_place
    from eolgul.export import export as step

    started = time.monotonic()
    local = storage.fetch(dataset)
    if not storage.is_s3(out):
        card = step(local, Path(out), to=to, **options)
    else:
        if storage.exists(out) or storage.exists(card_place(out, to)):
            raise InputError(f"{out}: something is there already; choose another place")
        with tempfile.TemporaryDirectory(prefix="eolgul-export-") as folder:
            made = Path(folder) / (out.rstrip("/").rpartition("/")[2] or "export")
            card = step(local, made, to=to, **options)
            file = Path(card_place(str(made), to))
            text = file.read_bytes()
            file.unlink()
            for beside in made.parent.glob(f"{made.name}.*") if to == "bin" else ():
                storage.publish(beside, f"{out}{beside.name.removeprefix(made.name)}")
            storage.publish(made, out)
            storage.write_bytes(card_place(out, to), text)
    counts = {key: value for key, value in card.items() if key not in ("kind", "version", "dataset", "files")}
    return {"artifact": out, "dataset": card["dataset"], **counts, "seconds": round(time.monotonic() - started, 3)}


def source_name(source: str) -> str:
    """What a source is called in manifests unless told otherwise: its folder's name, or its file's without ending."""
    path = Path(source.removeprefix("s3://").rstrip("/"))
    name = (
        path.parent.name
        if path.name == "train.rec"
        else path.stem
        if path.suffix in (".rec", ".bin", ".lst")
        else path.name
    )
    # A dot would blur the border between source and identity in an assembled dataset's names; spaces are no better.
    return re.sub(r"[^\w-]", "_", name) or "source"


def check_names(sources: Sequence[str]) -> None:
    """Refuse sources whose artifacts would overwrite each other: InputError names the two."""
    seen: dict[str, str] = {}
    for source in sources:
        other = seen.setdefault(source_name(source), source)
        if other != source:
            raise InputError(f"{other} and {source} are both called {source_name(source)!r}; rename one")


def align(
    dataset: str,
    out: str,
    *,
    settings: DetectorSettings,
    keep_aligned: bool = False,
    part: str = "",
    merge: Sequence[str] = (),
    sheet: Path | None = None,
    **options: Any,
) -> Facts:
    """Step 2. With `keep_aligned`, a dataset that is aligned already is handed on as it is instead of refused.

    `merge` are the places of all parts. `sheet` names a PNG for a contact sheet of the faces (and of the rejected beside
    it); `options` are those of `eolgul.align.step.align`.
    """
    from eolgul.align.step import align as step
    from eolgul.align.step import is_aligned
    from eolgul.dataset import FaceDataset
    from eolgul.inspection.alignment_sheet import sheets
    from eolgul.inspection.contact_sheet import check_name

    started = time.monotonic()
    if sheet:
        check_name(sheet)
        if part:
            raise InputError("sheet: a part has none, expected it with the merge")
    local = storage.fetch(dataset)
    if keep_aligned and is_aligned(open_artifact(local, "FaceDataset")):
        return _facts(open_artifact(local, "FaceDataset"), dataset, started)
    with storage.destination(out, [dataset, *merge]) as target:
        places = [storage.fetch(place) for place in merge]
        made = step(local, target, settings=settings, part=part, merge=places, **options)
        drawn = sheets(FaceDataset(local), FaceDataset(target), sheet) if sheet else []
    extra: Facts = {"sheets": [str(path) for path in drawn]} if drawn else {}
    return _facts(made, out, started) | {"rejected_by_reason": made.contents["rejected_by_reason"]} | extra


def assemble(datasets: Sequence[str], out: str, **options: Any) -> Facts:
    """Step 3. `options` are those of `eolgul.assemble.step.assemble`."""
    from eolgul.assemble.step import assemble as step

    started = time.monotonic()
    with storage.destination(out, datasets) as local:
        made = step([storage.fetch(dataset) for dataset in datasets], local, **options)
    return _facts(made, out, started) | {"splits": made.contents["splits"]}


def train(
    dataset: str,
    out: str,
    *,
    recipe: str,
    overrides: Sequence[str] = (),
    threads: int | None = None,
    checkpoints: str | None = None,
    **options: Any,
) -> Facts:
    """Step 4. `options` are those of `eolgul.train.loop.train`; `threads` caps torch's on this machine.

    Checkpoints lie beside `out` unless told otherwise: in S3 when `out` does, so that another machine can go on. Under
    torchrun every process calls this; each finds the package whole at the end, and publishing what is there is no work.
    """
    import torch

    from eolgul.train.loop import train as step
    from eolgul.train.recipe import Recipe

    started = time.monotonic()
    if threads:
        torch.set_num_threads(threads)
    loaded = Recipe.load(recipe, overrides)
    checkpoints = checkpoints or storage.join(out.rstrip("/").rpartition("/")[0] or ".", "checkpoints")
    with storage.destination(out, [dataset]) as local:
        made = step(storage.fetch(dataset), local, recipe=loaded, checkpoints=checkpoints, **options)
    if made is None:
        raise InputError("training was stopped before its end; run the same command again to go on from its checkpoint")
    return _facts(made, out, started) | {"best_epoch": made.contents["best_epoch"]}


def import_weights(weights: str, out: str, *, layout: str, backbone: str | None = None) -> Facts:
    """Published weights as a ModelPackage; `layout` and `backbone` as `eolgul.train.import_weights.import_weights` takes them."""
    from eolgul.train.import_weights import import_weights as step

    started = time.monotonic()
    with storage.destination(out, [weights]) as local:
        made = step(storage.fetch(weights), local, layout=layout, backbone=backbone)
    return _facts(made, out, started) | {"backbone": made.contents["backbone"]}


def evaluate(model: str, dataset: str, benchmarks: Sequence[str], out: str, **options: Any) -> Facts:
    """Step 5; `dataset` "" measures on the benchmarks alone. `options` are those of `eolgul.evaluate.step.evaluate`."""
    from eolgul.evaluate.step import evaluate as step
    from eolgul.evaluation.reader import read_metrics

    started = time.monotonic()
    places = [storage.fetch(item) for item in benchmarks]
    with storage.destination(out, [item for item in (model, dataset, *benchmarks) if item]) as local:
        made = step(storage.fetch(model), storage.fetch(dataset) if dataset else None, places, local, **options)
        metrics = read_metrics(local)
    return _facts(made, out, started) | {"metrics": metrics}


def evaluate_current(
    evaluation: str, dataset: str, benchmarks: Sequence[str], registry: str, out: str, **options: Any
) -> str:
    """Measure production's model on a candidate's data where `promote` will need that; the place of it, or ''."""
    from eolgul.promote import needs_current_evaluation
    from eolgul.registry.store import model_uri, read_production

    if not needs_current_evaluation(storage.fetch(evaluation), registry):
        return ""
    production = read_production(registry)
    assert production is not None
    evaluate(model_uri(registry, production.digest), dataset, benchmarks, out, **options)
    return out


def compare(candidate: str, current: str, *, seed: int = 0) -> Facts:
    """Two Evaluations on the same data: the paired difference of every figure, and whether the first would win."""
    from eolgul.evaluation.compare import compare as step

    return step(storage.fetch(candidate), storage.fetch(current), seed=seed)


def promote(
    model: str,
    evaluation: str,
    registry: str,
    *,
    current_evaluation: str = "",
    force: bool = False,
    signing_key: str | None = None,
) -> Facts:
    """Step 6. `signing_key` is a private key's file; None takes EOLGUL_SIGNING_KEY_FILE's, so that a component signs."""
    from eolgul.promote import promote as step

    started = time.monotonic()
    decided = step(
        storage.fetch(model),
        storage.fetch(evaluation),
        registry,
        current_evaluation=storage.fetch(current_evaluation) if current_evaluation else None,
        force=force,
        signing_key=_signing_key(signing_key),
    )
    return _decision(registry, decided, started)


def roll_back(registry: str, digest: str, *, signing_key: str | None = None) -> Facts:
    """An earlier model into production again; `digest` may be its beginning, `signing_key` as for `promote`."""
    from eolgul.promote import roll_back as step

    started = time.monotonic()
    return _decision(registry, step(registry, digest, signing_key=_signing_key(signing_key)), started)


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
        beside = [f"{stem}.idx", "property", "synthetic.json"] if name.endswith(".rec") else [f"{name}.synthetic.json"]
        for other in beside:
            if storage.exists(f"{folder}/{other}"):
                storage.fetch(f"{folder}/{other}")
            else:  # nor is an old copy of what S3 had once
                local.with_name(other).unlink(missing_ok=True)
    return local


def _facts(artifact: Artifact, place: str, started: float) -> Facts:
    counts: Facts = {
        key: artifact.contents[key] for key in ("images", "identities", "rejected") if key in artifact.contents
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

"""The extraction itself: plan the source, write its parts with as many workers as are given, put them together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.dataset import SHARD_BYTES, DatasetBuild, build_dataset
from eolgul.errors import InputError
from eolgul.extract import sources, trees
from eolgul.extract.sources import KINDS, SYNTHETIC_MARK, Options, Plan, detect_kind
from eolgul.extract.worker import Progress, digest, write_shards
from eolgul.files import sha256_file
from eolgul.formats import kface, lfw

VERSION = 1  # of the results: raise it when the same inputs and recipe give others
_PLANS: dict[str, Callable[[Path, Options], Plan]] = {
    "rec": sources.plan_rec,
    "bin": sources.plan_bin,
    "kface": trees.plan_kface,
    "folders": trees.plan_folders,
    "lst": trees.plan_lst,
    "carrays": sources.plan_carrays,
}
_FILES = {"rec": "a .rec file", "bin": "a .bin file", "lst": "a .lst file"}
_FOLDERS = {"kface": "a K-FACE tree", "folders": "identity folders", "carrays": "a carray's folder"}


def extract(
    source: Path,
    out: Path,
    *,
    kind: str = "auto",
    name: str | None = None,
    pairs: Path | None = None,
    selection: str | None = None,
    identities: Path | None = None,
    without_identities: Path | None = None,
    min_images: int = 1,
    max_identities: int | None = None,
    max_images_per_identity: int | None = None,
    part: str | None = None,
    reader: str = "own",
    any_size: bool = False,
    verify: bool = False,
    workers: int = 2,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Artifact:
    """Turn a raw source into a FaceDataset at `out`, and return it; an equal one already there is kept.

    An extraction that was killed goes on from its last whole shards when it is asked for again; the result is the same,
    byte for byte, whatever the number of `workers` (processes).

    Args:
        kind: one of KINDS, or "auto" to go by the source's names.
        name: the source's name in the manifest (default: the file's or folder's).
        pairs: makes a Benchmark (as a `.bin` and a carray always are): an LFW `pairs.txt` over identity folders, or a
            published K-FACE pair list (Q1…Q4) over a K-FACE tree.
        selection: (kface) limits the conditions: a preset or `lights=L1-L3 cameras=C5-C10 …`.
        identities, without_identities: (kface, folders) files with an identity a line: only those, all but those.
        min_images, max_identities, max_images_per_identity: (folders) leave out identities with fewer images, then take
            the first ones by name.
        part: (rec) "i/n" takes the records that begin in the i-th of n byte ranges, so that n machines share a file.
        reader: (rec) "own", or "mxnet" to let mxnet's own reader read the records.
        any_size: take images whose size is not the one that the format states (property, K-FACE's resolutions).
        verify: decode every image; without it their structure is looked at (header, size, end).

    Raises:
        InputError: for a source that is not readable, options that do not fit it, or a disk that is full.
    """
    if kind == "auto":
        kind = detect_kind(source)
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}: expected one of auto, {', '.join(KINDS)}")
    if kind == "rec" and source.is_dir():
        source = source / "train.rec"
    if kind in _FILES and not source.is_file():
        raise InputError(f"{source}: no such file, expected {_FILES[kind]}")
    if kind in _FOLDERS and not source.is_dir():
        raise InputError(f"{source}: no such folder, expected {_FOLDERS[kind]}")
    _check(kind, source, pairs=pairs, selection=selection, part=part, reader=reader, identities=identities)
    name = name or (
        source.parent.name if source.name == "train.rec" else source.stem if source.is_file() else source.name
    )
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"name {name!r}: expected letters, digits, '_' and '-' only")
    wanted = _pairs(kind, pairs, selection) if pairs else None
    options = Options(
        selection=selection,
        identities=frozenset(kface.read_identities(identities)) if identities else None,
        without_identities=frozenset(kface.read_identities(without_identities)) if without_identities else frozenset(),
        min_images=min_images,
        max_identities=max_identities,
        max_images_per_identity=max_images_per_identity,
        part=_part(part) if part else None,
        reader=reader,
        any_size=any_size,
        shard_bytes=shard_bytes,
    )
    recipe = {
        "kind": kind,
        "name": name,
        "selection": selection,
        "identities": sha256_file(identities) if identities else None,
        "without_identities": sha256_file(without_identities) if without_identities else None,
        "min_images": min_images,
        "max_identities": max_identities,
        "max_images_per_identity": max_images_per_identity,
        "pairs": sha256_file(pairs) if pairs else None,
        "part": part,
        "any_size": any_size,
        "verify": verify,
        "shard_bytes": shard_bytes,
    }
    plan = _PLANS[kind](source, options)
    mark = _mark(source)
    if mark.is_file():
        plan.also.append(mark)
    synthetic = mark.is_file() and _says_synthetic(mark)
    if (out / "dataset.json").is_file():
        done = reuse(
            out,
            "FaceDataset",
            step="extract",
            version=VERSION,
            recipe=recipe,
            inputs=_inputs(kind, digest(plan, workers)),
        )
        if done is not None:
            return done
    job = {"step": "extract", "recipe": recipe, "reader": reader, "stamp": plan.stamp, "version": VERSION}
    with build_dataset(out, job) as build:
        wanted = plan.pairs if wanted is None else wanted
        ids = {image for pair in wanted or () for image in pair[:2]}
        rows, read = write_shards(build, plan, name, wanted=ids, verify=verify, workers=workers, progress=progress)
        facts = {"name": name, "identities_known": plan.identities_known, "aligned": plan.aligned, "verified": verify}
        if wanted is not None:
            facts |= _write_pairs(build, rows, wanted)
        build.seal(
            step="extract", version=VERSION, recipe=recipe, inputs=_inputs(kind, read), synthetic=synthetic, facts=facts
        )
    return open_artifact(out)


def _check(
    kind: str,
    source: Path,
    *,
    pairs: Path | None,
    selection: str | None,
    part: str | None,
    reader: str,
    identities: Path | None,
) -> None:
    """Refuse options that the source's kind would not listen to."""
    if pairs is not None and kind not in ("folders", "kface"):
        raise InputError(f"pairs {pairs}: a pair list belongs to identity folders or a K-FACE tree, {source} is {kind}")
    if identities is not None and kind not in ("folders", "kface"):
        raise InputError(f"identities {identities}: chosen from folders or a K-FACE tree, {source} is {kind}")
    if part is not None and kind != "rec":
        raise InputError(f"part {part}: only a .rec is shared out by byte ranges, {source} is {kind}")
    if reader not in ("own", "mxnet") or (reader == "mxnet" and kind != "rec"):
        raise InputError(f"reader {reader!r}: expected own, or mxnet for a .rec")
    if selection is not None and kind == "kface":
        kface.Selection.parse(selection)


def _part(part: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", part)
    if not match or int(match[1]) > int(match[2]):
        raise InputError(f"part {part!r}: expected i/n with 1 <= i <= n")
    return int(match[1]), int(match[2])


def _pairs(kind: str, pairs: Path, selection: str | None) -> list[tuple[str, str, bool, int]]:
    """The wanted pairs by image id, with their folds."""
    if kind == "folders":
        return list(lfw.read_pairs(pairs))
    resolutions = kface.Selection.parse(selection).resolutions if selection else ("Middle",)
    if len(resolutions) != 1:
        raise InputError(f"pairs {pairs}: they name no resolution; choose one with the selection")
    return list(kface.read_kface_pairs(pairs, resolutions[0]))


def _inputs(kind: str, digest: str) -> list[dict[str, str]]:
    return [{"kind": f"raw:{kind}", "digest": digest}]


def _write_pairs(build: DatasetBuild, rows: dict[str, int], wanted: list[tuple[str, str, bool, int]]) -> dict[str, Any]:
    """Pairs whose two images were kept; the others are counted as lost, never dropped silently."""
    kept = [
        (rows[left], rows[right], same, fold) for left, right, same, fold in wanted if left in rows and right in rows
    ]
    left, right, same, fold = zip(*kept, strict=True) if kept else ((), (), (), ())
    build.write_pairs(left, right, same, fold)
    return {"pairs": len(kept), "pairs_lost": len(wanted) - len(kept)}


def _mark(source: Path) -> Path:
    """Where `eolgul.synth` leaves its mark for a source."""
    if source.suffix == ".bin":
        return source.with_name(f"{source.name}.{SYNTHETIC_MARK}")
    return (source if source.is_dir() else source.parent) / SYNTHETIC_MARK


def _says_synthetic(mark: Path) -> bool:
    try:
        return bool(json.loads(mark.read_bytes())["synthetic"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{mark}: expected JSON with a 'synthetic' flag") from error

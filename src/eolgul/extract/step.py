"""The extraction itself: plan the source, write its parts with as many workers as are given, put them together."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.config import Progress, count_up
from eolgul.dataset import build_dataset
from eolgul.errors import InputError, printable
from eolgul.extract import kface_tree, sources, trees
from eolgul.extract.about import VERSION, About
from eolgul.extract.appearance import SAMPLE, look_at
from eolgul.extract.benchmark import read_list, write_pairs
from eolgul.extract.config import ExtractConfig, source_name
from eolgul.extract.kinds import is_archive, kind_of
from eolgul.extract.plan import Plan
from eolgul.extract.worker import Checks, also_read, digest, write_shards
from eolgul.formats import archives
from eolgul.formats.synthetic import mark_of
from eolgul.storage.far import FarFolder
from eolgul.storage.ranges import Ranges

_logger = logging.getLogger("eolgul.extract")
_PLANS: dict[str, Callable[[Path, ExtractConfig], Plan]] = {
    "rec": sources.plan_rec,
    "bin": sources.plan_bin,
    "lst": trees.plan_lst,
    "carrays": sources.plan_carrays,
}
_FILES = {"rec": "a .rec file", "bin": "a .bin file", "lst": "a .lst file"}
_TREES = {"kface": kface_tree.plan_kface, "folders": trees.plan_folders}  # which may lie in an archive or in S3
_FOLDERS = {"kface": "a K-FACE tree", "folders": "identity folders", "carrays": "a carray's folder"}


def extract(
    source: Path,
    out: Path,
    config: ExtractConfig = ExtractConfig(),
    *,
    far: FarFolder | Ranges | None = None,
    stamp: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Turn a raw source into a FaceDataset at `out`, and return it; an equal one already there is kept.

    An extraction that was killed goes on from its last whole shards when it is asked for again; the result is the same,
    byte for byte, whatever the number of worker processes.

    With `share`, only that share of the shards is written, into a FaceDataset for `eolgul.extract.merge`; it may have no image.

    Memory: the plan of the share (`plan_rec`, `plan_folders`, `plan_kface`) and, per worker, the rows of one shard.

    Args:
        source: A file or folder on the local disk.
        out: Where the FaceDataset goes.
        far: A folder in S3 whose images are read where they lie; `source` is the place of its copies on the local disk, with
            its small files. Or which bytes of a `.rec` are here.
        config: The options. `pairs`, `identities` and `without_identities` are files on the local disk.
        stamp: What the source's content is known by, for parts that another machine has finished; by default names, sizes
            and times of the files here.
        progress: Called with (images read by this call, None).

    Raises:
        InputError: for a source that is not readable, options that do not fit it, or a disk that is full.
    """
    try:
        return _extract(source, far, out, config, stamp, progress)
    finally:
        archives.forget()


def _extract(
    source: Path,
    far: FarFolder | Ranges | None,
    out: Path,
    config: ExtractConfig,
    stamp: str | None,
    progress: Progress | None,
) -> Artifact:
    kind = kind_of(source, config, far if isinstance(far, FarFolder) else None)
    if kind == "rec" and source.is_dir():
        source = source / "train.rec"
    if kind in _FILES and not source.is_file():
        raise InputError(f"{source}: no such file, expected {_FILES[kind]}")
    if kind in _FOLDERS and not source.is_dir() and not (kind in _TREES and is_archive(source)):
        raise InputError(f"{source}: no such folder, expected {_FOLDERS[kind]}")
    config.check_kind(kind, source)
    name = config.name or source_name(source)
    listed = read_list(kind, config) if config.pairs else None
    recipe = config.to_recipe() | {"kind": kind, "name": name}
    plan = plan_source(kind, source, config, far)
    for warning in plan.warnings:
        _logger.warning("%s", printable(f"{source}: {warning}"))
    mark = mark_of(source)
    if mark.is_file():
        plan.also.append(mark)
    about = About.of(plan, kind, synthetic=mark.is_file() and _says_synthetic(mark), stamp=stamp or plan.stamp)
    if (out / "dataset.json").is_file():
        done = reuse(
            out,
            "FaceDataset",
            step="extract",
            version=VERSION,
            recipe=recipe,
            inputs=about.inputs(digest(plan, config.workers)),
        )
        if done is not None:
            return done
    job = {"step": "extract", "recipe": recipe, "reader": config.reader, "stamp": about.stamp, "version": VERSION}
    with build_dataset(out, job) as build:
        write_shards(build, plan, name, checks=Checks.of(config), workers=config.workers, progress=count_up(progress))
        facts: dict[str, Any] = {"name": name, "identities_known": about.identities_known}
        if config.share:  # what concerns the whole, the merged one gets
            _, read = build.finish(plan.numbers, also_read=also_read(plan), may_be_empty=True)
            build.keep_lines(plan.numbers)
            facts |= {"part": config.share, "aligned": about.aligned, "plan": about.to_json()}
        else:
            _, read = build.finish(plan.numbers, also_read=also_read(plan))
            facts |= about.facts_of(config, build.counted)
            facts |= look_at(build.sample(SAMPLE), source, config, aligned=about.aligned is not None)
            pairs = plan.pairs if listed is None else listed
            if pairs is not None:
                facts |= write_pairs(build, pairs, config)
        build.seal(
            step="extract",
            version=VERSION,
            recipe=recipe,
            inputs=about.inputs(read),
            synthetic=about.synthetic,
            facts=facts,
        )
    return open_artifact(out)


def plan_source(kind: str, source: Path, config: ExtractConfig, far: FarFolder | Ranges | None = None) -> Plan:
    """What would be extracted from a source of a known kind, from names, sizes and indexes; `far` as `extract` takes it."""
    if isinstance(far, Ranges):
        return sources.plan_rec(source, config, far)
    return _TREES[kind](source, config, far) if kind in _TREES else _PLANS[kind](source, config)


def _says_synthetic(mark: Path) -> bool:
    try:
        return bool(json.loads(mark.read_bytes())["synthetic"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{mark}: expected JSON with a 'synthetic' flag") from error

"""Steps 1 to 3 at the places where their artifacts lie: extract, align, assemble; and what is made from a data set."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eolgul import storage
from eolgul.align.config import AlignConfig
from eolgul.artifact import Artifact
from eolgul.assemble.config import AssembleConfig
from eolgul.audit.config import AuditConfig
from eolgul.config import Progress, count_up
from eolgul.errors import InputError
from eolgul.extract.config import FILES, PEOPLE_FACTS, ExtractConfig, source_name
from eolgul.steps.places import Facts, bring, bring_tables, card_of, facts_of, open_raw, place_of, places_of, stamp
from eolgul.steps.rec_parts import part_of_rec


def extract(
    source: str,
    out: str,
    config: ExtractConfig = ExtractConfig(),
    *,
    known_by: str | None = None,
    merge: Sequence[str] = (),
    refer: bool = False,
    progress: Progress | None = None,
) -> Facts:
    """Step 1: a raw source → FaceDataset. Files that `config` names are paths or `s3://` places, too.

    Args:
        source: The source's place.
        out: Where the result goes.
        config: The options.
        known_by: What the source's content is known by, as the step's `stamp`.
        merge: The places of all shares, which are put together; then the source is not read.
        refer: The result goes to S3 from the local place `out`, without the shards of shares that lie in S3.
        progress: As the step's.
    """
    from eolgul.extract.step import extract as step

    started = time.monotonic()
    config = with_local_files(replace(config, name=config.name or source_name(source)))
    if (
        config.share and known_by is None and storage.is_s3(source)
    ):  # by which the merge knows that shares are of one source
        known_by = stamp(source)
    far = [item for item in merge if storage.is_s3(item)] if refer or storage.is_s3(out) else []
    with storage.destination(out, places_of([source, *merge]), refer_to=places_of(far)) as target:
        made = _merged(merge, far, source, target, config) if merge else None
        made = made or _of_part(source, target, config, known_by, progress)
        if made is None:
            local, tree = open_raw(source, config.kind)
            made = step(local, target, config, far=tree, stamp=known_by, progress=progress)
    counted = ("inputs", "passed_over", *PEOPLE_FACTS)
    return facts_of(made, out, started) | {name: made.contents[name] for name in counted if name in made.contents}


def _merged(merge: Sequence[str], far: Sequence[str], source: str, target: Path, config: ExtractConfig) -> Artifact:
    from eolgul.dataset import FaceDataset
    from eolgul.extract.merge import merge as step

    shares, elsewhere = [], []
    for item in merge:
        local, shards = bring_tables(item) if item in far else (bring(item), None)
        shares.append(FaceDataset(local, shards=shards))
        if shards is not None:
            elsewhere.append(local)
    return step(shares, Path(source), target, config, elsewhere=elsewhere)


def _of_part(
    source: str, target: Path, config: ExtractConfig, known_by: str | None, progress: Progress | None
) -> Artifact | None:
    """Extract a part or a share of a `.rec` in S3 from its byte ranges; None where that is not possible."""
    from eolgul.extract.step import extract as step
    from eolgul.formats.rec_index import PartialError

    if (
        (config.part is None and config.share is None)
        or not storage.is_s3(source)
        or config.kind not in ("auto", "rec")
    ):
        return None
    with part_of_rec(source, config) as found:
        if found is None:
            return None
        try:
            return step(found[0], target, config, far=found[1], stamp=known_by or stamp(source), progress=progress)
        except PartialError:
            return None


def with_local_files(config: ExtractConfig) -> ExtractConfig:
    """The options with the local paths of the files that they name."""
    local: dict[str, Any] = {name: str(bring(place)) for name in FILES if (place := getattr(config, name))}
    if config.root:
        local["root"] = str(storage.fetch(config.root))
    return replace(config, **local)


def align(
    dataset: str,
    out: str,
    config: AlignConfig = AlignConfig(),
    *,
    merge: Sequence[str] = (),
    keep_aligned: bool = False,
    sheet: Path | None = None,
    refer: bool = False,
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
        refer: The result goes to S3 from the local place `out`, without the shards of parts that lie in S3.
        progress: Called with (images done, images in all).
    """
    from eolgul.align.step import align as step
    from eolgul.align.step import is_aligned
    from eolgul.dataset import SHARDS, FaceDataset
    from eolgul.inspection.alignment_sheet import sheets
    from eolgul.inspection.contact_sheet import check_name

    started = time.monotonic()
    if sheet:
        check_name(sheet)
        if config.part:
            raise InputError("sheet: a part has no sheet; expected it with the merge")
    card = card_of(dataset)
    if keep_aligned and is_aligned(card):
        return facts_of(card, place_of(dataset), started)
    local, shards = bring_tables(dataset)
    far = [item for item in merge if storage.is_s3(item)] if (refer or storage.is_s3(out)) and not sheet else []
    with storage.destination(out, places_of([dataset, *merge]), refer_to=places_of(far)) as target:
        parts = {item: bring(item, without=(SHARDS,) if item in far else ()) for item in merge}
        made = step(local, target, config, shards=shards, merge=list(parts.values()),
                    elsewhere=[parts[item] for item in far], may_be_unused=keep_aligned, progress=progress)  # fmt: skip
        drawn = sheets(FaceDataset(local, shards=shards), FaceDataset(target), sheet) if sheet else []
    extra: Facts = {"sheets": [str(path) for path in drawn]} if drawn else {}
    return facts_of(made, out, started) | {"rejected_by_reason": made.contents["rejected_by_reason"]} | extra


def check_alignment(datasets: Sequence[str], config: AlignConfig) -> None:
    """Refuse options that are for none of several datasets: InputError says what they are for."""
    from eolgul.align.step import is_aligned, unused
    from eolgul.dataset import SHARDS, FaceDataset

    opened = [FaceDataset(bring(dataset, without=(SHARDS,)), images=False) for dataset in datasets]
    wrong = [unused(dataset, config) for dataset in opened if not is_aligned(dataset.artifact)]
    if wrong and all(wrong):
        raise InputError(wrong[0])


def assemble(
    datasets: Sequence[str],
    out: str,
    config: AssembleConfig = AssembleConfig(),
    *,
    refer: bool = False,
    progress: Progress | None = None,
) -> Facts:
    """Step 3: aligned FaceDatasets → one FaceDataset with splits.

    With `refer`, the result goes to S3 from the local place `out`, without the shards of datasets that lie in S3.
    """
    from eolgul.assemble.step import assemble as step
    from eolgul.dataset import SHARDS

    started = time.monotonic()
    config = replace(config, exclude=tuple(str(bring(place)) for place in config.exclude))
    # From S3 to S3 no image passes through this machine: the result refers to the objects of the datasets.
    far = (
        [item for item in datasets if storage.is_s3(item)] if (refer or storage.is_s3(out)) and not config.copy else []
    )
    inputs = places_of([*datasets, *config.exclude])
    with storage.destination(out, inputs, refer_to=places_of(far)) as local:
        paths = [bring(item, without=(SHARDS,) if item in far else ()) for item in datasets]
        elsewhere = [path for path, item in zip(paths, datasets, strict=True) if item in far]
        made = step(paths, local, config, elsewhere=elsewhere, progress=progress)
    told = ("splits", "held_back", "excluded", "warnings")
    return facts_of(made, out, started) | {key: made.contents[key] for key in told if key in made.contents}


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
    with storage.destination(out, places_of([*train, *against, model])) as local:
        made = step(
            [bring(place) for place in train],
            [bring(place) for place in against],
            local,
            config,
            model=bring(model) if model else None,
            progress=progress,
        )
    return facts_of(made, out, started) | {key: made.contents[key] for key in ("people", "found", "excluded")}


def export(dataset: str, out: str, *, to: str, split: str | None = None, progress: Progress | None = None) -> Facts:
    """Write a FaceDataset in another format; `to` and `split` as `eolgul.export.export` takes them.

    At an `s3://` place the card goes last, so what has one is whole; there nothing is ever replaced.
    """
    from eolgul.export import card_place
    from eolgul.export import export as step

    started = time.monotonic()
    local = bring(dataset)
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

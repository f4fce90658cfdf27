"""Summarise a place for `eolgul inspect`: the card of an artifact, the state of a registry, or the counts of a raw source."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eolgul import storage
from eolgul.artifact import CARDS, open_artifact
from eolgul.dataset import SHARDS, FaceDataset
from eolgul.errors import InputError, printable
from eolgul.extract.kinds import detect_kind
from eolgul.formats.synthetic import mark_of
from eolgul.images.header import read_header
from eolgul.inspection.collection import FIRST, Collection, from_bin, from_carray, from_dataset, from_files, from_rec
from eolgul.inspection.contact_sheet import check_name, write_sheet
from eolgul.registry.store import read_production

_LOOKED_AT = 400  # images of a raw source whose header is read, evenly chosen; a manifest knows all sizes
_SIZES = 5
_ABOUT = ("step", "version", "recipe", "inputs", "contents", "synthetic")  # keys of a card
_RAW = (".rec", ".bin", ".lst")


def inspect(place: str, sheet: Path | None = None, *, check: bool = False) -> dict[str, Any]:
    """Collect the facts about an artifact, a registry or a raw source.

    Args:
        place: Path or `s3://`.
        sheet: Where a contact sheet (PNG) goes, if one is wanted.
        check: Hash the images of a FaceDataset too, which are tens of gigabytes of a large one, and not only the other
            files; of the shards only the lengths are compared otherwise.

    Raises:
        InputError: The place holds nothing that eolgul knows, no images for a sheet or to check, or a file differs from
            the card.
    """
    if sheet is not None:
        check_name(sheet)
    production = read_production(place) if not place.endswith(_RAW) else None
    if production is not None:
        facts: dict[str, Any] = {"kind": "Registry", "production": asdict(production)}
        collection = None
    else:
        tables = not check and sheet is None and _is_dataset_in_s3(place)  # 35 GB need not come here for one screen
        facts, collection = _look(
            storage.fetch(place, without=(SHARDS,) if tables else ()), check=check, images=not tables
        )
    if check and facts["kind"] not in CARDS:
        raise InputError(f"{place}: check: a {facts['kind']} has no card to compare its files with")
    if sheet is not None:
        if collection is None:
            raise InputError(f"{place}: a {facts['kind']} has no images for a contact sheet")
        write_sheet(collection, sheet, f"{facts['kind']}  {place}", synthetic=bool(facts.get("synthetic")))
        facts["sheet"] = str(sheet)
    return facts


def _is_dataset_in_s3(place: str) -> bool:
    return storage.is_s3(place) and storage.read_bytes(storage.join(place, CARDS["FaceDataset"])) is not None


def _look(path: Path, *, check: bool, images: bool = True) -> tuple[dict[str, Any], Collection | None]:
    if path.is_dir() and any((path / card).is_file() for card in CARDS.values()):
        if images and not check:
            open_artifact(path)  # whether each file is there, with its length
        artifact = open_artifact(path, check="sha256", without=() if check else (SHARDS,))
        about = {key: artifact.card[key] for key in _ABOUT if key in artifact.card}
        facts = {"kind": artifact.kind, "digest": artifact.digest, "files": len(artifact.card["files"]), **about}
        if artifact.kind != "FaceDataset":
            return facts, None
        collection = from_dataset(FaceDataset(path, images=images))
        return facts | {"images_checked": check} | counts_of(collection), collection
    kind = detect_kind(path)
    if kind == "rec":
        collection = from_rec(path / "train.rec" if path.is_dir() else path)
    elif kind == "bin":
        collection = from_bin(path)
    elif kind == "carrays":
        collection = from_carray(path)
    else:
        collection = from_files(path, kind)
    facts = {"kind": f"raw:{kind}", "synthetic": mark_of(path).is_file()}
    return facts | collection.facts | counts_of(collection), collection


def counts_of(collection: Collection) -> dict[str, Any]:
    """Counts, sizes, images per identity, and the first problems, as JSON values."""
    each = np.unique(collection.identities, return_counts=True)[1]
    seen: Counter[str] = Counter()
    if collection.shapes is not None:
        width, height = collection.shapes.T.astype(np.int64)
        shapes, counts = np.unique(width << 32 | height, return_counts=True)  # one number sorts faster than two
        seen.update({f"{s >> 32}x{s & 0xFFFFFFFF}": n for s, n in zip(shapes.tolist(), counts.tolist(), strict=True)})
    elif collection.encoded is not None:
        chosen = np.unique(np.linspace(0, len(collection) - 1, _LOOKED_AT).astype(np.int64)) if len(collection) else ()
        for number in chosen:
            try:
                info = read_header(collection.encoded(int(number)))
                seen[f"{info.width}x{info.height}"] += 1
            except InputError as error:  # it counts as an image nevertheless, since only some are read
                if len(collection.problems) < FIRST:
                    collection.problems.append(f"{collection.place(int(number))}: {error.code}, {error}")
    facts: dict[str, Any] = {
        "images": len(collection),
        "identities": len(each) if collection.identities_known else None,
        "looked_at": sum(seen.values()),
        "widths_and_heights": dict(seen.most_common(_SIZES)),
        "more_sizes": max(0, len(seen) - _SIZES),
    }
    if len(collection.sizes):
        facts["bytes"] = _spread(collection.sizes) | {"all": int(collection.sizes.sum())}
    if collection.identities_known and len(each):
        facts["images_per_identity"] = _spread(each) | {"histogram": _histogram(each)}
    facts["rejected_by_reason"] = dict(sorted(collection.rejected.items()))
    facts["problems"] = collection.problems
    return facts


def _spread(values: Any) -> dict[str, int]:
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def _histogram(each: Any) -> list[dict[str, int]]:
    """Count identities by their number of images, in classes that double: 1, 2, 3-4, 5-8, and so on."""
    classes = np.ceil(np.log2(each)).astype(int)
    return [
        {"from": 2 ** (power - 1) + 1 if power else 1, "to": 2**power, "identities": int((classes == power).sum())}
        for power in range(classes.min(), classes.max() + 1)
    ]


def render(facts: dict[str, Any]) -> str:
    """Format the facts as text, at most one screen."""
    rest = dict(facts)
    lines = [f"{rest.pop('kind')}{'   SYNTHETIC: nobody in it exists' if rest.pop('synthetic', False) else ''}"]
    if "images" not in rest:
        return "\n".join([*lines, *(f"  {name:<14}{_short(value)}" for name, value in rest.items())])
    images, identities, contents = rest.pop("images"), rest.pop("identities"), rest.pop("contents", {})
    who = f"{identities:,} identities" if identities is not None else "pairs; identities not known"
    lines.append(f"  {'images':<14}{images:,} of {who}")
    looked_at, more = rest.pop("looked_at"), rest.pop("more_sizes")
    shapes = ", ".join(f"{shape} ({count:,})" for shape, count in rest.pop("widths_and_heights").items())
    of = f" of {looked_at} read" if looked_at < images else ""
    lines.append(f"  {'size, pixels':<14}{shapes or 'not known'}{f' and {more} more' if more else ''}{of}")
    size = rest.pop("bytes", None)
    if size:
        lines.append(
            f"  {'size, bytes':<14}min {size['min']:,}, median {size['median']:,}, max {size['max']:,}; {size['all']:,} in all"
        )
    each, rejected, problems = (
        rest.pop(name, None) for name in ("images_per_identity", "rejected_by_reason", "problems")
    )
    lines += [f"  {name:<14}{_short(value)}" for name, value in rest.items()]
    for name in ("name", "aligned", "benchmark", "pairs", "pairs_lost", "splits"):
        if contents.get(name) not in (None, False):
            lines.append(f"  {name:<14}{_short(contents[name])}")
    if each:
        lines += ["", f"  images per identity: min {each['min']}, median {each['median']}, max {each['max']}"]
        top = max(row["identities"] for row in each["histogram"])
        for row in each["histogram"]:
            label = str(row["to"]) if row["from"] >= row["to"] else f"{row['from']}-{row['to']}"
            bar = "█" * max(round(40 * row["identities"] / top), 1 if row["identities"] else 0)
            lines.append(f"  {label:>12}  {row['identities']:>9,}  {bar}")
    total = sum((rejected or {}).values())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in (rejected or {}).items())
    lines += ["", f"  rejected: {total:,}{f' ({reasons})' if reasons else ''}"]
    if problems:
        lines += ["  first problems:", *(f"    {_short(problem)}" for problem in problems)]
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    width = max(40, shutil.get_terminal_size().columns - 18)
    return text if len(text) <= width else text[: width - 1] + "…"

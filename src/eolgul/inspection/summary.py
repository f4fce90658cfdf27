"""What `eolgul inspect` says of a place: an artifact's card, a registry's state, a raw source's outline, on one screen."""

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
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract import SYNTHETIC_MARK, detect_kind
from eolgul.images.header import outline
from eolgul.inspection.collection import FIRST, Gallery, of_bin, of_carray, of_dataset, of_files, of_rec
from eolgul.inspection.contact_sheet import check_name, write_sheet
from eolgul.registry.store import read_production

_LOOKED_AT = 400  # images of a raw source whose header is read, evenly chosen; a dataset's manifest knows them all
_SIZES = 5
_ABOUT = ("step", "version", "recipe", "inputs", "contents", "synthetic")  # keys of a card
_RAW = (".rec", ".bin", ".lst")


def inspect(place: str, sheet: Path | None = None) -> dict[str, Any]:
    """Facts about what lies at `place` (path or `s3://`), and its contact sheet at `sheet` (PNG) if that is given.

    InputError when it is nothing this project knows, or has no images for a sheet.
    """
    if sheet is not None:
        check_name(sheet)
    production = read_production(place) if not place.endswith(_RAW) else None
    if production is not None:
        facts: dict[str, Any] = {"kind": "Registry", "production": asdict(production)}
        gallery = None
    else:
        facts, gallery = _look(storage.fetch(place))
    if sheet is not None:
        if gallery is None:
            raise InputError(f"{place}: a {facts['kind']} has no images for a contact sheet")
        write_sheet(gallery, sheet, f"{facts['kind']}  {place}", synthetic=bool(facts.get("synthetic")))
        facts["sheet"] = str(sheet)
    return facts


def _look(path: Path) -> tuple[dict[str, Any], Gallery | None]:
    if path.is_dir() and any((path / card).is_file() for card in CARDS.values()):
        artifact = open_artifact(path, check="sha256")
        about = {key: artifact.card[key] for key in _ABOUT if key in artifact.card}
        facts = {"kind": artifact.kind, "digest": artifact.digest, "files": len(artifact.card["files"]), **about}
        if artifact.kind != "FaceDataset":
            return facts, None
        gallery = of_dataset(FaceDataset(path))
        return facts | outline_of(gallery), gallery
    kind = detect_kind(path)
    if kind == "rec":
        gallery = of_rec(path / "train.rec" if path.is_dir() else path)
    elif kind == "bin":
        gallery = of_bin(path)
    elif kind == "carrays":
        gallery = of_carray(path)
    else:
        gallery = of_files(path, kind)
    beside = path.with_name(f"{path.name}.{SYNTHETIC_MARK}")
    mark = beside if kind == "bin" else (path if path.is_dir() else path.parent) / SYNTHETIC_MARK
    facts = {"kind": f"raw:{kind}", "synthetic": mark.is_file()}
    return facts | gallery.facts | outline_of(gallery), gallery


def outline_of(gallery: Gallery) -> dict[str, Any]:
    """Counts, sizes, images an identity, and the first problems, as JSON values."""
    each = np.unique(gallery.identities, return_counts=True)[1]
    seen: Counter[str] = Counter()
    if gallery.shapes is not None:
        shapes, counts = np.unique(gallery.shapes, axis=0, return_counts=True)
        seen.update({f"{w}x{h}": int(n) for (w, h), n in zip(shapes.tolist(), counts.tolist(), strict=True)})
    elif gallery.encoded is not None:
        chosen = np.unique(np.linspace(0, len(gallery) - 1, _LOOKED_AT).astype(np.int64)) if len(gallery) else ()
        for number in chosen:
            try:
                info = outline(gallery.encoded(int(number)))
                seen[f"{info.width}x{info.height}"] += 1
            except InputError as error:  # counted as an image all the same: only some were looked at
                if len(gallery.problems) < FIRST:
                    gallery.problems.append(f"{gallery.place(int(number))}: {error.code}, {error}")
    facts: dict[str, Any] = {
        "images": len(gallery),
        "identities": len(each) if gallery.identities_known else None,
        "looked_at": sum(seen.values()),
        "widths_and_heights": dict(seen.most_common(_SIZES)),
        "more_sizes": max(0, len(seen) - _SIZES),
    }
    if len(gallery.sizes):
        facts["bytes"] = _spread(gallery.sizes) | {"all": int(gallery.sizes.sum())}
    if gallery.identities_known and len(each):
        facts["images_per_identity"] = _spread(each) | {"histogram": _histogram(each)}
    facts["rejected_by_reason"] = dict(sorted(gallery.rejected.items()))
    facts["problems"] = gallery.problems
    return facts


def _spread(values: Any) -> dict[str, int]:
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def _histogram(each: Any) -> list[dict[str, int]]:
    """Identities by their number of images, in classes that double: 1, 2, 3-4, 5-8, …"""
    classes = np.ceil(np.log2(each)).astype(int)
    return [
        {"from": 2 ** (one - 1) + 1 if one else 1, "to": 2**one, "identities": int((classes == one).sum())}
        for one in range(classes.min(), classes.max() + 1)
    ]


def render(facts: dict[str, Any]) -> str:
    """The facts as text for a person, at most a screen of it."""
    rest = dict(facts)
    lines = [f"{rest.pop('kind')}{'   SYNTHETIC: nobody in it exists' if rest.pop('synthetic', False) else ''}"]
    if "images" not in rest:
        return "\n".join([*lines, *(f"  {name:<14}{_short(value)}" for name, value in rest.items())])
    images, identities, contents = rest.pop("images"), rest.pop("identities"), rest.pop("contents", {})
    who = f"{identities:,} identities" if identities is not None else "pairs; who is who is not known"
    lines.append(f"  {'images':<14}{images:,} of {who}")
    looked_at, more = rest.pop("looked_at"), rest.pop("more_sizes")
    shapes = ", ".join(f"{shape} ({count:,})" for shape, count in rest.pop("widths_and_heights").items())
    of = f" of {looked_at} looked at" if looked_at < images else ""
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
        lines += ["", f"  images an identity: min {each['min']}, median {each['median']}, max {each['max']}"]
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
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    width = max(40, shutil.get_terminal_size().columns - 18)
    return text if len(text) <= width else text[: width - 1] + "…"

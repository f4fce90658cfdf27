"""What `eolgul inspect` says of a place: an artifact's card, a registry's state, a raw source's outline."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from eolgul import registry, storage
from eolgul.artifact import CARDS, open_artifact
from eolgul.errors import InputError
from eolgul.extract import detect_kind
from eolgul.formats import insightface, kface


def inspect(place: str) -> dict[str, Any]:
    """Facts about what lies at `place` (path or `s3://`). InputError when it is nothing this project knows."""
    production = registry.read_production(place) if not place.endswith((".rec", ".bin")) else None
    if production is not None:
        return {"kind": "Registry", "production": asdict(production)}
    path = storage.fetch(place)
    if path.is_dir() and any((path / card).is_file() for card in CARDS.values()):
        artifact = open_artifact(path, check="sha256")
        about = {key: artifact.card[key] for key in ("step", "eolgul", "recipe", "inputs", "contents", "synthetic")}
        return {"kind": artifact.kind, "digest": artifact.digest, "files": len(artifact.card["files"]), **about}
    kind = detect_kind(path)
    return {"kind": f"raw:{kind}", **_raw(path, kind)}


def _raw(path: Path, kind: str) -> dict[str, Any]:
    if kind == "bin":
        loaded = insightface.read_bin(path)
        return {"pairs": len(loaded.same), "genuine": int(loaded.same.sum()), "bytes": path.stat().st_size}
    if kind == "rec":
        rec = path / "train.rec" if path.is_dir() else path
        labels: set[int] = set()
        images = problems = 0
        for record in insightface.iter_rec(rec):
            if record.problem is None and record.label is not None:
                labels.add(record.label)
                images += 1
            else:
                problems += 1
        about = rec.parent / "property"
        stated = asdict(insightface.read_property(about)) if about.is_file() else None
        return {"images": images, "identities": len(labels), "bad_records": problems, "property": stated}
    if kind == "kface":
        found = [
            kface.parse_path(file.relative_to(path).as_posix()) for file in path.glob("*_Resolution/*/*/*/*/*.jpg")
        ]
        known = [item for item in found if item is not None]
        return {
            "images": len(known),
            "identities": len({identity for identity, _ in known}),
            "unknown_paths": len(found) - len(known),
            **{name: sorted({getattr(item, name) for _, item in known}) for name in kface.Condition.__slots__},
        }
    folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if not folders:
        raise InputError(f"{path}: holds no identity folders")
    return {"identities": len(folders), "files": sum(1 for entry in path.rglob("*") if entry.is_file())}

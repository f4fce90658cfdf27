"""What all artifacts have in common: a folder that appears whole or not at all, and a card that describes it.

The card is deterministic (no clock, no machine path): the same inputs and recipe give the same card, byte for byte, so
the card's SHA-256 is the artifact's digest. It lists every other file of the folder with its size and SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eolgul.errors import InputError
from eolgul.files import atomic_folder, sha256_bytes, sha256_file

FORMAT = 1
CARDS = {
    "FaceDataset": "dataset.json",
    "ModelPackage": "manifest.json",
    "Evaluation": "evaluation.json",
    "Audit": "audit-card.json",
}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A whole artifact on the local disk. `digest` is the SHA-256 (hex) of its card file."""

    path: Path
    kind: str
    card: dict[str, Any]
    digest: str

    @property
    def contents(self) -> dict[str, Any]:
        """What the card states about the contents (JSON values; each kind of artifact has its own keys)."""
        contents: dict[str, Any] = self.card["contents"]
        return contents

    @property
    def synthetic(self) -> bool:
        """True when any image behind this artifact was drawn by `eolgul.synth`."""
        return bool(self.card["synthetic"])

    @property
    def reference(self) -> dict[str, str]:
        """How another artifact's card names this one as its input."""
        return {"kind": self.kind, "digest": self.digest}


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and a final newline: the same value is always the same bytes. NaN raises ValueError."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """The SHA-256 (hex) of a recipe's canonical JSON."""
    return sha256_bytes(canonical_json(dict(recipe)))


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces the artifact `out` when the block ends well, and is removed otherwise.

    Raises:
        InputError: when `out` is a file or a folder with anything but an artifact in it, when another process writes it,
            or when the disk refuses.
    """
    out = out.absolute()
    check_replaceable(out)
    with atomic_folder(out) as folder:
        yield folder
        check_replaceable(out)


def check_replaceable(out: Path) -> None:
    """Check that replacing `out` loses nothing but an artifact, whole or damaged.

    Raises:
        InputError: when `out` is a file, or a folder with other things in it.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file; an artifact needs a directory name")
    cards = [name for name in CARDS.values() if (out / name).is_file()]
    if not cards and any(out.iterdir()):
        raise InputError(f"{out}: is a folder that holds other things than an artifact; choose another place")
    listed = set(cards).union(*(listed_files((out / name).read_bytes()) for name in cards))
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if name not in listed and (path.is_symlink() or not path.is_dir()):
            raise InputError(
                f"{out}: holds {name}, which does not belong to the artifact there and would be lost; move it away"
            )


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIO" else f"a {kind}"


def listed_files(card: bytes) -> set[str]:
    """The names of the files that a card lists; empty when the bytes are not a card."""
    try:
        return set(json.loads(card)["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return set()


def list_files(folder: Path, known: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Every file below `folder` as {relative posix path: {"sha256", "size"}}; those in `known` are not read again."""
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    known = known or {}
    return {
        name: dict(known[name]) if name in known else {"sha256": sha256_file(path), "size": path.stat().st_size}
        for name, path in names.items()
    }


def seal(
    folder: Path,
    kind: str,
    *,
    step: str,
    version: int,
    recipe: Mapping[str, Any],
    inputs: Sequence[Mapping[str, str]],
    contents: Mapping[str, Any],
    synthetic: bool,
    known: Mapping[str, Mapping[str, Any]] | None = None,
    elsewhere: Mapping[str, Mapping[str, Any]] | None = None,
) -> Artifact:
    """Write the card of a finished folder (the last file written into it) and return the artifact.

    Args:
        folder: the artifact's files.
        kind: a key of `CARDS`.
        step: the name of the step that made it.
        version: the step's version, a number that is raised when the same inputs and recipe give other results.
        recipe: the options that the result depends on (JSON values).
        inputs: references to the artifacts it was made from.
        contents: facts about the contents (JSON values).
        synthetic: whether any image behind it was drawn.
        known: sizes and SHA-256s of files that were hashed while they were written, as `list_files` gives them.
        elsewhere: the same of files that belong to the artifact and lie in another place.
    """
    card = {
        "kind": kind,
        "format": FORMAT,
        "step": step,
        "version": version,
        "recipe": dict(recipe),
        "inputs": [dict(reference) for reference in inputs],
        "contents": dict(contents),
        "synthetic": synthetic,
        "files": list_files(folder, known) | {name: dict(facts) for name, facts in (elsewhere or {}).items()},
    }
    data = canonical_json(card)
    (folder / CARDS[kind]).write_bytes(data)
    return Artifact(folder, kind, card, sha256_bytes(data))


def open_artifact(path: Path, kind: str | None = None, *, check: str = "size", without: Sequence[str] = ()) -> Artifact:
    """Read an artifact's card and check its files.

    Args:
        path: the artifact's folder.
        kind: the kind that is expected; None for any.
        check: "size" (every file is there and as long as the card says) or "sha256" (and has the same bytes).
        without: folders whose files are not looked at: they may lie elsewhere.

    Raises:
        InputError: naming the file, when the folder is not an artifact, is of another kind, or differs from its card.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such artifact directory")
    kinds = [name for name, card in CARDS.items() if (path / card).is_file()]
    if not kinds:
        raise InputError(f"{path}: not an eolgul artifact (none of {', '.join(CARDS.values())} found)")
    found = kinds[0]
    if kind is not None and found != kind:
        raise InputError(f"{path}: is {_with_article(found)}, expected {_with_article(kind)}")
    card_path = path / CARDS[found]
    data = card_path.read_bytes()
    try:
        card = json.loads(data)
        files = [(str(name), int(facts["size"]), str(facts["sha256"])) for name, facts in card["files"].items()]
        if card["kind"] != found or card["format"] != FORMAT or not isinstance(card["contents"], dict):
            raise ValueError(f"a {card['kind']} of format {card['format']}")
        if "synthetic" not in card or "step" not in card:
            raise KeyError("synthetic, step")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{card_path}: not a format {FORMAT} {found} card") from error
    for name, size, sha256 in files:
        file = path / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{card_path}: lists {name!r}, which is outside its directory: refused")
        if Path(name).parts[0] in without:
            continue
        if not file.is_file():
            raise InputError(f"{file}: listed in {card_path.name} but missing")
        if file.stat().st_size != size:
            raise InputError(f"{file}: {file.stat().st_size} bytes, expected {size}")
        if check == "sha256" and sha256_file(file) != sha256:
            raise InputError(f"{file}: sha256 differs from the one in {card_path.name}")
    return Artifact(path, found, card, sha256_bytes(data))


def reuse(
    out: Path,
    kind: str,
    *,
    step: str,
    version: int,
    recipe: Mapping[str, Any],
    inputs: Sequence[Mapping[str, str]],
    without: Sequence[str] = (),
) -> Artifact | None:
    """The artifact at `out` if it is whole and this version of this step made it from these inputs with this recipe."""
    if not (out / CARDS[kind]).is_file():
        return None
    try:
        artifact = open_artifact(out, kind, without=without)
    except InputError:
        return None
    wanted = {"step": step, "version": version, "recipe": dict(recipe), "inputs": [dict(item) for item in inputs]}
    made = {key: artifact.card.get(key) for key in wanted}
    return artifact if canonical_json(made) == canonical_json(wanted) else None

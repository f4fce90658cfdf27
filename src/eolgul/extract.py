"""Step 1: a raw source (InsightFace `.rec`, `.bin`, identity folders, a K-FACE tree) → FaceDataset.

Every encoded image keeps its bytes. Every image is decoded once to see that it can be; what cannot be, or has no
identity, becomes a row of `rejected.parquet`: inputs = images + rejected.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from eolgul.artifact import Artifact, open_artifact, reuse, sha256_file
from eolgul.dataset import FaceDatasetWriter, writing_dataset
from eolgul.errors import InputError
from eolgul.formats import insightface, kface, lfw
from eolgul.images import EXTENSIONS, ImageInfo, decode

KINDS = ("rec", "bin", "kface", "folders")
ALIGNED = "arcface-112-v1"
SYNTHETIC_MARK = "synthetic.json"
_IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jfif"
}  # fmt: skip
_CHUNK = 256
_READ_AHEAD = 4

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An image that may enter the dataset, or the reason why it may not."""

    where: str
    image_id: str
    identity: str | None
    data: bytes | Path
    facts: dict[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


def detect_kind(source: Path) -> str:
    """What a source is, from its names alone. InputError when it is none of KINDS."""
    if source.is_file():
        kind = {".rec": "rec", ".bin": "bin"}.get(source.suffix)
        if kind:
            return kind
        raise InputError(f"{source}: expected a .rec or .bin file or a folder")
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder")
    if (source / "train.rec").is_file():
        return "rec"
    names = [entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if any(f"{resolution}_Resolution" in names for resolution in kface.RESOLUTIONS):
        return "kface"
    if names:
        return "folders"
    raise InputError(f"{source}: holds no train.rec, no K-FACE tree and no identity folders")


def extract(
    source: Path,
    out: Path,
    *,
    kind: str = "auto",
    name: str | None = None,
    pairs: Path | None = None,
    selection: str | None = None,
    min_images: int = 1,
    max_identities: int | None = None,
    max_images_per_identity: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> Artifact:
    """Turn a raw source into a FaceDataset at `out`, and return it; an equal one already there is kept.

    `name` is the source's name in the manifest (default: the file's or folder's). `pairs` is an LFW `pairs.txt` over a
    folder source and makes a Benchmark of it, as a `.bin` always is. `selection` (kface) limits the conditions.
    `min_images`, `max_identities` and `max_images_per_identity` (folders) choose a subset: identities with fewer
    images are left out, then the first ones by name are taken. Raises InputError for a source that is not readable.
    """
    if kind == "auto":
        kind = detect_kind(source)
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}: expected one of auto, {', '.join(KINDS)}")
    if kind == "rec" and source.is_dir():
        source = source / "train.rec"
    if kind in ("rec", "bin") and not source.is_file():
        raise InputError(f"{source}: no such file, expected a .{kind} file")
    if kind in ("kface", "folders") and not source.is_dir():
        raise InputError(
            f"{source}: no such folder, expected {'a K-FACE tree' if kind == 'kface' else 'identity folders'}"
        )
    if pairs is not None and kind != "folders":
        raise InputError(f"pairs {pairs}: a pairs.txt belongs to identity folders, {source} is {kind}")
    wanted = lfw.read_pairs(pairs) if pairs else []
    name = name or (
        source.parent.name if source.name == "train.rec" else source.stem if source.is_file() else source.name
    )
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"name {name!r}: expected letters, digits, '_' and '-' only")
    recipe = {
        "kind": kind,
        "name": name,
        "selection": selection,
        "min_images": min_images,
        "max_identities": max_identities,
        "max_images_per_identity": max_images_per_identity,
        "pairs": sha256_file(pairs) if pairs else None,
    }
    if kind == "kface":
        files, candidates = _kface(source, kface.Selection.parse(selection) if selection else None)
    elif kind == "folders":
        files, candidates = _folders(source, min_images, max_identities, max_images_per_identity)
    elif kind == "rec":
        beside = [source.with_suffix(".idx"), source.with_name("property")]
        files, candidates = [source, *(path for path in beside if path.is_file())], _rec(source)
    else:
        loaded = insightface.read_bin(source)
        files, candidates = [source], _bin(source.name, loaded)
    files += [mark for mark in [_mark(source)] if mark.is_file()]
    inputs = [{"kind": f"raw:{kind}", "digest": _digest(source, files)}]
    done = reuse(out, "FaceDataset", step="extract", recipe=recipe, inputs=inputs)
    if done is not None:
        return done
    synthetic = _is_synthetic(source)
    with writing_dataset(out, step="extract", recipe=recipe, inputs=inputs, synthetic=synthetic) as writer:
        writer.describe(name=name, identities_known=kind != "bin", aligned=_aligned(source, kind))
        rows = _store(writer, candidates, name, workers, progress)
        if kind == "bin":
            same = loaded.same
            _write_pairs(
                writer,
                rows,
                [(f"{i:06}/0", f"{i:06}/1", bool(flag), 10 * i // len(same)) for i, flag in enumerate(same)],
            )
        elif pairs is not None:
            _write_pairs(writer, rows, [(pair.left, pair.right, pair.same, pair.fold) for pair in wanted])
    return open_artifact(out)


def _store(
    writer: FaceDatasetWriter, candidates: Iterator[_Candidate], name: str, workers: int, progress: Progress | None
) -> dict[str, int]:
    """Check and store every candidate in order; the manifest row of each image id that was kept."""
    rows: dict[str, int] = {}
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(candidates, _CHUNK)):
            for candidate, (data, checked) in zip(chunk, pool.map(_check, chunk), strict=True):
                if isinstance(checked, tuple):
                    reason, detail = checked
                    writer.reject(
                        candidate.where, source=name, identity=candidate.identity, reason=reason, detail=detail
                    )
                    continue
                assert candidate.identity is not None
                row = writer.images
                if writer.add(
                    candidate.image_id,
                    candidate.identity,
                    data,
                    extension=EXTENSIONS[checked.format],
                    size=(checked.width, checked.height),
                    source=name,
                    facts=candidate.facts,
                ):
                    rows[candidate.image_id] = row
            if progress:
                progress(len(chunk))
    return rows


def _check(candidate: _Candidate) -> tuple[bytes, ImageInfo | tuple[str, str]]:
    if candidate.problem is not None:
        return b"", candidate.problem
    try:
        data = candidate.data.read_bytes() if isinstance(candidate.data, Path) else candidate.data
    except OSError as error:
        return b"", ("unreadable", error.strerror or str(error))
    try:
        return data, decode(data)[1]
    except InputError as error:
        return b"", (error.code, str(error))


def _write_pairs(writer: FaceDatasetWriter, rows: dict[str, int], wanted: list[tuple[str, str, bool, int]]) -> None:
    """Pairs whose two images were kept; the others are counted as lost, never dropped silently."""
    kept = [
        (rows[left], rows[right], same, fold) for left, right, same, fold in wanted if left in rows and right in rows
    ]
    left, right, same, fold = zip(*kept, strict=True) if kept else ((), (), (), ())
    writer.pairs(left, right, same, fold)
    writer.describe(pairs=len(kept), pairs_lost=len(wanted) - len(kept))


def _rec(source: Path) -> Iterator[_Candidate]:
    for record in insightface.iter_rec(source):
        where = f"{source.name} record {record.key} at byte {record.offset}"
        if record.problem is not None or record.label is None:
            detail = (record.problem or "no label").removeprefix(
                f"{source.parent}/"
            )  # no machine's path in an artifact
            yield _Candidate(where, "", None, b"", problem=("bad_record", detail))
        else:
            identity = f"{record.label:06}"
            yield _Candidate(where, f"{identity}/{record.key:08}", identity, record.image)


def _bin(name: str, loaded: insightface.Bin) -> Iterator[_Candidate]:
    """A `.bin` does not say who is who: a genuine pair is one identity, an impostor pair two."""
    for number, image in enumerate(loaded.images):
        pair, side = divmod(number, 2)
        identity = f"{pair:06}" if loaded.same[pair] else f"{pair:06}{'ab'[side]}"
        yield _Candidate(f"{name} image {number}", f"{pair:06}/{side}", identity, image)


def _kface(source: Path, selection: kface.Selection | None) -> tuple[list[Path], Iterator[_Candidate]]:
    found = []
    for path in (path for folder in sorted(source.glob("*_Resolution")) for path in _pictures(folder)):
        parsed = kface.parse_path(path.relative_to(source).as_posix())
        if parsed is None or selection is None or parsed[1] in selection:
            found.append((path, parsed))
    if not found:
        raise InputError(f"{source}: no K-FACE image of the selection ({selection or 'all'}) in it")

    def candidates() -> Iterator[_Candidate]:
        for path, parsed in found:
            where = _text(path.relative_to(source))
            if parsed is None or where != path.relative_to(source).as_posix():
                problem = ("unknown_condition", "expected <Resolution>/<ID>/S00x/Ly/E0z/Cn.jpg with K-FACE's names")
                yield _Candidate(where, "", None, b"", problem=problem)
                continue
            identity, condition = parsed
            facts: dict[str, Any] = {name: getattr(condition, name) for name in condition.__slots__}
            annotation = path.with_suffix(".txt")
            if annotation.is_file():
                try:
                    facts["landmarks"] = kface.read_annotation(annotation).landmarks.ravel().tolist()
                except InputError as error:
                    detail = str(error).removeprefix(f"{source}/")
                    yield _Candidate(where, "", identity, b"", problem=("bad_annotation", detail))
                    continue
            image_id = f"{identity}/{'_'.join(getattr(condition, name) for name in condition.__slots__)}"
            yield _Candidate(where, image_id, identity, path, facts)

    files = [path for path, _ in found]
    return files + [note for path in files if (note := path.with_suffix(".txt")).is_file()], candidates()


def _pictures(folder: Path) -> list[Path]:
    """The images below `folder`, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if _is_picture(path))


def _is_picture(path: Path) -> bool:
    """By name and kind; a link counts even where it leads nowhere, since somebody meant it to be an image."""
    return path.suffix.lower() in _IMAGE_SUFFIXES and (path.is_file() or path.is_symlink())


def _text(path: Path) -> str:
    """A path as text that can be stored: bytes that are not UTF-8 (old Korean archives) are written as escapes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _folders(
    source: Path, min_images: int, max_identities: int | None, max_images: int | None
) -> tuple[list[Path], Iterator[_Candidate]]:
    loose = sorted(path for path in source.iterdir() if _is_picture(path))
    people: list[list[Path]] = []
    for folder in sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")):
        pictures = _pictures(folder)
        if pictures and len(pictures) >= min_images:
            people.append(pictures[:max_images])
    people = people[:max_identities]
    if not people:
        raise InputError(f"{source}: no identity folder with at least {min_images} image(s)")

    def candidates() -> Iterator[_Candidate]:
        for path in loose:
            problem = ("no_identity", "an image beside the identity folders, expected <identity>/<image>")
            yield _Candidate(_text(path.relative_to(source)), "", None, b"", problem=problem)
        for path in (picture for pictures in people for picture in pictures):
            name = path.relative_to(source)
            where = _text(name)
            if where != name.as_posix():
                problem = (
                    "bad_name",
                    "the file's name is not UTF-8; rename it, or unpack its archive with its encoding",
                )
                yield _Candidate(where, "", _text(Path(name.parts[0])), b"", problem=problem)
            else:
                yield _Candidate(where, name.with_suffix("").as_posix(), name.parts[0], path)

    return [path for pictures in people for path in pictures] + loose, candidates()


def _digest(source: Path, files: list[Path]) -> str:
    """sha256 over the names and sha256s of the files that were read, in order; unreadable ones count by name."""
    total = hashlib.sha256()
    root = source if source.is_dir() else source.parent
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        for path, digest in zip(files, pool.map(_sha256_or_nothing, files), strict=True):
            total.update(os.fsencode(path.relative_to(root).as_posix()) + f"\0{digest}\n".encode())
    return total.hexdigest()


def _sha256_or_nothing(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return "unreadable"


def _aligned(source: Path, kind: str) -> str | None:
    """The template the images are aligned to already: `.bin` sets and 112x112 `.rec` files are, by their definition."""
    if kind == "bin":
        return ALIGNED
    about = source.parent / "property"
    if kind == "rec" and about.is_file():
        facts = insightface.read_property(about)
        return ALIGNED if (facts.height, facts.width) == (112, 112) else None
    return None


def _mark(source: Path) -> Path:
    """Where `eolgul.synth` leaves its mark for a source."""
    if source.suffix == ".bin":
        return source.with_name(f"{source.name}.{SYNTHETIC_MARK}")
    return (source if source.is_dir() else source.parent) / SYNTHETIC_MARK


def _is_synthetic(source: Path) -> bool:
    """Whether `eolgul.synth` left its mark beside or in the source."""
    mark = _mark(source)
    if not mark.is_file():
        return False
    try:
        return bool(json.loads(mark.read_bytes())["synthetic"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{mark}: expected JSON with a 'synthetic' flag") from error

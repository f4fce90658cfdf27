"""Export a FaceDataset as an InsightFace `.rec` or `.bin`, as folders, or as webdataset shards; images keep their bytes.

An export is not an artifact, because its format is another project's. A card beside it (`export.json`, or
`<file>.export.json`) names the dataset it was made from and lists its files; an export of drawn people also has the mark
that `extract` looks for. It appears whole or not at all.

Memory: some 300 bytes per image of the dataset, for its id and identity as text.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.artifact import canonical_json, list_files
from eolgul.dataset import SHARD_BYTES, FaceDataset
from eolgul.dataset.shard import Shard
from eolgul.errors import InputError
from eolgul.files import atomic_file, atomic_folder, refuse_disk, sha256_file, warn_replaced, write_atomic
from eolgul.formats import insightface, pair_lists
from eolgul.formats.lst import Row, write_lst
from eolgul.formats.synthetic import SYNTHETIC_MARK, mark_beside
from eolgul.images.decode import EXTENSIONS, probe

VERSION = 1  # of the results: raise it when the same inputs and recipe give others
KINDS = ("rec", "folders", "bin", "webdataset")
CARD = "export.json"
SUMS = "SHA256SUMS"
_MAGICS = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"))  # of nearly all images; others are opened

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The images to export: rows of the manifest in the order of the export, and columns of the whole manifest."""

    dataset: FaceDataset
    rows: NDArray[np.int64]
    ids: list[str]
    identities: list[str]
    progress: Progress | None

    def images(self) -> Iterator[tuple[int, bytes]]:
        """Yield every chosen row with its encoded image."""
        for row in self.rows.tolist():
            yield row, self.dataset.read(row)
            if self.progress:
                self.progress(1)

    def pairs(self) -> list[tuple[int, int, bool, int]] | None:
        """The pairs with both images chosen, ordered by fold, as (left row, right row, same, fold).

        None for a dataset that is not a benchmark.
        """
        if not (self.dataset.path / "pairs.parquet").is_file():
            return None
        pairs, chosen = self.dataset.pairs(), np.zeros(len(self.dataset), np.bool_)
        chosen[self.rows] = True
        order = np.argsort(pairs.fold, kind="stable")
        order = order[chosen[pairs.left[order]] & chosen[pairs.right[order]]]
        columns = (pairs.left, pairs.right, pairs.same, pairs.fold)
        return list(zip(*(column[order].tolist() for column in columns), strict=True))


def export(
    dataset: Path, out: Path, *, to: str, split: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Write a FaceDataset, or one split of it, to `out` in another format, and return the card.

    An equal export that is there already is kept; another export is replaced.

    Args:
        dataset: the FaceDataset.
        out: a folder, or a file for `bin`.
        to: the format. "rec": a folder with `train.rec`, `train.idx`, `property` and `train.lst`, sorted by label, labels
            counted from 0; `train.lst` keeps the names. "folders": `<identity>/<image>.<extension>`, with a benchmark's
            pairs in `pairs.csv`, and in LFW's `pairs.txt` where that format can express them. "bin": one file with a
            benchmark's pairs in the order of the folds. "webdataset": `000000.tar` … with `<key>.<extension>`,
            `<key>.cls` and `<key>.json`.
        split: export this split only.
        progress: called with the number of images just written.

    Raises:
        InputError: for a dataset that the format cannot express, for an `out` where anything else than an export would be
            lost, and when the disk refuses.
    """
    if to not in KINDS:
        raise InputError(f"to {to!r}: expected one of {', '.join(KINDS)}")
    if out.resolve().is_relative_to(dataset.resolve()):
        raise InputError(f"{out}: lies in the dataset {dataset}; choose another place")
    opened = FaceDataset(dataset)
    rows = np.arange(len(opened), dtype=np.int64) if split is None else opened.rows(split)
    if not len(rows):
        raise InputError(f"{dataset}: no image of the split {split!r} in it")
    if to != "bin":
        rows = rows[np.argsort(opened.numpy("label")[rows], kind="stable")]
    chosen = _Chosen(opened, rows, opened.column("image_id"), opened.column("identity"), progress)
    artifact = opened.artifact
    head = {
        "kind": "Export",
        "to": to,
        "split": split,
        "dataset": artifact.digest,
        "version": VERSION,
        "synthetic": artifact.synthetic,
    }
    out = out.absolute()
    card = _card_at(out, to)
    _check_replaceable(out, to, card)
    if card is not None and {key: card.get(key) for key in head} == head and _is_whole(out, to, card):
        return card
    if to == "bin":
        return _write_file(out, head, lambda file: _bin(chosen, file))
    write = {"rec": _rec, "folders": _folders, "webdataset": _webdataset}[to]
    return _write_folder(out, head, lambda folder: write(chosen, folder))


def card_place(out: str, to: str) -> str:
    """The place of the card of an export to `out` (a path or an `s3://` place)."""
    return f"{out.rstrip('/')}.{CARD}" if to == "bin" else f"{out.rstrip('/')}/{CARD}"


def _rec(chosen: _Chosen, folder: Path) -> dict[str, Any]:
    dataset, rows = chosen.dataset, chosen.rows
    labels = dataset.numpy("label")[rows]
    identities = len(np.unique(labels))
    if len(rows) + 1 + identities > insightface.EXACT:
        raise InputError(
            f"{dataset.path}: {len(rows)} images and {identities} identities; record 0 of a .rec states their sum as a "
            f"float32, which is exact up to {insightface.EXACT} only; export a split, or to folders or webdataset"
        )
    sizes = sorted(set(zip(*(dataset.numpy(name)[rows].tolist() for name in ("width", "height")), strict=True)))
    if len(sizes) > 1:
        (width, height), (other, high) = sizes[0], sizes[-1]
        raise InputError(
            f"{dataset.path}: images from {width}x{height} to {other}x{high}; a .rec states one size; align first"
        )
    dense = np.cumsum(np.diff(labels, prepend=labels[0]) > 0).tolist()
    names: list[Row] = []
    aligned = bool(dataset.artifact.contents.get("aligned"))

    def images() -> Iterator[tuple[int, bytes]]:
        for label, (row, data) in zip(dense, chosen.images(), strict=True):
            names.append(Row(_path(chosen, row, data), label, aligned))
            yield label, data

    insightface.write_rec(folder, images(), width=sizes[0][0], height=sizes[0][1])
    write_lst(folder / "train.lst", names)
    return {"images": len(rows), "identities": identities}


def _folders(chosen: _Chosen, folder: Path) -> dict[str, Any]:
    sha256 = chosen.dataset.column("sha256")
    paths: dict[int, str] = {}
    with (folder / SUMS).open("w", encoding="utf-8", newline="\n") as sums:
        for row, data in chosen.images():
            name = paths[row] = _path(chosen, row, data)
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as opened:
                opened.write(data)
            sums.write(f"{sha256[row]}  {name}\n")
    facts = {"images": len(paths), "identities": len({chosen.identities[row] for row in paths})}
    pairs = chosen.pairs()
    if pairs is None:
        return facts
    _write_pairs(folder / "pairs.csv", pairs, paths)
    return facts | {"pairs": len(pairs), "pairs_txt": _lfw_pairs(folder / "pairs.txt", pairs, paths)}


def _bin(chosen: _Chosen, file: Path) -> dict[str, Any]:
    pairs = chosen.pairs()
    if not pairs:
        raise InputError(f"{chosen.dataset.path}: has no pairs to export, expected a benchmark")
    images = []
    for left, right, _, _ in pairs:
        images += [chosen.dataset.read(left), chosen.dataset.read(right)]
        if chosen.progress:
            chosen.progress(2)
    insightface.write_bin(file, images, [same for _, _, same, _ in pairs])
    # A .bin has no folds: its readers divide it into ten equal ones, which differ from the dataset's when pairs were lost.
    kept = [fold for *_, fold in pairs] == [10 * place // len(pairs) for place in range(len(pairs))]
    return {"images": len(images), "identities": None, "pairs": len(pairs), "folds_kept": kept}


def _webdataset(chosen: _Chosen, folder: Path) -> dict[str, Any]:
    columns = ("source", "split", "sha256", "width", "height", "landmarks")
    facts = {name: chosen.dataset.column(name) for name in columns}
    labels = chosen.dataset.numpy("label")
    keys: dict[int, str] = {}
    shard: Shard | None = None
    number = 0
    try:
        for row, data in chosen.images():
            path = _path(chosen, row, data)
            key = keys[row] = _key(path.rpartition(".")[0])
            about = {"image_id": chosen.ids[row], "identity": chosen.identities[row], "label": int(labels[row])}
            about |= {name: values[row] for name, values in facts.items() if values[row] is not None}
            text = json.dumps(about, ensure_ascii=False, sort_keys=True).encode()
            if shard is None or shard.size + len(data) + len(text) > SHARD_BYTES:
                if shard is not None:
                    shard.close()
                shard, number = Shard(folder / f"{number:06}.tar"), number + 1
            shard.add(f"{key}.{path.rpartition('.')[2]}", data)
            shard.add(f"{key}.cls", str(int(labels[row])).encode())
            shard.add(f"{key}.json", text)
    except BaseException:
        if shard is not None:
            shard.close(whole=False)
        raise
    assert shard is not None
    shard.close()
    counts = {"images": len(keys), "identities": len({chosen.identities[row] for row in keys}), "shards": number}
    pairs = chosen.pairs()
    if pairs is None:
        return counts
    _write_pairs(folder / "pairs.csv", pairs, keys)
    return counts | {"pairs": len(pairs)}


def _path(chosen: _Chosen, row: int, data: bytes) -> str:
    """`<identity>/<image>.<extension>`, from the image's id, whose first part is not the identity in a `.bin`'s dataset."""
    identity, image_id = chosen.identities[row], chosen.ids[row]
    name = image_id if image_id.startswith(f"{identity}/") else f"{identity}/{image_id.replace('/', '_')}"
    extension = next((extension for magic, extension in _MAGICS if data.startswith(magic)), None)
    if extension is None:
        extension = EXTENSIONS[probe(data).format]
    parts = PurePosixPath(name).parts
    if ".." in parts or len(parts) < 2 or name.startswith("/") or any(character in name for character in "\0\n\r\t\\"):
        raise InputError(f"{chosen.dataset.path}: image {image_id!r} of {identity!r} cannot be the name of a file")
    return f"{name}.{extension}"


def _key(name: str) -> str:
    """A webdataset key: the format takes everything after the first dot as the extension, so dots are escaped."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.replace('%', '%25').replace('.', '%2E')}"


def _write_pairs(file: Path, pairs: list[tuple[int, int, bool, int]], names: dict[int, str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["left", "right", "same", "fold"])
        writer.writerows((names[left], names[right], int(same), fold) for left, right, same, fold in pairs)


def _lfw_pairs(file: Path, pairs: list[tuple[int, int, bool, int]], paths: dict[int, str]) -> bool:
    """Write LFW's `pairs.txt` if it can express `pairs`: names with numbers, equal folds, genuine pairs first.

    Returns:
        Whether it can; otherwise no file is left.
    """
    wanted = [
        pair_lists.Pair(paths[left].rpartition(".")[0], paths[right].rpartition(".")[0], same, fold)
        for left, right, same, fold in pairs
    ]
    folds = len({pair.fold for pair in wanted})
    lines = [f"{folds}\t{len(wanted) // 2 // folds if folds else 0}"]
    for pair in wanted:
        (name, one), (other, two) = (side.rpartition("/")[2].rpartition("_")[::2] for side in (pair.left, pair.right))
        lines.append("\t".join([name, one, two] if pair.same else [name, one, other, two]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with contextlib.suppress(InputError):
        if pair_lists.read_pairs(file) == wanted:
            return True
    file.unlink()
    return False


def _write_folder(out: Path, head: dict[str, Any], write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    try:
        with atomic_folder(out) as folder:
            facts = write(folder)
            if head["synthetic"]:
                (folder / SYNTHETIC_MARK).write_bytes(canonical_json({"synthetic": True}))
            images = (folder / SUMS).is_file()  # it lists the images, of which there may be millions
            names = [path for path in folder.iterdir() if path.is_file()] if images else None
            files = list_files(folder) if names is None else {path.name: _facts(path) for path in sorted(names)}
            card = head | facts | {"files": files}
            (folder / CARD).write_bytes(canonical_json(card))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}: {error.filename})") from error
    return card


def _write_file(out: Path, head: dict[str, Any], write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Write one file, its card and its mark. The mark comes first, so that drawn people are never taken for real ones."""
    mark = mark_beside(out)
    try:
        with atomic_file(out) as file:
            facts = write(file)
            card = head | facts | {"files": {out.name: _facts(file)}}
            if head["synthetic"]:
                write_atomic(mark, canonical_json({"synthetic": True}))
            warn_replaced(out)
        if not head["synthetic"]:
            mark.unlink(missing_ok=True)
        write_atomic(out.with_name(f"{out.name}.{CARD}"), canonical_json(card))
    except OSError as error:
        refuse_disk(out, error)
        raise InputError(f"{out}: cannot be written ({error.strerror}: {error.filename})") from error
    return card


def _facts(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "size": path.stat().st_size}


def _card_at(out: Path, to: str) -> dict[str, Any] | None:
    """The card of the export at `out`; None when there is no readable one."""
    try:
        card = json.loads(Path(card_place(str(out), to)).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    good = isinstance(card, dict) and card.get("kind") == "Export" and isinstance(card.get("files"), dict)
    return card if good else None


def _check_replaceable(out: Path, to: str, card: dict[str, Any] | None) -> None:
    """Check that replacing `out` loses nothing but an export."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() != (to != "bin"):
        kinds = ("folder", "file") if out.is_dir() else ("file", "folder")
        raise InputError(f"{out}: is a {kinds[0]}, but an export to {to} writes a {kinds[1]}")
    if card is None and (to == "bin" or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an export; choose another place")
    if card is None or to == "bin":
        return
    listed = {CARD, *card["files"]}
    with contextlib.suppress(OSError):
        listed |= {line.rstrip("\n")[66:] for line in (out / SUMS).open(encoding="utf-8")}
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if name not in listed and (path.is_symlink() or not path.is_dir()):
            raise InputError(
                f"{out}: holds {name}, which does not belong to the export there and would be lost; move it away"
            )


def _is_whole(out: Path, to: str, card: dict[str, Any]) -> bool:
    """Whether the files that the card lists are there with the lengths it states, and the images that `SHA256SUMS` lists."""
    folder = out.parent if to == "bin" else out
    try:
        if any((folder / name).stat().st_size != facts["size"] for name, facts in card["files"].items()):
            return False
        if to == "folders":
            return all((out / line.rstrip("\n")[66:]).is_file() for line in (out / SUMS).open(encoding="utf-8"))
    except (OSError, TypeError, KeyError):
        return False
    return True

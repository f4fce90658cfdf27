"""Plan trees of image files: identity folders, K-FACE, and the images that a `.lst` names."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.sources import Entry, Plan, is_picture, plan_files, text, walk
from eolgul.formats import kface
from eolgul.model.package import TEMPLATE_NAME

_BAD_NAME = Rejection(
    Reason.BAD_NAME, "the file's name is not UTF-8; rename it, or unpack its archive with its encoding"
)
_NO_IDENTITY = Rejection(Reason.NO_IDENTITY, "an image beside the identity folders, expected <identity>/<image>")
_UNKNOWN_CONDITION = Rejection(
    Reason.UNKNOWN_CONDITION, "expected <Resolution>/<ID>/S00x/Ly/E0z/Cn.jpg with K-FACE's names"
)


def plan_folders(source: Path, config: ExtractConfig) -> Plan:
    """Plan identity folders, `<identity>/…/<image>`: InsightFace_Pytorch's `imgs/`, LFW, ORL, any photos.

    Raises:
        InputError: when there is no identity folder with enough images.
    """
    loose: list[Entry] = []
    people: list[list[Entry]] = []
    pictures = (entry for entry in _files(source) if is_picture(entry.name))
    for first, group in itertools.groupby(pictures, key=lambda entry: entry.name.partition("/")[0]):
        found = list(group)
        if found[0].name == first:  # it lies in no identity folder
            loose += [entry._replace(rejection=_NO_IDENTITY) for entry in found]
        elif len(found) >= config.min_images and config.wants(first):
            people.append(found[: config.max_images_per_identity])
    people = people[: config.max_identities]
    if not people and (source / "dataset.json").is_file():
        raise InputError(f"{source}: is a FaceDataset already, expected raw data")
    if not people:
        raise InputError(f"{source}: no identity folder with at least {config.min_images} image(s)")
    entries = list(loose)
    for entry in itertools.chain.from_iterable(people):
        identity = text(entry.name.partition("/")[0])
        if text(entry.name) == entry.name:
            image_id = os.path.splitext(entry.name)[0]  # noqa: PTH122 - millions of them
            entries.append(entry._replace(image_id=image_id, identity=identity))
        else:
            entries.append(entry._replace(identity=identity, rejection=_BAD_NAME))
    return plan_files(source, entries, config)


def _files(source: Path) -> list[Entry]:
    """The files of a folder of identity folders; links to folders are followed, hidden folders are left out."""
    entries: list[Entry] = []
    for path in sorted(source.iterdir()):
        if path.is_dir():
            if not path.name.startswith("."):
                entries += walk(source, path.name)
        else:
            facts = path.stat() if path.exists() else None
            stamp = (facts.st_mtime_ns, facts.st_ctime_ns) if facts else (0, 0)
            entries.append(Entry(path.name, facts.st_size if facts else 0, stamp))
    return entries


def plan_kface(source: Path, config: ExtractConfig) -> Plan:
    """Plan K-FACE's tree: the images of the selection, each with its condition and its annotation, if it has one.

    Raises:
        InputError: when no image is in the selection.
    """
    selection = kface.Selection.parse(config.selection) if config.selection else None
    entries: list[Entry] = []
    for folder in sorted(path.name for path in source.glob("*_Resolution")):
        notes: dict[str, Entry] = {}
        found: list[Entry] = []
        for entry in walk(source, folder):
            if entry.name.endswith(".txt"):
                notes[entry.name[:-4]] = entry
            elif is_picture(entry.name):
                found.append(entry)
        for entry in found:
            parsed = kface.parse_path(entry.name)
            if parsed is None or text(entry.name) != entry.name:
                entries.append(entry._replace(rejection=_UNKNOWN_CONDITION))
                continue
            identity, condition = parsed
            if (selection is None or condition in selection) and config.wants(identity):
                image_id = kface.image_id(identity, condition)
                note = notes.get(os.path.splitext(entry.name)[0])  # noqa: PTH122 - millions of them
                entries.append(entry._replace(image_id=image_id, identity=identity, condition=condition, note=note))
    if not any(entry.identity for entry in entries):
        raise InputError(f"{source}: no K-FACE image of the selection ({config.selection or 'all'}) in it")
    return plan_files(source, entries, config)


def plan_lst(file: Path, config: ExtractConfig) -> Plan:
    """Plan the images that a `.lst` names, by paths below the folder of the list or below `config.root`.

    Raises:
        InputError: when a line of the list cannot be read, or the root is not a folder.
    """
    from eolgul.formats.lst import read_lst

    root = Path(config.root) if config.root else file.parent
    if not root.is_dir():
        raise InputError(f"root {root}: no such folder")
    entries: list[Entry] = []
    aligned = True
    for row in read_lst(file):
        rejection = None
        path = _below(root, row.path)
        if path is None:
            path = row.path
            detail = f"{row.path!r} does not lie in {root.name or root}/, where the list's paths are looked for"
            rejection = Rejection(Reason.BAD_NAME, detail)
        elif not float(row.label).is_integer() or row.label < 0:
            rejection = Rejection(Reason.UNKNOWN_IDENTITY, f"label {row.label} is not an identity number")
        aligned &= bool(row.aligned)
        identity = f"{int(row.label):06}" if rejection is None else None
        image_id = f"{identity}/{os.path.splitext(path)[0]}"  # noqa: PTH122 - millions of them
        facts: dict[str, object] = {}
        if row.box is not None:
            facts["box"] = list(row.box)
        if row.landmarks is not None:
            facts |= {"landmarks": list(row.landmarks), "landmark_source": "annotated"}
        entry = _entry(root, path)
        entries.append(entry._replace(image_id=image_id, identity=identity, facts=facts or None, rejection=rejection))
    plan = plan_files(root, entries, config)
    plan.also.append(file)
    plan.aligned = TEMPLATE_NAME if aligned else None
    return plan


def _below(root: Path, path: str) -> str | None:
    """A listed path as a relative one below `root`, with `/` between the parts; None if it leads elsewhere.

    Absolute paths may name the root as it was given or as it is without links. Backslashes separate the parts where no
    file has such a name.
    """
    if "\\" in path and not os.path.lexists(root / path):
        path = path.replace("\\", "/")
    if re.match(r"[A-Za-z]:/", path):
        return None
    if path.startswith("/"):
        bases = (str(root.absolute()), str(root.resolve()))
        base = next((base for base in bases if path.startswith(base.rstrip("/") + "/")), None)
        if base is None:
            return None
        path = path[len(base.rstrip("/")) :]
    path = os.path.normpath(path.lstrip("/"))
    return None if path.split("/")[0] in ("..", ".") else path


def _entry(root: Path, name: str) -> Entry:
    try:
        facts = (root / name).stat()
    except OSError:
        return Entry(name, 0, (0, 0))
    return Entry(name, facts.st_size, (facts.st_mtime_ns, facts.st_ctime_ns))

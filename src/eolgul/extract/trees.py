"""Plan trees of image files: identity folders, K-FACE, and the images that a `.lst` names."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.passed_over import Why
from eolgul.extract.plan import Plan, text
from eolgul.extract.tree import Entry, Tree, plan_files
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
    tree = Tree(source)
    loose: list[Entry] = []
    people: list[list[Entry]] = []
    for first, group in itertools.groupby(tree.pictures(), key=lambda entry: entry.name.partition("/")[0]):
        found = list(group)
        if found[0].name == first:  # it lies in no identity folder
            loose += [entry._replace(rejection=_NO_IDENTITY) for entry in found]
        elif not config.wants(first):
            tree.passed_over.add_all(Why.LEFT_OUT, found)
        elif len(found) < config.min_images or len(people) == config.max_identities:
            tree.passed_over.add_all(Why.OVER_LIMIT, found)
        else:
            people.append(found[: config.max_images_per_identity])
            tree.passed_over.add_all(Why.OVER_LIMIT, found[len(people[-1]) :])
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
    return plan_files(source, entries, config, tree)


def plan_kface(source: Path, config: ExtractConfig) -> Plan:
    """Plan K-FACE's tree: the images of the selection, each with its condition and its annotation, if it has one.

    Raises:
        InputError: when no image is in the selection.
    """
    tree = Tree(source)
    selection = kface.Selection.parse(config.selection) if config.selection else None
    notes: dict[str, Entry] = {}
    found: list[Entry] = []
    for entry in tree.files():
        if entry.name.endswith(".txt"):
            notes[entry.name[:-4]] = entry
            tree.passed_over.add(Why.ANNOTATION, entry.name)
        elif tree.is_picture(entry):
            found.append(entry)
        else:
            tree.passed_over.add(Why.NOT_AN_IMAGE, entry.name)
    entries: list[Entry] = []
    for entry in found:
        parsed = kface.parse_path(entry.name)
        if parsed is None or text(entry.name) != entry.name:
            entries.append(entry._replace(rejection=_UNKNOWN_CONDITION))
            continue
        identity, condition = parsed
        if not config.wants(identity):
            tree.passed_over.add(Why.LEFT_OUT, entry.name)
        elif selection is not None and condition not in selection:
            tree.passed_over.add(Why.NOT_SELECTED, entry.name)
        else:
            image_id = kface.image_id(identity, condition)
            note = notes.get(os.path.splitext(entry.name)[0])  # noqa: PTH122 - millions of them
            entries.append(entry._replace(image_id=image_id, identity=identity, condition=condition, note=note))
    if not any(entry.identity for entry in entries):
        raise InputError(f"{source}: no K-FACE image of the selection ({config.selection or 'all'}) in it")
    return plan_files(source, entries, config, tree)


def plan_lst(file: Path, config: ExtractConfig) -> Plan:
    """Plan the images that an InsightFace `.lst` names, by paths below the folder of the list.

    Raises:
        InputError: when a line of the list cannot be read.
    """
    from eolgul.formats.lst import read_lst

    root = file.parent
    entries: list[Entry] = []
    aligned = True
    for row in read_lst(file):
        rejection = None
        if Path(row.path).is_absolute() or ".." in Path(row.path).parts:
            rejection = Rejection(Reason.BAD_NAME, f"{row.path!r} leads out of the list's folder")
        elif not float(row.label).is_integer() or row.label < 0:
            rejection = Rejection(Reason.UNKNOWN_IDENTITY, f"label {row.label} is not an identity number")
        aligned &= bool(row.aligned)
        identity = f"{int(row.label):06}" if rejection is None else None
        image_id = f"{identity}/{os.path.splitext(row.path)[0]}"  # noqa: PTH122 - millions of them
        facts: dict[str, object] = {}
        if row.box is not None:
            facts["box"] = list(row.box)
        if row.landmarks is not None:
            facts |= {"landmarks": list(row.landmarks), "landmark_source": "annotated"}
        entry = _entry(root, row.path)
        entries.append(entry._replace(image_id=image_id, identity=identity, facts=facts or None, rejection=rejection))
    plan = plan_files(root, entries, config)
    plan.also.append(file)
    plan.aligned = TEMPLATE_NAME if aligned else None
    return plan


def _entry(root: Path, name: str) -> Entry:
    try:
        facts = (root / name).stat()
    except OSError:
        return Entry(name, 0, (0, 0))
    return Entry(name, facts.st_size, (facts.st_mtime_ns, facts.st_ctime_ns))

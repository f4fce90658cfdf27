"""Plan trees of image files: identity folders, K-FACE, and the images that a `.lst` names."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from eolgul.errors import InputError, Reason, Rejection, printable
from eolgul.extract.choosing import Naming, plan_people
from eolgul.extract.config import ExtractConfig
from eolgul.extract.passed_over import PassedOver, Why
from eolgul.extract.people import number_form
from eolgul.extract.plan import Plan, text
from eolgul.extract.tree import Entry, Tree
from eolgul.formats import kface
from eolgul.formats.identities import normal
from eolgul.model.package import TEMPLATE_NAME

_NO_IDENTITY = Rejection(Reason.NO_IDENTITY, "an image beside the identity folders, expected <identity>/<image>")
_NO_MATCH = Rejection(Reason.NO_IDENTITY, "identity_from does not fit the path")
_UNKNOWN_CONDITION = Rejection(
    Reason.UNKNOWN_CONDITION, "expected <Resolution>/<ID>/S00x/Ly/E0z/Cn.jpg with K-FACE's names"
)


def plan_folders(source: Path, config: ExtractConfig) -> Plan:
    """Plan identity folders, `<identity>/…/<image>`: InsightFace_Pytorch's `imgs/`, LFW, ORL, any photos.

    Raises:
        InputError: when there is no identity folder with enough images.
    """
    # Its shards are archives of images.
    if all((source / name).is_file() for name in ("dataset.json", "manifest.parquet")):
        raise InputError(f"{source}: is a FaceDataset already, expected raw data")
    tree = Tree(source)
    pattern = config.identity_pattern
    loose: list[Entry] = []
    entries: list[Entry] = []
    for entry in tree.pictures():
        identity, slash, _ = entry.name.partition("/")
        image_id = os.path.splitext(entry.name)[0]  # noqa: PTH122 - millions of them
        if pattern is not None:
            found = pattern.fullmatch(normal(text(entry.name)))
            if found is None or not found["identity"]:
                loose.append(entry._replace(rejection=_NO_MATCH))
                continue
            if found["identity"] != identity or not slash:
                identity = found["identity"]
                image_id = f"{identity}/{image_id}"
        elif not slash:  # it lies in no identity folder
            loose.append(entry._replace(rejection=_NO_IDENTITY))
            continue
        entries.append(entry._replace(image_id=image_id, identity=identity))
    if not entries and loose:
        raise InputError(
            f"{source}: all {len(loose)} images lie beside one another, expected <identity>/<image>; where the names of files "
            "say who is on them, --identity-from takes it from there"
            if pattern is None
            else f"{source}: identity_from fits none of {len(loose)} images, such as {printable(text(loose[0].name))}"
        )
    if not entries:
        raise InputError(f"{source}: no identity folder with an image")
    return _plan(source, tree, loose + entries, config, Naming())


def _plan(source: Path, tree: Tree, entries: list[Entry], config: ExtractConfig, naming: Naming) -> Plan:
    plan = plan_people(source, source, entries + tree.broken, config, tree.passed_over, naming)
    plan.warnings += tree.warnings()
    return plan


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
    known: set[str] = set()
    for entry in found:
        parsed = kface.parse_path(entry.name)
        if parsed is None or text(entry.name) != entry.name:
            entries.append(entry._replace(rejection=_UNKNOWN_CONDITION))
            continue
        identity, condition = parsed
        known.add(normal(identity))
        if selection is not None and condition not in selection:
            tree.passed_over.add(Why.NOT_SELECTED, entry.name)
        else:
            image_id = kface.image_id(identity, condition)
            note = notes.get(os.path.splitext(entry.name)[0])  # noqa: PTH122 - millions of them
            entries.append(entry._replace(image_id=image_id, identity=identity, condition=condition, note=note))
    if not any(entry.identity for entry in entries):
        raise InputError(f"{source}: no K-FACE image of the selection ({config.selection or 'all'}) in it")
    return _plan(source, tree, entries, config, Naming(also_known=known))


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
    plan = plan_people(file, root, entries, config, PassedOver(), Naming(order=int, form=number_form, may_repeat=True))
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
    """The file that a list names, whose name on the disk may be spelled in another normal form."""
    for spelled in dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))):
        try:
            facts = (root / spelled).stat()
        except OSError:
            continue
        return Entry(spelled, facts.st_size, (facts.st_mtime_ns, facts.st_ctime_ns))
    return Entry(name, 0, (0, 0))

"""Plan image files by their names: identity folders, and the images that a `.lst` names."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from eolgul.errors import InputError, Reason, Rejection, printable
from eolgul.extract.choosing import Naming, plan_people
from eolgul.extract.config import ExtractConfig
from eolgul.extract.entries import Entries, Entry
from eolgul.extract.kface_tree import count_kface
from eolgul.extract.levels import Level, find_level
from eolgul.extract.passed_over import PassedOver
from eolgul.extract.people import number_form
from eolgul.extract.plan import Plan, text
from eolgul.extract.tree import Tree, names_in
from eolgul.formats.identities import normal
from eolgul.model.package import TEMPLATE_NAME
from eolgul.storage.far import FarFolder

_NO_IDENTITY = Rejection(Reason.NO_IDENTITY, "an image beside the identity folders, expected <identity>/<image>")
_NO_MATCH = Rejection(Reason.NO_IDENTITY, "identity_from does not fit the path")


def plan_folders(source: Path, config: ExtractConfig, far: FarFolder | None = None) -> Plan:
    """Plan identity folders, `<identity>/…/<image>`: InsightFace_Pytorch's `imgs/`, LFW, ORL, any photos.

    Memory: about 60 bytes per image, 32 more in S3 and 300 in archives; its path besides while the people's level is looked for.

    Raises:
        InputError: when there is no identity folder with enough images.
    """
    # Its shards are archives of images.
    if {"dataset.json", "manifest.parquet"} <= names_in(source, far).files:
        raise InputError(f"{source}: is a FaceDataset already, expected raw data")
    tree = Tree(source, far)
    pattern = config.identity_pattern
    pictures = Entries(tree.pictures())
    names = list(pictures.names())
    if config.kind == "auto" and pictures and count_kface(names) > len(names) / 2:
        raise InputError(
            f"{source}: holds K-FACE's images, such as {text(names[0])}, among other files; give --kind kface"
        )
    level = Level(config.depth or 1) if config.depth or pattern is not None else find_level(source, names)
    loose, entries = Entries(), Entries()
    del names
    for entry in pictures:
        *around, rest = entry.name.split("/", level.depth - 1)
        identity, slash, _ = rest.partition("/")
        image_id = os.path.splitext(rest)[0]  # noqa: PTH122 - millions of them
        if pattern is not None:
            found = pattern.fullmatch(normal(text(entry.name)))
            if found is None or not found["identity"]:
                loose.append(entry._replace(rejection=_NO_MATCH))
                continue
            if found["identity"] != identity or not slash:
                identity = found["identity"]
                image_id = f"{identity}/{image_id}"
        elif not slash or len(around) < level.depth - 1:  # it lies in no identity folder
            loose.append(entry._replace(rejection=_NO_IDENTITY))
            continue
        entries.append(entry._replace(image_id=image_id, identity=identity))
    if not entries and loose:
        raise InputError(
            f"{source}: none of its {len(loose)} images lies {level.depth} or more folders deep (--depth)"
            if level.depth > 1
            else f"{source}: all {len(loose)} images lie beside one another, expected <identity>/<image>; where the names of "
            "files say who is on them, --identity-from takes it from there"
            if pattern is None
            else f"{source}: identity_from fits none of {len(loose)} images, such as {printable(text(loose[0].name))}"
        )
    del pictures
    if not entries:
        beside = tree.describe()
        raise InputError(
            f"{source}: no identity folder with an image{f'; it holds {beside}' if beside else ', and no other file'}"
        )
    several = _of_several(entries, level.depth) if pattern is None else []
    if several and config.depth is None:
        raise InputError(
            f"{source}: {len(several)} names of people, such as {printable(text(several[0]))}, occur in several folders at level "
            f"{level.depth - 1}; give --depth {level.depth} if equal names are one person, or extract those folders one by one"
        )
    if loose:
        for entry in entries:
            loose.append(entry)
        entries = loose
    for entry in tree.broken:
        entries.append(entry)
    plan = plan_people(source, source, entries, config, tree.passed_over)
    plan.warnings[:0] = [*tree.warnings(), *([level.warning] if level.warning else [])]
    if pattern is None:
        plan.facts["depth"] = level.depth
    if several:
        plan.facts["identities_of_several_folders"] = len(several)
        plan.warnings.append(
            f"{len(several)} names of people, such as {printable(text(several[0]))}, occur in several folders at level "
            f"{level.depth - 1}; each is taken as one person"
        )
    return plan


def _of_several(entries: Entries, depth: int) -> list[str]:
    """The identities whose folders lie in several folders of the level above, sorted."""
    if depth == 1:
        return []
    first: dict[str, str] = {}
    several = set()
    for entry in entries:
        around = entry.name.rsplit("/", entry.name.count("/") - depth + 2)[0]
        if first.setdefault(normal(entry.identity or ""), around) != around:
            several.add(normal(entry.identity or ""))
    return sorted(several)


def plan_lst(file: Path, config: ExtractConfig) -> Plan:
    """Plan the images that a `.lst` names, by paths below the folder of the list or below `config.root`.

    Raises:
        InputError: when a line of the list cannot be read, or the root is not a folder.
    """
    from eolgul.formats.lst import read_lst

    root = Path(config.root) if config.root else file.parent
    if not root.is_dir():
        raise InputError(f"root {root}: no such folder")
    entries = Entries()
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

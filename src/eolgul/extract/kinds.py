"""Tell the kind of a source."""

from __future__ import annotations

from pathlib import Path

from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.kface_tree import is_kface
from eolgul.extract.tree import Tree
from eolgul.formats import kface
from eolgul.formats.archives import archive_stem, how_to_unpack, is_foreign_archive


def is_archive(source: Path) -> bool:
    """Whether a source is a zip or tar archive, by its name."""
    return archive_stem(source.name) is not None and source.is_file()


def kind_of(source: Path, config: ExtractConfig) -> str:
    """The kind of a source that is extracted with these options: the one that they name, or else its own.

    Raises:
        InputError: when it is of no known kind.
    """
    if config.kind != "auto":
        return config.kind
    try:
        return detect_kind(source)
    except InputError:
        if config.identity_from is not None and source.is_dir():  # whose images need no folders
            return "folders"
        raise


def detect_kind(source: Path) -> str:
    """The kind of a source, from the names of files.

    Raises:
        InputError: when it is of no known kind.
    """
    if source.is_file():
        if is_archive(source):
            return "kface" if is_kface(source) else "folders"
        kind = {".rec": "rec", ".bin": "bin", ".lst": "lst"}.get(source.suffix)
        if kind:
            return kind
        if is_foreign_archive(source.name):
            raise InputError(f"{source}: an archive of this kind is not read in place; {how_to_unpack(source.name)}")
        raise InputError(f"{source}: expected a .rec, .bin or .lst file, a .zip or .tar archive, or a folder")
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder")
    if (source / "train.rec").is_file():
        return "rec"
    if (source / "meta" / "storage").is_file() and (source / "data").is_dir():
        return "carrays"
    entries = [entry for entry in source.iterdir() if not entry.name.startswith(".")]
    folders = [entry.name for entry in entries if entry.is_dir()]
    if any(f"{resolution}_Resolution" in folders for resolution in kface.RESOLUTIONS) or is_kface(source):
        return "kface"
    if folders or any(is_archive(entry) for entry in entries):
        return "folders"
    tree = Tree(source)
    loose = sum(1 for _ in tree.pictures())
    beside = ", ".join(filter(None, [f"{loose:,} images beside one another" if loose else "", tree.describe()]))
    raise InputError(
        f"{source}: holds no train.rec, no K-FACE tree, no carray and no identity folders"
        f"{f', but {beside}' if beside else '; it is empty'}"
        + ("; where the names of files say who is on them, --identity-from takes it from there" if loose else "")
    )

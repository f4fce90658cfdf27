"""Tell the kind of a source."""

from __future__ import annotations

from pathlib import Path

from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.kface_tree import is_kface
from eolgul.extract.tree import Tree, names_in
from eolgul.formats import kface
from eolgul.formats.archives import archive_stem, how_to_unpack, is_foreign_archive
from eolgul.storage.far import FarFolder


def is_archive(source: Path) -> bool:
    """Whether a source is a zip or tar archive, by its name."""
    return archive_stem(source.name) is not None and source.is_file()


def kind_of(source: Path, config: ExtractConfig, far: FarFolder | None = None) -> str:
    """The kind of a source that is extracted with these options: the one that they name, or else its own.

    Args:
        source: The source.
        config: The options.
        far: The source where it is a folder in S3; `source` is the place of its copies then.

    Raises:
        InputError: when it is of no known kind.
    """
    if config.kind != "auto":
        return config.kind
    try:
        return detect_kind(source, far)
    except InputError:
        if config.identity_from is not None and source.is_dir():  # whose images need no folders
            return "folders"
        raise


def container_of(source: Path, far: FarFolder | None = None) -> str | None:
    """The kind of a folder that is one container: `train.rec` with its index, or a carray; None for any other."""
    found = names_in(source, far)
    if "train.rec" in found.files:
        return "rec"
    if {"meta", "data"} <= found.folders and "storage" in names_in(source, far, "meta").files:
        return "carrays"
    return None


def detect_kind(source: Path, far: FarFolder | None = None) -> str:
    """The kind of a source, from the names of files; `far` as `kind_of` takes it.

    Raises:
        InputError: when it is of no known kind.
    """
    if far is None and source.is_file():
        if is_archive(source):
            return "kface" if is_kface(source) else "folders"
        kind = {".rec": "rec", ".bin": "bin", ".lst": "lst"}.get(source.suffix)
        if kind:
            return kind
        if is_foreign_archive(source.name):
            raise InputError(f"{source}: an archive of this kind is not read in place; {how_to_unpack(source.name)}")
        raise InputError(f"{source}: expected a .rec, .bin or .lst file, a .zip or .tar archive, or a folder")
    if far is None and not source.is_dir():
        raise InputError(f"{source}: no such file or folder")
    container = container_of(source, far)
    if container is not None:
        return container
    found = names_in(source, far)
    folders = {name for name in found.folders if not name.startswith(".")}
    if any(f"{resolution}_Resolution" in folders for resolution in kface.RESOLUTIONS) or is_kface(source, far):
        return "kface"
    if folders or any(archive_stem(name) is not None for name in found.files if not name.startswith(".")):
        return "folders"
    tree = Tree(source, far)
    loose = sum(1 for _ in tree.pictures())
    beside = ", ".join(filter(None, [f"{loose:,} images beside one another" if loose else "", tree.describe()]))
    raise InputError(
        f"{source}: holds no train.rec, no K-FACE tree, no carray and no identity folders"
        f"{f', but {beside}' if beside else '; it is empty'}"
        + ("; where the names of files say who is on them, --identity-from takes it from there" if loose else "")
    )

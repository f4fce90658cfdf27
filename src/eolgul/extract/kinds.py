"""Tell the kind of a source."""

from __future__ import annotations

from pathlib import Path

from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.formats import kface
from eolgul.formats.archives import archive_stem


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
    """The kind of a source, from its names alone.

    Raises:
        InputError: when it is of no known kind.
    """
    if source.is_file():
        if is_archive(source):
            return "folders"
        kind = {".rec": "rec", ".bin": "bin", ".lst": "lst"}.get(source.suffix)
        if kind:
            return kind
        raise InputError(f"{source}: expected a .rec, .bin or .lst file, a .zip or .tar archive, or a folder")
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder")
    if (source / "train.rec").is_file():
        return "rec"
    if (source / "meta" / "storage").is_file() and (source / "data").is_dir():
        return "carrays"
    names = [entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if any(f"{resolution}_Resolution" in names for resolution in kface.RESOLUTIONS):
        return "kface"
    if names or any(is_archive(entry) for entry in source.iterdir()):
        return "folders"
    raise InputError(
        f"{source}: holds no train.rec, no K-FACE tree, no carray and no identity folders; where the names of files say who "
        "is on them, --identity-from takes it from there"
    )

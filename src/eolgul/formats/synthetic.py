"""The mark beside raw data that says: these people are drawn and do not exist. It is carried on through every step."""

from __future__ import annotations

from pathlib import Path

SYNTHETIC_MARK = "synthetic.json"


def mark_beside(file: Path) -> Path:
    """The mark of a file that is a whole source by itself, such as a `.bin`."""
    return file.with_name(f"{file.name}.{SYNTHETIC_MARK}")


def mark_of(source: Path) -> Path:
    """Where the mark of a source lies: beside a `.bin`, else in the source's folder (a `.rec` or `.lst` lies in one)."""
    if source.suffix == ".bin":
        return mark_beside(source)
    return (source if source.is_dir() else source.parent) / SYNTHETIC_MARK

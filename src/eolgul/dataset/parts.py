"""Where the finished parts of a data set lie while it is being built (`eolgul.dataset.build`)."""

from __future__ import annotations

from pathlib import Path


def work_of(out: Path) -> Path:
    """The work folder of the data set `out`, as `eolgul.files.work_folder` names it."""
    return out.parent / f".{out.name}.partial"


def job_file(work: Path) -> Path:
    """The file that says which job the parts in a work folder are of."""
    return work / "job"


def finished_parts(work: Path) -> dict[str, list[str]]:
    """The finished parts in a work folder: {name: its files below the folder}. The file that marks it as finished is last."""
    parts: dict[str, list[str]] = {}
    for mark in sorted((work / "parts").glob("[0-9]*.json")):
        name = mark.name.removesuffix(".json")
        shard = f"artifact/shards/{name}.tar"
        files = [shard] if (work / shard).is_file() else []
        files += [f"parts/{name}{end}" for end in (".parquet", ".rejected.parquet", ".read")]
        parts[name] = [*files, f"parts/{mark.name}"]
    return parts

"""Places of artifacts, with or without the digest of what is expected there, and raw sources.

What a task hands on is a reference, `place#sha256:<digest>`: the next one gets exactly that artifact or refuses. A place
alone takes whatever lies there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from eolgul import storage
from eolgul.artifact import CARDS, Artifact, open_artifact
from eolgul.dataset import SHARDS
from eolgul.dataset.far import Cache, FarShards
from eolgul.errors import InputError
from eolgul.files import sha256_bytes, write_atomic
from eolgul.formats.synthetic import mark_of
from eolgul.storage.far import FarFolder

Facts = dict[str, Any]
_REFERENCE = re.compile(r"(?P<place>.+?)(#sha256:(?P<digest>.*))?", re.DOTALL)
_ANOTHER = "{place}: holds the artifact {found}, but {wanted} was handed on; it was replaced in the meantime"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def reference(place: str, digest: str) -> str:
    """The artifact with this digest at a place."""
    return f"{place.rstrip('/')}#sha256:{digest}"


def split_reference(given: str) -> tuple[str, str | None]:
    """The place and the digest of a reference; None for a place alone.

    Raises:
        InputError: When what follows `#sha256:` is no digest.
    """
    found = _REFERENCE.fullmatch(given)
    if found is None or found["digest"] is None:
        return given, None
    if not _DIGEST.fullmatch(found["digest"]):
        raise InputError(f"{given}: expected 64 hexadecimal digits after #sha256:")
    return found["place"], found["digest"]


def place_of(given: str) -> str:
    """The place of a reference."""
    return split_reference(given)[0]


def places_of(given: Iterable[str]) -> list[str]:
    """The places of several references, without empty ones."""
    return [place_of(item) for item in given if item]


def bring(given: str, *, without: Collection[str] = ()) -> Path:
    """The local path of an artifact or a file, fetched when it is in S3; with a digest, of exactly that artifact.

    Raises:
        InputError: When nothing is there, or another artifact than the reference names.
    """
    place, digest = split_reference(given)
    path = storage.fetch(place, without=without)
    if digest is not None and (found := open_artifact(path, without=tuple(without)).digest) != digest:
        raise InputError(_ANOTHER.format(place=place, found=found[:12], wanted=digest[:12]))
    return path


def bring_tables(given: str, cache: Cache | None = None) -> tuple[Path, FarShards | None]:
    """A FaceDataset whose images are read where they lie: a local one as it is, one in S3 without its shards.

    Args:
        given: Its place, or reference.
        cache: Keeps images that were read once.

    Returns:
        Its local path, and its shards if they are in S3.

    Raises:
        InputError: As `bring` does.
    """
    if not storage.is_s3(given):
        return bring(given), None
    return bring(given, without=(SHARDS,)), FarShards(place_of(given), cache)


def card_of(given: str) -> Artifact:
    """An artifact's card, read without its other files; with a digest, of exactly that artifact.

    Raises:
        InputError: As `bring` does.
    """
    found = find_card(given)
    if found is None:
        raise InputError(f"{place_of(given)}: not an eolgul artifact (none of {', '.join(CARDS.values())} found)")
    return found


def find_card(given: str) -> Artifact | None:
    """As `card_of`; None where there is no artifact, as at a raw source.

    Raises:
        InputError: There is another artifact than the reference names, or its card is malformed.
    """
    place, digest = split_reference(given)
    for kind, name in CARDS.items():
        data = storage.read_bytes(storage.join(place, name))
        if data is None:
            continue
        found = sha256_bytes(data)
        if digest is not None and found != digest:
            raise InputError(_ANOTHER.format(place=place, found=found[:12], wanted=digest[:12]))
        try:
            card = json.loads(data)
            if not isinstance(card["contents"], dict) or "synthetic" not in card:
                raise ValueError("another format")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{storage.join(place, name)}: not the card of an artifact") from error
        return Artifact(Path(place), kind, card, found)
    if digest is not None:
        raise InputError(f"{place}: not an eolgul artifact (none of {', '.join(CARDS.values())} found)")
    return None


def found_facts(given: str, card: Artifact) -> Facts:
    """The facts of an artifact that is handed on as it is."""
    place = place_of(given)
    return facts_of(card, place, time.monotonic()) | {"reference": reference(place, card.digest), "reused": True}


def facts_of(artifact: Artifact, place: str, started: float) -> Facts:
    """What a command prints about the artifact it made: place, digest, counts, seconds since `started`."""
    counts: Facts = {
        key: artifact.contents[key]
        for key in ("images", "identities", "rejected", "pairs", "pairs_lost")
        if key in artifact.contents
    }
    if artifact.contents.get("identities_known") is False:  # a .bin says who is alike, not who is who
        counts["identities"] = None
    return {
        "artifact": place,
        "kind": artifact.kind,
        "digest": artifact.digest,
        **counts,
        "synthetic": artifact.synthetic,
        "seconds": round(time.monotonic() - started, 3),
    }


def raw(source: str) -> Path:
    """A raw source on the local disk, with the files that belong to it by name."""
    if storage.is_s3(source) and source.endswith(".lst"):  # its images lie below its folder
        folder, _, name = source.rpartition("/")
        return storage.fetch(folder) / name
    local = storage.fetch(source)
    if not storage.is_s3(source):
        return local
    if (local / "meta" / "storage").is_file() and storage.exists(_list_beside(source)):
        storage.fetch(_list_beside(source))
    folder = source.rpartition("/")[0]
    for other in _files_beside(source):
        if storage.exists(f"{folder}/{other}"):
            storage.fetch(f"{folder}/{other}")
        else:  # nor is an old copy of what S3 had once
            local.with_name(other).unlink(missing_ok=True)
    return local


def open_raw(source: str, kind: str = "auto") -> tuple[Path, FarFolder | None]:
    """A raw source for extraction: as `raw`, or a tree in S3 whose files are read where they lie.

    Args:
        source: Its place.
        kind: The kind that the options name.

    Returns:
        Its local path, and the folder in S3 if its files are not fetched.
    """
    if kind not in ("auto", "kface", "folders") or not storage.is_s3(source) or storage.is_object(source):
        return raw(source), None
    from eolgul.extract.kinds import container_of

    far = FarFolder(source)
    if far.is_empty:
        raise InputError(f"{source}: nothing there")
    local = storage.cache_place(source)
    local.mkdir(parents=True, exist_ok=True)
    if container_of(local, far) is not None:
        return raw(source), None
    mark = mark_of(local)
    try:
        write_atomic(mark, far.read_bytes(mark.name))
    except FileNotFoundError:
        mark.unlink(missing_ok=True)
    return local, far


def _list_beside(source: str) -> str:
    """The list of labels beside a carray's folder."""
    return f"{source.rstrip('/')}_list.npy"


def _files_beside(source: str) -> list[str]:
    """The names of the files beside a `.rec` or a `.bin` that belong to it."""
    if not source.endswith((".rec", ".bin")):
        return []
    name = source.rpartition("/")[2]
    index = [f"{name.rpartition('.')[0]}.idx", "property"] if name.endswith(".rec") else []
    return [*index, mark_of(Path(name)).name]


def stamp(source: str) -> str:
    """The SHA-256 (hex) of a raw source as its storage describes it: every file's name and size, and its ETag or times.

    It changes whenever the source does, and nothing is read or fetched for it.

    Raises:
        InputError: When there is nothing at `source`.
    """
    # A sum, since listings of millions of files come in different orders and are not to be held.
    total, count = 0, 0
    lines = _described(source.rpartition("/")[0] if source.endswith(".lst") else source)
    for line in lines:
        total += _digest_of(line)
        count += 1
    if not count:
        raise InputError(f"{source}: " + ("nothing there" if storage.is_s3(source) else "no such file or folder"))
    folder = source.rstrip("/").rpartition("/")[0]
    for beside in (*(f"{folder}/{name}" for name in _files_beside(source)), _list_beside(source)):
        total += sum(map(_digest_of, _described(beside)))
    own = source.rstrip("/").rpartition("/")[2]  # a .lst names one of several
    return sha256_bytes(f"{own}\0{total % 2**256:064x}".encode("utf-8", "surrogateescape"))


def _digest_of(line: str) -> int:
    return int.from_bytes(hashlib.sha256(line.encode("utf-8", "surrogateescape")).digest())


def _described(place: str) -> Iterator[str]:
    """One line per file at a place; none where nothing is."""
    if storage.is_s3(place):
        for name, size, etag in storage.describe(place):
            yield f"{name}\0{size}\0{etag}\n"
        return
    path = Path(place)
    if path.is_file():
        yield _line(path.name, path.stat())
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not Path(folder, name).is_symlink()]
        for name in names:
            file = os.path.join(folder, name)  # noqa: PTH118 - millions of them
            if os.path.isfile(file):  # noqa: PTH113
                yield _line(os.path.relpath(file, path.parent), os.stat(file))  # noqa: PTH116


def _line(name: str, facts: os.stat_result) -> str:
    return f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ctime_ns}\n"

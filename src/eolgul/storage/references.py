"""Files of an artifact in S3 that are objects of other artifacts: listed beside the card, fetched from where they are.

`.references.json` below an artifact's prefix names the object of each such file, with its size and ETag. It is not part of the
artifact, whose card has size and SHA-256 of every file wherever it lies: the same artifact can also have all its files itself.
An object that is gone or has changed is an error that names it; nothing else is taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eolgul.artifact import CARDS
from eolgul.errors import InputError
from eolgul.storage.s3 import connect, join, list_objects_below, read_bytes, split

REFERENCES = ".references.json"
FOLDER = "shards"  # only what lies in it is referred to: the tables and the card are small and always there
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Reference:
    """The object that an artifact's file is."""

    bucket: str
    key: str
    size: int
    etag: str

    @property
    def uri(self) -> str:
        """The object's place."""
        return f"s3://{self.bucket}/{self.key}"


def read_references(uri: str) -> dict[str, Reference]:
    """The files of the artifact at `uri` that are objects elsewhere, by their names; none where it has all itself.

    Raises:
        InputError: when the list is broken.
    """
    place = join(uri, REFERENCES)
    data = read_bytes(place)
    if data is None:
        return {}
    try:
        value = json.loads(data)
        if value["format"] != _FORMAT:
            raise ValueError("format")
        found = {str(name): Reference(**item) for name, item in value["files"].items()}
        if any(name.startswith("/") or ".." in name.split("/") for name in found):
            raise ValueError("name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{place}: expected a list of references, format {_FORMAT}") from error
    return found


def references_of(files: Mapping[str, Reference]) -> bytes:
    """The list as it is stored."""
    value = {"format": _FORMAT, "files": {name: asdict(item) for name, item in sorted(files.items())}}
    return json.dumps(value, indent=1).encode()


def find_objects(files: Mapping[str, tuple[str, int]], places: Sequence[str]) -> dict[str, Reference]:
    """The objects of the artifacts at `places` that have the bytes of some files.

    Args:
        files: SHA-256 and size of each file, by its name.
        places: artifacts in S3, which may refer to others themselves.

    Returns:
        The object of each file that one of the artifacts has, as its card says.
    """
    known: dict[tuple[str, int], Reference] = {}
    for place in places:
        bucket, key = split(place)
        below = f"{key}/" if key else ""
        objects = {
            item.object_name.removeprefix(below): Reference(bucket, item.object_name, item.size, _etag(item))
            for item in list_objects_below(place)
        } | read_references(place)
        for name, facts in _card_files(place).items():
            there = objects.get(name)
            if there is not None and there.size == facts["size"]:
                known.setdefault((facts["sha256"], facts["size"]), there)
    return {name: known[wanted] for name, wanted in files.items() if wanted in known}


def _card_files(place: str) -> dict[str, dict[str, Any]]:
    card = next((data for name in CARDS.values() if (data := read_bytes(join(place, name))) is not None), None)
    try:
        files: dict[str, dict[str, Any]] = json.loads(card or b"")["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}: not an eolgul artifact (it has no readable card)") from error
    return files


def look_up(file: str, reference: Reference) -> Any:
    """The object of a reference, as the SDK describes it; `file` is the place that refers to it.

    Raises:
        InputError: when it is gone, or is not the one that was referred to.
    """
    from minio.error import S3Error

    with connect(reference.uri) as client:
        try:
            found = client.stat_object(bucket_name=reference.bucket, object_name=reference.key)
        except S3Error as error:
            if error.code not in ("NoSuchKey", "NoSuchBucket", "NoSuchObject"):
                raise
            found = None
    if found is None:
        raise InputError(
            f"{file}: is the object {reference.uri}, which is gone; make the dataset again, or with --copy"
        )
    if found.size != reference.size or _etag(found) != reference.etag:
        raise InputError(
            f"{file}: is the object {reference.uri}, which has changed since; make the dataset again, or with --copy"
        )
    return found


def _etag(item: Any) -> str:
    return str(item.etag).strip('"')

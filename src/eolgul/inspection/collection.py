"""Any collection of face images as one list: a FaceDataset, a `.rec`, a `.bin`, a carray or a tree of files.

`inspect` counts it and a contact sheet shows it. To open one reads names, headers and labels, never all the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.files import FilesTask
from eolgul.extract.plan import text
from eolgul.extract.step import plan_source
from eolgul.formats import carrays, insightface, kface, rec_index
from eolgul.formats.recordio import RecordReader
from eolgul.images.decode import decode

FIRST = 5  # problems that are reported in full
_FORGET = 1_000  # records after which the pages of a memory map are released; each can map 64 kB


@dataclass
class Collection:
    """Images 0…N-1, each with the number of its identity (int32 N) and its encoded size in bytes (int64 N).

    Attributes:
        identities: The number of each image's identity.
        sizes: The encoded size of each image; empty if images are not encoded.
        name: Gives an identity's name by its number.
        pixels: Decodes an image to uint8 RGB, height x width x 3; InputError if it is broken.
        place: Names an image in messages.
        encoded: Gives the encoded bytes of an image; None if images are not encoded.
        shapes: N x 2 (width, height), None if that takes reading the images.
        identities_known: False if only the identity of pairs is known.
        rejected: The number of unusable inputs by reason.
        problems: Sentences about the first of them.
        facts: Further facts for the report.
    """

    identities: NDArray[np.int32]
    sizes: NDArray[np.int64]
    name: Callable[[int], str]
    pixels: Callable[[int], NDArray[np.uint8]]
    place: Callable[[int], str]
    encoded: Callable[[int], bytes] | None = None
    shapes: NDArray[np.int32] | None = None
    identities_known: bool = True
    rejected: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.identities)

    def refuse(self, rejection: Rejection) -> None:
        """Count an input that is not a usable image, and keep the sentence if it is among the first."""
        self.rejected[rejection.code] = self.rejected.get(rejection.code, 0) + 1
        if len(self.problems) < FIRST:
            self.problems.append(rejection.detail)


def _decoder(read: Callable[[int], bytes]) -> Callable[[int], NDArray[np.uint8]]:
    """A function that decodes the images that `read` gives."""
    return lambda number: decode(read(number))[0]


def from_dataset(dataset: FaceDataset) -> Collection:
    """The images of a FaceDataset, and the inputs that it has rejected."""
    labels = dataset.numpy("label")
    first = np.unique(labels, return_index=True)[1]
    names = dict(zip(labels[first].tolist(), dataset.values("identity", first), strict=True))
    shapes = np.column_stack([dataset.numpy("width"), dataset.numpy("height")]).astype(np.int32)
    contents = dataset.artifact.contents
    collection = Collection(
        labels.astype(np.int32),
        dataset.numpy("size").astype(np.int64),
        lambda label: names[label],
        _decoder(dataset.read),
        lambda row: f"{dataset.path} image {dataset.values('image_id', [row])[0]}",
        dataset.read,
        shapes,
        contents.get("identities_known") is not False,
        dict(contents.get("rejected_by_reason", {})),
    )
    if contents.get("rejected"):
        rejected = dataset.rejections().slice(0, FIRST).to_pylist()
        collection.problems = [f"{row['where']}: {row['reason']}, {row['detail']}" for row in rejected]
    return collection


def from_rec(rec: Path) -> Collection:
    """The images of a `.rec`; this reads the headers of all records, not their images."""
    index = rec_index.index_rec(rec)
    reader = RecordReader(rec)
    usable = np.zeros(len(index), np.bool_)
    labels = np.zeros(len(index), np.int32)
    sizes = np.zeros(len(index), np.int64)
    refused: list[Rejection] = []
    for number, offset in enumerate(index.offsets):
        refusal: tuple[Reason, str] | None = None
        try:
            record = reader.image(int(offset))
        except InputError as error:
            refusal = Reason.BAD_RECORD, str(error)
        else:
            label, where = record.labels[0], f"{rec} at byte {offset}"
            if not (0 <= label < 2**31 and float(label).is_integer()):
                refusal = Reason.UNKNOWN_IDENTITY, f"{where}: label {label} is not an identity number"
            elif not len(record.image):
                refusal = Reason.BAD_RECORD, f"{where}: no image behind the header"
            elif index.repeated[number]:
                refusal = Reason.DUPLICATE_KEY, f"{where}: key {index.keys[number]} is there already"
            else:
                usable[number], labels[number], sizes[number] = True, int(label), len(record.image)
        if refusal:
            refused.append(Rejection(refusal[0], refusal[1] if len(refused) < FIRST else ""))
        if number % _FORGET == 0:
            reader.forget()
    reader.forget()
    for key in index.missing.tolist():
        which = f"record {key}" if key >= 0 else "a record whose key nothing tells"
        detail = f"{rec} {which}: record 0 announces it, and the file does not hold it"
        refused.append(Rejection(Reason.MISSING_RECORD, detail if len(refused) < FIRST else ""))
    places = index.offsets[usable]
    del index

    def read(number: int) -> bytes:
        data = bytes(reader.image(int(places[number])).image)
        reader.forget()  # reading maps neighbouring pages too, and the images that are shown lie far apart
        return data

    collection = Collection(
        labels[usable],
        sizes[usable],
        lambda label: f"{label:06}",
        _decoder(read),
        lambda n: f"{rec} at byte {places[n]}",
        read,
    )
    for rejection in refused:
        collection.refuse(rejection)
    about = rec.with_name("property")
    if about.is_file():
        stated = insightface.read_property(about)
        collection.facts["property"] = {"identities": stated.identities, "height": stated.height, "width": stated.width}
        if stated.images is not None:
            collection.facts["property"]["images"] = stated.images
    return collection


def from_bin(file: Path) -> Collection:
    """The images of a `.bin`, which knows pairs but no identities: a genuine pair counts as one identity."""
    pairs = insightface.read_bin(file)
    collection = Collection(
        _of_pairs(pairs.same),
        np.array([len(image) for image in pairs.images], np.int64),
        lambda code: f"pair {code // 2}",
        _decoder(pairs.images.__getitem__),
        lambda number: f"{file} image {number}",
        pairs.images.__getitem__,
        identities_known=False,
    )
    collection.facts = {"pairs": len(pairs.same), "genuine": int(pairs.same.sum())}
    return collection


def from_carray(folder: Path) -> Collection:
    """The images of a bcolz carray, which holds pixels and no encoded bytes."""
    carray = carrays.read_carray(folder)
    collection = Collection(
        _of_pairs(carray.same),
        np.zeros(0, np.int64),
        lambda code: f"pair {code // 2}",
        lambda number: next(carray.images(number, number + 1)),
        lambda number: f"{folder} image {number}",
        shapes=np.full((len(carray), 2), 112, np.int32),
        identities_known=False,
    )
    collection.facts = {"pairs": len(carray.same), "genuine": int(carray.same.sum())}
    return collection


def _of_pairs(same: NDArray[np.bool_]) -> NDArray[np.int32]:
    codes = np.arange(2 * len(same), dtype=np.int32)
    codes[1::2] -= same  # the second image of a genuine pair is the first one's person
    return codes


def from_files(source: Path, kind: str) -> Collection:
    """The image files of a tree or of a `.lst`, as extraction selects them; this reads names and sizes only."""
    plan = plan_source(kind, source, ExtractConfig())
    entries = [entry for task in plan.tasks if isinstance(task, FilesTask) for entry in task.entries]
    root = source.parent if kind == "lst" else source
    good = [entry for entry in entries if entry.rejection is None]
    codes: dict[str, int] = {}
    numbers = np.array([codes.setdefault(entry.identity or "", len(codes)) for entry in good], np.int32)
    names = list(codes)

    def read(number: int) -> bytes:
        place = good[number].place(root)
        try:
            return place if isinstance(place, bytes) else place.read_bytes()
        except OSError as error:
            raise InputError(f"{root / good[number].name}: {error.strerror or error}", Reason.UNREADABLE) from error

    collection = Collection(
        numbers,
        np.array([entry.size for entry in good], np.int64),
        names.__getitem__,
        _decoder(read),
        lambda number: text(str(root / good[number].name)),
        read,
    )
    for entry in entries:
        if entry.rejection is not None:
            where = text(str(root / entry.name))
            collection.refuse(Rejection(entry.rejection.code, f"{where}: {entry.rejection.detail}"))
    if kind == "kface":
        conditions = {entry.condition for entry in good if entry.condition is not None}
        for name in kface.Condition.__slots__:
            present = {getattr(condition, name) for condition in conditions}
            collection.facts[name] = [value for value in _order(name) if value in present]
        collection.facts["annotations"] = sum(entry.note is not None for entry in good)
    return collection


def _order(name: str) -> Sequence[str]:
    """The values of a condition in K-FACE's order."""
    order: Sequence[str] = getattr(kface, f"{name.upper()}S") if name != "accessory" else kface.ACCESSORIES
    return order

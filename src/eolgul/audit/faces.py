"""The two sides of an audit: rows of several datasets as one list of faces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eolgul.audit.schema import AuditedSet
from eolgul.dataset import SPLITS, FaceDataset
from eolgul.formats.identities import normal
from eolgul.model.provenance import is_counted


@dataclass(frozen=True, slots=True)
class Part:
    """Rows (int64, ascending) of one dataset, under the name that findings have; `split` where it is one."""

    name: str
    dataset: FaceDataset
    rows: NDArray[np.int64]
    split: str | None

    @property
    def identified(self) -> bool:
        """Whether the dataset says who is on its images."""
        return self.dataset.identified


class Faces:
    """The faces of several parts, numbered from 0.

    `names`: identity of each as `<source>.<name>` (object, N), None where people are not known; `person` (int64, N): a
    number per person, of its own for an image of unknown people.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self._ids: dict[Path, pa.StringArray] = {}
        self.offsets = np.cumsum([0, *(len(part.rows) for part in parts)])
        names: list[str | None] = []
        for part in parts:
            known, codes = part.dataset.codes("identity")
            own = np.asarray(known, dtype=object)[codes[part.rows]]  # one string per person, not per image
            assembled = "splits" in part.dataset.artifact.contents
            source = str(part.dataset.artifact.contents.get("name") or part.name)
            names += [(name if assembled else f"{source}.{name}") if part.identified else None for name in own]
        self.names: NDArray[np.object_] = np.asarray(names, dtype=object)
        keys = [f"{number}" if name is None else f"={name}" for number, name in enumerate(names)]
        self.person = np.unique(np.asarray(keys, dtype=object), return_inverse=True)[1].astype(np.int64)

    def __len__(self) -> int:
        """The number of faces."""
        return int(self.offsets[-1])

    @property
    def identified(self) -> bool:
        """Whether the people of any part are known."""
        return any(part.identified for part in self.parts)

    def people(self) -> NDArray[np.int64]:
        """The numbers of the people whose names are known, ascending."""
        return np.unique(self.person[np.asarray([name is not None for name in self.names], dtype=bool)])

    def part_of(self, face: int) -> tuple[Part, int]:
        """The part that a face is of, and its row in the manifest."""
        number = int(np.searchsorted(self.offsets, face, side="right")) - 1
        part = self.parts[number]
        return part, int(part.rows[face - self.offsets[number]])

    def image_id(self, face: int) -> str:
        """The face's id in its dataset."""
        part, row = self.part_of(face)
        if part.dataset.path not in self._ids:  # kept, since an audit can find very many
            self._ids[part.dataset.path] = part.dataset.arrow("image_id").combine_chunks()
        return str(self._ids[part.dataset.path][row].as_py())

    def read(self, face: int) -> bytes:
        """The encoded image of a face."""
        part, row = self.part_of(face)
        return part.dataset.read(row)

    def sha256(self) -> list[str]:
        """The SHA-256 of every image's bytes."""
        return [value for part in self.parts for value in part.dataset.values("sha256", part.rows)]

    def blocks(self, size: int) -> Iterator[tuple[Part, int, NDArray[np.int64]]]:
        """Consecutive rows of a part, at most `size`, with the number of the first face."""
        for part, offset in zip(self.parts, self.offsets, strict=False):
            for begin in range(0, len(part.rows), size):
                yield part, int(offset) + begin, part.rows[begin : begin + size]

    def facts(self, embedded: Sequence[int] | None) -> list[AuditedSet]:
        """What `audit.json` says about the parts; `embedded`: faces of each part that were embedded."""
        made = []
        for number, part in enumerate(self.parts):
            own = self.person[self.offsets[number] : self.offsets[number + 1]]
            made.append(
                AuditedSet(
                    name=part.name,
                    digest=part.dataset.artifact.digest,
                    split=part.split,
                    images=len(part.rows),
                    people=len(np.unique(own)) if part.identified else None,
                    embedded=None if embedded is None else embedded[number],
                )
            )
        return made

    def sampled(self, most: int) -> Faces:
        """At most `most` faces of each person, evenly over their images; all of them for 0."""
        if not most:
            return self
        order = np.argsort(self.person, kind="stable")
        starts = np.r_[0, np.flatnonzero(np.diff(self.person[order])) + 1, len(order)]
        kept = np.zeros(len(self), dtype=bool)
        for begin, end in pairwise(starts.tolist()):
            places = np.unique(np.linspace(begin, end - 1, min(most, end - begin)).round().astype(np.int64))
            kept[order[places]] = True
        return Faces(
            [
                Part(part.name, part.dataset, part.rows[kept[begin:end]], part.split)
                for part, begin, end in zip(self.parts, self.offsets[:-1], self.offsets[1:], strict=True)
            ]
        )


def training_part(name: str, dataset: FaceDataset) -> Part:
    """What is trained on of a dataset: the `train` split where it has splits, else all of it."""
    if "splits" in dataset.artifact.contents or dataset.knows("split"):
        return Part(name, dataset, dataset.rows("train"), "train")
    return Part(name, dataset, np.arange(len(dataset)), None)


def held_out_parts(name: str, dataset: FaceDataset) -> list[Part]:
    """The other splits of an assembled dataset, those that have images."""
    parts = (Part(f"{name} {split}", dataset, dataset.rows(split), split) for split in SPLITS if split != "train")
    return [part for part in parts if len(part.rows)]


def plain(name: str) -> str | None:
    """A name without its source, in a form in which different spellings are equal; None for a short number.

    `lfw.Ban_Ki-moon` and `web.KI MOON BAN` are both `ban ki moon`: words are in alphabetical order, since family names come
    first in some sources and last in others; letters lose their accents.
    """
    bare = name.partition(".")[2] or name
    letters = "".join(
        letter for letter in unicodedata.normalize("NFKD", bare).casefold() if not unicodedata.combining(letter)
    )
    words = " ".join(sorted(re.sub(r"[\W_]+", " ", normal(letters)).split()))
    return None if not words or is_counted(words) else words

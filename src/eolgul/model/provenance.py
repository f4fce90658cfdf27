"""What a model learned from: hashes of its training people's names and of its training images, beside the model.

`provenance.parquet` has one row per hash. It answers "did this model learn from this person or image?" for any data set,
also one that is not the model's own, without that data. A package without the file says nothing: what it learned from is
unknown, which is not the same as nothing. The service never reads it. 5.87 million images take about 33 MB.

A hash is the first 64 bits of a SHA-256: among 5.87 million images, a foreign one is taken for a known one with a
probability of 3e-13. Names can be guessed and tried, so the file hides them from a reader, not from a search.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.formats.identities import normal

FILE = "provenance.parquet"
_KINDS = ("image", "name", "person")
_SCHEMA = pa.schema([pa.field("kind", pa.string(), nullable=False), pa.field("hash", pa.int64(), nullable=False)])
_FACTS = b"eolgul"  # the key of the schema's metadata under which the other facts are
# Sources count their people anew from 0, so a short number is nobody's name outside its source.
_COUNTED = re.compile(r"\d{1,7}")

Hashes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """The people and images that a model learned from.

    `people`: hashes of source and name, `names`: of the name alone, where it is a name also outside its source,
    `images`: of the images' bytes; each ascending and without repetition. `datasets`: the digests of the FaceDatasets.
    `complete`: False when the model also learned from something unknown, such as weights that it began with.
    """

    people: Hashes
    names: Hashes
    images: Hashes
    datasets: tuple[str, ...]
    complete: bool = True

    @classmethod
    def of(cls, identities: Iterable[str], sha256: pa.ChunkedArray | Sequence[str], dataset: str) -> Self:
        """Describe the training images of one data set.

        Args:
            identities: The identities, `<source>.<name>`; repetitions do not matter.
            sha256: The SHA-256 of every image's bytes, in hexadecimal.
            dataset: The data set's digest.
        """
        everybody = set(identities)
        return cls(
            _sorted(person_hash(name) for name in everybody),
            _sorted(found for name in everybody if (found := name_hash(name)) is not None),
            np.unique(image_hashes(sha256)),
            (dataset,),
        )

    def joined(self, earlier: Provenance | None) -> Provenance:
        """What a model learned from that began with another model's weights; None stands for unknown."""
        if earlier is None:
            return Provenance(self.people, self.names, self.images, self.datasets, complete=False)
        return Provenance(
            np.union1d(self.people, earlier.people),
            np.union1d(self.names, earlier.names),
            np.union1d(self.images, earlier.images),
            tuple(sorted({*self.datasets, *earlier.datasets})),
            self.complete and earlier.complete,
        )

    def facts(self) -> dict[str, int | bool | list[str]]:
        """What the card of a package says about it."""
        return {
            "datasets": list(self.datasets), "people": len(self.people), "images": len(self.images),
            "complete": self.complete,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write the file into a package's folder."""
        columns = dict(zip(_KINDS, (self.images, self.names, self.people), strict=True))
        facts = {"datasets": list(self.datasets), "complete": self.complete}
        schema = _SCHEMA.with_metadata({_FACTS: json.dumps(facts, sort_keys=True).encode()})
        kinds = np.repeat(np.asarray(_KINDS), [len(values) for values in columns.values()])
        table = pa.table([pa.array(kinds, pa.string()), np.concatenate(list(columns.values()))], schema=schema)
        # Ascending hashes differ by about 2^64 / n: their differences take fewer bits than they do.
        pq.write_table(
            table,
            folder / FILE,
            use_dictionary=["kind"],
            column_encoding={"hash": "DELTA_BINARY_PACKED"},
            compression="zstd",
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read it from a package's folder; None when the package does not say what it learned from.

        Raises:
            InputError: The file is damaged.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        try:
            table = pq.read_table(file, schema=None)
            facts = json.loads(table.schema.metadata[_FACTS])
            kinds, hashes = table["kind"], table["hash"]
            images, names, people = (
                np.asarray(hashes.filter(pc.equal(kinds, kind)).to_numpy(), dtype=np.int64) for kind in _KINDS
            )
            return cls(people, names, images, tuple(map(str, facts["datasets"])), bool(facts["complete"]))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise InputError(f"{file}: not the provenance of a model; expected what eolgul train writes") from error

    def knows_images(self, sha256: pa.ChunkedArray | Sequence[str]) -> NDArray[np.bool_]:
        """Whether each image (by the SHA-256 of its bytes, N) was learned from (bool, N)."""
        return np.isin(image_hashes(sha256), self.images)

    def knows_people(self, identities: Sequence[str], source: str) -> NDArray[np.bool_]:
        """Whether each person (N) was learned from, by name (bool, N).

        A name counts within its source, and also under another source's name unless it is a number of up to seven
        digits, which every source gives to somebody else.

        Args:
            identities: Their names, with their source (`<source>.<name>`) or without.
            source: The source of names without one.
        """
        by_name = {name: self._knows(name, source) for name in set(identities)}
        return np.asarray([by_name[name] for name in identities], dtype=bool)

    def _knows(self, identity: str, source: str) -> bool:
        if _has(self.people, person_hash(identity)) or _has(self.people, person_hash(f"{source}.{identity}")):
            return True
        return any(
            found is not None and _has(self.names, found)
            for found in (name_hash(identity), _name_hash(identity))  # a name may itself contain a full stop
        )


def person_hash(identity: str) -> int:
    """The hash of a source and a name in it; `identity` is `<source>.<name>`, or a name of no source."""
    source, _, name = identity.partition(".") if "." in identity else ("", "", identity)
    return _hash(f"{source}\0{name}")


def name_hash(identity: str) -> int | None:
    """The hash of the name alone of `<source>.<name>`; None for a number that only its source knows."""
    return _name_hash(identity.partition(".")[2] if "." in identity else identity)


def _name_hash(name: str) -> int | None:
    return None if is_counted(name) else _hash(name)


def is_counted(name: str) -> bool:
    """Whether a name is a number of up to seven digits, which every source gives to somebody else."""
    return _COUNTED.fullmatch(name) is not None


def _hash(text: str) -> int:
    digest = hashlib.sha256(normal(text).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def image_hashes(sha256: pa.ChunkedArray | Sequence[str]) -> Hashes:
    """The first 64 bits of SHA-256s in hexadecimal (N), as int64 (N)."""
    column = sha256 if isinstance(sha256, pa.ChunkedArray) else pa.chunked_array([pa.array(sha256, pa.string())])
    first = pc.utf8_slice_codeunits(column, 0, 16).cast(pa.binary(16)).combine_chunks()
    letters = b"".join(
        chunk.buffers()[1].to_pybytes()[16 * chunk.offset : 16 * (chunk.offset + len(chunk))]
        for chunk in (first.chunks if isinstance(first, pa.ChunkedArray) else [first])
    )
    return np.frombuffer(bytes.fromhex(letters.decode()), dtype=">i8").astype(np.int64)


def _sorted(values: Iterable[int]) -> Hashes:
    return np.unique(np.fromiter(values, dtype=np.int64))


def _has(ascending: Hashes, value: int) -> bool:
    place = int(np.searchsorted(ascending, value))
    return place < len(ascending) and int(ascending[place]) == value

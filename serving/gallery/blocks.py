"""Blocks: what the search needs of all people whose pseudonyms begin alike, sealed as one value, so that a start reads it soon.

A tenant has up to 4,096 blocks, by the first three hex digits of the pseudonym. A change of a person replaces the block by an
empty value, in the transaction of the change. Whoever then reads these people one by one writes the block again, unless one of
them changes meanwhile. So a block never holds an erased template, and a start after few changes reads few people.

Plaintext: one line of JSON, a list of `[model, templates, numbers of an embedding]`, then for each the columns of
`eolgul.serving.gallery.index.Rows` in their order, little-endian.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

import numpy as np
from pydantic import NonNegativeInt, TypeAdapter

from eolgul.serving.gallery.index import Rows

DIGITS = 3
PREFIXES = tuple(f"{number:0{DIGITS}x}" for number in range(16**DIGITS))
EMPTY = b""
EMPTY_S = 3600  # an empty value only has to outlive the reads and writes under way
_HEAD = TypeAdapter(list[tuple[str, NonNegativeInt, NonNegativeInt]])
_COLUMNS = (("<u8", 2), ("<f4", 0), ("<f4", 0), ("i1", -1), ("i1", -1))  # type, and numbers in a row: 0 one, -1 D


def prefix_of(pseudonym: str) -> str:
    """The name of the block that a person belongs to."""
    return pseudonym[:DIGITS]


def mark() -> bytes:
    """A value that says that a block is being read; no block and no other mark is equal to it."""
    return b"reading " + secrets.token_hex(16).encode()


def part(rows: Rows, prefix: str) -> Rows:
    """The rows of the people in a block."""
    own = rows.owner[:, 0] >> np.uint64(64 - 4 * DIGITS) == int(prefix, 16)
    return Rows(*(values[own] for values in rows))


def pack(models: Mapping[str, Rows]) -> bytes:
    """Serialize the rows by model."""
    head = [[model, *rows.coarse.shape] for model, rows in models.items()]
    parts = [json.dumps(head).encode() + b"\n"]
    for rows in models.values():
        parts += [
            values.astype(kind, copy=False).tobytes() for values, (kind, _) in zip(rows.columns, _COLUMNS, strict=True)
        ]
    return b"".join(parts)


def unpack(body: bytes) -> dict[str, Rows]:
    """Read what `pack` wrote; ValueError if it is something else."""
    place = body.index(b"\n") + 1
    models: dict[str, Rows] = {}
    for model, count, size in _HEAD.validate_json(body[:place]):
        columns = []
        for kind, width in _COLUMNS:
            across = size if width < 0 else width
            values = np.frombuffer(body, kind, count * (across if width else 1), place)
            place += values.nbytes
            columns.append(values.reshape(count, across) if width else values)
        models[model] = Rows(*columns)
    if place != len(body):
        raise ValueError("a block of the gallery has bytes behind its end")
    return models

"""mxnet 1.9.1 and this project, each reading what the other wrote, byte for byte."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eolgul.errors import InputError
from eolgul.formats import mxnet_reader
from eolgul.formats.insightface import iter_rec, write_rec
from eolgul.formats.recordio import MAGIC_BYTES, RecordReader, RecordWriter, pack_image, read_index, unpack_image

Header = tuple[float | list[float], int, int]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter that has mxnet."""
    try:
        found = mxnet_reader.mxnet_python()
    except InputError as error:
        pytest.skip(str(error))
    done = subprocess.run([found, "-c", "import mxnet"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{found} cannot import mxnet: {done.stderr.strip().splitlines()[-1]}")
    return found


def in_mxnet(python: Path, script: str, *words: object) -> str:
    argv = [str(python), "-c", "import sys, struct, json, mxnet as mx\n" + script, *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def planted(dice: random.Random) -> bytes:
    """Random bytes of 0 to 60 kB with magics at the start, at the end, doubled, on and off the four-byte grid."""
    data = bytearray(dice.randbytes(dice.choice([0, 1, 3, 4, 5, 8, dice.randrange(200), dice.randrange(60_000)])))
    for _ in range(dice.choice([0, 0, 1, 2, 5])):
        place = dice.choice([0, len(data), dice.randrange(len(data) + 1), dice.randrange(len(data) + 1) // 4 * 4])
        data[place:place] = MAGIC_BYTES * dice.choice([1, 1, 2, 3])
    return bytes(data)


@pytest.fixture(scope="module")
def records() -> list[tuple[Header, bytes]]:
    """2,200 records with scalar labels and lists of labels (all of them float32 numbers)."""
    dice = random.Random(1)
    made: list[tuple[Header, bytes]] = []
    for number in range(2_200):
        label: float | list[float] = float(dice.randrange(100_000))
        if number % 3 == 0:
            label = [dice.randrange(1000) / 8 for _ in range(dice.randrange(1, 13))]
        if number % 17 == 0:  # labels whose bytes are the magic, on the grid
            label = [struct.unpack("<f", MAGIC_BYTES)[0]] * dice.randrange(1, 4)
        made.append(((label, dice.randrange(1 << 63), dice.randrange(3)), planted(dice)))
    return made


def write_ours(folder: Path, records: list[tuple[Header, bytes]]) -> None:
    with RecordWriter(folder / "ours.rec") as writer:
        for key, ((label, id_, id2), image) in enumerate(records):
            writer.write(key, pack_image(label, image, id=id_, id2=id2))


# Payloads travel as one file of lengths and bytes, headers as JSON: what mxnet made of a record is compared outside it.
READ = """
rec, idx, out = sys.argv[1:]
indexed = mx.recordio.MXIndexedRecordIO(idx, rec, "r")
plain = mx.recordio.MXRecordIO(rec, "r")
heads = []
with open(out, "wb") as file:
    for key in indexed.keys:
        payload = indexed.read_idx(key)
        assert payload == plain.read(), key
        header, image = mx.recordio.unpack(payload)
        label = header.label if header.flag == 0 else [float(value) for value in header.label]
        heads.append([key, header.flag, label, header.id, header.id2])
        for part in (payload, bytes(image)):
            file.write(struct.pack("<I", len(part)) + part)
assert plain.read() is None
print(json.dumps(heads))
"""

WRITE = """
heads, data, rec, idx = sys.argv[1:]
writer = mx.recordio.MXIndexedRecordIO(idx, rec, "w")
with open(data, "rb") as file:
    for key, (label, id, id2) in enumerate(json.load(open(heads))):
        image = file.read(struct.unpack("<I", file.read(4))[0])
        writer.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, id, id2), image))
writer.close()
"""


def parts(path: Path) -> list[bytes]:
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<I", data, place)
        found.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    return found


def test_mxnet_reads_what_we_write(python: Path, records: list[tuple[Header, bytes]], tmp_path: Path) -> None:
    write_ours(tmp_path, records)
    heads = json.loads(in_mxnet(python, READ, tmp_path / "ours.rec", tmp_path / "ours.idx", tmp_path / "seen"))
    seen = parts(tmp_path / "seen")
    assert len(heads) == len(records) and len(seen) == 2 * len(records)
    for key, ((label, id_, id2), image) in enumerate(records):
        flag = len(label) if isinstance(label, list) else 0
        assert heads[key] == [key, flag, label, id_, id2]
        assert seen[2 * key] == pack_image(label, image, id=id_, id2=id2)
        assert seen[2 * key + 1] == image


def test_we_read_what_mxnet_writes_and_write_the_same_file(
    python: Path, records: list[tuple[Header, bytes]], tmp_path: Path
) -> None:
    (tmp_path / "heads").write_text(json.dumps([head for head, _ in records]))
    (tmp_path / "data").write_bytes(b"".join(struct.pack("<I", len(image)) + image for _, image in records))
    theirs = [tmp_path / "theirs.rec", tmp_path / "theirs.idx"]
    in_mxnet(python, WRITE, tmp_path / "heads", tmp_path / "data", *theirs)
    index = read_index(theirs[1])
    assert index.keys.tolist() == list(range(len(records)))
    with RecordReader(theirs[0]) as reader:
        scanned = [(offset, bytes(payload)) for offset, payload in reader.scan()]
        assert [offset for offset, _ in scanned] == index.offsets.tolist()
        for (offset, payload), ((label, id_, id2), image) in zip(scanned, records, strict=True):
            assert bytes(reader.read(offset)[0]) == payload
            read = unpack_image(payload, "")
            assert list(read.labels) == (label if isinstance(label, list) else [label])
            assert (read.id, read.id2, bytes(read.image)) == (id_, id2, image)
    write_ours(tmp_path, records)
    assert (tmp_path / "ours.rec").read_bytes() == theirs[0].read_bytes()
    assert (tmp_path / "ours.idx").read_bytes() == theirs[1].read_bytes()


# What a training loader of the field does with such a set: record 0 tells whether the set has the layout, its labels where
# the identities' records are, theirs where the images are.
LOAD = """
folder = sys.argv[1]
record = mx.recordio.MXIndexedRecordIO(folder + "/train.idx", folder + "/train.rec", "r")
first, _ = mx.recordio.unpack(record.read_idx(0))
assert first.flag > 0
images, end = int(first.label[0]), int(first.label[1])
ranges = []
for key in range(images, end):
    header, rest = mx.recordio.unpack(record.read_idx(key))
    assert len(rest) == 0
    ranges.append([int(header.label[0]), int(header.label[1])])
seen = []
for key in range(1, images):
    header, image = mx.recordio.unpack(record.read_idx(key))
    label = header.label if isinstance(header.label, float) else header.label[0]
    pixels = mx.image.imdecode(image).asnumpy()
    seen.append([int(label), list(pixels.shape), str(pixels.dtype), float(pixels.mean())])
print(json.dumps([ranges, seen]))
"""


def test_a_training_loader_reads_our_set(python: Path, tmp_path: Path) -> None:
    dice = np.random.default_rng(2)
    images: list[tuple[int, bytes]] = []
    for number in range(40):
        small = dice.integers(0, 256, (7, 7, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((112, 112), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
        images.append((number // 8, buffer.getvalue()))
    write_rec(tmp_path, images)
    ranges, seen = json.loads(in_mxnet(python, LOAD, tmp_path))
    assert ranges == [[1 + 8 * label, 9 + 8 * label] for label in range(5)]
    assert [label for label, *_ in seen] == [label for label, _ in images]
    for (_, shape, dtype, mean), (_, image) in zip(seen, images, strict=True):
        assert (shape, dtype) == ([112, 112, 3], "uint8")
        assert mean == pytest.approx(np.asarray(Image.open(io.BytesIO(image))).mean(), abs=1)


def test_mxnets_reader_gives_what_ours_gives(python: Path, tmp_path: Path) -> None:
    dice = random.Random(3)
    images = [(label, planted(dice)) for label in range(30) for _ in range(3)]
    write_rec(tmp_path, images)
    rec = tmp_path / "train.rec"
    expected = list(iter_rec(rec))
    assert [record.image for record in expected] == [image for _, image in images]
    assert list(mxnet_reader.iter_rec_mxnet(rec, python)) == expected
    (tmp_path / "train.idx").unlink()
    assert list(mxnet_reader.iter_rec_mxnet(rec, python)) == expected
    chosen = slice(10, 14)
    keys, offsets = (np.array([record[place] for record in expected[chosen]]) for place in (0, 1))
    assert list(mxnet_reader.read_images_mxnet(rec, keys, offsets, python)) == expected[chosen]
    assert (
        next(mxnet_reader.iter_rec_mxnet(rec, python)) == expected[0]
    )  # one that is not read to its end leaves nothing behind


def test_broken_records_are_told_by_mxnet_too(python: Path, tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        payloads = [b"short", pack_image(1.5, b"image"), pack_image(float("nan"), b"image"), pack_image(2.0, b""),
                    pack_image(3.0, b"good")]  # fmt: skip
        places = [writer.write(key, payload) for key, payload in enumerate(payloads)]
    theirs, ours = list(mxnet_reader.iter_rec_mxnet(tmp_path / "a.rec", python)), list(iter_rec(tmp_path / "a.rec"))
    assert [record[:4] + record[5:] for record in theirs] == [record[:4] + record[5:] for record in ours]
    assert [record.offset for record in theirs] == places and theirs[4].image == b"good"
    data = bytearray((tmp_path / "a.rec").read_bytes())
    data[places[1]] ^= 1
    (tmp_path / "a.rec").write_bytes(data)
    theirs = list(mxnet_reader.iter_rec_mxnet(tmp_path / "a.rec", python))
    rejection = theirs[1].rejection
    assert rejection is not None and rejection.code == "bad_record" and f"a.rec at byte {places[1]}" in rejection.detail
    assert theirs[4].image == b"good"


def test_an_environment_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rec(tmp_path, [(0, b"one")])
    monkeypatch.setenv("EOLGUL_MXNET_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere: not a Python with mxnet"):
        mxnet_reader.mxnet_python()
    monkeypatch.delenv("EOLGUL_MXNET_PYTHON")
    for body, says in (
        ("exit 1", "no message"),
        ("echo no mxnet here >&2; exit 1", "no mxnet here"),
        ("exec cat /dev/zero", "to its end"),
    ):
        (tmp_path / "python").write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "python").chmod(0o755)
        with pytest.raises(InputError, match=rf"python: mxnet did not read .*{says}"):
            list(mxnet_reader.iter_rec_mxnet(tmp_path / "train.rec", tmp_path / "python"))
    (tmp_path / "python").write_bytes(b"\x7fELF nothing")
    with pytest.raises(InputError, match="cannot be started"):
        list(mxnet_reader.iter_rec_mxnet(tmp_path / "train.rec", tmp_path / "python"))

"""RecordIO against a second reader and writer, made here from the format's description and from nothing else."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.recordio import RecordReader, RecordWriter, pack_image, read_index, unpack_image

MAGIC = bytes([0x0A, 0x23, 0xD7, 0xCE])


def plain_write(payloads: list[bytes]) -> tuple[bytes, list[int]]:
    """A `.rec` file and its records' offsets, four bytes at a time as the specification tells it."""
    out, offsets = bytearray(), []
    for payload in payloads:
        offsets.append(len(out))
        parts, current = [], bytearray()
        for place in range(0, len(payload), 4):
            word = payload[place : place + 4]
            if word == MAGIC:
                parts.append(bytes(current))
                current.clear()
            else:
                current += word
        parts.append(bytes(current))
        for number, part in enumerate(parts):
            flag = 0 if len(parts) == 1 else 1 if number == 0 else 3 if number == len(parts) - 1 else 2
            out += MAGIC + struct.pack("<I", flag * 2**29 + len(part)) + part
            while len(out) % 4:
                out.append(0)
    return bytes(out), offsets


def plain_read(data: bytes) -> list[bytes]:
    """Every payload of a sound `.rec` file."""
    place, payloads = 0, []
    while place < len(data):
        payload = b""
        while True:
            assert data[place : place + 4] == MAGIC
            (head,) = struct.unpack("<I", data[place + 4 : place + 8])
            flag, length = divmod(head, 2**29)
            payload += data[place + 8 : place + 8 + length]
            place += 8 + length + (-length) % 4
            if flag in (0, 3):
                break
            payload += MAGIC
        payloads.append(payload)
    return payloads


# Payloads of whole words among which are magics (aligned), and of loose bytes that shift them (not aligned).
words = st.lists(st.sampled_from([MAGIC, b"\0\0\0\0", b"\xff\xd8\xff\xe0", MAGIC[2:] + MAGIC[:2]]), max_size=8)
payload = st.builds(
    lambda head, body, tail: head + b"".join(body) + tail, st.binary(max_size=5), words, st.binary(max_size=5)
)
payloads = st.lists(payload, min_size=1, max_size=8)


def written(folder: Path, records: list[bytes]) -> Path:
    rec = folder / "train.rec"
    with RecordWriter(rec) as writer:
        for key, record in enumerate(records):
            writer.write(key, record)
    return rec


def read_all(rec: Path) -> list[bytes]:
    with RecordReader(rec) as reader:
        return [bytes(record) for _, record in reader.scan()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordio")


@given(records=payloads)
def test_writes_and_reads_what_the_specification_says(folder: Path, records: list[bytes]) -> None:
    data, offsets = plain_write(records)
    rec = written(folder, records)
    assert rec.read_bytes() == data
    assert plain_read(data) == records
    assert read_all(rec) == records
    index = read_index(rec.with_suffix(".idx"))
    assert (index.keys.tolist(), index.offsets.tolist()) == (list(range(len(offsets))), offsets)
    with RecordReader(rec) as reader:
        assert [bytes(reader.read(offset)[0]) for offset in reversed(offsets)] == records[::-1]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (b"", "0a23d7ce 00000000"),
        (b"abcde", "0a23d7ce 05000000 6162636465 000000"),
        (MAGIC, "0a23d7ce 00000020 0a23d7ce 00000060"),
        (b"ab" + MAGIC, "0a23d7ce 06000000 6162 0a23d7ce 0000"),
        (b"abcd" + MAGIC + b"e", "0a23d7ce 04000020 61626364 0a23d7ce 01000060 65 000000"),
        (MAGIC + MAGIC + b"f", "0a23d7ce 00000020 0a23d7ce 00000040 0a23d7ce 01000060 66 000000"),
    ],
)
def test_bytes_on_disk(tmp_path: Path, record: bytes, expected: str) -> None:
    rec = written(tmp_path, [record])
    assert rec.read_bytes() == bytes.fromhex(expected)
    assert read_all(rec) == [record]


@given(records=payloads, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_byte_ranges_give_every_record_once(folder: Path, records: list[bytes], cuts: list[int]) -> None:
    rec = written(folder, records)
    bounds = [0, *sorted(cuts), None]
    with RecordReader(rec) as reader:
        found = [item for pair in pairwise(bounds) for item in ranged(reader, *pair)]
    assert [record for _, record in found] == records
    assert [offset for offset, _ in found] == plain_write(records)[1]


def ranged(reader: RecordReader, start: int | None, end: int | None) -> Iterator[tuple[int, bytes]]:
    for offset, record in reader.scan(start or 0, end):
        yield offset, bytes(record)


@given(records=payloads, data=st.data())
def test_damage_is_a_sentence_with_file_and_byte(folder: Path, records: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(plain_write(records)[0])
    if data.draw(st.booleans(), "cut"):
        damaged = bytes(whole[: data.draw(st.integers(1, len(whole)), "length")])
    else:
        for _ in range(data.draw(st.integers(1, 3), "flips")):
            whole[data.draw(st.integers(0, len(whole) - 1), "where")] ^= 1 << data.draw(st.integers(0, 7), "bit")
        damaged = bytes(whole)
    rec = folder / "damaged.rec"
    rec.write_bytes(damaged)
    try:
        found = read_all(rec)
    except InputError as error:
        place = str(error).partition(" at byte ")[2].partition(":")[0]
        assert str(error).startswith(str(rec))
        assert 0 <= int(place) <= len(damaged)
    else:  # the flip fell into a payload or its padding, or the cut on a border
        assert len(found) <= len(records) or len(damaged) == len(whole)


@pytest.mark.parametrize("cut", range(1, 24))
def test_every_cut_inside_a_record_is_noticed(tmp_path: Path, cut: int) -> None:
    data, offsets = plain_write([b"first", b"second" * 3])
    rec = tmp_path / "cut.rec"
    rec.write_bytes(data[: offsets[1] + cut])
    with pytest.raises(InputError, match=rf"cut\.rec at byte {offsets[1]}: "):
        read_all(rec)


@pytest.mark.parametrize("flag", [2, 3, 4, 7])
def test_a_record_that_begins_in_its_middle_is_refused(tmp_path: Path, flag: int) -> None:
    rec = tmp_path / "middle.rec"
    rec.write_bytes(MAGIC + struct.pack("<I", flag << 29 | 4) + b"abcd")
    with pytest.raises(InputError, match=rf"at byte 0: part flag {flag}"):
        read_all(rec)


def test_empty_missing_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.rec").touch()
    for name, word in (("empty.rec", "empty"), ("none.rec", "No such file"), (".", "directory")):
        with pytest.raises(InputError, match=word):
            RecordReader(tmp_path / name)


@pytest.mark.parametrize("text", ["0 0\n", "0\tx\n", "\n", "0\t0\tmore\n", "\xff\t0\n"])
def test_a_malformed_index_names_its_line(tmp_path: Path, text: str) -> None:
    index = tmp_path / "train.idx"
    index.write_bytes(b"0\t0\n" + text.encode("latin1"))
    with pytest.raises(InputError, match=r"train\.idx line 2"):
        read_index(index)


def test_image_header_is_IfQQ() -> None:
    scalar = pack_image(7.0, b"jpeg", id=5, id2=6)
    assert scalar == struct.pack("<IfQQ", 0, 7.0, 5, 6) + b"jpeg"
    many = pack_image([3.0, 1.0], b"jpeg", id=5)
    assert many == struct.pack("<IfQQ2f", 2, 0.0, 5, 0, 3.0, 1.0) + b"jpeg"
    assert unpack_image(scalar, "x").labels == (7.0,)
    read = unpack_image(many, "x")
    assert (read.flag, read.labels, read.id, bytes(read.image)) == (2, (3.0, 1.0), 5, b"jpeg")


@given(data=st.binary(max_size=60))
def test_any_payload_is_a_header_or_a_sentence(data: bytes) -> None:
    try:
        unpack_image(data, "train.rec at byte 8")
    except InputError as error:
        assert str(error).startswith("train.rec at byte 8: ")

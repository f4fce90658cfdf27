"""RecordIO against an independent reader and writer made from the format's description alone, and against bad files."""

from __future__ import annotations

import itertools
import random
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.insightface import iter_rec
from eolgul.formats.recordio import MAGIC_BYTES, RecordReader, RecordWriter, pack_image, read_index, unpack_image

RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Payloads made of magics, near-magics and filler of every length, so that magics fall on and off four-byte places.
PIECES = st.one_of(st.just(MAGIC_BYTES), st.just(MAGIC_BYTES[:3]), st.binary(max_size=9))
PAYLOADS = st.lists(st.lists(PIECES, max_size=8).map(b"".join), min_size=1, max_size=8)


def by_the_description(payloads: list[bytes]) -> bytes:
    """Write records as dmlc's description has it: walk the payload in words of four, cut at each word that is the magic."""
    out = bytearray()
    for payload in payloads:
        cuts = [at for at in range(0, len(payload) // 4 * 4, 4) if payload[at : at + 4] == b"\x0a\x23\xd7\xce"]
        edges = [0, *(edge for cut in cuts for edge in (cut, cut + 4)), len(payload)]
        parts = [payload[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
        for number, part in enumerate(parts):
            flag = 0 if len(parts) == 1 else 1 if number == 0 else 3 if number == len(parts) - 1 else 2
            out += struct.pack("<II", 0xCED7230A, (flag << 29) | len(part)) + part + b"\0" * ((4 - len(part) % 4) % 4)
    return bytes(out)


@RELAXED
@given(PAYLOADS)
def test_writes_the_described_bytes_and_reads_them_back(tmp_path: Path, payloads: list[bytes]) -> None:
    path = tmp_path / "a.rec"
    with RecordWriter(path) as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, payload)
    assert path.read_bytes() == by_the_description(payloads)
    index = read_index(tmp_path / "a.idx")
    with RecordReader(path) as reader:
        assert [bytes(payload) for _, payload in reader.scan()] == payloads
        assert [bytes(reader.read(index[key])[0]) for key in range(len(payloads))] == payloads


@RELAXED
@given(PAYLOADS, st.lists(st.integers(0, 400), max_size=5))
def test_pieces_of_the_file_give_each_record_once(tmp_path: Path, payloads: list[bytes], cuts: list[int]) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(by_the_description(payloads))
    with RecordReader(path) as reader:
        edges = sorted({0, reader.size, *(cut for cut in cuts if cut < reader.size)})
        found = [bytes(payload) for begin, end in itertools.pairwise(edges) for _, payload in reader.scan(begin, end)]
    assert found == payloads


@RELAXED
@given(PAYLOADS, st.randoms(use_true_random=False))
def test_a_damaged_file_gives_records_or_a_sentence(tmp_path: Path, payloads: list[bytes], rng: random.Random) -> None:
    data = bytearray(by_the_description(payloads))
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    del data[rng.randint(1, len(data)) :]
    path = tmp_path / "a.rec"
    path.write_bytes(data)
    with RecordReader(path) as reader:
        try:
            for _, payload in reader.scan():
                bytes(payload)
        except InputError as error:
            assert "a.rec at byte" in str(error)


def test_a_cut_record_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(by_the_description([b"x" * 40, b"y" * 40])[:-8])
    with RecordReader(path) as reader:
        following = reader.read(0)[1]
        with pytest.raises(InputError, match=f"a.rec at byte {following}: a record of 40 bytes, cut off"):
            reader.read(following)


def test_an_empty_file_and_a_missing_one_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.rec").touch()
    with pytest.raises(InputError, match="empty"):
        RecordReader(tmp_path / "a.rec")
    with pytest.raises(InputError, match="No such file"):
        RecordReader(tmp_path / "b.rec")


@pytest.mark.parametrize("labels", [3.0, [1.0, 2.5], [7.0]])
def test_image_headers(labels: float | list[float]) -> None:
    payload = pack_image(labels, b"jpeg", id=9)
    flag, label, id_, _ = struct.unpack_from("<IfQQ", payload)
    record = unpack_image(payload, "here")
    assert (flag, id_) == (0 if isinstance(labels, float) else len(labels), 9)
    assert record.labels == ((labels,) if isinstance(labels, float) else tuple(labels))
    assert bytes(record.image) == b"jpeg" and (flag == 0 or label == 0)


@pytest.mark.parametrize("payload", [b"", b"\0" * 23, struct.pack("<IfQQ", 5, 0, 0, 0) + b"\0" * 12])
def test_a_short_header_is_a_sentence(payload: bytes) -> None:
    with pytest.raises(InputError, match="record 7"):
        unpack_image(payload, "record 7")


def test_a_bad_index_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_text("0\t0\n1 48\n")
    with pytest.raises(InputError, match="line 2"):
        read_index(tmp_path / "a.idx")


def test_im2rec_files_and_stale_or_missing_indexes(tmp_path: Path) -> None:
    path = tmp_path / "b.rec"
    with RecordWriter(path) as writer:
        for key in range(6):
            writer.write(key, pack_image(float(key // 2), bytes([key]) * 30))
    expected = [(key, key // 2, bytes([key]) * 30) for key in range(6)]

    def read() -> list[tuple[int, int | None, bytes]]:
        return [(record.key, record.label, record.image) for record in iter_rec(path)]

    assert read() == expected
    lines = (tmp_path / "b.idx").read_text().splitlines()
    for stale in (
        lines[:4],
        [f"{key}\t{key * 1000}" for key in range(6)],
        [f"{key}\t{4 + 64 * key}" for key in range(6)],
    ):
        (tmp_path / "b.idx").write_text("\n".join(stale) + "\n")
        assert read() == expected
    (tmp_path / "b.idx").unlink()
    assert read() == expected

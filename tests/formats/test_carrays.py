"""bcolz carrays as InsightFace_Pytorch leaves them: read back to the pixel, and hostile ones."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import blosc
import numpy as np
import pytest
from numpy.typing import NDArray
from support.carrays import write_carray

from eolgul.errors import InputError
from eolgul.formats.carrays import read_carray


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Eight images with every byte value in them."""
    return np.random.default_rng(4).integers(0, 256, (8, 112, 112, 3), np.uint8)


@pytest.mark.parametrize(("chunk_length", "full"), [(3, False), (3, True), (1, False), (4, False), (100, False)])
def test_pixels_and_flags_come_back(tmp_path: Path, images: NDArray[np.uint8], chunk_length: int, full: bool) -> None:
    write_carray(tmp_path / "lfw", images, [True, False, True, True], chunk_length, full=full)
    carray = read_carray(tmp_path / "lfw")
    assert len(carray) == 8 and carray.same.tolist() == [True, False, True, True]
    assert carray.list_file == tmp_path / "lfw_list.npy"
    for begin, end in ((0, None), (2, 7), (3, 4), (7, 100), (5, 5)):
        found = list(carray.images(begin, end))
        np.testing.assert_array_equal(np.array(found).reshape(-1, 112, 112, 3), images[begin:end])
        assert all(image.dtype == np.uint8 and image.flags.c_contiguous for image in found)


@pytest.mark.parametrize("codec", ["blosclz", "lz4", "lz4hc", "zlib", "zstd"])
def test_every_codec(tmp_path: Path, images: NDArray[np.uint8], codec: str) -> None:
    write_carray(tmp_path / "lfw", images // 64, [True] * 4, codec=codec)
    np.testing.assert_array_equal(list(read_carray(tmp_path / "lfw").images()), images // 64)


def test_one_chunk_is_read_when_it_is_asked_for(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    write_carray(tmp_path / "lfw", images, [True] * 4, 2)
    (tmp_path / "lfw/data/__1.blp").unlink()
    reading = read_carray(tmp_path / "lfw").images()
    np.testing.assert_array_equal([next(reading), next(reading)], images[:2])
    with pytest.raises(InputError, match=r"__1\.blp: No such file"):
        next(reading)


HEAD = b"blpk\x01\0\0\0" + struct.pack("<q", 1)
BYTES = 3 * 4 * 3 * 112 * 112


def chunk(**changed: int) -> bytes:
    facts = {"version": 2, "codec": 1, "flags": 1, "type": 4, "size": BYTES, "block": 1 << 17, "packed": 16} | changed
    return struct.pack("<BBBBIII", *facts.values())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes"),
        (HEAD, "16 bytes"),
        (b"blpx" + HEAD[4:] + chunk(), "at byte 0"),
        (b"blpk\x02" + HEAD[5:] + chunk(), "at byte 0"),
        (HEAD[:8] + struct.pack("<q", 1 << 60) + chunk(), "at byte 0"),
        (HEAD + chunk(size=0xFFFFFFFF), "at byte 16: a Blosc chunk of 4294967295"),
        (HEAD + chunk(size=4), "at byte 16"),
        (HEAD + chunk(packed=0xFFFFFFF0), "at byte 16"),
        (HEAD + chunk(block=0xFFFFFFFF), "at byte 16"),
        (HEAD + chunk(packed=32) + b"\xff" * 16, "at byte 16: the Blosc chunk is broken"),
        (HEAD + chunk(block=0, packed=32) + b"\xff" * 16, "at byte 16"),
        (HEAD + chunk(flags=0x03, packed=32) + b"\0" * 16, "at byte 16"),
        (b"\0" * 2_000_000, "more than"),
    ],
)
def test_hostile_chunks_are_sentences(tmp_path: Path, images: NDArray[np.uint8], data: bytes, says: str) -> None:
    write_carray(tmp_path / "lfw", images, [True] * 4)
    (tmp_path / "lfw/data/__0.blp").write_bytes(data)
    with pytest.raises(InputError, match=rf"__0\.blp.*{says}"):
        list(read_carray(tmp_path / "lfw").images())


def test_values_that_no_image_has(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    write_carray(tmp_path / "lfw", images, [True] * 4)
    values = np.zeros((3, 3, 112, 112), "<f4")
    for strange in (np.nan, np.inf, 1.01, -1.01):
        values[1, 0, 5, 5] = strange
        (tmp_path / "lfw/data/__0.blp").write_bytes(HEAD + blosc.compress(values.tobytes(), typesize=4))
        with pytest.raises(InputError, match=r"__0\.blp image 1: holds values outside"):
            list(read_carray(tmp_path / "lfw").images())


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("sizes", "", "line 1"),
        ("sizes", "[1]", "expected a JSON object"),
        ("sizes", '{"shape": [8]}', "expected .N, 3, 112, 112"),
        ("sizes", '{"shape": [8, 3, 112, 113]}', "shape"),
        ("sizes", '{"shape": [true, 3, 112, 112]}', "shape"),
        ("sizes", '{"shape": [10, 3, 112, 112]}', "4 flags for 10 images"),
        ("sizes", '{"shape": [100000000000000000000, 3, 112, 112]}', "flags for 1000"),
        ("sizes", "[" * 100_000, "line 1"),
        ("sizes", " " * 2_000_000, "more than"),
        ("storage", '{"dtype": "float64", "chunklen": 3}', "dtype float64"),
        ("storage", '{"dtype": "float32", "chunklen": 0}', "chunklen 0"),
        ("storage", '{"dtype": "float32", "chunklen": 1000000000}', "chunklen 1000000000"),
        ("storage", '{"dtype": "float32", "chunklen": "3"}', "chunklen 3"),
        ("storage", None, "No such file"),
    ],
)
def test_hostile_meta_files_are_sentences(
    tmp_path: Path, images: NDArray[np.uint8], file: str, text: str | None, says: str
) -> None:
    write_carray(tmp_path / "lfw", images, [True] * 4)
    path = tmp_path / "lfw" / "meta" / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=rf"lfw.*{says}"):
        read_carray(tmp_path / "lfw")


def test_a_list_of_python_2(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    write_carray(tmp_path / "lfw", images, [True] * 4)
    header = "{'descr': '|b1', 'fortran_order': False, 'shape': (4L,), }".ljust(117) + "\n"
    (tmp_path / "lfw_list.npy").write_bytes(npy(header, b"\0\1\0\2"))
    assert read_carray(tmp_path / "lfw").same.tolist() == [False, True, False, True]


def npy(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        pickle.dumps([True] * 4),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (4,)}\n", pickle.dumps([True] * 4)),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (4000000000000,)}\n", b"\1" * 4),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (-4,)}\n", b"\1" * 4),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': ()}\n", b"\1"),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (0,)}\n"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}\n", b"\0" * 16),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (2, 2)}\n", b"\1" * 4),
        npy("__import__('os').system('false')\n", b"\1" * 4),
        npy("[" * 9_000, b"\1" * 4),
        b"PK\3\4" + b"\0" * 30,
    ],
)
def test_hostile_lists_are_sentences(tmp_path: Path, images: NDArray[np.uint8], data: bytes) -> None:
    write_carray(tmp_path / "lfw", images, [True] * 4)
    (tmp_path / "lfw_list.npy").write_bytes(data)
    with pytest.raises(InputError, match=r"lfw_list\.npy"):
        read_carray(tmp_path / "lfw")

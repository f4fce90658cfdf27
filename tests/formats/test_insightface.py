"""The InsightFace layout by its description, and `.bin` sets: real, old, odd and hostile ones."""

from __future__ import annotations

import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.insightface import iter_rec, read_bin, read_property, write_bin, write_rec
from eolgul.formats.recordio import RecordReader, read_index


def test_the_layout_is_insightfaces(tmp_path: Path) -> None:
    write_rec(tmp_path, [(0, b"a"), (0, b"bb"), (1, b"ccc"), (2, b"dddd")])
    assert (tmp_path / "property").read_text() == "3,112,112\n"
    listed = read_index(tmp_path / "train.idx")
    index = dict(zip(listed.keys.tolist(), listed.offsets.tolist(), strict=True))
    assert sorted(index) == list(range(8))
    with RecordReader(tmp_path / "train.rec") as reader:
        records = [bytes(reader.read(index[key])[0]) for key in range(8)]
    assert struct.unpack("<IfQQ2f", records[0]) == (2, 0, 0, 0, 5, 8)
    assert struct.unpack_from("<IfQQ", records[3]) == (0, 1.0, 3, 0) and records[3][24:] == b"ccc"
    assert [struct.unpack("<IfQQ2f", record)[4:] for record in records[5:]] == [(1, 3), (3, 4), (4, 5)]
    assert [(r.key, r.label, r.image) for r in iter_rec(tmp_path / "train.rec")] == [
        (1, 0, b"a"), (2, 0, b"bb"), (3, 1, b"ccc"), (4, 2, b"dddd"),
    ]  # fmt: skip


@pytest.mark.parametrize("labels", [[1], [0, 2], [0, 1, 0]])
def test_labels_must_be_contiguous(tmp_path: Path, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        write_rec(tmp_path, [(label, b"x") for label in labels])


def test_property_with_one_line_and_two(tmp_path: Path) -> None:
    path = tmp_path / "property"
    path.write_text("85742,112,112")
    assert read_property(path).images is None
    path.write_text("85742,112,112\n5822653\n")
    assert (read_property(path).identities, read_property(path).images) == (85742, 5822653)
    for bad in ("", "85742,112", "a,b,c"):
        path.write_text(bad)
        with pytest.raises(InputError, match="property line 1"):
            read_property(path)


def test_a_real_bin(shared_data: Path) -> None:
    loaded = read_bin(shared_data / "insightface-bin" / "small_lfw.bin")
    assert len(loaded.images) == 20 and len(loaded.same) == 10
    assert all(image.startswith(b"\xff\xd8") for image in loaded.images)


def dump(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def test_items_of_every_kind_in_the_wild(tmp_path: Path) -> None:
    images = [b"one", b"two", b"three", b"four"]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    for items in (images, arrays, [array[:, None] for array in arrays]):
        for flags in ([True, False], [np.True_, np.False_], (1, 0)):
            loaded = read_bin(dump(tmp_path / "a.bin", (items, flags)))
            assert loaded.images == images and loaded.same.tolist() == [True, False]


def test_a_python_2_pickle(tmp_path: Path) -> None:
    """Python 2's str is written as STRING/SHORT_BINSTRING, which only `encoding="bytes"` gives back unharmed."""
    images = [bytes([255, 216, 10, 39, 92, 0]), b"two"]
    body = b"".join(b"U" + bytes([len(image)]) + image for image in images)
    (tmp_path / "a.bin").write_bytes(b"\x80\x02(](" + body + b"e](\x88et.")
    loaded = read_bin(tmp_path / "a.bin")
    assert loaded.images == images and loaded.same.tolist() == [True]


class Hostile:
    def __init__(self, call: Any, *words: Any) -> None:
        self.call, self.words = call, words

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.words


def test_hostile_pickles_are_refused_by_name_and_do_nothing(tmp_path: Path) -> None:
    import os

    mark = tmp_path / "ran"
    for call, words, name in (
        (os.system, (f"touch {mark}",), "system"),
        (eval, (f"open({str(mark)!r}, 'w')",), "eval"),
        (getattr, ([], "append"), "getattr"),
        (np.load, (str(mark),), "load"),
    ):
        for value in (Hostile(call, *words), ([Hostile(call, *words), b""], [True])):
            with pytest.raises(InputError, match=rf"a\.bin.*{name}.*refused"):
                read_bin(dump(tmp_path / "a.bin", value))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (([b"a"], [True]), "two images per flag"),
        (([], []), "two images per flag"),
        (([b"a", "b"], [True]), "image 1"),
        (([b"a", b"b"], ["yes"]), "flag 0"),
        (([b"a", b"b"], [2]), "flag 0"),
        (([b"a", np.zeros((2, 2), np.uint8)], [True]), "image 1"),
        (([b"a", np.zeros(2, np.float32)], [True]), "image 1"),
        ([1, 2, 3], "expected a pair"),
        ({"a": 1}, "expected a pair"),
        (b"text", "expected a pair"),
    ],
)
def test_other_shapes_are_sentences(tmp_path: Path, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_bin(dump(tmp_path / "a.bin", value))


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bins_are_sets_or_sentences(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(pickle.dumps(([b"one", b"two", np.arange(9, dtype=np.uint8), b"four"], [True, np.False_])))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.bin").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        read_bin(tmp_path / "a.bin")
    except InputError as error:
        assert "a.bin" in str(error)


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_and_both_numpys(tmp_path: Path, protocol: int) -> None:
    arrays = [np.frombuffer(b"one", np.uint8), np.frombuffer(b"four", np.uint8)[:, None]]
    for flags in ([True], [np.True_], np.array([True]), [1]):
        for items in (arrays, [b"one", b"four"], tuple(arrays)):
            file = dump(tmp_path / "a.bin", (items, flags), protocol)
            for module in (b"numpy._core.", b"numpy.core."):  # numpy 2 and 1 call it by these names
                if protocol < 4 or module == b"numpy._core.":  # later protocols write the name's length before it
                    file.write_bytes(file.read_bytes().replace(b"numpy._core.", module))
                loaded = read_bin(file)
                assert loaded.images == [b"one", b"four"] and loaded.same.tolist() == [True]


def state(*parts: bytes) -> bytes:
    return b"\x80\x03" + b"".join(parts) + b"."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\x01btR"
DTYPE = b"cnumpy\ndtype\n(X\x01\0\0\0O\x89\x88tR"
POINTER = b"C\x08\x41\x41\x41\x41\x41\x41\x41\x41"


@pytest.mark.parametrize(
    "data",
    [
        # Object arrays over bytes: numpy itself would take these for pointers and crash.
        state(b"](cnumpy\nndarray\n(K\x01\x85X\x01\0\0\0O", POINTER, b"tRC\x01ae](\x88e\x86"),
        state(b"](", ARRAY, b"(K\x01K\x01\x85", DTYPE, b"\x89", POINTER, b"tbC\x01ae](\x88e\x86"),
        # A dtype whose state says that it holds no objects.
        state(
            b"](",
            ARRAY,
            b"(K\x01K\x01\x85",
            DTYPE,
            b"(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89",
            POINTER,
            b"tbC\x01ae](\x88e\x86",
        ),
        # Arrays that were never given a state, or only made by __new__.
        state(b"](cnumpy\nndarray\n)\x81C\x01ae](\x88e\x86"),
        state(b"](cnumpy\ndtype\n)\x81C\x01ae](\x88e\x86"),
        state(b"](C\x01aC\x01ae](cnumpy\nndarray\n)\x81e\x86"),
        # Attributes set on what the unpickler lends out.
        state(b"c_codecs\nencode\n}X\x01\0\0\0aK\x01sb."),
        state(b"cnumpy\nndarray\nN}X\x04\0\0\0dataK\x01s\x86b"),
        state(b"cnumpy.core.multiarray\nscalar\nN}X\x01\0\0\0aK\x01s\x86b"),
        # A codec that expands, and one that is a module's name.
        state(b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0zip\x86R"),
        # 32 GB of memo for nothing; a long announced and never given; an array of two to the forty bytes.
        state(b"Nr\xff\xff\xff\x7f"),
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f",
        state(b"](cnumpy\nndarray\n(\x8a\x06\0\0\0\0\0\x01\x85X\x02\0\0\0u1tRC\x01ae](\x88e\x86"),
        # Nested without end, and a list that holds itself.
        b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        b"\x80\x02]q\0h\0a](\x88e\x86.",
        b"",
        b".",
        b"(",
    ],
)
def test_crafted_pickles_are_sentences(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.bin"):
        read_bin(tmp_path / "a.bin")


def test_a_flag_is_never_printed(tmp_path: Path) -> None:
    """Each level of such a list doubles what its repr would be: 2 to the 200."""
    laugh: Any = "ha"
    for _ in range(200):
        laugh = [laugh, laugh]
    for flag in (laugh, 10**6000, -1, 1.0, None, "True"):
        with pytest.raises(InputError, match=r"a\.bin flag 0: a "):
            read_bin(dump(tmp_path / "a.bin", ([b"a", b"b"], [flag])))


def objects(*items: Any) -> Any:
    array = np.empty(len(items), object)
    array[:] = items
    return array


INTEGERS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i2", ">i8", ">u4"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", INTEGERS)
def test_flags_of_every_whole_type(tmp_path: Path, protocol: int, dtype: str) -> None:
    flags = np.array([1, 0], dtype)
    items = [b"1", b"2", b"3", b"4"]
    for value in (flags, list(flags), tuple(flags), objects(*flags), objects(True, 0), flags[:, None]):
        assert read_bin(dump(tmp_path / "a.bin", (items, value), protocol)).same.tolist() == [True, False]
    with pytest.raises(InputError, match=r"flag 1: a \w+, expected true or false"):
        read_bin(
            dump(tmp_path / "a.bin", (items, list(np.array([1, 2]).astype(dtype.replace("bool", "u1")))), protocol)
        )


@pytest.mark.parametrize("protocol", range(6))
def test_images_as_bytearrays_and_in_object_arrays(tmp_path: Path, protocol: int) -> None:
    array = np.frombuffer(b"two", np.uint8)
    for items in (
        [bytearray(b"one"), bytearray(b"two")],
        (bytearray(b"one"), array),
        objects(b"one", array),
        objects(b"one", bytearray(b"two")),
    ):
        assert read_bin(dump(tmp_path / "a.bin", (items, [True]), protocol)).images == [b"one", b"two"]


def test_the_sentence_says_which_part_is_wrong(tmp_path: Path) -> None:
    nested = objects(np.zeros(2, np.uint8), b"x")
    for value, says in (
        (({"a": 1}, [True]), "its first part, the images, is a dict, expected a list"),
        (([b"a", b"b"], {"a": 1}), "its second part, the is-same flags, is a dict, expected a list"),
        (([b"a", b"b"], np.array([1.0])), "its second part, the is-same flags, is a numpy array of another kind"),
        ((np.zeros((2, 3), np.uint8), [True]), "its first part, the images, is a numpy array of another kind"),
        (([b"a", nested], [True]), "image 1: a numpy array of another kind"),
        (([b"a", b"b"], [np.zeros(2, bool)]), "flag 0: a numpy array of another kind"),
        (([b"a", b"b"], [1.0]), "flag 0: a float"),
        (np.zeros(2, bool), "expected a pair"),
        ((np.array([b"a", b"b"]), [True]), "its first part, the images, is a numpy array of another kind"),
    ):
        with pytest.raises(InputError, match=rf"a\.bin.*{re.escape(says)}"):
            read_bin(dump(tmp_path / "a.bin", value))


@pytest.mark.parametrize(
    "content",
    [
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a git-lfs pointer"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML error document (NoSuchKey)"),
        (b"PK\x03\x04" + bytes(30), "a zip archive"),
        (b'{"error": 404}', "JSON text"),
    ],
)
def test_what_took_a_files_place_is_named(tmp_path: Path, content: tuple[bytes, str]) -> None:
    data, says = content
    for name, read in (
        ("a.bin", read_bin),
        ("a.rec", lambda path: list(iter_rec(path))),
        ("a.idx", read_index),
        ("property", read_property),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}:? is {re.escape(says)}.*, expected"):
            read(tmp_path / name)


@pytest.mark.parametrize("size", [b"\x8a\x06\0\0\0\0\0\x01", b"J\xff\xff\xff\x7f"])
def test_a_bytearray_of_a_size_is_refused(tmp_path: Path, size: bytes) -> None:
    """`bytearray(n)` would allocate n bytes."""
    (tmp_path / "a.bin").write_bytes(state(b"](cbuiltins\nbytearray\n", size, b"\x85RC\x01ae](\x88e\x86"))
    with pytest.raises(InputError, match="makes a bytearray of something other than bytes"):
        read_bin(tmp_path / "a.bin")


def test_round_trip(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", [b"1", b"2", b"3", b"4"], [True, False])
    assert pickle.loads((tmp_path / "a.bin").read_bytes()) == ([b"1", b"2", b"3", b"4"], [True, False])
    with pytest.raises(ValueError, match="3 images for 2 flags"):
        write_bin(tmp_path / "a.bin", [b"1", b"2", b"3"], [True, False])


@pytest.mark.parametrize("protocol", range(6))
def test_an_empty_image_is_an_image_of_no_bytes(tmp_path: Path, protocol: int) -> None:
    """Python 3 writes it as a call of `bytes` in protocols 0 to 2; extraction then says that it is no image."""
    (tmp_path / "set.bin").write_bytes(pickle.dumps(([b"", b"x"], [True]), protocol=protocol))
    assert read_bin(tmp_path / "set.bin").images == [b"", b"x"]


@pytest.mark.parametrize("module", ["copy\neg", "\x1b[31mos"])
def test_a_strangers_words_do_not_reach_the_terminal(tmp_path: Path, module: str) -> None:
    name = module.encode()
    data = b"\x80\x04\x8c" + bytes([len(name)]) + name + b"\x8c\x06system\x93."
    (tmp_path / "set.bin").write_bytes(data)
    with pytest.raises(InputError, match=r"before byte \d+: asks for") as error:
        read_bin(tmp_path / "set.bin")
    assert str(error.value).isprintable()

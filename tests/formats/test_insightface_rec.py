"""InsightFace's `.rec` layout, im2rec's, indices that lie, and labels that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.insightface import Property, RecImage, iter_rec, read_property, write_rec
from eolgul.formats.rec_index import index_rec
from eolgul.formats.recordio import RecordReader, RecordWriter, pack_image

IMAGES = [(label, b"image %d of %d" % (number, label) + b"\xce" * number) for label in range(3) for number in range(3)]


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    write_rec(tmp_path, IMAGES)
    return tmp_path / "train.rec"


def pairs(records: list[RecImage]) -> list[tuple[int | None, bytes]]:
    return [(record.label, record.image) for record in records]


def offsets(rec: Path) -> list[int]:
    with RecordReader(rec) as reader:
        return [offset for offset, _ in reader.scan()]


def test_layout_is_what_insightface_reads(rec: Path) -> None:
    """As its own loader does it: record 0 gives the range of images and of identities, each gives its images."""
    lines = [line.split("\t") for line in rec.with_suffix(".idx").read_text().splitlines()]
    index = {int(key): int(offset) for key, offset in lines}
    assert list(index) == list(range(1 + 9 + 3))
    with RecordReader(rec) as reader:
        payloads = {key: bytes(reader.read(offset)[0]) for key, offset in index.items()}
    assert struct.unpack("<IfQQ2f", payloads[0]) == (2, 0.0, 0, 0, 10.0, 13.0)
    for label, key in enumerate(range(10, 13)):
        flag, _, _, _, begin, end = struct.unpack("<IfQQ2f", payloads[key])
        assert flag == 2
        found = [payloads[number] for number in range(int(begin), int(end))]
        assert [struct.unpack("<IfQQ", one[:24])[:2] for one in found] == [(0, float(label))] * 3
        assert [one[24:] for one in found] == [image for owner, image in IMAGES if owner == label]
    assert (rec.parent / "property").read_text() == "3,112,112\n"
    assert not [path for path in rec.parent.iterdir() if path.name.startswith(".")]


def test_reads_its_images_and_no_identity_record(rec: Path) -> None:
    records = list(iter_rec(rec))
    assert pairs(records) == IMAGES
    assert [record.key for record in records] == list(range(1, 10))


def test_labels_must_be_contiguous(tmp_path: Path) -> None:
    for labels in ([0, 2], [1], [0, 1, 0]):
        with pytest.raises(ValueError, match="label"):
            write_rec(tmp_path, [(label, b"x") for label in labels])


def test_without_index(rec: Path) -> None:
    rec.with_suffix(".idx").unlink()
    assert pairs(list(iter_rec(rec))) == IMAGES


@pytest.mark.parametrize("stale", ["end", "start", "middle", "beside", "behind", "twice", "other", "empty"])
def test_a_stale_index_loses_nothing(rec: Path, stale: str) -> None:
    index = rec.with_suffix(".idx")
    lines = index.read_text().splitlines()
    place = {
        "end": lines[:-4],
        "start": lines[1:],
        "middle": lines[:4] + lines[6:],
        "beside": [*lines[:4], f"4\t{offsets(rec)[4] + 4}", *lines[5:]],
        "behind": [*lines[:-1], "12\t99999999999999999999999"],
        "twice": [*lines[:5], lines[4].replace("4\t", "5\t"), *lines[6:]],
        "other": [f"{key}\t{key * 48}" for key in range(12)],
        "empty": [],
    }[stale]
    index.write_text("".join(f"{line}\n" for line in place))
    assert pairs(list(iter_rec(rec))) == IMAGES


@pytest.mark.parametrize("indexed", [True, False])
def test_a_file_cut_anywhere_is_refused(rec: Path, indexed: bool) -> None:
    """Even where the cut falls between two records: record 0 says how many there should be."""
    data, borders = rec.read_bytes(), offsets(rec)
    if not indexed:
        rec.with_suffix(".idx").unlink()
    for cut in sorted({*range(borders[6], borders[7] + 1), *borders[1:10]}):
        rec.write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"train\.rec"):
            list(iter_rec(rec))


def test_one_broken_record_is_told_of_and_the_others_are_kept(rec: Path) -> None:
    data, place = bytearray(rec.read_bytes()), offsets(rec)[4]
    data[place] ^= 0xFF
    rec.write_bytes(bytes(data))
    records = list(iter_rec(rec))
    assert [record.key for record in records] == list(range(1, 10))
    (bad,) = [record for record in records if record.rejection]
    assert bad.key == 4
    assert f"{rec} at byte {place}: " in str(bad.rejection)
    assert pairs([record for record in records if not record.rejection]) == IMAGES[:3] + IMAGES[4:]


def im2rec(folder: Path, labels: list[float | list[float]]) -> Path:
    with RecordWriter(folder / "train.rec") as writer:
        for key, label in enumerate(labels):
            writer.write(key, pack_image(label, b"picture %d" % key, id=key))
    return folder / "train.rec"


def test_im2rec_layout_and_list_labels(tmp_path: Path) -> None:
    rec = im2rec(tmp_path, [0.0, 1.0, [1.0, 1.0], [5.0, 0.0, 0.0, 9.0], 5.0])
    for _ in range(2):
        records = list(iter_rec(rec))
        assert [(one.key, one.label) for one in records] == [(0, 0), (1, 1), (2, 1), (3, 5), (4, 5)]
        assert [one.image for one in records] == [b"picture %d" % key for key in range(5)]
        rec.with_suffix(".idx").unlink(missing_ok=True)


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf"), float("-inf"), [float("nan"), 1.0]])
@pytest.mark.parametrize("place", [0, 1])
def test_a_label_that_is_no_number_of_a_person(tmp_path: Path, label: float | list[float], place: int) -> None:
    labels: list[float | list[float]] = [0.0, 1.0, 2.0]
    labels[place] = label
    records = list(iter_rec(im2rec(tmp_path, labels)))
    assert [one.label for one in records] == [None if key == place else key for key in range(3)]
    assert "not an identity number" in str(records[place].rejection)


@pytest.mark.parametrize("labels", [[float("nan"), 3.0], [float("inf"), 3.0], [-2.0, 3.0]])
def test_a_first_record_that_only_looks_like_insightface(tmp_path: Path, labels: list[float]) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        writer.write(0, pack_image(labels, b""))
        writer.write(1, pack_image(1.0, b"x"))
    problems = [one.rejection is not None for one in iter_rec(tmp_path / "train.rec")]
    assert problems == [True, False]


@given(data=st.binary(max_size=80), flips=st.lists(st.integers(0, 5000), max_size=4))
def test_garbage_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes, flips: list[int]) -> None:
    folder = tmp_path_factory.getbasetemp() / "garbled"
    write_rec(folder, IMAGES)
    rec = folder / "train.rec"
    whole = bytearray(rec.read_bytes())
    for flip in flips:
        whole[flip % len(whole)] ^= 0x10
    rec.write_bytes(bytes(whole) if flips else data)
    try:
        records = list(iter_rec(rec))
    except InputError as error:
        assert str(error).startswith(str(rec))
    else:
        assert flips  # nothing that short is a RecordIO file with an index of twelve records
        assert len(records) <= 1 + len(IMAGES) + 3
        changed = {(one.label, one.image) for one in records if not one.rejection} - {*IMAGES}
        assert len(changed) <= len(flips)  # a flip inside an image is the decoder's to find


def test_property(tmp_path: Path) -> None:
    file = tmp_path / "property"
    for text, expected in (
        ("85742,112,112", Property(85742, 112, 112)),
        ("85742,112,96\n", Property(85742, 112, 96)),
        ("85742,112,112\n5822653\n", Property(85742, 112, 112, 5822653)),
    ):
        file.write_text(text)
        assert read_property(file) == expected
    for bad in (b"", b"\n", b"85742\n", b"a,b,c\n", b"1,2,3,4\n", b"1,2\n", b"1,112,112\nmany\n", b"\xff\xfe1,2,3"):
        file.write_bytes(bad)
        with pytest.raises(InputError, match="property line"):
            read_property(file)


def without(rec: Path, *keys: int, ids: bool = True, identities: bool = True) -> None:
    """Take records out of the file as a writer leaves them out; the others keep their keys."""
    with RecordReader(rec) as reader:
        payloads = [bytes(payload) for _, payload in reader.scan()]
    with RecordWriter(rec) as writer:
        for key, payload in enumerate(payloads):
            if key not in keys and (identities or key < 10):
                writer.write(key, payload if ids else payload[:8] + bytes(16) + payload[24:])


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("gone", [(1,), (5,), (1, 2, 3), (2, 4, 6, 8), (9,), (4, 9), (1, 9), tuple(range(1, 9))])
def test_a_gap_keeps_the_rest(rec: Path, gone: tuple[int, ...], indexed: bool) -> None:
    without(rec, *gone)
    if not indexed:
        rec.with_suffix(".idx").unlink()
    index = index_rec(rec)
    assert index.missing.tolist() == list(gone)
    assert index.keys.tolist() == [key for key in range(1, 10) if key not in gone]
    assert pairs(list(iter_rec(rec))) == [image for key, image in enumerate(IMAGES, 1) if key not in gone]
    assert not index.notes


def test_without_an_index_and_ids_the_missing_keys_are_counted_but_unknown(rec: Path) -> None:
    without(rec, 2, 7, ids=False)
    rec.with_suffix(".idx").unlink()
    index = index_rec(rec)
    assert index.missing.tolist() == [-1, -1] and index.keys.tolist() == list(range(1, 8))
    assert pairs(list(iter_rec(rec))) == IMAGES[:1] + IMAGES[2:6] + IMAGES[7:]


@pytest.mark.parametrize(
    ("gone", "says"),
    [((9,), "keys 9 to 9 are missing at the end"), ((3, 8, 9), "keys 8 to 9, and 1 before are missing at the end"),
     (tuple(range(1, 10)), "0 are there; keys 1 to 9")],
)  # fmt: skip
def test_a_file_cut_off_behind_a_record_is_refused_and_says_what_lacks(
    rec: Path, gone: tuple[int, ...], says: str
) -> None:
    without(rec, *gone, identities=False)
    with pytest.raises(InputError, match=rf"record 0 announces 9 images.*{says}.*looks cut off"):
        index_rec(rec)


def rename(rec: Path, **keys: int) -> None:
    lines = [line.split("\t") for line in rec.with_suffix(".idx").read_text().splitlines()]
    renamed = {key.removeprefix("k"): value for key, value in keys.items()}
    rec.with_suffix(".idx").write_text("".join(f"{renamed.get(key, key)}\t{offset}\n" for key, offset in lines))


def test_a_key_given_twice_stands_for_the_one_that_is_given_to_none(rec: Path) -> None:
    rename(rec, k5=4)
    index = index_rec(rec)
    assert index.keys.tolist() == [1, 2, 3, 4, 4, 6, 7, 8, 9] and index.repeated.tolist() == [
        *[False] * 4,
        True,
        *[False] * 4,
    ]
    assert index.missing.tolist() == []


def test_gaps_and_duplicates_together_are_counted_once_each(rec: Path) -> None:
    """Two of nine records are gone and one has another's key: six images, a duplicate, two missing."""
    without(rec, 2, 8)
    rename(rec, k5=4)
    index = index_rec(rec)
    assert len(index) - index.repeated.sum() == 6 and index.repeated.sum() == 1
    assert index.missing.tolist() == [2, 8]


@pytest.mark.parametrize("gone", [(), (3,), (1, 5)])
@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_without_record_0_the_layout_is_still_known(rec: Path, fault: str, gone: tuple[int, ...]) -> None:
    if fault == "damaged":
        without(rec, *gone)
        data = bytearray(rec.read_bytes())
        data[0] ^= 0xFF
        rec.write_bytes(bytes(data))
    else:
        without(rec, 0, *gone)
    index = index_rec(rec)
    assert index.keys.tolist() == [key for key in range(1, 10) if key not in gone]
    assert index.missing.tolist() == list(gone)
    assert fault in index.notes[0] and "record 0" in index.notes[0]


def test_images_behind_the_announced_ones_are_images(rec: Path) -> None:
    data = bytearray(rec.read_bytes())
    data[32:36] = struct.pack("<f", 8.0)  # instead of 10: seven images
    rec.write_bytes(bytes(data))
    assert pairs(list(iter_rec(rec))) == IMAGES
    assert index_rec(rec).notes == ("record 0 announces 7 images, and 2 more are behind them",)


@given(gone=st.sets(st.integers(1, 9), max_size=9), twice=st.sets(st.integers(1, 8), max_size=3), indexed=st.booleans())
def test_every_announced_image_is_one_of_them(
    tmp_path_factory: pytest.TempPathFactory, gone: set[int], twice: set[int], indexed: bool
) -> None:
    """What is there, what is there under another's key and what is missing are together what record 0 announces."""
    folder = tmp_path_factory.getbasetemp() / "gaps"
    write_rec(folder, IMAGES)
    rec = folder / "train.rec"
    without(rec, *gone)
    if indexed:
        rename(rec, **{f"k{key + 1}": key for key in twice})
    else:
        rec.with_suffix(".idx").unlink()
    index = index_rec(rec)
    assert len(index) == 9 - len(gone) and len(index) + len(index.missing) == 9
    assert {image for _, image in pairs(list(iter_rec(rec)))} == {
        image for key, (_, image) in enumerate(IMAGES, 1) if key not in gone
    }


@pytest.mark.parametrize(
    ("labels", "identities", "from_one"),
    [([1, 2, 3], 3, True), ([0, 1, 2], 3, False), ([1, 2, 3], 4, False), ([1, 2, 4], 3, False), ([1.5, 1, 3], 3, True),
     ([2, 3], 3, False), ([0, 3], 3, False)],
)  # fmt: skip
def test_labels_that_count_from_one(tmp_path: Path, labels: list[float], identities: int, from_one: bool) -> None:
    for multiple in (False, True):
        written: list[float | list[float]] = [[label, 0.0] if multiple else label for label in labels]
        assert index_rec(im2rec(tmp_path, written)).labels_from_one(identities) is from_one


@pytest.mark.parametrize("place", [0, 7, 11])
@pytest.mark.parametrize("listed", [True, False])
def test_an_image_as_small_as_an_identitys_record_is_an_image(tmp_path: Path, place: int, listed: bool) -> None:
    """The record of an identity has two labels and no image: 32 bytes, as that of an image of 8 bytes."""
    images = [(number // 3, bytes([number]) * (8 if number == place else 20 + number)) for number in range(12)]
    write_rec(tmp_path, images)
    rec = tmp_path / "train.rec"
    if not listed:
        rec.with_suffix(".idx").unlink()
    found = list(iter_rec(rec))
    assert [(record.key, record.label, record.image) for record in found] == [
        (number + 1, label, image) for number, (label, image) in enumerate(images)
    ]
    assert len(index_rec(rec).missing) == 0

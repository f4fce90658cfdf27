"""Extraction: whatever goes in comes out as an image with its own bytes, or as a rejected input with a reason."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eolgul.artifact import Artifact
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.kinds import detect_kind
from eolgul.extract.step import extract
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.formats.kface import Condition, write_annotation
from eolgul.formats.recordio import RecordWriter, pack_image


def picture(seed: int, format: str = "JPEG", size: tuple[int, int] = (8, 6)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def face(seed: int, format: str = "JPEG") -> bytes:
    """As aligned sets hold them."""
    return picture(seed, format, (112, 112))


def shot(seed: int, format: str = "JPEG") -> bytes:
    """As K-FACE's Middle resolution has them."""
    return picture(seed, format, (346, 230))


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def check(made: Artifact, inputs: int) -> FaceDataset:
    """Open it, and see that no input disappeared and that counts, reasons and rows say the same."""
    dataset = FaceDataset(made.path, check="sha256")
    contents = made.contents
    assert len(dataset) == contents["images"] and len(dataset.rejected()) == contents["rejected"]
    assert contents["images"] + contents["rejected"] == inputs
    assert contents["inputs"] == inputs + contents["passed_over"]["total"]
    assert contents["rejected_by_reason"] == Counter(row["reason"] for row in dataset.rejected())
    assert len(set(dataset.column("identity"))) == contents["identities"]
    assert len(set(dataset.column("image_id"))) == len(dataset)
    return dataset


def stored(dataset: FaceDataset) -> dict[str, bytes]:
    return {image_id: dataset.read(row) for row, image_id in enumerate(dataset.column("image_id"))}


def reasons(dataset: FaceDataset) -> dict[str, str]:
    return {row["where"]: row["reason"] for row in dataset.rejected()}


FOLDERS = {
    "ann/1.jpg": picture(1),
    "ann/2.png": picture(2, "PNG"),
    "ann/more/3.webp": picture(3, "WEBP"),
    "bob/1.pgm": picture(4, "PPM"),
    "김철수/사진.JPG": picture(5),
}


def test_folders(tmp_path: Path) -> None:
    source = put(tmp_path / "photos", FOLDERS | {"ann/notes.txt": b"not an image", ".hidden/1.jpg": picture(9)})
    dataset = check(extract(source, tmp_path / "out"), len(FOLDERS))
    assert stored(dataset) == {name.rpartition(".")[0]: data for name, data in FOLDERS.items()}
    assert dataset.column("identity") == ["ann", "ann", "ann", "bob", "김철수"]
    assert set(dataset.column("source")) == {"photos"} and set(dataset.column("width")) == {8}
    contents = dataset.artifact.contents
    assert (contents["name"], contents["aligned"], contents["identities_known"]) == ("photos", None, True)
    assert not dataset.artifact.synthetic and not contents["benchmark"]


def test_every_reason_of_a_folder(tmp_path: Path) -> None:
    source = put(
        tmp_path / "photos",
        {
            "loose.jpg": picture(1),
            "ann/good.jpg": picture(2),
            "ann/good.png": picture(3, "PNG"),
            "ann/cut.jpg": picture(4)[:-200],
            "ann/empty.jpg": b"",
            "ann/text.png": b"hello",
            "ann/moving.gif": picture(5, "GIF"),
            "ann/scan.tif": picture(6, "TIFF"),
            "ann/renamed.jpg": picture(7, "GIF"),
            "ann/photoshop.jpg": b"8BPS" + bytes(30),
            "ann/bomb.pgm": b"P6 100000 100000 255\n",
            "ann/._good.jpg": b"\0\5\x16\7 a Mac's shadow file",
        },
    )
    (source / "ann" / "dead.jpg").symlink_to("nowhere.jpg")
    korean = os.fsdecode("김".encode("euc-kr"))  # as an old archive unpacks
    put(source, {f"ann/{korean}/얼굴.jpg": picture(8), f"{korean}/1.jpg": picture(9)})
    dataset = check(extract(source, tmp_path / "out"), 14)
    assert dataset.artifact.contents["passed_over"]["by_reason"] == {"system_file": 1}
    assert stored(dataset) == {
        "ann/good.jpg": picture(2),
        "ann/good.png": picture(3, "PNG"),
        "ann/moving": picture(5, "GIF"),
        "ann/renamed": picture(7, "GIF"),
        "ann/scan": picture(6, "TIFF"),
    }
    assert reasons(dataset) == {
        "loose.jpg": "no_identity",
        "ann/cut.jpg": "truncated",
        "ann/empty.jpg": "not_an_image",
        "ann/text.png": "not_an_image",
        "ann/photoshop.jpg": "unsupported_format",
        "ann/bomb.pgm": "too_large",
        "ann/dead.jpg": "unreadable",
        "ann/\\xb1\\xe8/얼굴.jpg": "bad_name",
        "\\xb1\\xe8/1.jpg": "bad_name",
    }
    assert all(row["detail"] for row in dataset.rejected())


def test_subsets_by_flags(tmp_path: Path) -> None:
    files = {
        f"{person}/{number}.jpg": picture(ord(person) + number)
        for person in "abcd"
        for number in range(1 + "abcd".index(person))
    }
    source = put(tmp_path / "photos", files)
    dataset = check(
        extract(source, tmp_path / "out", ExtractConfig(min_images=2, max_identities=2, max_images_per_identity=2)), 4
    )
    assert list(stored(dataset)) == ["b/0", "b/1", "c/0", "c/1"]
    with pytest.raises(InputError, match="nobody is left of 4 identities; no other identity has 5 usable"):
        extract(source, tmp_path / "none", ExtractConfig(min_images=5))


def test_pairs_txt_makes_a_benchmark(tmp_path: Path) -> None:
    source = put(
        tmp_path / "lfw", {f"{name}/{name}_{number:04}.jpg": picture(number) for name in "AB" for number in (1, 2)}
    )
    (source / "B" / "B_0002.jpg").write_bytes(b"broken")
    text = "2\t2\nA\t1\t2\nA\t2\t1\nA\t1\tB\t1\nA\t2\tC\t1\nB\t1\t2\nA\t1\t2\nA\t2\tC\t1\nA\t2\tB\t1\n"
    (tmp_path / "pairs.txt").write_text(text)
    config = ExtractConfig(pairs=str(tmp_path / "pairs.txt"), max_pairs_lost=0.4)
    dataset = check(extract(source, tmp_path / "out", config), 4)
    pairs, ids = dataset.pairs(), dataset.column("image_id")
    assert [(ids[a], ids[b]) for a, b in zip(pairs.left, pairs.right, strict=True)] == [
        ("A/A_0001", "A/A_0002"),
        ("A/A_0002", "A/A_0001"),
        ("A/A_0001", "B/B_0001"),
        ("A/A_0001", "A/A_0002"),
        ("A/A_0002", "B/B_0001"),
    ]
    assert (pairs.same.tolist(), pairs.fold.tolist()) == ([True, True, False, True, False], [0, 0, 0, 1, 1])
    assert (dataset.artifact.contents["pairs"], dataset.artifact.contents["pairs_lost"]) == (5, 3)
    lost = r"3 of 8 pairs are lost; the first is pair 4, whose image 'C/C_0001' is not in the source; max_pairs_lost allows 0.1"
    with pytest.raises(InputError, match=lost):
        extract(source, tmp_path / "none", ExtractConfig(pairs=str(tmp_path / "pairs.txt")))


def test_a_bad_pairs_txt_is_told_of_before_any_work(tmp_path: Path) -> None:
    source = put(tmp_path / "lfw", FOLDERS)
    (tmp_path / "pairs.txt").write_text("nonsense")
    seen: list[int] = []
    for pairs, says in (
        (tmp_path / "pairs.txt", "line 1"),
        (tmp_path / "none.txt", "No such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(InputError, match=says):
            extract(
                source, tmp_path / "out", ExtractConfig(pairs=str(pairs)), progress=lambda done, _: seen.append(done)
            )
    assert seen == [] and not (tmp_path / "out").exists()


def test_real_lfw(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "lfw-1-5" / "images"
    made = extract(
        source,
        tmp_path / "out",
        ExtractConfig(
            name="lfw",
            min_images=3,
            max_identities=20,
            pairs=str(shared_data / "lfw-1-5" / "pairs.txt"),
            max_pairs_lost=1,
        ),
    )
    chosen = [folder for folder in sorted(source.iterdir()) if len(list(folder.iterdir())) >= 3][:20]
    files = [file for folder in chosen for file in sorted(folder.iterdir())]
    dataset = check(made, len(files))
    assert [dataset.read(row) for row in range(len(dataset))] == [file.read_bytes() for file in files]
    assert set(dataset.column("width")) == {250}
    assert made.contents["pairs"] + made.contents["pairs_lost"] == 3000
    identity = dataset.column("identity")
    pairs = dataset.pairs()
    assert [identity[a] == identity[b] for a, b in zip(pairs.left, pairs.right, strict=True)] == pairs.same.tolist()


def rec(folder: Path) -> Path:
    write_rec(folder, [(number // 2, face(number)) for number in range(6)])
    return folder


def test_rec(tmp_path: Path) -> None:
    source = rec(tmp_path / "faces")
    dataset = check(extract(source, tmp_path / "out"), 6)
    assert stored(dataset) == {f"{number // 2:06}/{number + 1:08}": face(number) for number in range(6)}
    assert dataset.artifact.contents["name"] == "faces" and dataset.artifact.contents["aligned"] == "arcface-112-v1"
    by_file = extract(source / "train.rec", tmp_path / "by_file")
    assert by_file.digest == dataset.artifact.digest


def test_every_reason_of_a_rec(tmp_path: Path) -> None:
    payloads = [
        pack_image(0.0, face(0)),
        pack_image(1.0, b"no image"),
        pack_image(float("nan"), face(2)),
        pack_image([2.0, 0.0], b""),
        b"short",
        pack_image([1.0, 9.0], face(5)),
        pack_image(1.0, b"8BPS" + bytes(30)),
    ]
    (tmp_path / "faces").mkdir()
    with RecordWriter(tmp_path / "faces" / "train.rec") as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, payload)
    dataset = check(extract(tmp_path / "faces", tmp_path / "out"), 7)
    assert stored(dataset) == {"000000/00000000": face(0), "000001/00000005": face(5)}
    assert Counter(reasons(dataset).values()) == {
        "bad_record": 2,
        "unknown_identity": 1,
        "not_an_image": 1,
        "unsupported_format": 1,
    }
    assert any(where.startswith("train.rec record 4 at byte ") for where in reasons(dataset))
    assert dataset.artifact.contents["aligned"] is None  # no property says that they are


def test_a_cut_rec_makes_nothing(tmp_path: Path) -> None:
    source = rec(tmp_path / "faces")
    data = (source / "train.rec").read_bytes()
    (source / "train.rec").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"train\.rec"):
        extract(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces"]


def test_bin(tmp_path: Path) -> None:
    images, same = [face(number) for number in range(40)], [number % 2 == 0 for number in range(20)]
    images[5] = b"broken"
    write_bin(tmp_path / "lfw.bin", images, same)
    dataset = check(extract(tmp_path / "lfw.bin", tmp_path / "out"), 40)
    assert stored(dataset) == {f"{n // 2:06}/{n % 2}": data for n, data in enumerate(images) if n != 5}
    contents = dataset.artifact.contents
    assert (contents["pairs"], contents["pairs_lost"], contents["identities_known"]) == (19, 1, False)
    pairs, identity = dataset.pairs(), dataset.column("identity")
    assert pairs.same.tolist() == [flag for number, flag in enumerate(same) if number != 2]
    assert pairs.fold.tolist() == [number // 2 for number in range(20) if number != 2]
    assert [identity[a] == identity[b] for a, b in zip(pairs.left, pairs.right, strict=True)] == pairs.same.tolist()
    assert [(dataset.read(a), dataset.read(b)) for a, b in zip(pairs.left, pairs.right, strict=True)] == [
        (images[2 * n], images[2 * n + 1]) for n in range(20) if n != 2
    ]


def test_a_real_bin(tmp_path: Path, shared_data: Path) -> None:
    made = extract(shared_data / "insightface-bin" / "small_lfw.bin", tmp_path / "out")
    dataset = check(made, 20)
    assert (
        made.contents["name"] == "small_lfw"
        and made.contents["aligned"] == "arcface-112-v1"
        and len(dataset.pairs()) == 10
    )
    assert set(zip(dataset.column("width"), dataset.column("height"), strict=True)) == {(112, 112)}


CONDITION = Condition("Middle", "S001", "L1", "E01", "C7")
POINTS = np.arange(14, dtype=np.float32).reshape(7, 2)


def kface(folder: Path, people: tuple[str, ...] = ("19062421", "19062422")) -> Path:
    for number, person in enumerate(people):
        for light in ("L1", "L2"):
            path = Condition("Middle", "S001", light, "E01", "C7").path(person)
            put(folder, {path: shot(2 * number + int(light[1]))})
    write_annotation(folder / CONDITION.path(people[0]).replace(".jpg", ".txt"), POINTS, [[0, 0, 9, 9]] * 5)
    return folder


def test_kface(tmp_path: Path) -> None:
    dataset = check(extract(kface(tmp_path / "kface"), tmp_path / "out"), 4)
    assert dataset.column("identity") == ["19062421"] * 2 + ["19062422"] * 2
    assert dataset.column("light") == ["L1", "L2", "L1", "L2"]
    assert dataset.column("landmarks") == [POINTS[[1, 2, 0, 3, 4]].ravel().tolist(), None, None, None]
    for name in ("resolution", "accessory", "expression", "camera"):
        assert set(dataset.column(name)) == {getattr(CONDITION, name)}
    assert dataset.read(0) == shot(1)


def test_every_reason_of_kface(tmp_path: Path) -> None:
    base = "Middle_Resolution/19062421/S001/L1"
    source = put(
        kface(tmp_path / "kface"),
        {
            f"{base}/E1/C7.jpg": shot(7),  # the seed's way to write E01: the same picture again
            f"{base}/E01/C21.jpg": shot(8),
            f"{base}/E01/deeper/C7.jpg": shot(9),
            "Middle_Resolution/19062421/C7.jpg": shot(10),
            f"{base}/E02/C7.jpg": b"broken",
            f"{base}/E03/C7.jpg": shot(11),
            f"{base}/E03/C7.txt": b"1 2\n3\n",
            f"{base}/E03/C8.bmp": shot(12, "BMP"),
        },
    )
    (source / base / "E03" / "C9.jpg").symlink_to("nowhere.jpg")
    (source / base / "E03" / "C10.txt").mkdir()
    dataset = check(extract(source, tmp_path / "out"), 4 + 8)
    found = reasons(dataset)
    assert len(dataset) == 6
    assert found == {
        f"{base}/E01/C21.jpg": "unknown_condition",
        f"{base}/E01/deeper/C7.jpg": "unknown_condition",
        "Middle_Resolution/19062421/C7.jpg": "unknown_condition",
        f"{base}/E02/C7.jpg": "not_an_image",
        f"{base}/E03/C7.jpg": "bad_annotation",
        f"{base}/E03/C9.jpg": "unreadable",
    }
    (bad,) = [row for row in dataset.rejected() if row["reason"] == "bad_annotation"]
    assert "C7.txt line 2" in bad["detail"] and bad["identity"] == "19062421"


def test_a_selection_of_kface(tmp_path: Path) -> None:
    source = kface(tmp_path / "kface")
    dataset = check(extract(source, tmp_path / "out", ExtractConfig(selection="lights=L2")), 2)
    assert dataset.column("light") == ["L2", "L2"]
    for selection, says in (("lights=L5", "no K-FACE image of the selection"), ("light=L2", "selection 'light=L2'")):
        with pytest.raises(InputError, match=says):
            extract(source, tmp_path / "none", ExtractConfig(selection=selection))


def test_the_same_again_is_kept(tmp_path: Path) -> None:
    source = put(tmp_path / "photos", FOLDERS)
    first = extract(source, tmp_path / "out")
    stamp = (first.path / "dataset.json").stat().st_mtime_ns
    seen: list[int] = []
    assert (
        extract(source, tmp_path / "out", ExtractConfig(workers=5), progress=lambda done, _: seen.append(done)).digest
        == first.digest
    )
    assert seen == [] and (first.path / "dataset.json").stat().st_mtime_ns == stamp
    put(tmp_path / "moved" / "photos", FOLDERS)
    assert extract(tmp_path / "moved" / "photos", tmp_path / "out2").digest == first.digest


def change(file: Path) -> None:
    """Other bytes, as many, at the same time: only the content tells."""
    stat = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("kind", ["folders", "rec", "bin", "kface"])
def test_a_change_that_keeps_the_size_is_noticed(tmp_path: Path, kind: str) -> None:
    write_bin(tmp_path / "set.bin", [face(1), face(2)], [True])
    source, file = {
        "folders": lambda: (put(tmp_path / "photos", FOLDERS), tmp_path / "photos" / "ann" / "1.jpg"),
        "rec": lambda: (rec(tmp_path / "faces"), tmp_path / "faces" / "train.rec"),
        "bin": lambda: (tmp_path / "set.bin", tmp_path / "set.bin"),
        "kface": lambda: (kface(tmp_path / "kface"), tmp_path / "kface" / CONDITION.path("19062421")),
    }[kind]()
    before = extract(source, tmp_path / "out").card["inputs"]
    if kind == "bin":
        write_bin(file, [face(2), face(1)], [True])
    else:
        change(file)
    after = extract(source, tmp_path / "out").card["inputs"]
    assert before != after


def test_changes_beside_the_images_are_noticed(tmp_path: Path) -> None:
    """What else decides the manifest or the card: annotations, property, the synthetic mark."""
    source = kface(tmp_path / "kface")
    first = extract(source, tmp_path / "out")
    write_annotation(source / CONDITION.path("19062421").replace(".jpg", ".txt"), POINTS + 1, [[0, 0, 9, 9]] * 5)
    second = extract(source, tmp_path / "out")
    assert second.digest != first.digest
    landmarks = FaceDataset(second.path).column("landmarks")[0]
    assert landmarks == (POINTS + 1)[[1, 2, 0, 3, 4]].ravel().tolist()
    (source / "synthetic.json").write_text('{"synthetic": true}')
    assert extract(source, tmp_path / "out").synthetic

    faces = rec(tmp_path / "faces")
    assert extract(faces, tmp_path / "rec").contents["aligned"] == "arcface-112-v1"
    (faces / "property").write_text("3,250,250\n")
    assert extract(faces, tmp_path / "rec", ExtractConfig(any_size=True)).contents["aligned"] is None


def test_the_synthetic_mark(tmp_path: Path) -> None:
    write_bin(tmp_path / "set.bin", [face(1), face(2)], [True])
    places: dict[str, tuple[Path, Path]] = {
        "folders": (put(tmp_path / "photos", FOLDERS), tmp_path / "photos" / "synthetic.json"),
        "rec": (rec(tmp_path / "faces"), tmp_path / "faces" / "synthetic.json"),
        "bin": (tmp_path / "set.bin", tmp_path / "set.bin.synthetic.json"),
    }
    for kind, (source, mark) in places.items():
        assert not extract(source, tmp_path / f"{kind}-0").synthetic
        mark.write_text(json.dumps({"synthetic": False}))
        assert not extract(source, tmp_path / f"{kind}-1").synthetic
        mark.write_text(json.dumps({"synthetic": True}))
        assert extract(source, tmp_path / f"{kind}-1").synthetic
        for bad in ("{", "[]", "{}"):
            mark.write_text(bad)
            with pytest.raises(InputError, match=r"synthetic\.json: expected JSON"):
                extract(source, tmp_path / f"{kind}-2")


def test_kinds_are_told_by_names(tmp_path: Path) -> None:
    (tmp_path / "a.rec").touch()
    (tmp_path / "a.bin").touch()
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    assert detect_kind(tmp_path / "a.rec") == "rec" and detect_kind(tmp_path / "a.bin") == "bin"
    assert detect_kind(rec(tmp_path / "faces")) == "rec"
    assert detect_kind(kface(tmp_path / "kface")) == "kface"
    assert detect_kind(put(tmp_path / "photos", FOLDERS)) == "folders"
    for name, says in (
        ("a.txt", r"expected a \.rec, \.bin or \.lst file, a \.zip"),
        ("none", "no such file"),
        ("empty", "holds no train.rec"),
    ):
        with pytest.raises(InputError, match=says):
            detect_kind(tmp_path / name)


@pytest.mark.parametrize("kind", ["rec", "bin", "kface", "folders", "zip"])
def test_a_source_of_another_kind_than_said_is_a_sentence(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file.jpg").write_bytes(picture(1))
    (tmp_path / "empty.rec").touch()
    (tmp_path / "folder").mkdir()
    for name in ("file.jpg", "empty.rec", "folder", "none"):
        with pytest.raises(InputError):
            extract(tmp_path / name, tmp_path / "out", ExtractConfig(kind=kind, name="x"))
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize("options", [{"name": "a.b"}, {"name": "a/b"}, {"name": "a b"}])
def test_names_that_would_blur_borders_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="letters, digits"):
        extract(put(tmp_path / "photos", FOLDERS), tmp_path / "out", ExtractConfig(**options))


def test_progress_counts_every_input(tmp_path: Path) -> None:
    source = put(
        tmp_path / "photos", {f"a/{number}.jpg": picture(number % 7) for number in range(300)} | {"a/x.jpg": b""}
    )
    seen: list[int] = []
    check(extract(source, tmp_path / "out", progress=lambda done, _: seen.append(done)), 301)
    assert seen == sorted(seen) and seen[-1] == 301


def test_no_machines_path_gets_into_the_artifact(tmp_path: Path) -> None:
    """The same raw files at two places give one digest, broken ones among them."""
    digests = []
    for place in (tmp_path / "here", tmp_path / "far" / "away"):
        faces = rec(place / "faces")
        data = bytearray((faces / "train.rec").read_bytes())
        data[50 + data[50:].index(b"\x0a\x23\xd7\xce")] ^= 1
        (faces / "train.rec").write_bytes(bytes(data))
        people = kface(place / "kface")
        (people / CONDITION.path("19062422").replace(".jpg", ".txt")).write_text("1 2 3\n")
        photos = put(place / "photos", FOLDERS | {"ann/broken.jpg": b"\xff\xd8"})
        made = [extract(source, place / f"{source.name}-out") for source in (faces, people, photos)]
        assert [one.contents["rejected"] for one in made] == [1, 1, 1]
        digests.append([one.digest for one in made])
        for one in made:
            assert not [row for row in FaceDataset(one.path).rejected() if str(tmp_path) in str(row)]
    assert digests[0] == digests[1]

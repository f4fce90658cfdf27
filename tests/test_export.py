"""Out and in again: every export gives the bytes, identities and pairs back, and harms nothing that lies there."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.datasets import make_dataset

from eolgul import steps, storage
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.export import export
from eolgul.extract.config import ExtractConfig
from eolgul.extract.step import extract
from eolgul.files import sha256_bytes, sha256_file
from eolgul.formats import insightface, pair_lists
from eolgul.formats.lst import read_lst


def picture(seed: int, kind: str = "JPEG", size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert("L") if kind == "PPM" else image).save(buffer, kind)
    return buffer.getvalue()


def make(
    folder: Path,
    images: list[tuple[str, str, bytes]],
    pairs: list[tuple[int, int, bool, int]] | None = None,
    *,
    splits: list[str | None] | None = None,
    size: int = 16,
    synthetic: bool = False,
) -> Path:
    """A FaceDataset of (image id, identity, encoded image)."""
    with make_dataset(folder, step="test", recipe={}, inputs=[], synthetic=synthetic) as writer:
        for row, (image_id, identity, data) in enumerate(images):
            facts = {"split": splits[row] if splits else None, "landmarks": [float(n) for n in range(10)]}
            writer.add(image_id, identity, data, extension="jpg", size=(size, size), source="src", facts=facts)
        if pairs is not None:
            left, right, same, fold = zip(*pairs, strict=True)
            writer.pairs(left, right, same, fold)
    return folder


PEOPLE = [(f"p{n % 5}/img.{n}", f"p{n % 5}", picture(n, ("JPEG", "PNG", "WEBP", "PPM")[n % 4])) for n in range(20)]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Twenty images of five people, their identities interleaved."""
    return make(tmp_path / "people", PEOPLE)


def bytes_of(dataset: FaceDataset) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for row, identity in enumerate(dataset.column("identity")):
        found.setdefault(identity, []).append(dataset.read(row))
    return found


def pairs_of(dataset: FaceDataset) -> list[tuple[bytes, bytes, bool, int]]:
    pairs = dataset.pairs()
    columns = (pairs.left, pairs.right, pairs.same, pairs.fold)
    return [
        (dataset.read(left), dataset.read(right), bool(same), int(fold))
        for left, right, same, fold in zip(*(column.tolist() for column in columns), strict=True)
    ]


def test_rec_and_back(people: Path, tmp_path: Path) -> None:
    card = export(people, tmp_path / "out", to="rec")
    assert (card["images"], card["identities"], card["synthetic"]) == (20, 5, False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "train.rec", "train.idx", "train.lst", "property", "export.json",
    }  # fmt: skip
    assert card["files"]["train.rec"]["sha256"] == sha256_file(tmp_path / "out/train.rec")
    assert insightface.read_property(tmp_path / "out/property") == insightface.Property(5, 16, 16)
    again = FaceDataset(extract(tmp_path / "out", tmp_path / "again").path)
    expected = {f"{number:06}": images for number, images in enumerate(bytes_of(FaceDataset(people)).values())}
    assert bytes_of(again) == expected
    rows = list(read_lst(tmp_path / "out/train.lst"))
    assert [row.label for row in rows] == sorted(row.label for row in rows)
    assert {row.path.split("/")[0]: int(row.label) for row in rows} == {f"p{number}": number for number in range(5)}
    assert rows[0].path == "p0/img.0.jpg" and rows[1].path == "p0/img.5.png" and not rows[0].aligned


def test_rec_of_a_rec_is_the_same_file(tmp_path: Path) -> None:
    insightface.write_rec(tmp_path / "first", [(n // 3, picture(n)) for n in range(12)], height=16, width=16)
    export(extract(tmp_path / "first", tmp_path / "data").path, tmp_path / "second", to="rec")
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.process
def test_folders_and_back(people: Path, tmp_path: Path) -> None:
    export(people, tmp_path / "out", to="folders")
    again = FaceDataset(extract(tmp_path / "out", tmp_path / "again").path)
    by_name = {image_id: data for image_id, _, data in PEOPLE}
    assert {name: again.read(row) for row, name in enumerate(again.column("image_id"))} == by_name
    assert set(again.column("image_id")) == {image_id for image_id, _, _ in PEOPLE} and not again.rejected()
    done = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "out", check=False)
    assert done.returncode == 0
    assert not (tmp_path / "out" / "pairs.csv").exists()


def set_of_pairs(folder: Path) -> Path:
    """A benchmark of 40 pairs as a `.bin` gives it: ten folds, every identity known by its pair only."""
    same = [bool(n % 2) for n in range(40)]
    insightface.write_bin(folder / "set.bin", [picture(n) for n in range(80)], same)
    return extract(folder / "set.bin", folder / "set").path


def test_bin_and_back(tmp_path: Path) -> None:
    first = set_of_pairs(tmp_path)
    card = export(first, tmp_path / "out.bin", to="bin")
    assert card["pairs"] == 40 and card["folds_kept"] is True and card["identities"] is None
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "set.bin").read_bytes()
    assert json.loads((tmp_path / "out.bin.export.json").read_bytes()) == card
    again = FaceDataset(extract(tmp_path / "out.bin", tmp_path / "again").path)
    assert pairs_of(again) == pairs_of(FaceDataset(first))


def test_a_bin_is_in_fold_order_and_says_when_folds_move(people: Path, tmp_path: Path) -> None:
    pairs = [(0, 5, True, 1), (0, 1, False, 0), (2, 7, True, 1), (2, 3, False, 0)]
    made = make(tmp_path / "b", PEOPLE, pairs)
    card = export(made, tmp_path / "out.bin", to="bin")
    loaded = insightface.read_bin(tmp_path / "out.bin")
    assert loaded.same.tolist() == [False, False, True, True] and card["folds_kept"] is False
    assert loaded.images == [PEOPLE[row][2] for row in (0, 1, 2, 3, 0, 5, 2, 7)]
    with pytest.raises(InputError, match="no pairs"):
        export(people, tmp_path / "no.bin", to="bin")
    assert not (tmp_path / "no.bin").exists()


def test_pairs_of_folders(tmp_path: Path) -> None:
    """LFW's own names give `pairs.txt`, and with it the benchmark again; other names only `pairs.csv`."""
    images = [(f"{name}/{name}_{n:04}", name, picture(10 * i + n)) for i, name in enumerate("ABCD") for n in (1, 2)]
    pairs = [(0, 1, True, 0), (0, 2, False, 0), (4, 5, True, 1), (1, 7, False, 1)]
    for name, chosen, written in (
        ("lfw", images, True),
        ("other", [(i.replace("_", "-"), n, d) for i, n, d in images], False),
    ):
        made = make(tmp_path / name, chosen, pairs)
        card = export(made, tmp_path / f"{name}-out", to="folders")
        with (tmp_path / f"{name}-out" / "pairs.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(int(row["same"]), int(row["fold"])) for row in rows] == [(int(s), f) for *_, s, f in pairs]
        files = [[(tmp_path / f"{name}-out" / row[side]).read_bytes() for side in ("left", "right")] for row in rows]
        assert files == [[images[left][2], images[right][2]] for left, right, *_ in pairs]
        assert card["pairs_txt"] is written is (tmp_path / f"{name}-out" / "pairs.txt").exists()
    listed = tmp_path / "lfw-out" / "pairs.txt"
    assert listed.read_text().splitlines()[0] == "2\t1" and pair_lists.read_pairs(listed)[1].right == "B/B_0001"
    again = FaceDataset(extract(tmp_path / "lfw-out", tmp_path / "again", ExtractConfig(pairs=str(listed))).path)
    assert pairs_of(again) == pairs_of(FaceDataset(tmp_path / "lfw"))


def test_a_bins_images_lie_under_their_identities(tmp_path: Path) -> None:
    export(set_of_pairs(tmp_path), tmp_path / "out", to="folders")
    again = FaceDataset(extract(tmp_path / "out", tmp_path / "again").path)
    assert bytes_of(again) == bytes_of(FaceDataset(tmp_path / "set"))
    assert {path.name for path in (tmp_path / "out" / "000000a").iterdir()} == {"000000_0.jpg"}


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Read as webdataset does: members in order, grouped by what precedes the first dot of the file's name."""
    found: dict[str, dict[str, bytes]] = {}
    last = ""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                base, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{base}/{stem}"
                assert key == last or key not in found, "the members of a sample must follow each other"
                last = key
                file = archive.extractfile(member)
                assert file is not None
                found.setdefault(key, {})[extension] = file.read()
    return found


def test_webdataset(tmp_path: Path) -> None:
    images = [("a/x.y%2E.1", "a", picture(1)), ("b.c/2", "b.c", picture(2, "PNG")), ("a/x", "a", picture(3))]
    images.append(("긴/" + "이름" * 60, "긴", picture(4)))
    made = make(tmp_path / "d", images, [(0, 2, True, 0)], splits=["train", None, "test", None])
    card = export(made, tmp_path / "out", to="webdataset")
    found = samples(tmp_path / "out")
    assert list(found) == ["a/x%2Ey%252E%2E1", "a/x", "b.c/2", "긴/" + "이름" * 60] and card["shards"] == 1
    for image_id, identity, data in images:
        (sample,) = (sample for sample in found.values() if json.loads(sample["json"])["image_id"] == image_id)
        about = json.loads(sample["json"])
        (extension,) = sample.keys() - {"cls", "json"}
        assert sample[extension] == data and extension == ("png" if identity == "b.c" else "jpg")
        assert (about["identity"], about["source"], about["sha256"]) == (identity, "src", sha256_bytes(data))
        assert int(sample["cls"]) == about["label"] and about["landmarks"] == list(range(10))
    assert json.loads(found["a/x"]["json"])["split"] == "test" and "split" not in json.loads(found["b.c/2"]["json"])
    assert (tmp_path / "out/pairs.csv").read_text().splitlines()[1] == "a/x%2Ey%252E%2E1,a/x,1,0"


def test_one_split(tmp_path: Path) -> None:
    splits: list[str | None] = [("train", "test")[n % 5 > 2] for n in range(20)]
    made = make(tmp_path / "d", PEOPLE, [(3, 8, True, 0), (0, 5, True, 1)], splits=splits)
    card = export(made, tmp_path / "out", to="rec", split="test")
    again = FaceDataset(extract(tmp_path / "out", tmp_path / "again").path)
    assert (card["images"], card["identities"], len(again)) == (8, 2, 8)
    assert bytes_of(again)["000000"] == [data for _, identity, data in PEOPLE if identity == "p3"]
    assert export(made, tmp_path / "s.bin", to="bin", split="test")["pairs"] == 1
    for split, says in (("validation", "no image"), ("tset", "expected one of")):
        with pytest.raises(InputError, match=says):
            export(made, tmp_path / "none", to="rec", split=split)


@pytest.mark.parametrize("to", ["rec", "folders", "webdataset", "bin"])
def test_twice_is_the_same_and_the_mark_of_drawn_people_stays(to: str, tmp_path: Path) -> None:
    made = make(tmp_path / "d", PEOPLE, [(0, 5, True, 0)], synthetic=True)
    outs = [tmp_path / f"{name}.bin" for name in ("a", "b")] if to == "bin" else [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        assert export(made, out, to=to)["synthetic"] is True

    def content(out: Path) -> dict[str, bytes]:
        files = [out, *out.parent.glob(f"{out.name}.*")] if to == "bin" else [p for p in out.rglob("*") if p.is_file()]
        return {path.name.removeprefix(out.name): path.read_bytes() for path in files}

    first, second = map(content, outs)
    if to == "bin":
        first, second = ({name: data for name, data in one.items() if "export" not in name} for one in (first, second))
    assert first == second and any(name.endswith("synthetic.json") for name in first)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    export(made, outs[0], to=to)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == stamps
    if to != "webdataset":
        assert extract(outs[0], tmp_path / "again").synthetic
    other = make(tmp_path / "other", PEOPLE[:4], [(0, 1, False, 0)])
    export(other, outs[0], to=to)  # real people take the drawn ones' place, and the mark goes
    assert not any(name.endswith("synthetic.json") for name in content(outs[0]))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_the_formats_cannot_say(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_dataset(tmp_path / "mixed", step="t", recipe={}, inputs=[], synthetic=False) as writer:
        for n in (1, 2):
            writer.add(f"a/{n}", "a", picture(n, size=8 * n), extension="jpg", size=(8 * n, 8 * n), source="s")
    with pytest.raises(InputError, match="from 8x8 to 16x16"):
        export(tmp_path / "mixed", tmp_path / "out", to="rec")
    for to in ("zip", "REC"):
        with pytest.raises(InputError, match="expected one of rec, folders, bin, webdataset"):
            export(people, tmp_path / "out", to=to)
    monkeypatch.setattr("eolgul.formats.insightface.EXACT", 25)
    with pytest.raises(InputError, match=r"20 images and 5 identities.*float32"):
        export(people, tmp_path / "out", to="rec")
    monkeypatch.setattr("eolgul.formats.insightface.EXACT", 26)
    export(people, tmp_path / "out", to="rec")


@pytest.mark.parametrize("image_id", ["../../x", "a/../../../x", "/etc/x", "a/b\nc", "a/b\\c"])
def test_names_that_lead_elsewhere_are_refused(image_id: str, tmp_path: Path) -> None:
    made = make(tmp_path / "d", [(image_id, image_id.split("/", maxsplit=1)[0], picture(1))])
    for to in ("folders", "webdataset", "rec"):
        with pytest.raises(InputError, match="cannot be the name of a file"):
            export(made, tmp_path / "deep/out", to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "deep"] and not any((tmp_path / "deep").iterdir())


def test_nothing_else_is_lost(people: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/note.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    benchmark = make(tmp_path / "b", PEOPLE, [(0, 5, True, 0)])
    for out, to in (("mine", "rec"), ("mine", "bin"), ("file", "bin"), ("file", "folders"), ("people", "rec")):
        with pytest.raises(InputError, match=r"is not an export|is a file|is a folder|lies in the dataset"):
            export(people if out == "people" else benchmark, tmp_path / out, to=to)
    with pytest.raises(InputError, match="lies in the dataset"):
        export(people, people / "out", to="rec")
    export(people, tmp_path / "out", to="folders")
    (tmp_path / "out/p0/mine.txt").write_text("keep")
    with pytest.raises(InputError, match=r"holds p0/mine\.txt"):
        export(benchmark, tmp_path / "out", to="folders")
    (tmp_path / "out/p0/mine.txt").unlink()
    export(benchmark, tmp_path / "out", to="webdataset")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000000.tar", "pairs.csv", "export.json"}
    (tmp_path / "empty").mkdir()
    export(people, tmp_path / "empty", to="rec")


def test_a_full_disk_is_a_sentence(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "train.rec")

    monkeypatch.setattr("eolgul.formats.insightface.write_rec", full)
    with pytest.raises(InputError, match=r"out: cannot be written .No space left"):
        export(people, tmp_path / "out", to="rec")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.process
def test_the_command(people: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "eolgul", "export", str(people), str(tmp_path / "out"), "--to", "rec"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    facts = json.loads(done.stdout)
    assert facts["artifact"] == str(tmp_path / "out") and facts["dataset"] == FaceDataset(people).artifact.digest
    assert (facts["images"], facts["identities"], facts["to"], facts["split"]) == (20, 5, "rec", None)
    bad = subprocess.run([*argv[:-1], "zip"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1


def test_to_s3_and_back(s3: str, tmp_path: Path) -> None:
    made = make(tmp_path / "d", PEOPLE, [(n, n + 5, True, n) for n in range(10)], synthetic=True)
    storage.publish(made, f"{s3}/export/d")
    for to, name in (("rec", "rec"), ("bin", "set.bin"), ("folders", "folders")):
        out = f"{s3}/export/{name}"
        facts = steps.export(f"{s3}/export/d", out, to=to)
        assert facts["artifact"] == out and facts["synthetic"] is True
        again = steps.extract(out, str(tmp_path / f"again-{to}"))
        assert (again["images"], again["synthetic"]) == (20, True)
        with pytest.raises(InputError, match="something is there already"):
            steps.export(f"{s3}/export/d", out, to=to)


def test_real_sets_come_back(shared_data: Path, tmp_path: Path) -> None:
    """InsightFace's own small `.bin`, and LFW's pairs over a part of its images."""
    real = shared_data / "insightface-bin" / "small_lfw.bin"
    export(extract(real, tmp_path / "a").path, tmp_path / "out.bin", to="bin")
    first, again = insightface.read_bin(real), insightface.read_bin(tmp_path / "out.bin")
    assert first.images == again.images and first.same.tolist() == again.same.tolist()
    listed = shared_data / "lfw-1-5" / "pairs.txt"
    made = extract(shared_data / "lfw-1-5" / "images", tmp_path / "lfw", ExtractConfig(pairs=str(listed)))
    card = export(made.path, tmp_path / "folders", to="folders")
    assert card["images"] == 6_165 and card["pairs"] == made.contents["pairs"]
    if made.contents["pairs_lost"] == 0:
        assert card["pairs_txt"] and pair_lists.read_pairs(tmp_path / "folders" / "pairs.txt") == pair_lists.read_pairs(
            listed
        )
    for path in sorted((tmp_path / "folders").glob("*/*.jpg"))[::97]:
        original = shared_data / "lfw-1-5" / "images" / path.relative_to(tmp_path / "folders")
        assert path.read_bytes() == original.read_bytes()

"""An extraction as a job: killed, resumed, shared out, out of disk; and real collections in full."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.plan import shares
from eolgul.extract.step import extract
from eolgul.formats.insightface import write_rec

SHARD = 1 << 20


def face(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (112, 112, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train.rec of 3,000 images (about 40 shards of a megabyte), two of them broken."""
    folder = tmp_path_factory.mktemp("raw") / "faces"
    some = [face(seed) for seed in range(50)]
    images = [(number // 30, some[number % 50]) for number in range(3000)]
    images[1234] = (1234 // 30, b"broken")
    images[2000] = (2000 // 30, some[0][:-100])
    write_rec(folder, images)
    return folder


@pytest.fixture(scope="module")
def whole(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    made = extract(faces, tmp_path_factory.mktemp("whole") / "out", ExtractConfig(shard_bytes=SHARD, workers=1))
    return FaceDataset(made.path, check="sha256")


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(faces: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from eolgul.extract.config import ExtractConfig; from eolgul.extract.step import extract\n"
        f"if __name__ == '__main__': extract(Path(sys.argv[1]), Path(sys.argv[2]), ExtractConfig(shard_bytes={SHARD}, workers={workers}))"
    )
    argv = [sys.executable, "-c", code, str(faces), str(out)]
    return subprocess.Popen(argv, text=True, stderr=subprocess.PIPE, start_new_session=True)


def parts(out: Path) -> list[Path]:
    return sorted((out.parent / f".{out.name}.partial" / "parts").glob("*.json"))


def kill_after(wanted: int, faces: Path, out: Path) -> None:
    """An extraction with one worker that is killed when so many parts are whole."""
    process = start(faces, out, 1)
    while len(parts(out)) < wanted:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_what_is_there_is_what_went_in(whole: FaceDataset) -> None:
    assert len(whole) == 2998 and [row["reason"] for row in whole.rejected()] == ["not_an_image", "truncated"]
    assert len(set(whole.column("shard"))) > 20
    sizes = [path.stat().st_size for path in (whole.path / "shards").iterdir()]
    assert max(sizes) <= SHARD + 2 * 10240


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_gives_the_same_bytes(
    faces: Path, whole: FaceDataset, tmp_path: Path, workers: int
) -> None:
    seen: list[int] = []
    extract(
        faces,
        tmp_path / "out",
        ExtractConfig(shard_bytes=SHARD, workers=workers),
        progress=lambda done, _: seen.append(done),
    )
    assert tree(tmp_path / "out") == tree(whole.path)
    assert seen[-1] <= 3000
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_job_goes_on_from_its_last_whole_shard(
    faces: Path, whole: FaceDataset, tmp_path: Path, workers: int
) -> None:
    """Killed without warning, several times over; what the last run finds whole it does not write again."""
    out, rounds = tmp_path / "out", 0
    for wanted in (3, 8, 15):
        process = start(faces, out, workers)
        while len(parts(out)) < wanted and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            rounds += 1
        process.communicate()
        assert rounds == 0 or not out.exists()
    assert rounds > 0
    kept = parts(out)
    stamps = {path: path.stat().st_mtime_ns for path in (out.parent / ".out.partial" / "artifact" / "shards").iterdir()}
    seen: list[int] = []
    made = extract(
        faces, out, ExtractConfig(shard_bytes=SHARD, workers=workers), progress=lambda done, _: seen.append(done)
    )
    assert tree(made.path) == tree(whole.path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert 0 < seen[-1] < 3000
    same = [path for path, stamp in stamps.items() if (out / "shards" / path.name).stat().st_mtime_ns == stamp]
    assert len(same) >= len(kept) >= 3


def test_what_was_damaged_meanwhile_is_made_again(faces: Path, whole: FaceDataset, tmp_path: Path) -> None:
    kill_after(4, faces, tmp_path / "out")
    folder = tmp_path / ".out.partial"
    shard = folder / "artifact" / "shards" / "00001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(bytes(data))
    (folder / "parts" / "00002.json").write_text("{")
    (folder / "artifact" / "shards" / "00003.tar").unlink()
    extract(faces, tmp_path / "out", ExtractConfig(shard_bytes=SHARD, workers=1))
    assert tree(tmp_path / "out") == tree(whole.path)


def test_another_job_begins_anew(faces: Path, tmp_path: Path) -> None:
    kill_after(3, faces, tmp_path / "out")
    other = tmp_path / "other"
    write_rec(other, [(0, face(1)), (1, face(2))])
    made = extract(other, tmp_path / "out", ExtractConfig(shard_bytes=SHARD))
    assert FaceDataset(made.path, check="sha256").read(1) == face(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_two_at_once_are_told(faces: Path, tmp_path: Path) -> None:
    process = start(faces, tmp_path / "out", 1)
    while not parts(tmp_path / "out"):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(InputError, match="another process is writing it"):
            extract(faces, tmp_path / "out", ExtractConfig(shard_bytes=SHARD))
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert process.communicate()[1] == "" and process.returncode == 0
    assert (tmp_path / "out" / "dataset.json").is_file()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_sentence(faces: Path, tmp_path: Path, workers: int) -> None:
    """As far as a process can be told so without a disk of its own: no file may grow beyond a size."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "if __name__ == '__main__':\n"
        "  from eolgul.cli.main import main\n"
        f"  sys.argv = ['eolgul', 'extract', {str(faces)!r}, {str(tmp_path / 'out')!r}, '--workers', '{workers}']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"eolgul: {tmp_path / 'out'}: cannot be written (File too large")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_parts_by_byte_range_hold_every_image_once(faces: Path, whole: FaceDataset, tmp_path: Path) -> None:
    found: dict[str, str] = {}
    rejected = 0
    for number in range(1, 8):
        made = extract(faces, tmp_path / f"part{number}", ExtractConfig(part=f"{number}/7", name="faces"))
        dataset = FaceDataset(made.path)
        ids = dict(zip(dataset.column("image_id"), dataset.column("sha256"), strict=True))
        assert not ids.keys() & found.keys()
        found |= ids
        rejected += made.contents["rejected"]
    assert found == dict(zip(whole.column("image_id"), whole.column("sha256"), strict=True))
    assert rejected == 2
    for part in ("0/7", "8/7", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(InputError, match="part"):
            extract(faces, tmp_path / "bad", ExtractConfig(part=part))


def test_shares_are_consecutive_whole_and_bounded() -> None:
    sizes = np.array([10, 600, 5000, 1, 1, 1, 90_000, 3], np.int64)
    cuts = list(shares(sizes, 8192))
    assert [number for cut in cuts for number in range(cut.start, cut.stop)] == list(range(8))
    padded = 512 + (sizes + 511) // 512 * 512
    assert all(padded[cut].sum() <= 8192 or cut.stop - cut.start == 1 for cut in cuts)


def test_verification_finds_what_structure_does_not_tell(tmp_path: Path) -> None:
    """A JPEG whose Huffman table is none looks whole until it is decoded."""
    good = face(1)
    table = good.index(b"\xff\xc4") + 5
    bad = good[:table] + b"\xff" * 16 + good[table + 16 :]
    write_rec(tmp_path / "faces", [(0, good), (0, bad)])
    looked = extract(tmp_path / "faces", tmp_path / "looked")
    decoded = extract(tmp_path / "faces", tmp_path / "decoded", ExtractConfig(verify=True))
    assert (looked.contents["images"], looked.contents["verified"]) == (2, False)
    assert (decoded.contents["images"], decoded.contents["verified"]) == (1, True)
    (row,) = FaceDataset(decoded.path).rejected()
    assert row["reason"] == "undecodable" and row["where"].startswith("train.rec record 2 at byte ")


def test_sizes_and_labels_that_property_excludes(tmp_path: Path) -> None:
    small = io.BytesIO()
    Image.new("RGB", (100, 112)).save(small, "JPEG")
    write_rec(tmp_path / "faces", [(0, face(1)), (1, small.getvalue()), (2, face(2))])
    (tmp_path / "faces" / "property").write_text("2,112,112\n")
    dataset = FaceDataset(extract(tmp_path / "faces", tmp_path / "out").path)
    assert dataset.column("image_id") == ["000000/00000001"]
    reasons = {row["reason"]: row["detail"] for row in dataset.rejected()}
    assert reasons["wrong_size"] == "100x112 pixels, expected 112x112"
    assert "label 2" in reasons["unknown_identity"]
    assert len(FaceDataset(extract(tmp_path / "faces", tmp_path / "any", ExtractConfig(any_size=True)).path)) == 2


def test_a_key_that_comes_twice(tmp_path: Path) -> None:
    """im2rec's layout, two records under one key: the second is not lost silently."""
    from eolgul.formats.recordio import RecordWriter, pack_image

    (tmp_path / "faces").mkdir()
    with RecordWriter(tmp_path / "faces" / "train.rec") as writer:
        for key in (0, 1, 1, 2):
            writer.write(key, pack_image(float(key), face(key)))
    dataset = FaceDataset(extract(tmp_path / "faces", tmp_path / "out").path)
    assert dataset.column("image_id") == ["000000/00000000", "000001/00000001", "000002/00000002"]
    (row,) = dataset.rejected()
    assert row["reason"] == "duplicate_key" and "the key 1" in row["detail"]


def test_memory_does_not_grow_with_the_source(faces: Path, tmp_path: Path) -> None:
    """30 times the images, in small shards: the most memory a process takes stays where it was (benchmarks: 5 GB)."""

    def peak(source: Path, out: Path) -> int:
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from eolgul.extract.config import ExtractConfig; from eolgul.extract.step import extract\n"
            "extract(Path(sys.argv[1]), Path(sys.argv[2]), ExtractConfig(shard_bytes=8 << 20, workers=1))\n"
            "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]))"
        )
        argv = [sys.executable, "-c", code, str(source), str(out)]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    some = [face(seed) for seed in range(50)]
    write_rec(tmp_path / "few", ((number // 30, some[number % 50]) for number in range(1000)))
    write_rec(tmp_path / "many", ((number // 30, some[number % 50]) for number in range(30_000)))
    few, many = peak(tmp_path / "few", tmp_path / "few-out"), peak(tmp_path / "many", tmp_path / "many-out")
    size = (tmp_path / "many" / "train.rec").stat().st_size >> 10
    assert size > 300_000  # kB: far more than what may be added
    assert many - few < 100_000


@pytest.mark.parametrize(
    ("name", "folder", "count", "people"), [("lfw", "lfw-1-5/images", 6165, 2835), ("orl", "orl", 400, 40)]
)
def test_real_collections_in_full(
    shared_data: Path, tmp_path: Path, name: str, folder: str, count: int, people: int
) -> None:
    source = shared_data / folder
    made = extract(source, tmp_path / name, ExtractConfig(name=name))
    files = [path for path in source.rglob("*") if path.suffix in (".jpg", ".pgm")]
    assert len(files) == made.contents["images"] == count and made.contents["rejected"] == 0
    assert made.contents["identities"] == people == len({path.parent for path in files})
    dataset = FaceDataset(made.path, check="sha256")
    by_id = {path.relative_to(source).with_suffix("").as_posix(): path for path in files}
    for row in range(0, count, 37):
        assert dataset.read(row) == by_id[dataset.column("image_id")[row]].read_bytes()
    assert json.loads((made.path / "dataset.json").read_bytes())["contents"]["identities_known"] is True

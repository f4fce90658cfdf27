"""The command line as a person or a pipeline meets it: exit codes, one line on stdout, one sentence on stderr."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eolgul import __version__, storage
from eolgul.artifact import open_artifact
from eolgul.demo import data
from eolgul.demo.options import DemoOptions
from eolgul.demo.run import _choose_epochs
from eolgul.errors import InputError
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.formats.kface import Condition
from eolgul.storage.s3 import minio_client


def command(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eolgul", *map(str, words)],
        capture_output=True, text=True, timeout=120, env=os.environ | (env or {}), check=False,
    )  # fmt: skip


def picture(seed: int, size: int = 8) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One source of every kind, each with something broken in it, and an artifact of the folders."""
    raw = tmp_path_factory.mktemp("raw")
    for name in ("ann/1.jpg", "ann/2.jpg", "bob/1.jpg", "bob/broken.jpg"):
        (raw / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / "photos" / name).write_bytes(b"broken" if "broken" in name else picture(len(name)))
    write_rec(raw / "faces", [(0, picture(1)), (0, picture(2)), (1, picture(3))])
    write_bin(raw / "set.bin", [picture(n) for n in range(6)], [True, False, True])
    for light in ("L1", "L31"):
        file = raw / "kface" / Condition("Middle", "S001", light, "E01", "C7").path("19062421")
        file.parent.mkdir(parents=True)
        file.write_bytes(picture(1))
    return raw


def test_extract_says_what_it_made(raw: Path, tmp_path: Path) -> None:
    done = command("extract", raw / "photos", tmp_path / "out")
    assert done.returncode == 0 and done.stderr == ""
    (line,) = done.stdout.splitlines()
    facts: dict[str, Any] = json.loads(line)
    assert facts.pop("seconds") >= 0
    made = open_artifact(tmp_path / "out", "FaceDataset", check="sha256")
    assert facts == {
        "artifact": str(tmp_path / "out"),
        "kind": "FaceDataset",
        "digest": made.digest,
        "images": 3,
        "identities": 2,
        "rejected": 1,
        "synthetic": False,
        "inputs": 4,
        "passed_over": {"total": 0, "by_reason": {}, "by_suffix": {}},
        "depth": 1,
    }
    again = json.loads(command("extract", raw / "photos", tmp_path / "out").stdout)
    assert again["digest"] == made.digest

    seen = json.loads(command("inspect", tmp_path / "out").stdout)
    assert (seen["kind"], seen["digest"], seen["contents"]) == ("FaceDataset", made.digest, made.contents)
    shard = next((tmp_path / "out" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(bytes(data))
    broken = command("inspect", tmp_path / "out")
    assert broken.returncode == 2 and broken.stdout == "" and "sha256 differs" in broken.stderr


def test_what_is_replaced_is_named(raw: Path, tmp_path: Path) -> None:
    assert "replaced" not in command("extract", raw / "photos", tmp_path / "out").stderr
    done = command("extract", raw / "photos", tmp_path / "out", "--name", "other")
    assert done.returncode == 0 and f"{tmp_path / 'out'}: replaced" in done.stderr
    again = command("extract", tmp_path / "out", tmp_path / "other")
    assert again.returncode == 2 and "is a FaceDataset already" in again.stderr


def test_the_version() -> None:
    assert command("--version").stdout.strip() == __version__


def test_inspect_tells_raw_sources_apart(raw: Path) -> None:
    """What is in each of them is test_inspection's; here, that one command knows them all."""
    counts = {}
    for name in ("photos", "faces", "faces/train.rec", "set.bin", "kface"):
        done = command("inspect", raw / name)
        facts = json.loads(done.stdout)
        counts[name] = (facts["kind"], facts["images"], facts["identities"])
    assert counts == {
        "photos": ("raw:folders", 4, 2),
        "faces": ("raw:rec", 3, 2),
        "faces/train.rec": ("raw:rec", 3, 2),
        "set.bin": ("raw:bin", 6, None),
        "kface": ("raw:kface", 1, 1),
    }


BAD: dict[str, tuple[str, ...]] = {
    "no source": ("extract", "{raw}/none", "{out}"),
    "a text file": ("extract", "{raw}/note.txt", "{out}"),
    "another kind": ("extract", "{raw}/photos", "{out}", "--kind", "rec"),
    "no kind": ("extract", "{raw}/photos", "{out}", "--kind", "zip"),
    "a selection": ("extract", "{raw}/kface", "{out}", "--selection", "lights=L99"),
    "pairs": ("extract", "{raw}/photos", "{out}", "--pairs", "{raw}/note.txt"),
    "cut rec": ("extract", "{raw}/cut.rec", "{out}"),
    "hostile bin": ("extract", "{raw}/hostile.bin", "{out}"),
    "out is a file": ("extract", "{raw}/photos", "{raw}/note.txt"),
    "out below a file": ("extract", "{raw}/photos", "{raw}/note.txt/out"),
    "out is the source": ("extract", "{raw}/photos", "{raw}/photos/"),
    "out holds the source": ("extract", "{raw}/photos", "{raw}"),
    "out holds other things": ("extract", "{raw}/kface", "{raw}/photos"),
    "no dataset": ("align", "{raw}/photos", "{out}"),
    "not aligned": ("assemble", "{raw}/photos", "--out", "{out}"),
    "nothing known": ("inspect", "{raw}/note.txt"),
    "no model": ("verify", "{raw}/photos/ann/1.jpg", "{raw}/photos/ann/2.jpg", "--model", "{raw}/photos"),
    "nobody there": ("verify", "{raw}/photos/ann/1.jpg", "{raw}/photos/ann/2.jpg", "--url", "http://127.0.0.1:9"),
    "no service": ("verify", "{raw}/none.jpg", "{raw}/photos/ann/2.jpg", "--url", "http://127.0.0.1:9"),
    "no recipe": ("demo", "--recipe", "none", "--work", "{out}"),
    "no recipe key": ("demo", "--set", "none=1", "--work", "{out}"),
    "no s3": ("extract", "{raw}/photos", "s3://bucket/out"),
    "no s3 source": ("inspect", "s3://bucket/out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_2(case: str, raw: Path, tmp_path: Path) -> None:
    (raw / "note.txt").write_text("nothing\n")
    (raw / "cut.rec").write_bytes((raw / "faces" / "train.rec").read_bytes()[:-300])
    (raw / "hostile.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    before = sorted(str(path) for path in raw.rglob("*"))
    nowhere = {"EOLGUL_S3_ENDPOINT": "127.0.0.1:9", "EOLGUL_S3_ACCESS_KEY": "a", "EOLGUL_S3_SECRET_KEY": "b" * 9}
    cache = {"EOLGUL_S3_CACHE": str(tmp_path / "cache")}
    done = command(*(word.format(raw=raw, out=tmp_path / "out") for word in BAD[case]), env=nowhere | cache)
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("eolgul: ") and len(line) > 20
    assert sorted(str(path) for path in raw.rglob("*")) == before
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".lock")] == []


def photos(folder: Path, people: int = 12) -> Path:
    for number in range(people * 4):
        file = folder / f"p{number // 4}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    return folder


@pytest.mark.parametrize("where", ["raw/mine", "raw", ".", "link"])
def test_the_demo_never_deletes_its_source(tmp_path: Path, where: str) -> None:
    source = photos(tmp_path / "work" / "raw" / "mine")
    (tmp_path / "work" / "link").symlink_to(source)
    before = sorted(tmp_path.rglob("*"))
    options = DemoOptions(tmp_path / "work", tmp_path / "work" / where, min_images=1)
    if where in ("raw", "."):
        photos(tmp_path / "work" / where)
        before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="SOURCE must lie elsewhere"):
        data.own_photos(options, "s3://nowhere", print)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("bad", ["dangling link", "unreadable"])
def test_a_photo_that_cannot_be_copied_is_a_sentence(tmp_path: Path, bad: str) -> None:
    source = photos(tmp_path / "mine")
    if bad == "dangling link":
        (source / "p3" / "lost.jpg").symlink_to("nowhere.jpg")
    else:
        os.mkfifo(source / "p3" / "lost.jpg")
    with pytest.raises(InputError, match=r"^\S+/p3/lost\.jpg: cannot be copied") as caught:
        data.own_photos(DemoOptions(tmp_path / "work", source), "s3://nowhere", print)
    assert "\n" not in str(caught.value)


def test_people_are_chosen_by_images_that_can_be_used(tmp_path: Path) -> None:
    """A note, half an image, a hidden one and a system's folder do not make somebody a person of four images."""
    source = photos(tmp_path / "mine")
    whole = picture(1)
    for number in range(10):
        for name, content in {
            "1.jpg": whole, "2.jpg": whole, "3.jpg": whole, "notes.txt": b"of 2019", "half.jpg": whole[: len(whole) // 2],
            ".hidden.jpg": whole, ".thumbs/4.jpg": whole,
        }.items():  # fmt: skip
            file = source / f"q{number}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    shutil.rmtree(source / "p0")
    with pytest.raises(
        InputError, match="11 of 21 identity folders have at least 4 usable images, expected at least 12"
    ):
        data.own_photos(DemoOptions(tmp_path / "work", source), "s3://nowhere", print)


def test_usable_images_of_the_chosen_people_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photos(tmp_path / "mine", people=14)
    (source / "p3" / "notes.txt").write_text("no image")
    (source / "p4" / "x.jpg").write_bytes(picture(1))
    monkeypatch.setattr(data, "_upload", lambda path, uri: None)
    raw = data.own_photos(DemoOptions(tmp_path / "work", source, max_identities=13), "s3://nowhere", print)
    names = sorted(path.name for path in raw.local.iterdir())
    assert len(names) == 13 and raw.images == 13 * 4 + ("p4" in names)
    # The demo shows about as many images in all as with drawn people: fewer images, more epochs.
    assert _choose_epochs(DemoOptions(tmp_path / "work", source), raw) == ["epochs=15"]
    assert _choose_epochs(DemoOptions(tmp_path / "work", source), replace(raw, images=2400)) == ["epochs=10"]
    assert _choose_epochs(DemoOptions(tmp_path / "work", source, recipe="mine.toml"), raw) == []


def test_a_source_in_the_home_folder(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    raw = data.own_photos(DemoOptions(tmp_path / "work", Path("~/mine")), f"{s3}/home", print)
    assert raw.sources == [f"{s3}/home/raw/mine"]
    assert storage.read_bytes(f"{s3}/home/raw/mine/p3/13.jpg") == picture(13)


def test_an_upload_that_was_cut_off_is_done_again(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going back to the photos of before must not find their mark on half of the others."""
    options, place = DemoOptions(tmp_path / "work", photos(tmp_path / "mine")), f"{s3}/cut"
    data.own_photos(options, place, print)
    (tmp_path / "mine" / "p3" / "13.jpg").rename(tmp_path / "mine" / "p3" / "new.jpg")
    original = minio_client().fput_object

    def cut(**words: Any) -> Any:
        if words["object_name"].endswith("new.jpg"):
            raise OSError("the cable is out")
        return original(**words)

    with monkeypatch.context() as patch:
        patch.setattr(minio_client(), "fput_object", cut)
        with pytest.raises(OSError, match="the cable is out"):
            data.own_photos(options, place, print)
    assert storage.read_bytes(f"{place}/raw/mine/p3/13.jpg") is None
    (tmp_path / "mine" / "p3" / "new.jpg").rename(tmp_path / "mine" / "p3" / "13.jpg")
    data.own_photos(options, place, print)
    assert storage.read_bytes(f"{place}/raw/mine/p3/13.jpg") == picture(13)


def test_a_wrong_option_is_exit_2_too(raw: Path, tmp_path: Path) -> None:
    for words in (
        ("extract", raw / "photos"),
        ("extract", raw / "photos", tmp_path / "out", "--workers", "0"),
        ("nonsense",),
    ):
        done = command(*words)
        assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing(tmp_path: Path, stop: signal.Signals) -> None:
    """A terminal sends SIGINT, a container's runtime SIGTERM, in the midst of the work; what was there before stays as it was."""
    people = [tmp_path / "photos" / f"p{number}" for number in range(3)]
    for person in people:
        person.mkdir(parents=True)
    (tmp_path / "big").write_bytes(picture(1, 1200))
    for number in range(300):
        os.link(tmp_path / "big", people[number % 3] / f"{number}.jpg")
    command("extract", tmp_path / "photos", tmp_path / "out", "--max-images-per-identity", "1", "--max-identities", "1")
    before = open_artifact(tmp_path / "out", check="sha256").digest
    argv = [sys.executable, "-m", "eolgul", "extract", str(tmp_path / "photos"), str(tmp_path / "out"), "--verify"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.partial/artifact/shards/*.tar")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + stop
    assert out == "" and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "out", "photos"]
    assert open_artifact(tmp_path / "out", check="sha256").digest == before


def test_a_setting_of_the_wrong_kind_is_a_sentence() -> None:
    environment = os.environ | {"EOLGUL_S3_SECURE": "maybe"}
    argv = [sys.executable, "-m", "eolgul", "inspect", "s3://bucket/key"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("eolgul: EOLGUL_S3_SECURE: 'maybe'") and "Traceback" not in done.stderr

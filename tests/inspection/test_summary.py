"""What `inspect` counts, how a person reads it, and the contact sheet."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eolgul.errors import InputError
from eolgul.extract.step import extract
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.formats.kface import Condition, write_annotation
from eolgul.formats.lst import Row, write_lst
from eolgul.formats.recordio import RecordWriter, pack_image
from eolgul.inspection.contact_sheet import choose
from eolgul.inspection.summary import inspect, render


def picture(shade: int, size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_rec_with_everything_wrong_in_it(tmp_path: Path) -> None:
    good = picture(9)
    payloads = [pack_image(float(label), good) for label in (0, 0, 0, 1, 7)]
    payloads += [
        b"short",
        pack_image(1.5, good),
        pack_image(float("nan"), good),
        pack_image(2.0, b""),
        pack_image([3.0, 1.0], b"broken"),
    ]
    payloads += [b"short"] * 4
    with RecordWriter(tmp_path / "a.rec") as writer:
        places = [writer.write(key, payload) for key, payload in enumerate(payloads)]
    facts = inspect(str(tmp_path / "a.rec"))
    assert (facts["kind"], facts["images"], facts["identities"]) == ("raw:rec", 6, 4)
    assert facts["rejected_by_reason"] == {"bad_record": 6, "unknown_identity": 2}
    assert len(facts["problems"]) == 5
    for problem, number in zip(facts["problems"], (5, 6, 7, 8, 10), strict=True):
        assert f"a.rec at byte {places[number]}" in problem
    assert facts["bytes"] == {"min": 6, "median": len(good), "max": len(good), "all": 5 * len(good) + 6}
    assert facts["widths_and_heights"] == {"16x16": 5}
    assert facts["images_per_identity"] == {
        "min": 1, "median": 1, "max": 3,
        "histogram": [{"from": 1, "to": 1, "identities": 3}, {"from": 2, "to": 2, "identities": 0}, {"from": 3, "to": 4, "identities": 1}],
    }  # fmt: skip
    json.dumps(facts)


def test_every_kind_is_counted(tmp_path: Path) -> None:
    write_rec(tmp_path / "faces", [(n // 2, picture(n)) for n in range(6)], height=16, width=16)
    facts = inspect(str(tmp_path / "faces"))
    assert facts["property"] == {"identities": 3, "height": 16, "width": 16}
    assert (facts["images"], facts["identities"], facts["problems"]) == (6, 3, [])
    write_bin(tmp_path / "set.bin", [picture(n) for n in range(6)], [True, False, True])
    facts = inspect(str(tmp_path / "set.bin"))
    assert (facts["images"], facts["identities"], facts["pairs"], facts["genuine"]) == (6, None, 3, 2)
    assert "images_per_identity" not in facts
    for camera, light in (("C7", "L1"), ("C7", "L10"), ("C10", "L2"), ("C7", "L31")):
        file = tmp_path / "kface" / Condition("Low", "S001", light, "E01", camera).path("19062421")
        file.parent.mkdir(parents=True)
        file.write_bytes(picture(1, (173, 115)))
    write_annotation(file.with_suffix(".txt"), np.zeros((7, 2)), [[0, 0, 1, 1]] * 7)
    facts = inspect(str(tmp_path / "kface"))
    assert (facts["kind"], facts["images"], facts["rejected_by_reason"]) == ("raw:kface", 3, {"unknown_condition": 1})
    assert (facts["light"], facts["camera"], facts["resolution"]) == (["L1", "L2", "L10"], ["C7", "C10"], ["Low"])
    assert "L31" in facts["problems"][0]
    for name in ("ann/1.png", "ann/2.png", "bob/1.png", "loose.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"broken" if name == "ann/2.png" else picture(5, (20, 10)))
    facts = inspect(str(tmp_path / "photos"))
    assert (facts["images"], facts["identities"], facts["rejected_by_reason"]) == (3, 2, {"no_identity": 1})
    assert facts["widths_and_heights"] == {"20x10": 2}
    assert [word for problem in facts["problems"] for word in ("loose.png", "ann/2.png") if word in problem] == [
        "loose.png",
        "ann/2.png",
    ]
    write_lst(tmp_path / "photos" / "a.lst", [Row("ann/1.png", 4, False), Row("../x.png", 4, False)])
    facts = inspect(str(tmp_path / "photos" / "a.lst"))
    assert (facts["kind"], facts["images"], facts["rejected_by_reason"]) == ("raw:lst", 1, {"bad_name": 1})
    made = extract(tmp_path / "photos", tmp_path / "data")
    facts = inspect(str(tmp_path / "data"))
    assert (facts["kind"], facts["digest"], facts["images"]) == ("FaceDataset", made.digest, 2)
    assert facts["widths_and_heights"] == {"20x10": 2} and facts["looked_at"] == 2
    assert sum(facts["rejected_by_reason"].values()) == 2 and len(facts["problems"]) == 2


def test_a_carray(tmp_path: Path) -> None:
    from support.carrays import write_carray

    images = np.full((4, 112, 112, 3), 80, np.uint8)
    write_carray(tmp_path / "lfw", images, [True, False])
    facts = inspect(str(tmp_path / "lfw"), tmp_path / "sheet.png")
    assert (facts["kind"], facts["images"], facts["pairs"], facts["genuine"]) == ("raw:carrays", 4, 2, 1)
    assert facts["widths_and_heights"] == {"112x112": 4} and "bytes" not in facts
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape[2] == 3


def test_drawn_people_are_called_so(tmp_path: Path) -> None:
    write_rec(tmp_path / "faces", [(0, picture(1))])
    write_bin(tmp_path / "set.bin", [picture(1)] * 2, [True])
    for place, mark in (
        ("faces", "faces/synthetic.json"),
        ("faces/train.rec", ""),
        ("set.bin", "set.bin.synthetic.json"),
    ):
        if mark:
            assert inspect(str(tmp_path / place))["synthetic"] is False
            (tmp_path / mark).write_text('{"synthetic": true}')
        facts = inspect(str(tmp_path / place))
        assert facts["synthetic"] is True and "SYNTHETIC" in render(facts)


def test_a_screen_is_enough(tmp_path: Path) -> None:
    counts = [1, 1, 1, 2, 3, 9, 40]
    write_rec(tmp_path / "faces", [(label, picture(7)) for label, n in enumerate(counts) for _ in range(n)])
    lines = render(inspect(str(tmp_path / "faces"))).splitlines()
    assert len(lines) <= 24 and lines[0] == "raw:rec"
    bars = {line.split()[0]: line.count("█") for line in lines if "█" in line}
    assert bars == {"1": 40, "2": 13, "3-4": 13, "9-16": 13, "33-64": 13}
    assert any("57 of 7 identities" in line for line in lines)


@pytest.mark.process
def test_a_terminal_gets_text_and_everything_else_gets_json(tmp_path: Path) -> None:
    write_rec(tmp_path / "faces", [(0, picture(7))])
    argv = [sys.executable, "-m", "eolgul", "inspect", str(tmp_path / "faces")]
    for words, is_json in (([], False), (["--json"], True)):
        parent, child = pty.openpty()
        done = subprocess.run([*argv, *words], stdout=child, stderr=subprocess.PIPE, check=False)
        os.close(child)
        text = os.read(parent, 1 << 16).decode()
        os.close(parent)
        assert done.returncode == 0 and text.startswith("{") == is_json and "raw:rec" in text
    assert json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)["images"] == 1


def test_the_sheet_shows_whom_it_says(tmp_path: Path) -> None:
    """Faces are flat greys here, so what lies where can be read from the picture."""
    write_rec(tmp_path / "faces", [(label, picture(3 * label, (112, 112))) for label in range(80) for _ in range(2)])
    facts = inspect(str(tmp_path / "faces"), tmp_path / "deep" / "sheet.png")
    assert facts["sheet"] == str(tmp_path / "deep" / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "deep" / "sheet.png"))
    expected = [3 * round(label) for label in np.floor(np.linspace(0, 79, 60))]
    found = [int(sheet[38 + 134 * (n // 10) + 56, 6 + 118 * (n % 10) + 56, 0]) for n in range(60)]
    assert found == expected


def test_who_is_chosen() -> None:
    many = np.repeat(np.arange(1000, dtype=np.int32), 3)
    assert len(choose(many)) == 60 == len({int(many[n]) for n in choose(many)}) and choose(many)[-1] == 2997
    few = np.array([5, 5, 5, 5, 9, 5, 2], np.int32)
    assert choose(few) == [6, 0, 1, 2, 3, 5, 4] and choose(few, 3) == [6, 0, 4] and choose(few, 5) == [6, 0, 1, 2, 4]
    assert choose(np.zeros(0, np.int32)) == []
    assert choose(np.zeros(500, np.int32)) == list(range(60))


def test_broken_images_are_fields_with_their_code(tmp_path: Path) -> None:
    write_bin(tmp_path / "set.bin", [b"broken", picture(7)], [True])
    inspect(str(tmp_path / "set.bin"), tmp_path / "sheet.png")
    assert tuple(np.asarray(Image.open(tmp_path / "sheet.png"))[42, 10]) == (205, 205, 205)
    with pytest.raises(InputError, match=r"sheet\.png/no\.png: cannot be written|no\.png"):
        inspect(str(tmp_path / "set.bin"), tmp_path / "sheet.png" / "no.png")


@pytest.mark.process
def test_a_large_rec_needs_little_memory(tmp_path: Path) -> None:
    """200 MB at most, of a file that is larger: only its headers are read, and their pages are let go."""
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key in range(60_000):
            writer.write(key, pack_image(float(key // 50), bytes(4_000)))
    assert (tmp_path / "train.rec").stat().st_size > 240_000_000
    # Not ru_maxrss: a child starts with its parent's.
    code = (
        "import re, sys; from eolgul.inspection.summary import inspect; identities = inspect(sys.argv[1])['identities']; "
        "print(identities, re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "train.rec")], capture_output=True, check=True)
    identities, kilobytes = map(int, done.stdout.split())
    assert identities == 1_200
    assert kilobytes < 200_000, "the imports alone take about half of that"


def test_images_are_hashed_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large dataset has tens of gigabytes of images; the tables are always hashed, and every length is compared."""
    from eolgul import artifact

    for person in ("ann", "bob"):
        (tmp_path / "photos" / person).mkdir(parents=True)
        (tmp_path / "photos" / person / "1.png").write_bytes(picture(7))
    data = extract(tmp_path / "photos", tmp_path / "data").path
    hashed: list[str] = []
    sha256 = artifact.sha256_file

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(artifact, "sha256_file", noted)
    assert inspect(str(data))["images_checked"] is False and sorted(hashed) == ["manifest.parquet", "rejected.parquet"]
    assert inspect(str(data), check=True)["images_checked"] is True and "00000.tar" in hashed
    shard = data / "shards" / "00000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(b"x" + whole[1:])
    assert inspect(str(data))["images"] == 2
    with pytest.raises(InputError, match=r"00000\.tar: sha256 differs"):
        inspect(str(data), check=True)
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"00000\.tar: \d+ bytes, expected \d+"):
        inspect(str(data))
    with pytest.raises(InputError, match="check: a raw:folders has no card to compare its files with"):
        inspect(str(tmp_path / "photos"), check=True)

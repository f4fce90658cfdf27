"""Every option of the extraction with every kind of source: it does what it says there, or is refused by a sentence.

The table goes over the fields of `ExtractConfig`: a new option without a row fails, and so does one that a kind takes
without doing anything.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.carrays import write_carray
from support.pictures import picture

from eolgul.artifact import Artifact
from eolgul.config import offered
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import KINDS, ExtractConfig
from eolgul.extract.step import extract
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.formats.kface import SIZES, Condition
from eolgul.formats.lst import Row, write_lst
from eolgul.images.decode import decode

# Images per person; the last of person 1 has another size than the others, the last of person 2 cannot be decoded.
COUNTS = (1, 3, 4)


def undecodable(size: tuple[int, int]) -> bytes:
    """A PNG whose structure is whole and whose pixels are not."""
    data = picture(99, "PNG", size)
    begin = data.index(b"IDAT") + 4
    length = int.from_bytes(data[begin - 8 : begin - 4], "big")
    noise = np.random.default_rng(0).bytes(length)
    return data[:begin] + noise + zlib.crc32(b"IDAT" + noise).to_bytes(4, "big") + data[begin + length + 4 :]


def images(size: tuple[int, int]) -> list[tuple[int, bytes]]:
    """(person, image) of every image."""
    made = [(person, picture(10 * person + n, size=size)) for person, count in enumerate(COUNTS) for n in range(count)]
    made[3] = 1, picture(50, size=(size[0] + 8, size[1]))
    made[7] = 2, undecodable(size)
    return made


def rec(folder: Path) -> Path:
    write_rec(folder, images((112, 112)))
    return folder


def bin_(folder: Path) -> Path:
    folder.mkdir()
    write_bin(folder / "set.bin", [image for _, image in images((112, 112))], [True] * 4)
    return folder / "set.bin"


def carrays(folder: Path) -> Path:
    folder.mkdir()
    write_carray(folder / "set", np.zeros((8, 112, 112, 3), np.uint8), [True] * 4)
    return folder / "set"


def folders(folder: Path) -> Path:
    numbers: Counter[int] = Counter()
    for person, image in images((112, 112)):
        numbers[person] += 1
        file = folder / f"{person:06}" / f"{person:06}_{numbers[person]:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    return folder


def lst(folder: Path) -> Path:
    files = sorted(folders(folder).rglob("*.jpg"))
    rows = [Row(file.relative_to(folder).as_posix(), int(file.parent.name), True) for file in files]
    write_lst(folder / "train.lst", rows)
    return folder / "train.lst"


def kface(folder: Path) -> Path:
    for number, (person, image) in enumerate(images(SIZES["Middle"])):
        file = folder / Condition("Middle", "S001", "L1", "E01", f"C{number + 1}").path(f"{person:06}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    return folder


SOURCES: dict[str, Callable[[Path], Path]] = {
    "rec": rec,
    "bin": bin_,
    "carrays": carrays,
    "folders": folders,
    "lst": lst,
    "kface": kface,
}


@dataclass(frozen=True)
class Made:
    """What an extraction made, or the sentence with which it refused."""

    artifact: Artifact | None
    sentence: str = ""

    @property
    def contents(self) -> dict[str, Any]:
        assert self.artifact is not None, self.sentence
        return self.artifact.contents

    @property
    def people(self) -> dict[str, int]:
        assert self.artifact is not None, self.sentence
        return dict(Counter(FaceDataset(self.artifact.path).column("identity")))

    @property
    def red_first(self) -> bool:
        """Whether the first image has more red than blue."""
        assert self.artifact is not None, self.sentence
        red, _, blue = decode(FaceDataset(self.artifact.path).read(0))[0].mean(axis=(0, 1))
        return bool(red > blue)

    @property
    def reasons(self) -> dict[str, int]:
        return dict(self.contents["rejected_by_reason"])


def lists(folder: Path) -> dict[str, str]:
    """Files that options name."""
    (folder / "people.txt").write_text("000001\n")
    (folder / "pairs.txt").write_text("10\n" + "000001\t1\t2\n" * 10 + "000000\t1\t000001\t1\n" * 10)
    base = "S001/L1/E01"
    (folder / "Q1.txt").write_text(
        f"000001/{base}/C2.jpg 000001/{base}/C3.jpg 1\n000000/{base}/C1.jpg 000001/{base}/C2.jpg 0\n" * 10
    )
    return {path.stem: str(path) for path in folder.glob("*.txt")}


Row_ = tuple[Callable[[str, dict[str, str]], Any], Callable[[str, Made, Made], bool]]
# Per option: its value for a kind, and what it does there, before and after.
TABLE: dict[str, Row_] = {
    "kind": (lambda kind, _: kind, lambda _, before, after: after.contents == before.contents),
    "name": (lambda *_: "other", lambda _, before, after: after.contents["name"] == "other" != before.contents["name"]),
    "pairs": (
        lambda kind, files: files["Q1" if kind == "kface" else "pairs"],
        lambda _, before, after: after.contents["pairs"] == 20 and not before.contents["benchmark"],
    ),
    "max_pairs_lost": (lambda *_: 0.5, lambda _, before, after: "is for a pair list" in after.sentence),
    "root": (
        lambda _, files: str(Path(files["people"]).parent),  # where the list's images are not
        lambda _, before, after: "{'unreadable': 8}" in after.sentence and "check that the files are" in after.sentence,
    ),
    "color": (
        lambda *_: "bgr",
        lambda kind, before, after: (
            after.contents["color"] == "bgr" != before.contents["color"]
            and (kind == "carrays" or after.red_first != before.red_first)
        ),
    ),
    "aligned": (
        lambda *_: True,
        lambda _, before, after: "the faces do not lie on the template" in after.sentence,
    ),
    "selection": (
        lambda *_: "cameras=C1-C3",
        lambda _, before, after: (
            after.people == {"000000": 1, "000001": 2}
            and after.contents["passed_over"]["by_reason"] == {"not_selected": 5}
        ),
    ),
    "identity_from": (
        lambda *_: "0*(?P<identity>[0-9]+)/.*",
        lambda _, before, after: after.people.keys() == {"0", "1", "2"},
    ),
    "depth": (
        lambda *_: 2,
        lambda _, before, after: before.contents["depth"] == 1 and "2 or more folders deep" in after.sentence,
    ),
    "identities": (lambda _, files: files["people"], lambda _, before, after: after.people.keys() == {"000001"}),
    "without_identities": (
        lambda _, files: files["people"],
        lambda _, before, after: after.people.keys() == {"000000", "000002"},
    ),
    "min_images": (lambda *_: 2, lambda _, before, after: after.people.keys() == {"000001", "000002"}),
    "max_identities": (lambda *_: 2, lambda _, before, after: after.people.keys() == {"000000", "000001"}),
    "max_images_per_identity": (lambda *_: 1, lambda _, before, after: set(after.people.values()) == {1}),
    "part": (
        lambda *_: "1/2",
        lambda _, before, after: 0 < after.contents["inputs"] < before.contents["inputs"],
    ),
    "share": (
        lambda *_: "2/2",  # there is one shard
        lambda _, before, after: after.contents["part"] == "2/2" and after.people == before.people,
    ),
    "reader": (lambda *_: "mxnet", lambda _, before, after: "mxnet" in after.sentence),
    "any_size": (
        lambda *_: True,
        lambda _, before, after: before.reasons["wrong_size"] == 1 and "wrong_size" not in after.reasons,
    ),
    "verify": (
        lambda *_: True,
        lambda kind, before, after: (
            bool(after.contents["verified"])
            and (kind == "carrays" or "undecodable" in after.reasons.keys() - before.reasons.keys())
        ),
    ),
    "workers": (lambda *_: 3, lambda _, before, after: after.contents == before.contents),
}


def test_the_table_has_every_option_and_every_kind() -> None:
    assert TABLE.keys() == {item.name for item in offered(ExtractConfig)}
    assert SOURCES.keys() == set(KINDS)
    for item in offered(ExtractConfig):
        assert set(item.metadata["kinds"]) <= set(KINDS)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Made]]:
    """A source of each kind, and what it gives without an option."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        kind: (source := make(folder / kind), made(source, folder / f"{kind}-out")) for kind, make in SOURCES.items()
    }


def made(source: Path, out: Path, **options: Any) -> Made:
    try:
        return Made(extract(source, out, ExtractConfig(**options)))
    except InputError as error:
        return Made(None, str(error))


@pytest.mark.parametrize("option", TABLE)
@pytest.mark.parametrize("kind", SOURCES)
def test_an_option_is_applied_or_refused(
    kind: str,
    option: str,
    sources: dict[str, tuple[Path, Made]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EOLGUL_MXNET_PYTHON", str(tmp_path / "none"))
    (item,) = [item for item in offered(ExtractConfig) if item.name == option]
    value, does = TABLE[option]
    (tmp_path / "lists").mkdir()
    source, before = sources[kind]
    given = value(kind, lists(tmp_path / "lists"))
    after = made(source, tmp_path / "out", **{option: given})
    kinds = item.metadata["kinds"]
    if kinds and kind not in kinds:
        assert after.artifact is None and not (tmp_path / "out").exists()
        assert after.sentence.startswith(f"{option} {given}: is only for {' and '.join(kinds)}, but ")
        assert after.sentence.endswith(f" is {kind}")
    else:
        assert does(kind, before, after), (after.sentence, after.artifact and after.contents)

"""An extraction in shares: put together they are what one extraction makes, and nothing else is taken for it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from eolgul.artifact import Artifact, open_artifact
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.entries import OnDisk
from eolgul.extract.merge import merge
from eolgul.extract.step import extract
from eolgul.formats.insightface import write_rec

SMALL = ExtractConfig(shard_bytes=6000, workers=1)


def picture(seed: int, size: tuple[int, int] = (24, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60 + seed % 50).save(buffer, "JPEG")
    return buffer.getvalue()


def folders(root: Path, draw: random.Random) -> Path:
    """Identity folders with a broken image, an image of nobody, and other files."""
    for person in range(draw.randrange(2, 12)):
        (root / f"p{person}").mkdir(parents=True)
        for number in range(draw.randrange(1, 6)):
            data = picture(draw.randrange(99)) if draw.random() < 0.9 else b"broken"
            (root / f"p{person}" / f"{number}.jpg").write_bytes(data)
        (root / f"p{person}" / "notes.txt").write_bytes(b"text")
    (root / "p0" / "good.jpg").write_bytes(picture(1))
    (root / "nobody.jpg").write_bytes(picture(2))
    return root


def kface(root: Path, draw: random.Random) -> Path:
    """A K-FACE tree, with annotations for some images, and one of them broken."""
    for person in range(draw.randrange(1, 4)):
        for light in range(1, draw.randrange(2, 5)):
            folder = root / "Low_Resolution" / f"1900{person}" / "S001" / f"L{light}" / "E01"
            folder.mkdir(parents=True)
            for camera in range(1, draw.randrange(3, 9)):
                (folder / f"C{camera}.jpg").write_bytes(picture(draw.randrange(99), (173, 115)))
                if draw.random() < 0.7:
                    lines = ["1 2"] * 7 + ["1 2 3 4"] * 5 if draw.random() < 0.8 else ["broken"]
                    (folder / f"C{camera}.txt").write_text("\n".join(lines))
    return root


def rec(root: Path, draw: random.Random) -> Path:
    rows = [(label, picture(draw.randrange(99))) for label in range(draw.randrange(2, 9)) for _ in range(4)]
    row = draw.randrange(len(rows))
    rows[row] = (rows[row][0], b"broken")
    write_rec(root, rows, height=20, width=24)
    return root


def in_shares(source: Path, folder: Path, config: ExtractConfig, count: int) -> list[Path]:
    return [
        extract(source, folder / f"{number}-of-{count}", replace(config, share=f"{number}/{count}")).path
        for number in range(1, count + 1)
    ]


def joined(shares: list[Path], source: Path, out: Path, config: ExtractConfig) -> Artifact:
    return merge([FaceDataset(share) for share in shares], source, out, config)


@pytest.mark.parametrize("make", [folders, kface, rec])
@pytest.mark.parametrize("seed", range(5))
def test_shares_together_are_the_whole(make: Callable[[Path, random.Random], Path], seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    source = make(tmp_path / "source", draw)
    config = replace(SMALL, verify=seed % 2 == 0, shard_bytes=draw.choice([1, 6000, 1 << 20]))
    if seed == 3:
        config = replace(config, max_identities=1)
    whole = extract(source, tmp_path / "whole", config)
    shares = in_shares(source, tmp_path, config, draw.randrange(1, 5))
    draw.shuffle(shares)
    made = joined(shares, source, tmp_path / "merged", config)
    assert made.digest == whole.digest, (made.card, whole.card)
    open_artifact(made.path, check="sha256")
    images = [open_artifact(share).contents["images"] for share in shares]
    assert sum(images) == whole.contents["images"]
    again = joined(shares, source, tmp_path / "merged", config)
    assert again.digest == made.digest


def test_a_share_reads_its_files_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folders(tmp_path / "source", random.Random(7))
    seen: list[str] = []
    read = OnDisk.read_bytes

    def counted(self: OnDisk) -> bytes:
        seen.append(self.path)
        return read(self)

    monkeypatch.setattr(OnDisk, "read_bytes", counted)
    shares = in_shares(source, tmp_path, SMALL, 3)
    assert len(seen) == len(set(seen)) == len(list(source.rglob("*.jpg")))
    seen.clear()
    joined(shares, source, tmp_path / "merged", SMALL)
    assert not seen


def test_a_share_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folders(tmp_path / "source", random.Random(7))
    config, written = replace(SMALL, share="2/2", shard_bytes=1), list[str]()
    read = OnDisk.read_bytes

    def killed(self: OnDisk) -> bytes:
        written.append(self.path)
        if len(written) == 5:
            raise KeyboardInterrupt
        return read(self)

    monkeypatch.setattr(OnDisk, "read_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(source, tmp_path / "2-of-2", config)
    extract(source, tmp_path / "2-of-2", config)
    assert len(written) == len(set(written)) + 1  # the one in which it was killed, and no other, was read again


@pytest.fixture
def shares(tmp_path: Path) -> tuple[Path, list[Path]]:
    source = folders(tmp_path / "source", random.Random(7))
    return source, in_shares(source, tmp_path, SMALL, 3)


def test_what_does_not_belong_together_is_refused(shares: tuple[Path, list[Path]], tmp_path: Path) -> None:
    source, (one, two, three) = shares
    other = extract(source, tmp_path / "other", replace(SMALL, share="2/3", verify=True)).path
    quarter = extract(source, tmp_path / "quarter", replace(SMALL, share="2/4")).path
    whole = extract(source, tmp_path / "whole", SMALL).path
    (source / "p0" / "new.jpg").write_bytes(picture(3))
    changed = extract(source, tmp_path / "changed", replace(SMALL, share="2/3")).path
    for given, says in (
        ([], "expected the shares"),
        ([one, three], "share 2/3 is missing"),
        ([one, two], "share 3/3 is missing"),
        ([one, two, two], "share 2/3 is .* already"),
        ([one, other, three], r"other: was made with other options \(verify\)"),
        ([one, quarter, three], "quarter: is a share of another source"),
        ([one, changed, three], "changed: is a share of another source than .*, or the source has changed"),
        ([one, whole, three], "whole: is no share of an extraction"),
    ):
        with pytest.raises(InputError, match=says):
            joined(given, source, tmp_path / "merged", SMALL)
        assert not (tmp_path / "merged").exists()


def test_a_share_is_no_dataset_for_other_steps(shares: tuple[Path, list[Path]]) -> None:
    with pytest.raises(
        InputError, match=r"is part 1/3 of an extraction, expected all; join them: eolgul extract --merge"
    ):
        FaceDataset(shares[1][0]).check_whole()


def test_a_share_of_a_set_of_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lfw.bin").write_bytes(b"")
    with pytest.raises(InputError, match="share 1/2: is only for rec and kface and folders and lst"):
        extract(tmp_path / "lfw.bin", tmp_path / "out", ExtractConfig(share="1/2"))


def test_more_shares_than_shards(tmp_path: Path) -> None:
    """Those without a shard are empty, and merge all the same."""
    source = folders(tmp_path / "source", random.Random(1))
    config = replace(SMALL, shard_bytes=1 << 30)
    shares = in_shares(source, tmp_path, config, 3)
    assert [open_artifact(share).contents["images"] > 0 for share in shares] == [False, False, True]
    assert joined(shares, source, tmp_path / "merged", config).digest == extract(source, tmp_path / "w", config).digest

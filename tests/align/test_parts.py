"""An alignment in parts, by several machines: what the merge makes is the unsplit run's, byte for byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eolgul.align.config import AlignConfig
from eolgul.align.step import align, rows_of_shard
from eolgul.artifact import open_artifact
from eolgul.assemble.step import assemble
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.step import extract
from eolgul.images.decode import encode_png

BLIND = 1.0  # no score is above 1: every face comes from anchors


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (3, {"part_rows": 5}),
        (2, {"part_rows": 5, "anchor": "rig"}),
        (2, {"part_rows": 5, "anchor": "rig", "min_score": BLIND}),  # an identity's knowledge must be in one part
        (4, {"part_rows": 50}),  # one shard, so three parts have nothing to do
    ],
)
def test_merged_parts_are_the_whole(drawn: Path, tmp_path: Path, count: int, options: dict[str, Any]) -> None:
    whole = align(drawn, tmp_path / "whole", AlignConfig(**options))
    places = [tmp_path / f"part{at}" for at in range(1, count + 1)]
    sizes = [
        align(drawn, place, AlignConfig(part=f"{at}/{count}", **options)).contents["images"]
        for at, place in reversed(list(enumerate(places, 1)))
    ]
    assert sum(sizes) == whole.contents["images"] and max(sizes) > 0
    merged = align(drawn, tmp_path / "merged", AlignConfig(**options), merge=places[::-1])  # in any order
    assert merged.digest == whole.digest
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert open_artifact(tmp_path / "merged", check="sha256").digest == whole.digest
    for place in places:  # no part lies in the merged one by name only
        shutil.rmtree(place)
    made = FaceDataset(tmp_path / "merged")
    assert all(made.read(row) for row in range(len(made)))


def test_a_benchmark_with_rejections_of_both_steps_merges_too(kface_tree: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, picture in enumerate(sorted(kface_tree.rglob("S001/*/E01/C[57].jpg"))):
        person = "ab"[number % 2]
        (photos / person).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, photos / person / f"{person}_{number // 2 + 1:04}.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    (photos / "a" / "a_0007.png").write_bytes(encode_png(noise))
    (photos / "b" / "b_0008.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    (tmp_path / "pairs.txt").write_text("2\t2\n" + "a\t1\t2\nb\t1\t8\na\t1\tb\t1\na\t2\tb\t2\n" * 2)
    extract(photos, tmp_path / "in", ExtractConfig(pairs=str(tmp_path / "pairs.txt"), max_pairs_lost=0.25))
    whole = align(tmp_path / "in", tmp_path / "whole", AlignConfig(part_rows=2))
    assert whole.contents["rejected"] == 2 and whole.contents["pairs_lost"] == 2 and whole.contents["benchmark"]
    places = [tmp_path / f"part{at}" for at in (1, 2, 3)]
    for at, place in enumerate(places, 1):
        assert not align(tmp_path / "in", place, AlignConfig(part_rows=2, part=f"{at}/3")).contents["benchmark"]
    assert align(tmp_path / "in", tmp_path / "merged", AlignConfig(part_rows=2), merge=places).digest == whole.digest
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_what_is_no_part_of_this_run_is_refused(drawn: Path, tmp_path: Path) -> None:
    one, two, other, out = (tmp_path / name for name in ("one", "two", "other", "out"))
    align(drawn, one, AlignConfig(part_rows=12, part="1/2"))
    align(drawn, two, AlignConfig(part_rows=12, part="2/2"))
    align(drawn, other, AlignConfig(part_rows=12, part="2/3"))
    whole = align(drawn, tmp_path / "whole", AlignConfig(part_rows=12)).path
    for merge, says in (
        ([one], "part 2/2 is missing"),
        ([one, two, other], "part 2/3 is of another division"),
        ([one, whole], "whole: is no part of this alignment"),
    ):
        with pytest.raises(InputError, match=says):
            align(drawn, out, AlignConfig(part_rows=12), merge=merge)
    with pytest.raises(InputError, match="one: is part 1/2 of an alignment"):
        assemble([one], tmp_path / "dataset")
    with pytest.raises(InputError, match="one: is no part of this alignment"):
        align(drawn, out, AlignConfig(part_rows=12, min_eyes=3), merge=[one, two])
    for word in ("3/2", "0/2", "1", "1/0", "a/b", "1/2/3"):
        with pytest.raises(InputError, match="expected i/n"):
            align(drawn, out, AlignConfig(part=word))
    with pytest.raises(InputError, match="one of them"):
        align(drawn, out, AlignConfig(part="1/2"), merge=[one])
    assert not out.exists()


@pytest.mark.process
def test_the_command_makes_parts_and_merges_them(drawn: Path, tmp_path: Path) -> None:
    def eolgul(*words: str | Path) -> dict[str, object]:
        argv = [sys.executable, "-m", "eolgul", "align", str(drawn), *map(str, words)]
        return dict(json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout))

    eolgul(tmp_path / "p1", "--part", "1/2", "--anchor", "rig")
    align(drawn, tmp_path / "p2", AlignConfig(part="2/2", anchor="rig"))
    merge: list[str | Path] = ["--merge", tmp_path / "p1", "--merge", tmp_path / "p2"]
    merge += ["--sheet", tmp_path / "faces.png"]
    merged = eolgul(tmp_path / "out", *merge, "--anchor", "rig")
    assert merged["digest"] == align(drawn, tmp_path / "whole", AlignConfig(anchor="rig")).digest
    assert (tmp_path / "faces.png").is_file()


@pytest.mark.parametrize("images", [1_440, 6_000, 70_000, 5_870_000])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_have_about_as_many_images_each(images: int, parts: int) -> None:
    rows = rows_of_shard(images, AlignConfig().part_rows)
    shards = [min(rows, images - at) for at in range(0, images, rows)]
    shared = [sum(shards[number] for number in AlignConfig(part=f"{part}/{parts}").share(len(shards)))
              for part in range(1, parts + 1)]  # fmt: skip
    assert sum(shared) == images and max(shared) - min(shared) <= max(rows, 64)
    assert max(shared) <= 1.3 * images / parts

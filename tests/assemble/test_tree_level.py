"""A source whose identities look like folders of people is named; one of people is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.datasets import make_dataset

from eolgul.assemble.step import assemble
from eolgul.assemble.tree_level import FEW, MANY, warnings_of
from eolgul.cli.main import app
from eolgul.dataset import FaceDataset
from eolgul.images.decode import encode_png

Naming = Callable[[int], str]


def in_one_folder(image: int) -> str:
    return str(image)


def in_several_folders(image: int) -> str:
    return f"person{image % 3}/{image}"


def source(out: Path, identities: int, images: int, naming: Naming = in_one_folder, camera: str | None = None) -> Path:
    with make_dataset(out, step="test", recipe={}, inputs=[], synthetic=False) as writer:
        for identity in range(identities):
            for image in range(images):
                data = encode_png(np.random.default_rng((identity, image)).integers(0, 255, (4, 4, 3), np.uint8))
                facts = {"camera": camera} if camera else {}
                writer.add(f"p{identity}/{naming(image)}", f"p{identity}", data, extension="png", size=(4, 4),
                           source=out.name, facts=facts)  # fmt: skip
        writer.describe(name=out.name, aligned="arcface-112-v1")
    return out


@pytest.mark.parametrize(
    ("identities", "images", "naming", "camera", "says"),
    [
        (FEW - 1, 6, in_one_folder, None, None),
        (3, MANY, in_one_folder, None, f"3 identities with {MANY} images each"),
        (FEW - 1, 6, in_several_folders, None, f"{FEW - 1} identities whose images lie in 3 folders each"),
        (FEW, 6, in_several_folders, None, None),
        (3, MANY, in_several_folders, "C7", None),  # K-FACE
    ],
)
def test_few_and_huge_identities_are_named(
    tmp_path: Path, identities: int, images: int, naming: Naming, camera: str | None, says: str | None
) -> None:
    made = warnings_of(FaceDataset(source(tmp_path / "s", identities, images, naming, camera)))
    assert len(made) == (0 if says is None else 1)
    assert says is None or (
        says in made[0] and made[0].startswith("source s: ") and "extract the folder below" in made[0]
    )


def test_the_warning_is_in_the_card_and_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = source(tmp_path / "s", 12, 6, in_several_folders)
    for _ in range(2):  # also when the assembled dataset is there already
        app(["assemble", str(given), "--out", str(tmp_path / "out")], standalone_mode=False)
        shown = capsys.readouterr()
        assert "warning: source s: 12 identities whose images lie in 3 folders" in shown.err
        assert '"warnings": ["source s: 12 identities' in shown.out
    assert FaceDataset(tmp_path / "out").artifact.contents["warnings"]
    fine = assemble([source(tmp_path / "t", 12, 6)], tmp_path / "fine")
    assert "warnings" not in fine.contents

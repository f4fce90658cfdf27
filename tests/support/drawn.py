"""A drawn K-FACE rig that always is there: two people, two cameras to a side and one in front, with and without sunglasses."""

from __future__ import annotations

from pathlib import Path

import pytest

from eolgul.extract.step import extract
from eolgul.faces.networks import export_onnx
from eolgul.synth import draw_kface


@pytest.fixture(scope="session")
def kface_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of 346x230 in K-FACE's tree, those without sunglasses annotated."""
    tree = tmp_path_factory.mktemp("rig") / "kface"
    selection = "resolutions=Middle accessories=S001,S004 lights=L1,L6 expressions=E01 cameras=C5,C7,C9"
    draw_kface(tree, people=2, selection=selection, images_per_person=None)
    return tree


@pytest.fixture(scope="session")
def drawn(kface_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a FaceDataset."""
    out = tmp_path_factory.mktemp("drawn") / "kface"
    extract(kface_tree, out)
    return out


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the three networks as ONNX."""
    folder = tmp_path_factory.mktemp("detector")
    export_onnx(folder)
    return folder

"""Options that a situation has no use for are refused by one sentence, not passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.datasets import make_dataset
from support.pictures import picture
from typer.testing import CliRunner

from eolgul.cli.main import app
from eolgul.errors import InputError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the FaceDataset `faces`, whose images have neither annotations nor cameras, and an image."""
    place = tmp_path_factory.mktemp("place")
    card = {"step": "extract", "recipe": {}, "inputs": [], "synthetic": False}
    with make_dataset(place / "faces", **card) as maker:  # type: ignore[arg-type]
        for number in range(3):
            maker.add(f"p/{number}", "p", picture(number), extension="jpg", size=(112, 112), source="s")
        maker.describe(name="s", aligned=None, identities_known=True)
    (place / "1.jpg").write_bytes(picture(1))
    return place


CASES = {
    "synth {}/out --kind rec --selection all": "selection all: is only for kind kface, not for rec",
    "synth {}/out --kind folders --style wild": "style wild: is only for kind rec and bin, not for folders",
    "synth {}/out --kind kface --pairs 20": "pairs 20: is only for kind bin, not for kface",
    "synth {}/out --kind bin --images 3": "images 3: is only for kind kface and rec and folders, not for bin",
    "align {}/faces {}/out --which annotated": "which annotated: is only for images with annotated landmarks",
    "align {}/faces {}/out --anchor rig": "anchor rig: is only for K-FACE",
    "align {}/faces {}/out --device cuda": "device cuda: is only for the backend torch",
    "align {}/faces {}/out --part 1/2 --sheet {}/a.png": "a part has no sheet",
    "assemble {}/faces --out {}/out --validation 0 --calibration 0 --test 0 --held-out-sources s":
        "held_out_sources s: is for a share of identities",
    "evaluate {}/model --benchmark {}/faces --out {}/out --contract insightface": "contract insightface: is only for --onnx",
    "export {}/faces {}/out --to folders --split test": "no image of the split 'test'",
    "verify {0}/1.jpg {0}/1.jpg --url http://localhost:1 --registry r": "--registry: is only for a verdict without --url",
    "verify {0}/1.jpg {0}/1.jpg --url http://localhost:1 --model m": "--model: is only for a verdict without --url",
    "verify {0}/1.jpg {0}/1.jpg --registry r --key-file k": "--key-file: is only for a verdict with --url",
    "verify {0}/1.jpg {0}/1.jpg --registry r --model m": "--registry r and --model m: expected one of them",
    "demo --source {} --people 12": "--people: is only for drawn people",
    "demo --source {} --rec-people 12": "--rec-people: is only for drawn people",
    "demo --min-images 3": "--min-images: is only for photos from a --source",
    "demo --max-identities 12": "--max-identities: is only for photos from a --source",
    "promote --registry {}/r --to abc --force": "--to goes back to a published model",
    "pipeline run --param workspace={}/w --param min_images=3": "expected name=value with a name of",
}  # fmt: skip


@pytest.mark.parametrize("words", CASES)
def test_an_option_without_use_is_refused(words: str, place: Path) -> None:
    before = sorted(path.name for path in place.iterdir())
    result = CliRunner().invoke(app, words.replace("{0}", str(place)).replace("{}", str(place)).split())
    assert isinstance(result.exception, InputError), result.output
    assert CASES[words] in str(result.exception) and str(result.exception).isprintable()
    assert sorted(path.name for path in place.iterdir()) == before and not result.stdout


def test_the_command_line_comes_before_the_environment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry in the environment is no option that is given: --model takes its place, and --url needs neither."""
    pytest.importorskip("bentoml")
    monkeypatch.setenv("EOLGUL_REGISTRY", str(place / "no-registry"))
    image = str(place / "1.jpg")
    result = CliRunner().invoke(app, ["verify", image, image, "--model", str(place / "no-model")])
    assert "no-model" in str(result.exception) and "no-registry" not in str(result.exception)
    result = CliRunner().invoke(app, ["verify", image, image, "--url", "http://127.0.0.1:9"])
    assert "http://127.0.0.1:9" in str(result.exception)

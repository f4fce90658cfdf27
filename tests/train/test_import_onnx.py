"""An ONNX recognizer becomes a package that is measured, calibrated, promoted and served like a trained one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.networks import expected, patches
from support.places import SHARED

from eolgul import steps
from eolgul.cli.verify import verify_here
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer
from eolgul.train.import_onnx import import_onnx

_FACES = np.random.default_rng(1).integers(0, 256, (3, 112, 112, 3), np.uint8)
_LFW = SHARED / "lfw-1-5" / "images"
_NAMED = os.environ.get("EOLGUL_RECOGNIZER", "")


@pytest.mark.parametrize("external", [False, True])
def test_an_onnx_file_becomes_a_package(tmp_path: Path, external: bool) -> None:
    file = patches(tmp_path / "theirs.onnx", batch=1, extra=("norm",), external=external)
    facts = steps.import_onnx(str(file), str(tmp_path / "model"), contract="insightface", licence="CC BY-NC 4.0")
    assert (facts["backbone"], facts["embedding_size"], facts["color"], facts["batch"]) == ("theirs", 32, "RGB", 1)
    assert facts["dropped_outputs"] == ["norm (1 x 1)"]
    for left in tmp_path.glob("theirs.onnx*"):
        left.unlink()  # the package is whole by itself
    package = ModelPackage.open(tmp_path / "model")
    assert "model.safetensors" not in package.artifact.card["files"]
    np.testing.assert_allclose(Recognizer.from_package(package).embed(_FACES), expected(_FACES, flip=True), atol=1e-5)
    card = (package.path / "CARD.md").read_text(encoding="utf-8")
    assert "CC BY-NC 4.0" in card and "is not known here" in card and "RGB faces" in card
    again = steps.import_onnx(str(package.path / "model.onnx"), str(tmp_path / "again"), contract="insightface")
    assert again["backbone"] == "model"
    assert "Not known here" in (tmp_path / "again" / "CARD.md").read_text(encoding="utf-8")


def test_the_contract_comes_from_a_name_or_a_file(tmp_path: Path) -> None:
    file = patches(tmp_path / "r.onnx")
    (tmp_path / "c.toml").write_text('color = "BGR"\nflip = "none"\n[detector]\nwhich = "center"\n')
    (tmp_path / "c.json").write_text('{"color": "BGR", "flip": "none"}')
    for name, contract in (("toml", "c.toml"), ("json", "c.json")):
        made = import_onnx(file, tmp_path / name, contract=str(tmp_path / contract))
        package = ModelPackage.open(made.path)
        assert (package.contract.color, package.contract.flip, package.contract.std) == ("BGR", "none", 127.5)
        np.testing.assert_allclose(
            Recognizer.from_package(package).embed(_FACES), expected(_FACES, bgr=True), atol=1e-5
        )
    assert ModelPackage.open(tmp_path / "toml").contract.detector.which == "center"
    wanted = ModelPackage.open(tmp_path / "json").contract.to_json()
    made = import_onnx(file, tmp_path / "named", contract="insightface-noflip", color="bgr")
    assert ModelPackage.open(made.path).contract.to_json() == wanted
    made = import_onnx(file, tmp_path / "given", contract="insightface", color="bgr", flip="none")
    assert ModelPackage.open(made.path).contract.to_json() == wanted
    assert "The embedding of the image (flip: none)" in (made.path / "CARD.md").read_text()


def test_a_wrong_contract_or_file_leaves_nothing(tmp_path: Path) -> None:
    file = patches(tmp_path / "r.onnx")

    def attempt(says: str, contract: str = "insightface", **given: str) -> None:
        with pytest.raises(InputError, match=says):
            import_onnx(file, tmp_path / "model", contract=contract, **given)
        assert not (tmp_path / "model").exists()

    attempt("neither a JSON contract", contract="buffalo")
    attempt("color 'gbr': expected rgb or bgr", color="gbr")
    attempt("which 'prettiest': expected one of largest", which="prettiest")
    attempt("flip 'left': expected sum or none", flip="left")
    values = {
        "size": ({"size": 224}, r"size 224, expected 112"),
        "std": ({"std": 0}, "std not 0"),
        "text": ({"mean": "127.5"}, "expected numbers"),
        "template": ({"template": "box"}, "template 'box', expected arcface-112-v1"),
        "flip": ({"flip": "both"}, "flip sum or none"),
        "unknown": ({"colour": "RGB"}, "not an embedding contract"),
        "detector": ({"detector": 3}, "expected an object with a detector's settings"),
    }
    for name, (value, says) in values.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
        attempt(says, contract=str(tmp_path / f"{name}.json"))
    (tmp_path / "page.json").write_text("<html></html>")
    attempt("is an HTML page", contract=str(tmp_path / "page.json"))
    file.write_bytes(b"<html>")
    attempt("is an HTML page, expected an ONNX file")


def test_a_network_that_ignores_its_input_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Flatten", ["faces"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "same"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "blind",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 8])],
        [
            numpy_helper.from_array(np.zeros((1, 8), np.float32), "nothing"),
            numpy_helper.from_array(np.ones((1, 8), np.float32), "same"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "blind.onnx")
    with pytest.raises(InputError, match="gives different images the same embedding"):
        import_onnx(tmp_path / "blind.onnx", tmp_path / "model", contract="insightface")


@pytest.mark.process
@pytest.mark.skipif(not _LFW.is_dir(), reason="the shared half of LFW is not here")
def test_four_commands_from_an_onnx_file_to_a_calibrated_verdict(tmp_path: Path) -> None:
    """Import, calibrate on one's own people, promote, verify: the road of docs/published.md."""
    people = sorted(folder for folder in _LFW.iterdir() if 3 <= len(list(folder.iterdir())) <= 5)[:12]
    for person in people:
        shutil.copytree(person, tmp_path / "photos" / person.name)
    model, out, registry = (str(tmp_path / name) for name in ("model", "evaluation", "registry"))
    theirs = str(patches(tmp_path / "theirs.onnx", batch=1, extra=("norm",), dimensions=64))
    steps.import_onnx(theirs, model, contract="insightface", which="center")
    facts = steps.calibrate(model, str(tmp_path / "photos"), out)
    assert {name: split["identities"] for name, split in facts["splits"].items()} == {
        "calibration": 5, "test": 5, "train": 2}  # fmt: skip
    dataset = FaceDataset(Path(facts["dataset"]))
    assert dataset.artifact.contents["detector"]["which"] == "center"  # as the service will choose
    promoted = steps.promote(model, out, registry, force=True)  # means of patches are not much of a recognizer
    one, two = sorted((tmp_path / "photos" / people[0].name).iterdir())[:2]
    answer = verify_here(one, two, registry=registry, model=None)
    assert answer["model"] == promoted["digest"] and answer["verdict"] in ("same", "different", "undecided")
    assert answer["threshold"] == facts["metrics"].calibration.threshold
    assert verify_here(one, one, registry=registry, model=None)["verdict"] == "same"

    for person in people[9:]:
        shutil.rmtree(tmp_path / "photos" / person.name)
    with pytest.raises(InputError, match=r"9 of 9 people have two photos or more with a face, expected at least 10"):
        steps.calibrate(model, str(tmp_path / "photos"), str(tmp_path / "few"))


@pytest.mark.skipif(not Path(_NAMED).is_file(), reason="EOLGUL_RECOGNIZER names no ONNX file")
def test_a_public_recognizer_becomes_a_package(tmp_path: Path) -> None:
    made = import_onnx(Path(_NAMED), tmp_path / "model", contract="insightface")
    embeddings = Recognizer.from_package(ModelPackage.open(made.path)).embed(_FACES)
    assert embeddings.shape == (3, made.contents["embedding_size"])

"""Recognizers as people export them: any batch size, outputs beside the embedding, number types, and broken files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.networks import expected, patches

from eolgul.errors import InputError
from eolgul.model.onnx_network import EmbeddingNetwork
from eolgul.model.package import EmbeddingContract
from eolgul.model.recognizer import Recognizer

_FACES = np.random.default_rng(1).integers(0, 256, (5, 112, 112, 3), np.uint8)
_NONE = EmbeddingContract(flip="none")

_FORMS: dict[str, dict[str, Any]] = {
    "any batch": {},
    "batch of 1": {"batch": 1},
    "batch of 3, filled up": {"batch": 3},
    "batch of 64, filled up": {"batch": 64},
    "hidden batch of 1": {"hidden": 1},
    "hidden and declared batch of 4": {"hidden": 4, "batch": 4},
    "norm beside it": {"extra": ("norm",)},
    "score and map beside it": {"extra": ("score", "map")},
    "any height and width": {"sides": ("h", "w")},
    "float16": {"half": True},
    "batch of 2 with a norm in float16": {"batch": 2, "extra": ("norm",), "half": True},
    "weights in a file beside it": {"external": True},
}


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize(
    "contract", [_NONE, EmbeddingContract(), EmbeddingContract(color="BGR")], ids=["", "flip", "bgr"]
)
@pytest.mark.parametrize("count", [1, 5])
def test_every_form_gives_the_same_embeddings(
    tmp_path: Path, form: str, contract: EmbeddingContract, count: int
) -> None:
    recognizer = Recognizer(patches(tmp_path / "r.onnx", **_FORMS[form]), contract)
    got = recognizer.embed(_FACES[:count])
    want = expected(_FACES[:count], bgr=contract.color == "BGR", flip=contract.flip == "sum")
    assert got.dtype == np.float32 and got.shape == (count, 32)
    np.testing.assert_allclose(got, want, atol=5e-3 if "half" in _FORMS[form] else 1e-5)


def test_what_is_let_go_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        network = EmbeddingNetwork(patches(tmp_path / "two.onnx", extra=("norm", "map")), 112)
        assert network.dropped == ["norm (1 x 1)", "map (1 x 3 x 7 x 7)"]
        assert "two.onnx: embeddings is its embedding; let go: norm (1 x 1), map (1 x 3 x 7 x 7)" in caplog.text
        caplog.clear()
        hidden = EmbeddingNetwork(patches(tmp_path / "hidden.onnx", hidden=1), 112)
        assert hidden.batch is None and not caplog.text
        hidden.run(np.zeros((3, 3, 112, 112), np.float32))
        assert hidden.batch == 1 and "hidden.onnx: its images are embedded one by one" in caplog.text
        caplog.clear()
        hidden.run(np.zeros((3, 3, 112, 112), np.float32))
        assert not caplog.text  # said once
    assert EmbeddingNetwork(patches(tmp_path / "r.onnx"), 112).run(np.zeros((0, 3, 112, 112), np.float32)).shape == (
        0,
        32,
    )


def _cut(file: Path) -> None:
    patches(file)
    file.write_bytes(file.read_bytes()[:-500])


def _without_data(file: Path) -> None:
    patches(file, external=True)
    file.with_name(f"{file.name}.data").unlink()


_BROKEN = {
    "missing": (lambda file: None, "no such ONNX file"),
    "empty": (lambda file: file.write_bytes(b""), "is an empty file, expected an ONNX file"),
    "html": (lambda file: file.write_bytes(b"<html>Sign in</html>"), "is an HTML page, expected an ONNX file"),
    "pointer": (
        lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n"),
        "is a git-lfs pointer",
    ),
    "noise": (lambda file: file.write_bytes(bytes(range(1, 256)) * 4), "ONNX Runtime cannot load it"),
    "cut off": (_cut, "ONNX Runtime cannot load it"),
    "a later opset": (lambda file: patches(file, opset=99), "ONNX Runtime cannot load it"),
    "no data beside it": (_without_data, r"the file beside it that holds its weights \(external data\) is missing"),
    "channels last": (
        lambda file: patches(file, channels_last=True),
        r"channels last, expected N x 3 x 112 x 112; export",
    ),
    "another size": (
        lambda file: patches(file, sides=(160, 160)),
        "input n x 3 x 160 x 160, expected N x 3 x 112 x 112",
    ),
    "float64": (lambda file: patches(file, double=True), r"its input is tensor\(double\), expected tensor\(float\)"),
    "two embeddings": (
        lambda file: patches(file, extra=("features",)),
        r"several of its outputs could be the embedding: features \(1 x 147\), embeddings \(1 x 32\); expected one",
    ),
    "a hidden batch of 4": (lambda file: patches(file, hidden=4), "ONNX Runtime cannot run it"),
    "an embedding of one number": (lambda file: patches(file, dimensions=1), "no output is N x embedding size"),
}


@pytest.mark.parametrize("what", _BROKEN)
def test_a_broken_or_foreign_file_is_one_sentence(tmp_path: Path, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    write, says = _BROKEN[what]
    write(tmp_path / "r.onnx")
    with pytest.raises(InputError, match=says) as raised:
        EmbeddingNetwork(tmp_path / "r.onnx", 112)
    sentence = str(raised.value)
    assert sentence.startswith(str(tmp_path / "r.onnx")) and "\n" not in sentence and "\x1b" not in sentence
    assert "ONNXRuntimeError" not in sentence and len(sentence) < 500
    assert capfd.readouterr().err == ""  # nothing beside the sentence

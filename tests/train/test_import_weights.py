"""Published weights become a package: the right colours, a word about the other project, a card that says what was left."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from eolgul import steps
from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer
from eolgul.train.backbones import build
from eolgul.train.import_weights import import_weights


def _network(name: str, size: int = 64) -> torch.nn.Module:
    """A network with random weights whose batch norms pass their input on, so that faces differ in their embeddings."""
    torch.manual_seed(0)
    return build(name, size).eval()


def _expected(network: torch.nn.Module, faces: np.ndarray, color: str) -> np.ndarray:
    ordered = faces if color == "RGB" else faces[..., ::-1]
    x = torch.from_numpy((ordered.astype(np.float32) - 127.5) / 127.5).permute(0, 3, 1, 2)
    with torch.inference_mode():
        embeddings: Tensor = F.normalize(network(x) + network(x.flip(3)))
    return embeddings.numpy()


_FACES = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)


@pytest.mark.parametrize(
    ("layout", "name", "given", "color"),
    [
        ("insightface_pytorch", "mobilefacenet", None, "BGR"),
        ("insightface_pytorch", "mobilefacenet", "rgb", "RGB"),
        ("arcface_torch", "mobilefacenet_wide", None, "RGB"),
        ("arcface_torch", "mobilefacenet_wide", "bgr", "BGR"),
    ],
)
def test_published_weights_become_a_package(
    tmp_path: Path, layout: str, name: str, given: str | None, color: str
) -> None:
    """Through the file, ONNX and the recognizer, faces get the embeddings of the network itself."""
    network = _network(name)
    state = {f"module.{key}": value for key, value in network.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "published.pth")
    made = import_weights(tmp_path / "published.pth", tmp_path / "model", layout=layout, color=given)
    package = ModelPackage.open(made.path)
    assert (package.backbone, package.embedding_size, package.contract.color) == (name, 64, color)
    np.testing.assert_allclose(
        Recognizer.from_package(package).embed(_FACES), _expected(network, _FACES, color), atol=2e-5
    )
    if given is None:
        save_file(state, tmp_path / "published.safetensors")
        other = import_weights(tmp_path / "published.safetensors", tmp_path / "other", layout=layout)
        assert (other.path / "model.onnx").read_bytes() == (made.path / "model.onnx").read_bytes()
        faster = import_weights(tmp_path / "published.pth", tmp_path / "faster", layout=layout, flip="none")
        assert ModelPackage.open(faster.path).contract == replace(package.contract, flip="none")


def test_face_evolve_sees_rgb_and_each_says_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The names and shapes of its IR-50 are those of InsightFace_Pytorch's, whose contract is B, G, R."""
    network = _network("ir50")
    torch.save(network.state_dict(), tmp_path / "backbone_ir50_ms1m_epoch120.pth")
    for layout, other, color in (
        ("face_evolve", "insightface_pytorch", "RGB"),
        ("insightface_pytorch", "face_evolve", "BGR"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            made = import_weights(tmp_path / "backbone_ir50_ms1m_epoch120.pth", tmp_path / layout, layout=layout)
        [line] = [record.getMessage() for record in caplog.records]
        assert f"{other}'s have the same names and shapes" in line and f"--layout {other}" in line
        assert made.contents["also_fits"] == [other] and made.contents["color"] == color
        card = (made.path / "CARD.md").read_text(encoding="utf-8")
        assert f"also those of {other}'s weights" in card and f"instead of {color}" in card
    caplog.clear()
    import_weights(tmp_path / "backbone_ir50_ms1m_epoch120.pth", tmp_path / "c", layout="face_evolve", color="rgb")
    assert not caplog.records  # the colour was said


def test_arcface_torch_training_checkpoint(tmp_path: Path) -> None:
    """What arcface_torch's train_v2.py writes with save_all_states, and options kept beside it."""
    network = _network("mobilefacenet_wide")
    checkpoint = {
        "epoch": 1,
        "global_step": 10,
        "state_dict_backbone": network.state_dict(),
        "state_dict_softmax_fc": {"weight": torch.randn(20, 64)},
        "state_optimizer": {
            "state": {0: {"momentum_buffer": torch.zeros(128, 3, 3, 3)}},
            "param_groups": [{"lr": 0.1}],
        },
        "state_lr_scheduler": {"base_lrs": [0.1], "last_epoch": 10},
        "args": argparse.Namespace(lr=0.1),
    }
    torch.save(checkpoint, tmp_path / "checkpoint_gpu_0.pt")
    facts = steps.import_weights(
        str(tmp_path / "checkpoint_gpu_0.pt"), str(tmp_path / "model"), layout="arcface_torch", licence="MIT: mine"
    )
    assert facts["backbone"] == "mobilefacenet_wide" and facts["also_fits"] == []
    assert facts["ignored"] == {
        "tensors": {"state_dict_softmax_fc": 1, "state_optimizer": 1},
        "objects": {"argparse.Namespace": 1},
    }
    card = (tmp_path / "model" / "CARD.md").read_text(encoding="utf-8")
    assert (
        "1 tensor of `state_dict_softmax_fc`" in card and "class `argparse.Namespace`" in card and "MIT: mine" in card
    )
    package = ModelPackage.open(tmp_path / "model")
    np.testing.assert_allclose(
        Recognizer.from_package(package).embed(_FACES), _expected(network, _FACES, "RGB"), atol=2e-5
    )


def test_magface_sees_bgr_from_0_to_1(tmp_path: Path) -> None:
    network = _network("iresnet18")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.eps = 2e-5
    state = {f"features.module.{key}": value for key, value in network.state_dict().items()}
    torch.save(
        {"state_dict": state | {"fc.weight": torch.zeros(64, 10)}, "arch": "iresnet18"}, tmp_path / "magface.pth"
    )
    made = import_weights(tmp_path / "magface.pth", tmp_path / "model", layout="magface")
    with torch.inference_mode():
        x = torch.from_numpy(_FACES[..., ::-1].astype(np.float32) / 255).permute(0, 3, 1, 2)
        expected = F.normalize(network(x)).numpy()
    np.testing.assert_allclose(Recognizer.from_package(ModelPackage.open(made.path)).embed(_FACES), expected, atol=2e-5)
    assert ModelPackage.open(made.path).batch_norm_epsilon == 2e-5
    assert made.contents["ignored"]["tensors"] == {"state_dict.fc": 1} or made.contents["ignored"]["tensors"] == {
        "state_dict": 1
    }


def test_a_wrong_option_or_file_leaves_nothing(tmp_path: Path) -> None:
    torch.save(_network("mobilefacenet").state_dict(), tmp_path / "w.pth")

    def attempt(says: str, **options: str) -> None:
        given = {"layout": "insightface_pytorch", **options}
        with pytest.raises(InputError, match=says):
            import_weights(tmp_path / "w.pth", tmp_path / "model", **given)  # type: ignore[arg-type]
        assert not (tmp_path / "model").exists()

    attempt(r"layout 'caffe': expected one of", layout="caffe")
    attempt(r"backbone 'iresnet18': insightface_pytorch has mobilefacenet", backbone="iresnet18")
    attempt(r"color 'grb': expected rgb or bgr", color="grb")
    attempt(r"w\.pth: no parameter's name begins with 'ema\.'", prefix="ema")
    attempt(r"w\.pth: .*those of mobilefacenet: --layout insightface_pytorch", layout="arcface_torch")
    (tmp_path / "w.pth").write_bytes(b"no zip")
    attempt(r"w\.pth: is neither a safetensors file nor")

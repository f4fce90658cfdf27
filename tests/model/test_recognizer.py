"""Which device a network runs on: the one that was asked for, or the one that is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from eolgul.errors import InputError
from eolgul.model import recognizer
from eolgul.model.package import EmbeddingContract
from eolgul.model.recognizer import PROVIDERS, execution_providers


@pytest.mark.parametrize("driver", [True, False])
@pytest.mark.parametrize("built", [True, False])
def test_auto_takes_a_gpu_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: bool, built: bool
) -> None:
    device = tmp_path / "nvidiactl"
    if driver:
        device.touch()
    monkeypatch.setattr(recognizer, "_DRIVER", device)
    available = [*(["CUDAExecutionProvider"] if built else []), "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    assert execution_providers("auto") == PROVIDERS["cuda" if driver and built else "cpu"]
    assert execution_providers("cpu") == PROVIDERS["cpu"]
    if not built:
        with pytest.raises(InputError, match="device=cuda: this ONNX Runtime has no CUDAExecutionProvider"):
            execution_providers("cuda")
    with pytest.raises(InputError, match="device=tpu: expected auto, cpu or cuda"):
        execution_providers("tpu")


@pytest.mark.parametrize("normalised", [False, True])
def test_the_length_of_an_embedding_is_known_where_the_network_does_not_normalise(
    tmp_path: Path, normalised: bool
) -> None:
    import onnx
    from onnx import helper
    from support import tiny_package

    made = tiny_package.recognizer(0)
    if normalised:
        made.graph.node[-1].output[0] = "raw"
        made.graph.node.append(helper.make_node("LpNormalization", ["raw"], ["embeddings"], axis=1, p=2))
    onnx.save(made, tmp_path / "model.onnx")
    found = recognizer.Recognizer(tmp_path / "model.onnx", EmbeddingContract(flip="sum"))
    faces = np.random.default_rng(0).integers(0, 256, (3, 14, 14, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    embeddings, norms = found.embed_with_norms(faces)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.embed(faces), embeddings)
    if normalised:
        assert np.isnan(norms).all()
        return
    batch = recognizer.network_input(faces, found.contract)
    both = found.network.run(batch) + found.network.run(np.ascontiguousarray(batch[..., ::-1]))
    np.testing.assert_allclose(norms, np.linalg.norm(both, axis=1), rtol=1e-5)

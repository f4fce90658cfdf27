"""Which device a network runs on: the one that was asked for, or the one that is there."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from eolgul.errors import InputError
from eolgul.model import recognizer
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
